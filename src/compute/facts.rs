//! How what jobs report changes the snapshot. Pure.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::report::{
    Phase, PhaseDurations, PostgresPhase, Progress, RelayFacts, Snapshot, StepFacts,
};

/// Something that a job found out or did.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A start-up began: what the one before it said no longer holds.
    StartupBegan,
    /// How the agreement of the safekeepers stands.
    Safekeepers(StepFacts),
    /// How the basebackup stands.
    Basebackup(StepFacts),
    /// How the configuration of postgres stands.
    Configuration(StepFacts),
    /// Settings that wait for a restart.
    RestartRequired(Vec<String>),
    /// How roles and databases stand.
    Catalog(StepFacts),
    /// Statements that the last apply ran.
    CatalogStatements(usize),
    /// A phase ended, after this time.
    PhaseDone(Phase, Duration),
    /// Connecting to the pageserver took this long; the basebackup had these bytes.
    BasebackupDone {
        /// Connecting.
        connect: Duration,
        /// Received.
        bytes: u64,
    },
    /// Long work goes on, or is over.
    Progress(Option<Progress>),
    /// Where this postgres starts.
    StartupLsn(Lsn),
    /// A postgres was started.
    PostgresStarted {
        /// Process id of the postmaster.
        pid: i32,
    },
    /// It accepts connections.
    PostgresAccepting {
        /// As the server reports it.
        version: Option<String>,
    },
    /// The WAL relay moved.
    Relay(RelayFacts),
    /// So many changes of roles and databases ran into the statement timeout.
    StatementTimeouts(u64),
    /// The pageservers' counters, or why they could not be read.
    Misrouted(Result<u64, String>),
}

/// Puts a fact into the snapshot.
pub fn apply(snapshot: &mut Snapshot, fact: Fact) {
    match fact {
        Fact::StartupBegan => begin(snapshot),
        Fact::Safekeepers(step) => snapshot.safekeepers = step,
        Fact::Basebackup(step) => snapshot.basebackup = step,
        Fact::Configuration(step) => snapshot.configuration.step = step,
        Fact::RestartRequired(names) => snapshot.configuration.restart_required = names,
        Fact::Catalog(step) => snapshot.catalog.step = step,
        Fact::CatalogStatements(count) => snapshot.catalog.statements = count,
        Fact::PhaseDone(phase, took) => {
            snapshot.durations.phases.insert(phase, took);
        }
        Fact::BasebackupDone { connect, bytes } => {
            snapshot.durations.pageserver_connect = Some(connect);
            snapshot.durations.basebackup_bytes = Some(bytes);
        }
        Fact::Progress(progress) => snapshot.progress = progress,
        Fact::StartupLsn(lsn) => snapshot.lsn.startup = Some(lsn),
        Fact::PostgresStarted { pid } => {
            snapshot.postgres.phase = PostgresPhase::Starting;
            snapshot.postgres.pid = Some(pid);
        }
        Fact::PostgresAccepting { version } => {
            snapshot.postgres.phase = PostgresPhase::Accepting;
            // What a distribution adds to it in brackets is of no use here.
            let plain = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
            snapshot.postgres.version = version.map(plain);
        }
        Fact::Relay(relay) => {
            // A relay that reconnects knows nothing for a moment; what is committed stays so.
            let commit = snapshot
                .lsn
                .commit
                .unwrap_or_default()
                .max(relay.commit_lsn);
            snapshot.lsn.commit = commit.is_valid().then_some(commit);
            snapshot.relay = Some(relay);
        }
        Fact::Misrouted(Ok(count)) => {
            snapshot.pagestream.misrouted_requests = Some(count);
            snapshot.pagestream.scrape_error = None;
        }
        // Only counted.
        Fact::StatementTimeouts(_) => {}
        Fact::Misrouted(Err(error)) => snapshot.pagestream.scrape_error = Some(error),
    }
}

fn begin(snapshot: &mut Snapshot) {
    let waited = snapshot.durations.phases.get(&Phase::WaitForSpec).copied();
    snapshot.durations = PhaseDurations::default();
    snapshot
        .durations
        .phases
        .extend(waited.map(|took| (Phase::WaitForSpec, took)));
    snapshot.error = None;
    snapshot.safekeepers = StepFacts::Pending;
    snapshot.basebackup = StepFacts::Pending;
    snapshot.configuration = crate::report::ConfigFacts::default();
    snapshot.catalog = crate::report::CatalogFacts::default();
    snapshot.relay = None;
    snapshot.progress = None;
    snapshot.postgres.pid = None;
    if snapshot.postgres.phase != PostgresPhase::CrashLooping {
        snapshot.postgres.phase = PostgresPhase::Absent;
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_new_start_forgets_what_the_last_one_said() {
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        let second = Duration::from_secs(1);
        apply(&mut snapshot, Fact::PhaseDone(Phase::WaitForSpec, second));
        apply(&mut snapshot, Fact::PhaseDone(Phase::Basebackup, second));
        apply(&mut snapshot, Fact::Basebackup(StepFacts::Done("Fetched")));
        apply(&mut snapshot, Fact::StartupBegan);
        assert_eq!(snapshot.basebackup, StepFacts::Pending);
        assert_eq!(
            snapshot.durations.phases.keys().collect::<Vec<_>>(),
            [&Phase::WaitForSpec]
        );
    }

    #[test]
    fn a_commit_lsn_never_goes_back() {
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        let relay = |commit_lsn| {
            let phase = "Streaming";
            Fact::Relay(RelayFacts {
                phase,
                term: None,
                commit_lsn,
                lag_bytes: 0,
                fenced: None,
            })
        };
        apply(&mut snapshot, relay(Lsn(100)));
        apply(&mut snapshot, relay(Lsn(0)));
        assert_eq!(snapshot.lsn.commit, Some(Lsn(100)));
    }
}
