//! Makes roles and databases match, and says how that went.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::ComputeConfig;
use super::error::Error;
use super::facts::Fact;
use super::{local, reload};
use crate::catalog::{self, Applied, ApplyOptions, CatalogTarget};
use crate::pgdata;
use crate::report::StepFacts;
use crate::spec::{ComputeSpec, Flavor};

/// Limit of one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(2);
/// Most connections at once. The server is asked for its `max_connections`, of which a third
/// is taken at most, rather than guessing it from the spec as upstream does
/// (`compute_tools/src/compute.rs`).
const CONNECTIONS: usize = 16;
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
    if !catalog::concerns(spec) {
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
        concurrency: CONNECTIONS,
        statement_timeout: STATEMENT_TIMEOUT,
        lock_timeout: LOCK_TIMEOUT,
        deadline: config.limits.catalog,
    };
    let applied = match carry_out(config, started_with, spec, &target, &options, cancel).await {
        Ok(applied) => applied,
        Err(error) => {
            tell(Fact::Catalog(StepFacts::Failed(
                "ApplyFailed",
                crate::error::chain(&error),
            )))
            .await;
            return Err(error);
        }
    };
    tell(Fact::CatalogStatements(applied.statements)).await;
    if !applied.skipped_databases.is_empty() {
        let databases = applied.skipped_databases.join(", ");
        warn!(%databases, "left alone inside, as they allow no connections");
    }
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

/// Lets a cluster grow past its limit meanwhile, so that one that is full can be changed:
/// dropping what fills it is a change, too.
async fn carry_out(
    config: &ComputeConfig,
    started_with: &ComputeSpec,
    spec: &ComputeSpec,
    target: &CatalogTarget,
    options: &ApplyOptions,
    cancel: &CancellationToken,
) -> Result<Applied, Error> {
    let catalog_error = |source| Error::Catalog(Box::new(source));
    let prepared = catalog::prepare(target, spec, options, cancel);
    let Some(prepared) = prepared.await.map_err(catalog_error)? else {
        return Ok(Applied::default());
    };
    let limited = started_with.postgres.flavor == Flavor::Neon && !prepared.plan().is_empty();
    if limited {
        lift_size_limit(config, started_with, true).await?;
    }
    let applied = prepared.carry_out(target, options).await;
    if limited {
        // Also after a failure: nobody else would take it back.
        lift_size_limit(config, started_with, false).await?;
    }
    applied.map_err(catalog_error)
}

async fn lift_size_limit(
    config: &ComputeConfig,
    started_with: &ComputeSpec,
    lifted: bool,
) -> Result<(), Error> {
    let (pgdata, owner) = (config.pgdata.clone(), config.run_as.clone());
    let written = tokio::task::spawn_blocking(move || {
        pgdata::set_temp_override(&pgdata, lifted, owner.as_ref())
    });
    written
        .await
        .map_err(|_| Error::Task("write configuration"))?
        .map_err(|source| Error::Pgdata {
            path: config.pgdata.clone(),
            source,
        })?;
    let sql = reload::Sql::connect(config, started_with).await?;
    sql.reload().await
}
