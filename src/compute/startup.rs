//! The start-up pipeline: from an accepted spec to a postgres that serves and matches
//! it, or to an error and nothing left running.
//!
//! PGDATA is made anew while the safekeepers agree; the basebackup is unpacked as it
//! streams; the relay is elected while postgres starts. Each phase has a limit, a
//! retry class (its error's), a span and a duration in the status.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use super::config::ComputeConfig;
use super::error::Error;
use super::facts::Fact;
use super::postgres::{self, Postgres, PostgresConfig};
use super::relay_task::RelayTask;
use super::running::Running;
use super::server_version::ServerVersion;
use super::{local, reconfigure, shards};
use crate::access::Access;
use crate::backoff::Backoff;
use crate::error::{Category, Retry, chain};
use crate::lsn::Lsn;
use crate::pageserver::{self, BackupKind, BasebackupProgress, BasebackupRequest};
use crate::process::Spawner;
use crate::report::{Phase, Progress, StepFacts};
use crate::safekeeper::sync::{SyncConfig, Synced, SyncedHow};
use crate::spec::{ComputeMode, ComputeSpec, Flavor, ShardMap};
use crate::{pgdata, safekeeper};

/// Connecting to a pageserver.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often progress is reported while a basebackup comes in.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// One attempt to agree with the safekeepers: at first, and at most.
const SYNC_ATTEMPT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

/// Everything that a start-up needs.
pub(super) struct Startup {
    pub(super) config: Arc<ComputeConfig>,
    /// For the storage controller.
    pub(super) http: reqwest::Client,
    pub(super) spec: Arc<ComputeSpec>,
    pub(super) access: Access,
    pub(super) spawner: Spawner,
    pub(super) version: ServerVersion,
    pub(super) facts: mpsc::Sender<Fact>,
    pub(super) cancel: CancellationToken,
}

/// Where the basebackup is taken, and what that says of the log.
struct Position {
    /// `None`: the pageserver's latest, of a timeline that was never written.
    lsn: Option<Lsn>,
    synced: StepFacts,
}

/// Where a prepared directory starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// What postgres writes next begins here.
    pub(super) lsn: Lsn,
    /// Of the cluster; 0 where it does not matter.
    pub(super) system_id: u64,
}

/// The attempts at one step. What keeps it from succeeding stands in the condition.
struct Attempts<'a> {
    startup: &'a Startup,
    name: &'static str,
    fact: fn(StepFacts) -> Fact,
    give_up: Instant,
    backoff: Backoff,
}

impl Attempts<'_> {
    /// How many have failed.
    const fn made(&self) -> u32 {
        self.backoff.attempts()
    }

    /// Takes note of a failed attempt and waits before the next, or gives up: because
    /// trying again cannot help, the limit is reached, or the start-up is called off.
    async fn failed(&mut self, error: Error) -> Result<(), Error> {
        let Self {
            startup,
            name,
            fact,
            ..
        } = *self;
        if startup.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (category, text) = (error.category(), chain(&error));
        let backoff = self.backoff.next(rand::random());
        let wait = match error.retry() {
            Retry::Never => {
                startup.tell(fact(StepFacts::Failed(category, text))).await;
                return Err(error);
            }
            Retry::Backoff => backoff,
            Retry::After(wait) => wait,
        };
        if Instant::now() + wait >= self.give_up {
            startup.tell(fact(StepFacts::Failed(category, text))).await;
            let limit = startup.config.limits.storage_wait;
            return Err(Error::StorageWait {
                limit,
                source: Box::new(error),
            });
        }
        warn!(
            attempt = self.made(),
            ?wait,
            "{name} failed and is retried: {text}"
        );
        startup
            .tell(fact(StepFacts::Running {
                last_error: Some((category, text)),
            }))
            .await;
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = startup.cancel.cancelled() => Err(Error::Cancelled),
        }
    }
}

/// Whether the spec says itself how lines of postgres' log begin.
fn has_log_prefix(spec: &ComputeSpec) -> bool {
    const NAME: &str = "log_line_prefix";
    let text = spec.postgres.verbatim_conf.as_deref().unwrap_or_default();
    spec.setting(NAME).is_some() || text.contains(NAME)
}

impl Startup {
    /// Runs the pipeline. When it fails or is cancelled, a postgres that it started has
    /// been stopped, and PGDATA is marked as half made.
    pub(super) async fn run(mut self) -> Result<Running, Error> {
        let began = Instant::now();
        self.tell(Fact::StartupBegan).await;
        let version = self.version.of(&self.spec).await?;
        let (position, connected, ()) = tokio::try_join!(
            self.sync_safekeepers(version)
                .instrument(info_span!("sync_safekeepers")),
            self.connect_early(),
            self.recreate_pgdata(),
        )?;
        self.tell(Fact::Safekeepers(position.synced.clone())).await;
        let shards = self
            .fetch_basebackup(position.lsn, connected)
            .instrument(info_span!("basebackup"))
            .await?;
        if shards != self.spec.pageservers {
            let mut spec = (*self.spec).clone();
            spec.pageservers = shards;
            self.spec = Arc::new(spec);
        }
        let start = self
            .configure(position.lsn)
            .instrument(info_span!("configure"))
            .await?;
        self.tell(Fact::StartupLsn(start.lsn)).await;
        let mut running = self.start_postgres(version, start, began).await?;
        match self.finish(&running).await {
            Ok(configured) => {
                running.configured = configured;
                info!(elapsed = ?began.elapsed(), lsn = %start.lsn, "start-up done");
                Ok(running)
            }
            Err(error) => {
                // Why the relay ended says more than that it did.
                let relay = running.kill(&self.config).await;
                Err(relay
                    .filter(|_| matches!(error, Error::Task(_)))
                    .unwrap_or(error))
            }
        }
    }

    async fn tell(&self, fact: Fact) {
        // The owner outlives its jobs; a closed channel means that the process ends.
        let _ = self.facts.send(fact).await;
    }

    async fn done(&self, phase: Phase, began: Instant) {
        self.tell(Fact::PhaseDone(phase, began.elapsed())).await;
    }

    async fn recreate_pgdata(&self) -> Result<(), Error> {
        postgres::stop_leftover(&self.spawner, &self.config.pgdata).await;
        let config = self.config.clone();
        let made = tokio::task::spawn_blocking(move || {
            pgdata::directory::recreate(&config.pgdata, config.run_as.as_ref())?;
            pgdata::directory::make_private(&config.socket_dir, config.run_as.as_ref())
        });
        self.blocking("recreate PGDATA", made).await
    }

    async fn blocking<T>(
        &self,
        name: &'static str,
        task: tokio::task::JoinHandle<Result<T, pgdata::Error>>,
    ) -> Result<T, Error> {
        let path = self.config.pgdata.clone();
        task.await
            .map_err(|_| Error::Task(name))?
            .map_err(|source| Error::Pgdata { path, source })
    }

    /// Begins a step that talks to storage and is repeated while it may help.
    async fn attempts(&self, name: &'static str, fact: fn(StepFacts) -> Fact) -> Attempts<'_> {
        self.tell(fact(StepFacts::Running { last_error: None }))
            .await;
        let give_up = Instant::now() + self.config.limits.storage_wait;
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        Attempts {
            startup: self,
            name,
            fact,
            give_up,
            backoff,
        }
    }

    async fn sync_safekeepers(&self, pg_version: u32) -> Result<Position, Error> {
        let not_required = |lsn| Position {
            lsn,
            synced: StepFacts::Done("NotRequired"),
        };
        match self.spec.mode {
            ComputeMode::Primary => {}
            ComputeMode::Replica => return Ok(not_required(None)),
            ComputeMode::Static(lsn) => return Ok(not_required(Some(lsn))),
        }
        let began = Instant::now();
        let mut attempts = self.attempts("safekeeper sync", Fact::Safekeepers).await;
        let synced = loop {
            let (first, longest) = SYNC_ATTEMPT;
            let limit = (first * (1 << attempts.made().min(6))).min(longest);
            match safekeeper::sync::sync(&self.sync_config(pg_version, limit), &self.cancel).await {
                Ok(synced) => break synced,
                Err(source) => attempts.failed(Error::Sync(Box::new(source))).await?,
            }
        };
        self.done(Phase::SafekeeperSync, began).await;
        let Synced {
            commit_lsn,
            term,
            how,
            ..
        } = synced;
        info!(%commit_lsn, ?term, ?how, "safekeepers agree");
        let reason = match how {
            SyncedHow::PreCheck => "AlreadySynced",
            SyncedHow::Votes | SyncedHow::Full => "Synced",
        };
        let lsn = commit_lsn.is_valid().then_some(commit_lsn);
        Ok(Position {
            lsn,
            synced: StepFacts::Done(reason),
        })
    }

    fn sync_config(&self, pg_version: u32, deadline: Duration) -> SyncConfig {
        SyncConfig {
            tenant_id: self.spec.tenant_id,
            timeline_id: self.spec.timeline_id,
            safekeepers: self.spec.safekeepers.clone(),
            access: self.access.clone(),
            pg_version,
            system_id: 0,
            // Only an election fences the compute before us; without Neon's postgres
            // nothing after this start does.
            always_elect: self.spec.postgres.flavor == Flavor::Vanilla,
            connect_timeout: Duration::from_secs(5),
            deadline,
        }
    }

    /// Connects to the pageserver while the safekeepers still agree. A failure is no
    /// matter here: the first attempt at the basebackup meets it again, and reports it.
    async fn connect_early(&self) -> Result<Option<pageserver::Connected>, Error> {
        let Some(location) = self.spec.pageservers.shards.first() else {
            return Ok(None);
        };
        Ok(
            pageserver::connect(&self.basebackup_request(location, None))
                .await
                .ok(),
        )
    }

    /// Fetches it from where the spec says that shard 0 is, or where the storage controller
    /// says once that has failed. Returns where the shards are.
    async fn fetch_basebackup(
        &self,
        lsn: Option<Lsn>,
        mut connected: Option<pageserver::Connected>,
    ) -> Result<ShardMap, Error> {
        let began = Instant::now();
        let mut shards = self.spec.pageservers.clone();
        let mut attempts = self.attempts("basebackup", Fact::Basebackup).await;
        let stats = loop {
            if attempts.made() > 0 {
                self.recreate_pgdata().await?;
            }
            let location = shards.shards.first().ok_or(Error::NoPageserver)?;
            match self.fetch_once(location, lsn, connected.take()).await {
                Ok(stats) => break stats,
                Err(error) => attempts.failed(error).await?,
            }
            match shards::locate(&self.http, &self.spec, &self.access).await {
                Ok(located) => shards = located.unwrap_or(shards),
                Err(error) => warn!("{}", chain(&error)),
            }
        };
        self.done(Phase::Basebackup, began).await;
        self.tell(Fact::Progress(None)).await;
        self.tell(Fact::BasebackupDone {
            connect: stats.connect,
            bytes: stats.bytes_received,
        })
        .await;
        self.tell(Fact::Basebackup(StepFacts::Done("Fetched")))
            .await;
        Ok(shards)
    }

    fn basebackup_request<'a>(
        &'a self,
        location: &'a crate::spec::ShardLocation,
        lsn: Option<Lsn>,
    ) -> BasebackupRequest<'a> {
        let replica = self.spec.mode != ComputeMode::Primary;
        BasebackupRequest {
            tenant_id: self.spec.tenant_id,
            timeline_id: self.spec.timeline_id,
            lsn,
            kind: match self.spec.postgres.flavor {
                Flavor::Neon => BackupKind::Basebackup { replica },
                Flavor::Vanilla => BackupKind::Fullbackup,
            },
            compute_mode: self.spec.mode,
            gzip: true,
            location,
            protocol: self.spec.pageservers.prefer_protocol,
            access: &self.access,
            connect_limit: CONNECT_LIMIT,
            answer_limit: self.config.limits.basebackup_answer,
            stall_limit: self.config.limits.basebackup_stall,
        }
    }

    async fn fetch_once(
        &self,
        location: &crate::spec::ShardLocation,
        lsn: Option<Lsn>,
        connected: Option<pageserver::Connected>,
    ) -> Result<pageserver::BasebackupStats, Error> {
        let request = self.basebackup_request(location, lsn);
        let (progress, mut received) = tokio::sync::watch::channel(BasebackupProgress::default());
        let (into, owner) = (&self.config.pgdata, self.config.run_as.as_ref());
        let fetch = async {
            match connected {
                Some(connected) => {
                    connected
                        .fetch(&request, into, owner, &progress, &self.cancel)
                        .await
                }
                None => {
                    pageserver::fetch_basebackup(&request, into, owner, &progress, &self.cancel)
                        .await
                }
            }
        };
        tokio::pin!(fetch);
        let began = Instant::now();
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        tick.tick().await;
        loop {
            tokio::select! {
                result = &mut fetch => {
                    return result
                        .map_err(|source| Error::Basebackup { lsn, source: Box::new(source) });
                }
                _ = tick.tick() => {
                    let bytes = received.borrow_and_update().bytes_received;
                    let seconds = began.elapsed().as_secs_f64().max(0.001);
                    let bytes_per_second = (bytes as f64 / seconds) as u64;
                    let progress = Progress { phase: Phase::Basebackup, bytes, bytes_per_second };
                    self.tell(Fact::Progress(Some(progress))).await;
                }
            }
        }
    }

    /// Makes the unpacked directory startable.
    async fn configure(&self, lsn: Option<Lsn>) -> Result<Start, Error> {
        let began = Instant::now();
        self.tell(Fact::Configuration(StepFacts::Running { last_error: None }))
            .await;
        let (config, spec) = (self.config.clone(), self.spec.clone());
        let work = tokio::task::spawn_blocking(move || {
            let (pgdata, owner) = (&config.pgdata, config.run_as.as_ref());
            let facts = local::conf_facts(&config, &spec);
            pgdata::write_conf(pgdata, &spec, &facts, owner)?;
            pgdata::finish(pgdata, &spec, &facts, owner)?;
            let start = match spec.postgres.flavor {
                Flavor::Vanilla => {
                    let prepared = pgdata::prepare_vanilla(pgdata, lsn, spec.mode)?;
                    Start {
                        lsn: prepared.lsn,
                        system_id: prepared.system_identifier,
                    }
                }
                Flavor::Neon => Start {
                    lsn: lsn.unwrap_or_default(),
                    system_id: 0,
                },
            };
            let (tenant_id, timeline_id) = (spec.tenant_id, spec.timeline_id);
            let origin = pgdata::directory::Origin {
                tenant_id,
                timeline_id,
                lsn: start.lsn,
            };
            pgdata::directory::mark_complete(pgdata, &origin)?;
            Ok(start)
        });
        let start = self.blocking("configure PGDATA", work).await?;
        self.tell(Fact::Configuration(StepFacts::Done("Applied")))
            .await;
        self.done(Phase::Configure, began).await;
        Ok(start)
    }

    async fn start_postgres(
        &self,
        pg_version: u32,
        start: Start,
        started_at: Instant,
    ) -> Result<Running, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let settings = PostgresConfig {
            bin_dir: self.config.pg_bin_dir.clone(),
            pgdata: self.config.pgdata.clone(),
            run_as: self.config.run_as.clone(),
            structured_log: !has_log_prefix(&self.spec),
            // Only Neon's extension shows it to anybody.
            storage_token: (self.spec.postgres.flavor == Flavor::Neon)
                .then(|| self.access.token.current())
                .flatten(),
        };
        let postgres = Postgres::start(&self.spawner, &settings)
            .await
            .map_err(Error::Postgres)?;
        self.tell(Fact::PostgresStarted {
            pid: postgres.pid(),
        })
        .await;
        let relays =
            self.spec.postgres.flavor == Flavor::Vanilla && self.spec.mode == ComputeMode::Primary;
        let relay = relays.then(|| {
            RelayTask::start(
                &self.config,
                &self.spec,
                self.access.clone(),
                pg_version,
                start,
            )
        });
        let spec = self.spec.clone();
        Ok(Running {
            postgres,
            relay,
            spec,
            configured: self.spec.clone(),
            start_lsn: start.lsn,
            pg_version,
            started_at,
            monitor: None,
        })
    }

    /// Waits until postgres serves, and makes its catalog match. Returns the spec whose
    /// configuration is in force then.
    async fn finish(&self, running: &Running) -> Result<Arc<ComputeSpec>, Error> {
        let began = Instant::now();
        let ready = async {
            let connect = local::connect_config(&self.config, &self.spec);
            let limit = self.config.limits.postgres_ready;
            let ready = running.postgres.ready(&connect, limit, &self.cancel);
            ready.await.map_err(Error::Postgres)
        };
        let ready = ready.instrument(info_span!("start_postgres"));
        let version = match self.unless_interrupted(running, ready).await {
            Ok(accepting) => accepting.version,
            Err(error) => {
                if error.is_configuration_refused() {
                    let failed = StepFacts::Failed("InvalidSetting", chain(&error));
                    self.tell(Fact::Configuration(failed)).await;
                }
                return Err(error);
            }
        };
        if let Some(relay) = &running.relay {
            relay.local_accepts();
        }
        self.tell(Fact::PostgresAccepting { version }).await;
        self.done(Phase::PostgresStart, began).await;
        let began = Instant::now();
        let apply = reconfigure::apply_catalog(
            &self.config,
            &self.spec,
            &self.spec,
            running.configured.clone(),
            &self.spawner,
            &self.facts,
            &self.cancel,
        );
        let apply = apply.instrument(info_span!("apply_catalog"));
        let applied = self.unless_interrupted(running, apply).await?;
        self.done(Phase::CatalogApply, began).await;
        Ok(applied.configured)
    }

    /// Runs `work` unless the start-up is called off, postgres ends or the relay is
    /// fenced first.
    async fn unless_interrupted<T>(
        &self,
        running: &Running,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            result = work => result,
            () = self.cancel.cancelled() => Err(Error::Cancelled),
            error = running.interrupted() => Err(error),
        }
    }
}
