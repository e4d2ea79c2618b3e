//! The status document of a snapshot: what the resource, the second ConfigMap and
//! the status file hold. Pure.

use jiff::Timestamp;

use super::{Phase, Snapshot, conditions};
use crate::api::status::{
    ComputeSpecStatus, LsnStatus, PagestreamStatus, PostgresStatus, ProgressStatus, RelayStatus,
    StartupDurations,
};

/// Resolution of `lastActiveAt`, in seconds.
const LAST_ACTIVE_STEP: i64 = 30;

/// Renders the whole status. `previous` is what was written last: the conditions'
/// transition times are carried over from it.
pub fn render(
    snapshot: &Snapshot,
    previous: &ComputeSpecStatus,
    now: Timestamp,
) -> ComputeSpecStatus {
    ComputeSpecStatus {
        observed_generation: snapshot.observed_generation,
        state: Some(snapshot.state),
        compute_id: Some(snapshot.compute_id.clone()),
        pod_name: None,
        authorization: snapshot.insecure.then(|| "Disabled".to_owned()),
        applied_spec_hash: snapshot.spec.as_ref().map(|facts| facts.hash.clone()),
        started_at: Some(format!("{:.0}", snapshot.started_at)),
        last_active_at: snapshot.last_active_at.map(coarse),
        postgres: Some(PostgresStatus {
            version: snapshot.postgres.version.clone(),
            pid: snapshot.postgres.pid,
            restarts: snapshot.postgres.restarts as i32,
        }),
        lsn: lsn(snapshot),
        startup_durations: durations(snapshot),
        progress: snapshot.progress.as_ref().map(|progress| ProgressStatus {
            phase: progress.phase.name().to_owned(),
            bytes: Some(progress.bytes as i64),
            bytes_per_second: Some(progress.bytes_per_second as i64),
        }),
        pagestream: Some(PagestreamStatus {
            request_errors: snapshot.pagestream.request_errors as i64,
            misrouted_requests: snapshot.pagestream.misrouted_requests.map(|n| n as i64),
            last_error_at: snapshot
                .pagestream
                .last_error_at
                .map(|at| format!("{at:.0}")),
        }),
        relay: snapshot.relay.as_ref().map(|relay| RelayStatus {
            phase: relay.phase.to_owned(),
            term: relay.term.map(|term| term as i64),
        }),
        restart_required: snapshot.configuration.restart_required.clone(),
        conditions: conditions::conditions(snapshot, &previous.conditions, now),
    }
}

/// Rounded down to half a minute, so that a busy compute does not write its status for
/// this alone more often; the exact time is in `GET /status` and the metrics.
fn coarse(at: Timestamp) -> String {
    let second = at.as_second().div_euclid(LAST_ACTIVE_STEP) * LAST_ACTIVE_STEP;
    let rounded = Timestamp::from_second(second).unwrap_or(at);
    format!("{rounded:.0}")
}

fn lsn(snapshot: &Snapshot) -> Option<LsnStatus> {
    let facts = snapshot.lsn;
    let any = facts.startup.or(facts.commit).or(facts.last_shutdown);
    any.map(|_| LsnStatus {
        startup: facts.startup.map(|lsn| lsn.to_string()),
        commit: facts.commit.map(|lsn| lsn.to_string()),
        last_shutdown: facts.last_shutdown.map(|lsn| lsn.to_string()),
    })
}

fn durations(snapshot: &Snapshot) -> Option<StartupDurations> {
    let facts = &snapshot.durations;
    if facts.phases.is_empty() {
        return None;
    }
    let ms = |phase| {
        facts
            .phases
            .get(&phase)
            .map(|duration| duration.as_millis() as i64)
    };
    Some(StartupDurations {
        wait_for_spec_ms: ms(Phase::WaitForSpec),
        safekeeper_sync_ms: ms(Phase::SafekeeperSync),
        basebackup_ms: ms(Phase::Basebackup),
        basebackup_bytes: facts.basebackup_bytes.map(|bytes| bytes as i64),
        configure_ms: ms(Phase::Configure),
        postgres_start_ms: ms(Phase::PostgresStart),
        catalog_apply_ms: ms(Phase::CatalogApply),
        total_ms: facts.total.map(|duration| duration.as_millis() as i64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_activity_is_told_in_half_minutes() {
        let at = |second| coarse(Timestamp::from_second(second).unwrap());
        assert_eq!(at(59), "1970-01-01T00:00:30Z");
        assert_eq!(at(60), "1970-01-01T00:01:00Z");
        assert_eq!(at(-1), "1969-12-31T23:59:30Z");
    }
}
