//! Applies a changed spec to a running postgres: settings by reload, roles and
//! databases by SQL, safekeepers by telling the relay.
//!
//! Settings that postgres refuses are taken back before anything else changes, so the
//! last good configuration stays in force and postgres keeps serving.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::config::ComputeConfig;
use super::error::Error;
use super::facts::Fact;
use super::{apply_catalog, local};
use crate::pgdata;
use crate::process::{Command, Spawner};
use crate::report::StepFacts;
use crate::safekeeper::relay::RelayCommand;
use crate::spec::{ComputeSpec, change};

/// How long postgres may take to read its configuration again.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);
/// How often postgres is asked whether it has.
const RELOAD_POLL: Duration = Duration::from_millis(10);

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
    apply_conf(
        &job.config,
        &job.started_with,
        &job.spec,
        &job.configured,
        &job.spawner,
        &job.facts,
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
    let catalog_applied = if catalog_differs || job.catalog_behind {
        let (config, facts) = (&job.config, &job.facts);
        apply_catalog::apply(config, &job.started_with, &job.spec, facts, &job.cancel).await?
    } else {
        true
    };
    Ok(Reconfigured {
        configured: job.spec.clone(),
        catalog_applied,
    })
}

/// Puts the configuration of `spec` in force by a reload. Does nothing when it is in
/// force already; puts that of `configured` back when postgres refuses it.
pub(super) async fn apply_conf(
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
    tell(Fact::RestartRequired(sql.pending_restart().await?)).await;
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
    let output = spawner.run(command, RELOAD_LIMIT).await.map_err(failed)?;
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

/// A connection to the local postgres for as long as this lives.
struct Sql {
    client: Client,
    /// Ends the connection's task when this is dropped.
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

impl Sql {
    async fn connect(config: &ComputeConfig, started_with: &ComputeSpec) -> Result<Self, Error> {
        let sql_config = local::sql_config(config, started_with);
        let connected = sql_config.connect(tokio_postgres::NoTls).await;
        let (client, connection) = connected.map_err(Error::Query)?;
        let task = tokio::spawn(async move {
            // Its error reaches the queries that wait on it.
            let _ = connection.await;
        });
        Ok(Self {
            client,
            _connection: tokio_util::task::AbortOnDropHandle::new(task),
        })
    }

    /// The first column of each row.
    async fn column(&self, query: &str) -> Result<Vec<String>, Error> {
        let answer = self.client.simple_query(query);
        let rows = tokio::time::timeout(RELOAD_LIMIT, answer)
            .await
            .map_err(|_| Error::ReloadTimeout(RELOAD_LIMIT))?
            .map_err(Error::Query)?;
        let texts = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(texts.collect())
    }

    /// What postgres would refuse of the files as they are now, and whether anything else
    /// needs a restart to be tried. Of a setting that needs one, postgres says the same
    /// whether its value is good or not.
    async fn refused_settings(&self) -> Result<(Vec<String>, bool), Error> {
        let error_of = |context: &str| {
            format!(
                "SELECT pg_catalog.format('%s%s', f.name || ': ', f.error) \
                 FROM pg_catalog.pg_file_settings f \
                 LEFT JOIN pg_catalog.pg_settings s \
                   ON pg_catalog.lower(s.name) = pg_catalog.lower(f.name) \
                 WHERE f.error IS NOT NULL AND (s.context IS NOT DISTINCT FROM 'postmaster') = {context}"
            )
        };
        let refused = self.column(&error_of("false")).await?;
        let at_restart = self.column(&error_of("true")).await?;
        Ok((refused, !at_restart.is_empty()))
    }

    /// Has postgres read its configuration again, and waits until it has.
    async fn reload(&self) -> Result<(), Error> {
        const LOADED: &str = "SELECT pg_catalog.pg_conf_load_time()";
        let before = self.column(LOADED).await?;
        self.column("SELECT pg_catalog.pg_reload_conf()").await?;
        let give_up = Instant::now() + RELOAD_LIMIT;
        while self.column(LOADED).await? == before {
            if Instant::now() >= give_up {
                return Err(Error::ReloadTimeout(RELOAD_LIMIT));
            }
            tokio::time::sleep(RELOAD_POLL).await;
        }
        Ok(())
    }

    async fn pending_restart(&self) -> Result<Vec<String>, Error> {
        self.column("SELECT name FROM pg_catalog.pg_settings WHERE pending_restart ORDER BY 1")
            .await
    }
}
