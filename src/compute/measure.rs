//! Counts and times what jobs do, for the metrics.

use std::sync::Arc;

use tokio::time::Instant;

use super::facts::Fact;
use super::owner::JobDone;
use crate::report::StepFacts;
use crate::telemetry::metrics::{Metrics, SUCCESS};

/// Does a job, and takes its time.
pub(super) async fn job(metrics: Arc<Metrics>, work: impl Future<Output = JobDone>) -> JobDone {
    let began = Instant::now();
    let done = work.await;
    let (job, error) = done.outcome();
    metrics.job_done(job, error.unwrap_or(SUCCESS), began.elapsed());
    done
}

/// What a fact says of durations and repeated attempts.
pub(super) fn fact(metrics: &Metrics, fact: &Fact) {
    match fact {
        Fact::PhaseDone(phase, took) => metrics.phase_done(phase.name(), *took),
        Fact::Safekeepers(step) => retried(metrics, "safekeeper_sync", step),
        Fact::Basebackup(step) => retried(metrics, "basebackup", step),
        Fact::StatementTimeouts(count) => metrics.upstream.statement_timeouts.inc_by(*count),
        _ => {}
    }
}

fn retried(metrics: &Metrics, operation: &'static str, step: &StepFacts) {
    if let StepFacts::Running {
        last_error: Some((reason, _)),
    } = step
    {
        metrics.retried(operation, reason);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::Phase;

    #[test]
    fn facts_move_the_families_that_they_are_about() {
        let metrics = Metrics::new().unwrap();
        let failed = |last_error| Fact::Basebackup(StepFacts::Running { last_error });
        fact(&metrics, &failed(None));
        fact(&metrics, &failed(Some(("Unreachable", "gone".to_owned()))));
        fact(
            &metrics,
            &Fact::PhaseDone(Phase::Basebackup, Duration::from_secs(2)),
        );
        fact(&metrics, &Fact::StatementTimeouts(3));
        let text = metrics.render().unwrap();
        for line in [
            r#"glowplug_retries_total{operation="basebackup",reason="Unreachable"} 1"#,
            r#"glowplug_startup_phase_duration_seconds_sum{phase="Basebackup"} 2"#,
            "pg_cctl_configure_statement_timeout_errors_total 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
