//! Which conditions follow from a snapshot. Pure.
//!
//! Every condition is computed from every snapshot, so none is ever left behind
//! stale. `lastTransitionTime` changes only with `status`: [`carry_over`] takes the
//! times of the previous set.

use std::time::Duration;

use jiff::Timestamp;

use super::{PostgresPhase, Snapshot, StepFacts, StorageFault};
use crate::api::status::{ComputeState, Condition, ConditionStatus};
use crate::error::truncate;
use crate::pageserver::shard_probe;
use crate::spec::ComputeMode;

/// Longest condition message that the API server accepts, in bytes here so that it
/// holds for characters too.
const MAX_MESSAGE: usize = 32_768;

/// A page that was not answered for this long hangs: a pageserver that waits for the log
/// says so before (`wait_lsn_timeout`, 5 min at most, is its own limit).
const STUCK_REQUEST: Duration = Duration::from_mins(1);

/// Type, status, reason, message: a condition without its time.
type Verdict = (&'static str, ConditionStatus, &'static str, String);

/// All conditions of a snapshot. Times of those whose status did not change are
/// taken from `previous`.
pub fn conditions(snapshot: &Snapshot, previous: &[Condition], now: Timestamp) -> Vec<Condition> {
    let verdicts = [
        ready(snapshot),
        spec_accepted(snapshot),
        step("SafekeepersSynced", "Syncing", &snapshot.safekeepers),
        step("BasebackupFetched", "Fetching", &snapshot.basebackup),
        postgres_running(snapshot),
        step("CatalogApplied", "Applying", &snapshot.catalog.step),
        config_applied(snapshot),
        storage_reachable(snapshot),
    ];
    verdicts
        .into_iter()
        .map(|(type_, status, reason, message)| Condition {
            type_: type_.to_owned(),
            status,
            reason: reason.to_owned(),
            message: truncate(&message, MAX_MESSAGE),
            last_transition_time: carry_over(type_, status, previous, now),
            observed_generation: snapshot.observed_generation,
        })
        .collect()
}

fn carry_over(
    type_: &str,
    status: ConditionStatus,
    previous: &[Condition],
    now: Timestamp,
) -> String {
    previous
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == status)
        .map_or_else(
            || format!("{now:.0}"),
            |condition| condition.last_transition_time.clone(),
        )
}

fn ready(snapshot: &Snapshot) -> Verdict {
    let (status, reason, message) = readiness(snapshot);
    ("Ready", status, reason, message)
}

/// Whether the compute serves, why, and what to tell people.
pub fn readiness(snapshot: &Snapshot) -> (ConditionStatus, &'static str, String) {
    use ConditionStatus::{False, True, Unknown};
    let no_message = String::new;
    if let Some(why) = snapshot
        .relay
        .as_ref()
        .and_then(|relay| relay.fenced.clone())
    {
        return (False, "TakeoverDetected", why);
    }
    match snapshot.state {
        state if state.is_terminating() => (False, "ShuttingDown", no_message()),
        ComputeState::Empty => match &snapshot.rejection {
            Some(rejection) => (False, "SpecInvalid", rejection.message.clone()),
            None => match &snapshot.source_unreachable {
                Some(why) => (False, "WaitingForSpec", why.clone()),
                None => (Unknown, "Initializing", no_message()),
            },
        },
        ComputeState::Failed => (False, failure_reason(snapshot), failure_message(snapshot)),
        _ => match snapshot.postgres.phase {
            PostgresPhase::CrashLooping => (False, "CrashLooping", failure_message(snapshot)),
            PostgresPhase::Exited | PostgresPhase::Stopping => {
                (False, "PostgresDown", failure_message(snapshot))
            }
            // A reconfiguration leaves a running postgres serving.
            PostgresPhase::Accepting if snapshot.durations.total.is_some() => {
                (True, "ComputeRunning", no_message())
            }
            _ => match storage_failure(snapshot) {
                Some(message) => (False, "StorageUnavailable", message),
                None => (False, "StartingUp", no_message()),
            },
        },
    }
}

/// The last failed attempt of a step that talks to storage, while it is retried.
fn storage_failure(snapshot: &Snapshot) -> Option<String> {
    [&snapshot.safekeepers, &snapshot.basebackup]
        .into_iter()
        .find_map(|facts| match facts {
            StepFacts::Running {
                last_error: Some((_, text)),
            } => Some(text.clone()),
            _ => None,
        })
}

fn failure_reason(snapshot: &Snapshot) -> &'static str {
    let failed = |facts: &StepFacts| matches!(facts, StepFacts::Failed(..));
    if failed(&snapshot.safekeepers) || failed(&snapshot.basebackup) {
        "StorageUnavailable"
    } else if failed(&snapshot.catalog.step) {
        "CatalogApplyFailed"
    } else if failed(&snapshot.configuration.step) {
        "ConfigurationFailed"
    } else {
        "PostgresDown"
    }
}

fn failure_message(snapshot: &Snapshot) -> String {
    let last_exit = snapshot.postgres.last_exit.as_ref();
    snapshot
        .error
        .as_ref()
        .or(last_exit)
        .cloned()
        .unwrap_or_default()
}

fn spec_accepted(snapshot: &Snapshot) -> Verdict {
    let (status, reason, message) = match (&snapshot.rejection, &snapshot.spec) {
        (Some(rejection), _) => (
            ConditionStatus::False,
            rejection.reason,
            rejection.message.clone(),
        ),
        (None, Some(_)) => (ConditionStatus::True, "Valid", String::new()),
        (None, None) => (ConditionStatus::Unknown, "WaitingForSpec", String::new()),
    };
    ("SpecAccepted", status, reason, message)
}

fn step(type_: &'static str, ongoing: &'static str, facts: &StepFacts) -> Verdict {
    use ConditionStatus::{False, True, Unknown};
    let (status, reason, message) = match facts {
        StepFacts::Pending => (Unknown, "Pending", String::new()),
        StepFacts::Running { last_error: None } => (Unknown, ongoing, String::new()),
        StepFacts::Running {
            last_error: Some((reason, message)),
        } => (False, *reason, message.clone()),
        StepFacts::Done(reason) => (True, *reason, String::new()),
        StepFacts::Failed(reason, message) => (False, *reason, message.clone()),
    };
    (type_, status, reason, message)
}

fn postgres_running(snapshot: &Snapshot) -> Verdict {
    use ConditionStatus::{False, True, Unknown};
    let last_exit = || snapshot.postgres.last_exit.clone().unwrap_or_default();
    let (status, reason, message) = match snapshot.postgres.phase {
        PostgresPhase::Absent if snapshot.state.is_terminating() => (False, "Stopped", last_exit()),
        PostgresPhase::Absent => (Unknown, "Pending", last_exit()),
        PostgresPhase::Starting => (False, "Starting", last_exit()),
        PostgresPhase::Accepting => (True, "AcceptingConnections", String::new()),
        PostgresPhase::Stopping => (False, "Stopping", String::new()),
        PostgresPhase::Exited => (False, "Exited", last_exit()),
        PostgresPhase::CrashLooping => (False, "CrashLooping", last_exit()),
    };
    ("PostgresRunning", status, reason, message)
}

fn config_applied(snapshot: &Snapshot) -> Verdict {
    let pending = &snapshot.configuration.restart_required;
    if matches!(snapshot.configuration.step, StepFacts::Done(_)) && !pending.is_empty() {
        let message = format!(
            "these settings wait for a restart of postgres: {}; restart the compute to apply them",
            pending.join(", ")
        );
        return (
            "ConfigApplied",
            ConditionStatus::False,
            "RestartRequired",
            message,
        );
    }
    step("ConfigApplied", "Applying", &snapshot.configuration.step)
}

/// Whether reading pages and pushing the log work. The start-up's own failures come
/// first, then what is nearest to the cause.
fn storage_reachable(snapshot: &Snapshot) -> Verdict {
    use ConditionStatus::{False, True, Unknown};
    let serving = snapshot.postgres.phase == PostgresPhase::Accepting;
    let (status, reason, message) = match storage_failure(snapshot) {
        Some(message) => (False, "Unreachable", message),
        None if !serving => (Unknown, "Pending", String::new()),
        None => match serving_fault(snapshot) {
            Some(fault) => (False, fault.reason, fault.message),
            None if snapshot.state == ComputeState::RefreshConfiguration => {
                (Unknown, "Refreshing", String::new())
            }
            None if snapshot.pagestream.probed.is_none() => (Unknown, "Probing", String::new()),
            None => (True, "AsExpected", String::new()),
        },
    };
    ("StorageReachable", status, reason, message)
}

/// What keeps a postgres that serves from storage.
fn serving_fault(snapshot: &Snapshot) -> Option<StorageFault> {
    relay_fault(snapshot)
        .or_else(|| probe_fault(snapshot))
        .or_else(|| stuck_requests(snapshot))
        .or_else(|| snapshot.pagestream.errors.clone())
}

fn relay_fault(snapshot: &Snapshot) -> Option<StorageFault> {
    let relay = snapshot.relay.as_ref()?;
    let primary = snapshot
        .spec
        .as_ref()
        .is_some_and(|facts| facts.spec.mode == ComputeMode::Primary);
    (primary && relay.phase != "Streaming").then(|| StorageFault {
        reason: "SafekeepersUnreachable",
        message: format!("the WAL relay is {}", relay.phase),
    })
}

/// Shards that are not served where they should be.
fn probe_fault(snapshot: &Snapshot) -> Option<StorageFault> {
    let probed = snapshot.pagestream.probed.as_ref()?;
    let lost = probed.shards.iter().find(|shard| !shard.is_serving())?;
    Some(StorageFault {
        reason: lost.reason(),
        message: shard_probe::report(&probed.shards),
    })
}

/// Pages that postgres has waited for too long, by the counters of Neon's extension.
fn stuck_requests(snapshot: &Snapshot) -> Option<StorageFault> {
    let counters = snapshot.monitor.waits.neon?;
    (counters.oldest_stuck >= STUCK_REQUEST).then(|| StorageFault {
        reason: "StuckRequests",
        message: format!(
            "postgres has waited for a page for more than {} s; {} requests are open",
            STUCK_REQUEST.as_secs(),
            counters.open_requests
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ProbeFacts;
    use super::*;
    use crate::id::ShardIndex;
    use crate::pageserver::{ProbeOutcome, ShardProbe};
    use crate::spec::ShardMap;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn find<'a>(all: &'a [Condition], type_: &str) -> &'a Condition {
        all.iter()
            .find(|condition| condition.type_ == type_)
            .unwrap()
    }

    #[test]
    fn every_condition_is_there_at_first_sight() {
        let snapshot = Snapshot::new("c", at(0));
        let all = conditions(&snapshot, &[], at(1));
        assert_eq!(all.len(), 8);
        assert!(
            all.iter().all(|c| c.status == ConditionStatus::Unknown),
            "{all:?}"
        );
        assert!(all.iter().all(|c| !c.reason.is_empty()));
    }

    #[test]
    fn a_transition_time_changes_only_with_the_status() {
        let mut snapshot = Snapshot::new("c", at(0));
        let first = conditions(&snapshot, &[], at(1));
        snapshot.safekeepers = StepFacts::Running {
            last_error: Some(("NoQuorum", "two of three are away".into())),
        };
        let second = conditions(&snapshot, &first, at(2));
        let condition = find(&second, "SafekeepersSynced");
        assert_eq!(condition.status, ConditionStatus::False);
        assert_eq!(condition.reason, "NoQuorum");
        assert_eq!(condition.last_transition_time, "1970-01-01T00:00:02Z");
        assert_eq!(
            find(&second, "Ready").last_transition_time,
            "1970-01-01T00:00:01Z"
        );
    }

    #[test]
    fn storage_is_reachable_as_long_as_nothing_says_otherwise() {
        let fault = |reason| {
            Some(StorageFault {
                reason,
                message: "shard 1".into(),
            })
        };
        let mut snapshot = Snapshot::new("c", at(0));
        let reachable = |snapshot: &Snapshot| {
            let all = conditions(snapshot, &[], at(1));
            let condition = find(&all, "StorageReachable");
            (condition.status, condition.reason.clone())
        };
        snapshot.pagestream.errors = fault("PagestreamErrors");
        assert_eq!(
            reachable(&snapshot),
            (ConditionStatus::Unknown, "Pending".into())
        );
        snapshot.postgres.phase = PostgresPhase::Accepting;
        assert_eq!(
            reachable(&snapshot),
            (ConditionStatus::False, "PagestreamErrors".into())
        );
        snapshot.monitor.waits.neon = Some(crate::report::NeonCounters {
            oldest_stuck: Duration::from_secs(61),
            ..Default::default()
        });
        assert_eq!(reachable(&snapshot).1, "StuckRequests");
        snapshot.pagestream.probed = Some(probed(ProbeOutcome::Misrouted));
        assert_eq!(reachable(&snapshot).1, "Misrouted");
        snapshot.pagestream = crate::report::PagestreamFacts::default();
        snapshot.monitor.waits.neon = None;
        assert_eq!(reachable(&snapshot).1, "Probing");
        let latency = Duration::ZERO;
        snapshot.pagestream.probed = Some(probed(ProbeOutcome::Serving { latency }));
        assert_eq!(
            reachable(&snapshot),
            (ConditionStatus::True, "AsExpected".into())
        );
    }

    /// One shard, as it answered.
    fn probed(answer: ProbeOutcome) -> ProbeFacts {
        let probe = ShardProbe {
            shard: ShardIndex::UNSHARDED,
            node_id: None,
            pageserver: "ps-0:6400".to_owned(),
            took: Duration::ZERO,
            answer: Ok(answer),
        };
        ProbeFacts {
            at: at(0),
            asked: ShardMap::default(),
            shards: vec![probe],
        }
    }

    #[test]
    fn a_shard_that_is_not_served_is_named() {
        let mut snapshot = Snapshot::new("c", at(0));
        snapshot.postgres.phase = PostgresPhase::Accepting;
        snapshot.pagestream.probed = Some(probed(ProbeOutcome::Misrouted));
        let all = conditions(&snapshot, &[], at(1));
        let message = &find(&all, "StorageReachable").message;
        assert!(
            message.starts_with("shard 0000 at ps-0:6400: "),
            "{message}"
        );
    }

    #[test]
    fn a_fenced_relay_is_never_ready() {
        let mut snapshot = Snapshot::new("c", at(0));
        snapshot.state = ComputeState::Running;
        snapshot.postgres.phase = PostgresPhase::Accepting;
        snapshot.durations.total = Some(std::time::Duration::from_millis(1));
        assert_eq!(readiness(&snapshot).0, ConditionStatus::True);
        snapshot.relay = Some(super::super::RelayFacts {
            phase: "Fenced",
            term: Some(3),
            commit_lsn: crate::lsn::Lsn(8),
            lag_bytes: 0,
            fenced: Some("term 4 took over".into()),
        });
        assert_eq!(readiness(&snapshot).1, "TakeoverDetected");
    }
}
