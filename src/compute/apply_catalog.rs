//! Makes roles and databases match, and says how that went.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::ComputeConfig;
use super::error::Error;
use super::facts::Fact;
use super::local;
use crate::catalog::{self, ApplyOptions, CatalogTarget};
use crate::report::StepFacts;
use crate::spec::{ComputeMode, ComputeSpec};

/// Limit of one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(2);
/// Limit of waiting for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What postgres says of a statement that took too long (SQLSTATE).
const QUERY_CANCELED: &str = "57014";

/// Applies the catalog part of `spec` to a postgres that was started with
/// `started_with`, which says how it is reached. Objects that failed stand in the condition and
/// make the result `false`: postgres serves all the same, and the caller tries again.
pub(super) async fn apply(
    config: &ComputeConfig,
    started_with: &ComputeSpec,
    spec: &ComputeSpec,
    facts: &mpsc::Sender<Fact>,
    cancel: &CancellationToken,
) -> Result<bool, Error> {
    if spec.skip_catalog_updates || spec.mode != ComputeMode::Primary {
        let _ = facts.send(Fact::Catalog(StepFacts::Done("Skipped"))).await;
        return Ok(true);
    }
    let tell = async |fact| {
        // The owner outlives its jobs; a closed channel means that the process ends.
        let _ = facts.send(fact).await;
    };
    tell(Fact::Catalog(StepFacts::Running { last_error: None })).await;
    let target = CatalogTarget {
        connect: local::sql_config(config, started_with),
        privileged_role: config.privileged_role.clone(),
        application_name: "glowplug:apply".to_owned(),
    };
    let options = ApplyOptions {
        concurrency: concurrency(spec),
        statement_timeout: STATEMENT_TIMEOUT,
        lock_timeout: LOCK_TIMEOUT,
        deadline: config.limits.catalog,
    };
    let applied = match catalog::apply(&target, spec, &options, cancel).await {
        Ok(applied) => applied,
        Err(source) => {
            let error = Error::Catalog(Box::new(source));
            tell(Fact::Catalog(StepFacts::Failed(
                "ApplyFailed",
                crate::error::chain(&error),
            )))
            .await;
            return Err(error);
        }
    };
    tell(Fact::CatalogStatements(applied.statements)).await;
    if applied.failures.is_empty() {
        info!(
            statements = applied.statements,
            "roles and databases match the spec"
        );
        tell(Fact::Catalog(StepFacts::Done("Applied"))).await;
        return Ok(true);
    }
    let timeouts = applied.failures.iter();
    let timeouts = timeouts.filter(|failure| failure.sqlstate.as_deref() == Some(QUERY_CANCELED));
    tell(Fact::StatementTimeouts(timeouts.count() as u64)).await;
    let text = applied
        .failures
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    warn!(
        failures = applied.failures.len(),
        "part of the catalog could not be applied: {text}"
    );
    tell(Fact::Catalog(StepFacts::Failed("ApplyFailed", text))).await;
    Ok(false)
}

/// Connections at once: a third of what postgres allows, as upstream has it
/// (`compute_tools/src/compute.rs`), and 10 where that is unknown.
fn concurrency(spec: &ComputeSpec) -> usize {
    match spec
        .setting("max_connections")
        .and_then(|value| value.parse::<usize>().ok())
    {
        None => 10,
        Some(limit @ 0..10) => limit.max(1),
        Some(10..30) => 10,
        Some(limit) => (limit / 3).min(100),
    }
}
