//! How what jobs report changes the snapshot. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::lsn::Lsn;
use crate::report::{
    DiskFacts, MonitorFacts, Phase, PhaseDurations, PostgresPhase, ProbeFacts, Progress,
    RelayFacts, Sessions, Snapshot, StepFacts, StorageWaits,
};
use crate::spec::change;

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
    /// Settings that wait for a restart, as postgres names them.
    PendingSettings(Vec<String>),
    /// Fields of the spec that wait for a restart.
    PendingFields(Vec<&'static str>),
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
    /// The pageservers' counters of misrouted requests.
    Misrouted(Vec<Scraped>),
    /// What the shards' pageservers answered.
    Probed(ProbeFacts),
    /// The monitor looked at postgres.
    Seen(Box<Seen>),
    /// Postgres does not answer the monitor.
    Unanswered {
        /// When it last did.
        last_up: Instant,
    },
}

/// What one pageserver counts, or why it could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scraped {
    /// Its HTTP address.
    pub pageserver: String,
    /// Misrouted requests since it started, of all its tenants.
    pub count: Result<u64, String>,
}

/// What the monitor saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// When postgres was last active.
    pub last_active_at: Option<Timestamp>,
    /// What it is busy with.
    pub sessions: Sessions,
    /// Who waits for storage.
    pub waits: StorageWaits,
    /// The file system of PGDATA.
    pub disk: Option<DiskFacts>,
}

impl Seen {
    /// Whether another look told nothing new.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let Self {
            at: _,
            last_active_at,
            sessions,
            waits,
            disk,
        } = self;
        (last_active_at, sessions, waits, disk)
            == (
                &other.last_active_at,
                &other.sessions,
                &other.waits,
                &other.disk,
            )
    }
}

/// Puts a fact into the snapshot.
pub fn apply(snapshot: &mut Snapshot, fact: Fact) {
    match fact {
        Fact::StartupBegan => begin(snapshot),
        Fact::Safekeepers(step) => snapshot.safekeepers = step,
        Fact::Basebackup(step) => snapshot.basebackup = step,
        Fact::Configuration(step) => snapshot.configuration.step = step,
        Fact::PendingSettings(mut settings) => {
            let names = &mut snapshot.configuration.restart_required;
            settings.extend(names.drain(..).filter(|name| change::is_field(name)));
            *names = settings;
        }
        Fact::PendingFields(fields) => {
            let names = &mut snapshot.configuration.restart_required;
            names.retain(|name| !change::is_field(name));
            names.extend(fields.into_iter().map(str::to_owned));
        }
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
        Fact::Misrouted(scraped) => misrouted(snapshot, &scraped),
        Fact::Seen(seen) => {
            snapshot.last_active_at = snapshot.last_active_at.max(seen.last_active_at);
            snapshot.monitor.sessions = seen.sessions;
            snapshot.monitor.waits = seen.waits;
            snapshot.monitor.disk = seen.disk;
            snapshot.monitor.downtime.end(seen.at);
        }
        // Only counted.
        Fact::StatementTimeouts(_) => {}
        Fact::Unanswered { last_up } => unanswered(snapshot, last_up),
        Fact::Probed(probed) => {
            // An answer from where a shard was before it moved says nothing any more.
            let spec = snapshot.spec.as_ref();
            if spec.is_some_and(|facts| facts.spec.pageservers == probed.asked) {
                snapshot.pagestream.probed = Some(probed);
            }
        }
    }
}

/// A sum without one of its parts would look as if the counter had been reset.
fn misrouted(snapshot: &mut Snapshot, scraped: &[Scraped]) {
    let failed = scraped.iter().find_map(|one| one.count.as_ref().err());
    snapshot.pagestream.scrape_error = failed.cloned();
    if failed.is_none() {
        let counts = scraped.iter().filter_map(|one| one.count.as_ref().ok());
        snapshot.pagestream.misrouted_requests = Some(counts.sum());
    }
}

/// Postgres does not answer, or has ended; it last answered at `last_up`.
pub fn unanswered(snapshot: &mut Snapshot, last_up: Instant) {
    let MonitorFacts {
        mut downtime, disk, ..
    } = snapshot.monitor;
    downtime.begin(last_up);
    snapshot.monitor = MonitorFacts {
        downtime,
        disk,
        ..MonitorFacts::default()
    };
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
    snapshot.pagestream.probed = None;
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
    fn downtime_lasts_from_the_last_answer_to_the_next() {
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let seen = |at| {
            Fact::Seen(Box::new(Seen {
                at,
                last_active_at: Some(Timestamp::UNIX_EPOCH),
                sessions: Sessions {
                    idle: 1,
                    ..Sessions::default()
                },
                waits: StorageWaits::default(),
                disk: None,
            }))
        };
        apply(&mut snapshot, seen(after(0)));
        apply(&mut snapshot, Fact::Unanswered { last_up: after(0) });
        apply(&mut snapshot, Fact::Unanswered { last_up: after(0) });
        assert_eq!(
            snapshot.monitor.downtime.current(after(3)),
            Duration::from_secs(3)
        );
        assert_eq!(snapshot.monitor.sessions, Sessions::default());
        apply(&mut snapshot, seen(after(5)));
        let downtime = snapshot.monitor.downtime;
        assert_eq!(downtime.current(after(9)), Duration::ZERO);
        assert_eq!(downtime.past, Duration::from_secs(5));
        assert_eq!(snapshot.last_active_at, Some(Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn fields_that_wait_for_a_restart_are_told_apart_from_settings() {
        let mut snapshot = Snapshot::new("c", Timestamp::UNIX_EPOCH);
        let mut told = |fact| {
            apply(&mut snapshot, fact);
            snapshot.configuration.restart_required.join(" ")
        };
        let settings = Fact::PendingSettings(vec!["max_connections".to_owned()]);
        assert_eq!(told(settings), "max_connections");
        let fields = Fact::PendingFields(vec!["mode"]);
        assert_eq!(told(fields), "max_connections mode");
        assert_eq!(told(Fact::PendingSettings(Vec::new())), "mode");
        assert_eq!(told(Fact::PendingFields(Vec::new())), "");
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
