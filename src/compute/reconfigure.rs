//! Applies a changed spec to a running postgres: settings by reload, roles and
//! databases by SQL, safekeepers by telling the relay.
//!
//! Settings that postgres refuses are taken back before anything else changes, so the
//! last good configuration stays in force and postgres keeps serving.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config::ComputeConfig;
use super::error::Error;
use super::facts::Fact;
use super::reload::{LIMIT, Sql};
use super::{apply_catalog, local};
use crate::pgdata;
use crate::process::{Command, Spawner};
use crate::report::StepFacts;
use crate::safekeeper::relay::RelayCommand;
use crate::spec::{ComputeSpec, change};

/// What a reconfiguration needs.
pub(super) struct Reconfiguration {
    pub(super) config: Arc<ComputeConfig>,
    pub(super) spawner: Spawner,
    /// The spec that the running postgres was started with: how it is reached.
    pub(super) started_with: Arc<ComputeSpec>,
    /// The spec in force so far.
    pub(super) before: Arc<ComputeSpec>,
    /// The spec to apply.
    pub(super) spec: Arc<ComputeSpec>,
    /// The spec whose configuration is in force.
    pub(super) configured: Arc<ComputeSpec>,
    /// Whether the catalog does not match the spec in force so far.
    pub(super) catalog_behind: bool,
    /// The relay, for the Vanilla flavor.
    pub(super) relay: Option<mpsc::Sender<RelayCommand>>,
    pub(super) facts: mpsc::Sender<Fact>,
    pub(super) cancel: CancellationToken,
}

/// What a reconfiguration ended with.
pub(super) struct Reconfigured {
    /// The spec whose configuration is now in force.
    pub(super) configured: Arc<ComputeSpec>,
    /// Whether all of the catalog matches.
    pub(super) catalog_applied: bool,
}

/// Applies the spec.
pub(super) async fn run(job: Reconfiguration) -> Result<Reconfigured, Error> {
    let work = apply(&job);
    tokio::select! {
        result = work => result,
        () = job.cancel.cancelled() => Err(Error::Cancelled),
    }
}

async fn apply(job: &Reconfiguration) -> Result<Reconfigured, Error> {
    let Reconfiguration {
        config,
        started_with,
        spawner,
        facts,
        ..
    } = job;
    let configured = apply_conf(
        config,
        started_with,
        &job.spec,
        &job.configured,
        spawner,
        facts,
    )
    .await?;
    if let Some(relay) = &job.relay
        && job.before.safekeepers != job.spec.safekeepers
    {
        // A relay that has ended is noticed by the owner.
        let _ = relay
            .send(RelayCommand::Membership(job.spec.safekeepers.clone()))
            .await;
    }
    // A changed identity never gets here; if it did, comparing everything is safe.
    let work = change::between(&job.before, &job.spec).ok();
    let catalog_differs = work.as_ref().is_none_or(|work| work.catalog);
    if !catalog_differs && !job.catalog_behind {
        return Ok(Reconfigured {
            configured,
            catalog_applied: true,
        });
    }
    apply_catalog(
        config,
        started_with,
        &job.spec,
        configured,
        spawner,
        facts,
        &job.cancel,
    )
    .await
}

/// Makes the catalog match, and then lets subscribers run if they were held back for that.
pub(super) async fn apply_catalog(
    config: &Arc<ComputeConfig>,
    started_with: &ComputeSpec,
    spec: &ComputeSpec,
    configured: Arc<ComputeSpec>,
    spawner: &Spawner,
    facts: &mpsc::Sender<Fact>,
    cancel: &CancellationToken,
) -> Result<Reconfigured, Error> {
    let spec = change::while_running(started_with, spec);
    let applying = apply_catalog::apply(config, started_with, &spec, facts, cancel);
    let catalog_applied = Box::pin(applying).await?;
    let mut reconfigured = Reconfigured {
        configured,
        catalog_applied,
    };
    if catalog_applied && reconfigured.configured.neon.drop_subscriptions_before_start {
        let mut target = (*reconfigured.configured).clone();
        target.neon.drop_subscriptions_before_start = false;
        let (target, before) = (Arc::new(target), &reconfigured.configured);
        Box::pin(put_in_force(
            config,
            started_with,
            &target,
            before,
            spawner,
            facts,
        ))
        .await?;
        reconfigured.configured = target;
    }
    Ok(reconfigured)
}

/// Puts the configuration of `spec` in force, as far as a postgres that was started with
/// `started_with` can follow it without a restart; puts that of `configured` back when
/// postgres refuses it. Returns what is in force.
pub(super) async fn apply_conf(
    config: &Arc<ComputeConfig>,
    started_with: &ComputeSpec,
    spec: &ComputeSpec,
    configured: &Arc<ComputeSpec>,
    spawner: &Spawner,
    facts: &mpsc::Sender<Fact>,
) -> Result<Arc<ComputeSpec>, Error> {
    let fields = change::fields_for_restart(started_with, spec);
    let _ = facts.send(Fact::PendingFields(fields)).await;
    let spec = Arc::new(for_running(started_with, spec, configured));
    put_in_force(config, started_with, &spec, configured, spawner, facts).await?;
    Ok(spec)
}

/// The part of `spec` that can be put in force now.
fn for_running(
    started_with: &ComputeSpec,
    spec: &ComputeSpec,
    configured: &ComputeSpec,
) -> ComputeSpec {
    let mut spec = change::while_running(started_with, spec);
    // Only a start holds subscribers back, and a dropped subscription stays dropped.
    spec.neon.drop_subscriptions_before_start = configured.neon.drop_subscriptions_before_start;
    spec
}

/// Reloads the configuration of `spec`, unless it is in force already.
async fn put_in_force(
    config: &Arc<ComputeConfig>,
    started_with: &ComputeSpec,
    spec: &Arc<ComputeSpec>,
    configured: &Arc<ComputeSpec>,
    spawner: &Spawner,
    facts: &mpsc::Sender<Fact>,
) -> Result<(), Error> {
    if local::render_conf(config, spec) == local::render_conf(config, configured) {
        return Ok(());
    }
    let tell = async |fact| {
        // The owner outlives its jobs; a closed channel means that the process ends.
        let _ = facts.send(fact).await;
    };
    tell(Fact::Configuration(StepFacts::Running { last_error: None })).await;
    let sql = Sql::connect(config, started_with).await?;
    write(config, spec).await?;
    let (mut refused, some_need_restart) = sql.refused_settings().await?;
    if refused.is_empty() && some_need_restart {
        refused.extend(refused_at_start(config, spawner).await?);
    }
    if !refused.is_empty() {
        write(config, configured).await?;
        let text = refused.join("; ");
        tell(Fact::Configuration(StepFacts::Failed(
            "InvalidSetting",
            text.clone(),
        )))
        .await;
        return Err(Error::ConfigurationRefused(text));
    }
    sql.reload().await?;
    tell(Fact::PendingSettings(sql.pending_restart().await?)).await;
    tell(Fact::Configuration(StepFacts::Done("Reloaded"))).await;
    Ok(())
}

/// Why a postgres that started now would refuse its configuration, if it would.
async fn refused_at_start(
    config: &ComputeConfig,
    spawner: &Spawner,
) -> Result<Option<String>, Error> {
    let program = config.pg_bin_dir.join("postgres");
    let failed = |source| Error::Version {
        program: program.clone(),
        source: Some(source),
    };
    // Any setting will do: all of the configuration is read before it is printed.
    let command = Command::new(&program)
        .args(["-C", "max_connections", "-D"])
        .arg(&config.pgdata)
        .env("LC_MESSAGES", "C")
        .run_as(config.run_as.clone());
    let output = spawner.run(command, LIMIT).await.map_err(failed)?;
    if output.exit.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    Ok(Some(text))
}

async fn write(config: &Arc<ComputeConfig>, spec: &Arc<ComputeSpec>) -> Result<(), Error> {
    let path = config.pgdata.clone();
    let (config, spec) = (config.clone(), spec.clone());
    let written = tokio::task::spawn_blocking(move || {
        let facts = local::conf_facts(&config, &spec);
        pgdata::write_conf(&config.pgdata, &spec, &facts, config.run_as.as_ref())
    });
    written
        .await
        .map_err(|_| Error::Task("write configuration"))?
        .map_err(|source| Error::Pgdata { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ComputeMode, no_secrets, parse_document};

    #[test]
    fn a_reload_neither_changes_the_mode_nor_holds_subscribers_back_again() {
        let text = include_str!("../../examples/compute.yaml");
        let started_with = parse_document(text, &no_secrets).unwrap().spec.unwrap();
        let mut spec = started_with.clone();
        spec.mode = ComputeMode::Replica;
        spec.postgres.port += 1;
        spec.neon.drop_subscriptions_before_start = true;
        spec.roles.clear();
        let target = for_running(&started_with, &spec, &started_with);
        assert_eq!(target.mode, ComputeMode::Primary);
        assert_eq!(target.postgres.port, started_with.postgres.port);
        assert!(!target.neon.drop_subscriptions_before_start);
        assert!(target.roles.is_empty());

        // Until they are dropped, they stay so.
        let target = for_running(&started_with, &started_with, &spec);
        assert!(target.neon.drop_subscriptions_before_start);
    }
}
