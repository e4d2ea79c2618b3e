//! The one job at a time: which may begin, and what follows from its end.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, error, info_span, warn};

use super::Owner;
use super::timers::Timers;
use crate::api::status::ComputeState;
use crate::backoff::Backoff;
use crate::compute::error::Error;
use crate::compute::facts::Fact;
use crate::compute::local;
use crate::compute::measure;
use crate::compute::monitor::{Monitor, MonitorConfig};
use crate::compute::reconfigure::{self, Reconfiguration, Reconfigured};
use crate::compute::refresh::{self, Refreshed};
use crate::compute::relay_task::RelayTask;
use crate::compute::running::Running;
use crate::compute::startup::Startup;
use crate::compute::state::Event;
use crate::compute::stop::{self, StopJob, Stopped};
use crate::error::{Category as _, chain};
use crate::pageserver::relocation;
use crate::report::{EventKind, PostgresPhase, StepFacts};
use crate::spec::ShardMap;

/// The first wait before a part of the catalog that failed is tried again, and the longest.
const CATALOG_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));

/// What a job ended with.
pub(in crate::compute) enum JobDone {
    Startup(Box<Result<Running, Error>>),
    Reconfigured(Result<Reconfigured, Error>),
    Refreshed(Result<Refreshed, Error>),
    CatalogRetried(Result<Reconfigured, Error>),
    Stopped(Stopped),
    /// The job's task panicked.
    Lost,
}

impl JobDone {
    /// Name of the job, and the category of the error that it ended with, if any.
    pub(in crate::compute) fn outcome(&self) -> (&'static str, Option<&'static str>) {
        fn category<T>(result: &Result<T, Error>) -> Option<&'static str> {
            result.as_ref().err().map(Error::category)
        }
        match self {
            Self::Startup(result) => ("startup", category(result)),
            Self::Reconfigured(result) => ("reconfigure", category(result)),
            Self::Refreshed(result) => ("refresh", category(result)),
            Self::CatalogRetried(result) => ("catalog", category(result)),
            Self::Stopped(_) => ("stop", None),
            Self::Lost => ("lost", Some("TaskFailed")),
        }
    }
}

/// What a job does.
pub(in crate::compute) type Work = BoxFuture<'static, JobDone>;
/// Carries out a job of this name; the tests of the owner hold jobs up, and end them as
/// they like.
pub(in crate::compute) type Perform =
    Box<dyn Fn(&'static str, &CancellationToken, Work) -> Work + Send>;

/// A running job.
pub(super) struct Job {
    pub(super) cancel: CancellationToken,
    task: JoinHandle<JobDone>,
}

/// Waits for the running job; for ever if there is none. Cancel safe.
pub(super) async fn finished(job: &mut Option<Job>) -> JobDone {
    let Some(running) = job else {
        return std::future::pending().await;
    };
    let done = (&mut running.task).await;
    *job = None;
    done.unwrap_or(JobDone::Lost)
}

impl Owner {
    fn begin(
        &mut self,
        name: &'static str,
        cancel: CancellationToken,
        work: impl Future<Output = JobDone> + Send + 'static,
    ) {
        let work = (self.perform)(name, &cancel, Box::pin(work));
        self.job = Some(Job {
            cancel,
            task: tokio::spawn(measure::job(self.outputs.metrics.clone(), work)),
        });
    }

    /// Ends a job whose postgres is gone: what it would report no longer matters.
    pub(super) fn call_off_job(&mut self) {
        if let Some(job) = self.job.take() {
            job.cancel.cancel();
            job.task.abort();
        }
    }

    /// Begins the work that the state calls for, if none is under way.
    pub(super) fn next_job(&mut self) {
        if self.job.is_some() {
            return;
        }
        match self.snapshot.state {
            ComputeState::ConfigurationPending if self.running.is_some() => self.reconfigure(),
            ComputeState::ConfigurationPending => self.start(),
            // A new spec says where storage is, too.
            ComputeState::RefreshConfigurationPending if self.pending.is_some() => {
                self.transition(Event::SpecAccepted);
                self.next_job();
            }
            ComputeState::RefreshConfigurationPending if self.timers.refresh.is_some() => {}
            ComputeState::RefreshConfigurationPending if self.running.is_some() => self.refresh(),
            ComputeState::RefreshConfigurationPending => self.start(),
            ComputeState::Init if self.timers.restart.is_none() => self.start(),
            ComputeState::Running | ComputeState::Failed if self.pending.is_some() => {
                self.transition(Event::SpecAccepted);
                self.next_job();
            }
            ComputeState::Running if self.refresh_wanted => {
                self.transition(Event::RefreshRequested);
                self.next_job();
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        if !self.transition(Event::StartupBegan) {
            return;
        }
        self.take_pending();
        let Some(current) = &self.current else { return };
        self.timers = Timers::default();
        let cancel = CancellationToken::new();
        let startup = Startup {
            config: self.config.clone(),
            http: self.outputs.http.clone(),
            spec: current.spec.clone(),
            access: self.outputs.access.clone(),
            spawner: self.spawner.clone(),
            version: self.version.clone(),
            facts: self.fact_sender.clone(),
            cancel: cancel.clone(),
        };
        // Named as upstream's (`compute_tools/src/compute.rs`).
        let span = self.traced(info_span!("start_compute"));
        let run = async { JobDone::Startup(Box::new(Box::pin(startup.run()).await)) };
        self.begin("startup", cancel, run.instrument(span));
    }

    /// Makes a job part of the trace of whoever asked for it.
    fn traced(&mut self, span: Span) -> Span {
        std::mem::take(&mut self.trace).adopt(&span);
        span
    }

    fn reconfigure(&mut self) {
        if !self.transition(Event::ConfigurationBegan) {
            return;
        }
        let before = self.current.as_ref().map(|revision| revision.spec.clone());
        self.take_pending();
        let (Some(running), Some(current)) = (&self.running, &self.current) else {
            return;
        };
        let cancel = CancellationToken::new();
        let job = Reconfiguration {
            config: self.config.clone(),
            spawner: self.spawner.clone(),
            started_with: running.spec.clone(),
            before: before.unwrap_or_else(|| current.spec.clone()),
            spec: current.spec.clone(),
            configured: running.configured.clone(),
            catalog_behind: !matches!(self.snapshot.catalog.step, StepFacts::Done(_)),
            relay: running.relay.as_ref().map(RelayTask::commands),
            facts: self.fact_sender.clone(),
            cancel: cancel.clone(),
        };
        let span = self.traced(info_span!("reconfigure"));
        let run = async { JobDone::Reconfigured(reconfigure::run(job).await) };
        self.begin("reconfigure", cancel, run.instrument(span));
    }

    fn refresh(&mut self) {
        if !self.transition(Event::RefreshBegan) {
            return;
        }
        self.refresh_wanted = false;
        let (Some(running), Some(current)) = (&self.running, &self.current) else {
            return;
        };
        let cancel = CancellationToken::new();
        let job = refresh::Refresh {
            config: self.config.clone(),
            spawner: self.spawner.clone(),
            http: self.outputs.http.clone(),
            access: self.outputs.access.clone(),
            look_again: self.outputs.look_again.clone(),
            started_with: running.spec.clone(),
            spec: current.spec.clone(),
            configured: running.configured.clone(),
            facts: self.fact_sender.clone(),
            cancel: cancel.clone(),
        };
        let run = async { JobDone::Refreshed(refresh::run(job).await) };
        self.begin("refresh", cancel, run.instrument(info_span!("refresh")));
    }

    pub(super) fn retry_catalog(&mut self) {
        let (Some(running), Some(current)) = (&self.running, &self.current) else {
            return;
        };
        if self.job.is_some() || self.snapshot.state != ComputeState::Running {
            return;
        }
        let (config, started_with) = (self.config.clone(), running.spec.clone());
        let (spec, configured) = (current.spec.clone(), running.configured.clone());
        let (spawner, facts) = (self.spawner.clone(), self.fact_sender.clone());
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        self.begin("catalog", cancel, async move {
            let applied = reconfigure::apply_catalog(
                &config,
                &started_with,
                &spec,
                configured,
                &spawner,
                &facts,
                &token,
            );
            JobDone::CatalogRetried(applied.await)
        });
    }

    pub(super) fn stop(&mut self) {
        let cancel = CancellationToken::new();
        let job = StopJob {
            config: self.config.clone(),
            running: self.running.take().map(|running| Running {
                monitor: None,
                ..running
            }),
            access: self.outputs.access.clone(),
            spec: self.current.as_ref().map(|revision| revision.spec.clone()),
            escalate: self.escalate.clone(),
        };
        let run = async { JobDone::Stopped(stop::run(job).await) };
        self.begin("stop", cancel, run.instrument(info_span!("stop")));
    }

    /// A start-up that keeps failing makes way for a new spec; one that gets on is
    /// finished first, and the new spec applied to its postgres.
    pub(super) fn interrupt_failing_startup(&mut self) {
        let failing = |step: &StepFacts| {
            matches!(
                step,
                StepFacts::Running {
                    last_error: Some(_)
                }
            )
        };
        if (failing(&self.snapshot.safekeepers) || failing(&self.snapshot.basebackup))
            && let Some(job) = &self.job
        {
            job.cancel.cancel();
        }
        if self.timers.restart.is_some() {
            self.timers.restart = None;
        }
    }

    pub(super) fn on_job_done(&mut self, done: JobDone) {
        // What the job said before its end is in the queue; it was sent before.
        if self.snapshot.state.is_terminating() {
            return self.on_job_done_while_terminating(done);
        }
        match done {
            JobDone::Startup(result) => self.on_started(*result),
            JobDone::Reconfigured(result) => self.on_reconfigured(result),
            JobDone::Refreshed(result) => self.on_refreshed(result),
            JobDone::CatalogRetried(result) => self.on_catalog_retried(result),
            JobDone::Stopped(stopped) => self.on_stopped(stopped),
            JobDone::Lost => self.on_job_lost(),
        }
        self.next_job();
    }

    /// A job's task panicked. What it held - a postgres that was starting, say - has been
    /// killed with it; a postgres that served before goes on serving.
    fn on_job_lost(&mut self) {
        let lost = Error::Task("job");
        let text = chain(&lost);
        self.event(EventKind::Warning, "InternalError", text.clone());
        if self.snapshot.state == ComputeState::Init {
            self.snapshot.postgres.phase = PostgresPhase::Absent;
            self.snapshot.postgres.pid = None;
            return self.fail(Event::JobLost, text, lost.ending());
        }
        error!("{text}");
        self.transition(Event::JobLost);
        self.waiters.configuration_failed(&text);
        self.snapshot.error = Some(text);
        if !matches!(self.snapshot.catalog.step, StepFacts::Done(_)) {
            self.retry_catalog_later();
        }
    }

    fn on_started(&mut self, result: Result<Running, Error>) {
        match result {
            Ok(mut running) => {
                running.monitor = Some(self.start_monitor(&running));
                self.snapshot.durations.total = Some(running.started_at.elapsed());
                self.snapshot.postgres.phase = PostgresPhase::Accepting;
                if let Some(relay) = &running.relay {
                    self.snapshot.relay = Some(relay.facts());
                }
                let took = self.snapshot.durations.total.unwrap_or_default();
                let note = format!(
                    "postgres serves from {} after {took:.0?}",
                    running.start_lsn
                );
                self.adopt_shards(running.spec.pageservers.clone());
                self.running = Some(running);
                self.transition(Event::StartupSucceeded);
                self.event(EventKind::Normal, "PostgresStarted", note);
                self.timers.scrape = Some(Instant::now());
                self.judge_pagestream();
                self.timers.probe = Some(Instant::now());
                self.plan_catalog_retry(matches!(self.snapshot.catalog.step, StepFacts::Done(_)));
                self.waiters.configured(&self.snapshot);
            }
            Err(Error::Cancelled) => {}
            Err(error) if error.is_takeover() => self.on_fenced(&chain(&error)),
            Err(error) if error.is_postgres_exit() => {
                let how = chain(&error);
                warn!("postgres ended during the start-up: {how}");
                self.event(EventKind::Warning, "PostgresExited", how.clone());
                self.restart(how, None);
            }
            Err(error) => {
                self.snapshot.postgres.phase = PostgresPhase::Absent;
                self.snapshot.postgres.pid = None;
                self.event(EventKind::Warning, failure_event(&error), chain(&error));
                self.fail(Event::StartupFailed, chain(&error), error.ending());
            }
        }
    }

    fn start_monitor(&self, running: &Running) -> Monitor {
        let experimental = |feature: &String| feature == "activity_monitor_experimental";
        let config = MonitorConfig {
            connect: local::sql_config(&self.config, &running.spec),
            pgdata: self.config.pgdata.clone(),
            last_active_at: self.snapshot.last_active_at,
            count_opened: running.spec.neon.features.iter().any(experimental),
        };
        Monitor::start(config, self.fact_sender.clone())
    }

    fn on_reconfigured(&mut self, result: Result<Reconfigured, Error>) {
        match result {
            Ok(done) => {
                if let Some(running) = &mut self.running {
                    running.configured = done.configured;
                }
                self.transition(Event::ConfigurationSucceeded);
                self.snapshot.error = None;
                self.timers.probe = Some(Instant::now());
                let note = format!(
                    "generation {} is in force; {} catalog statements",
                    self.snapshot.observed_generation.unwrap_or_default(),
                    self.snapshot.catalog.statements
                );
                self.event(EventKind::Normal, "ConfigReloaded", note);
                if !self.snapshot.configuration.restart_required.is_empty() {
                    let names = self.snapshot.configuration.restart_required.join(", ");
                    let note = format!("these settings wait for a restart of postgres: {names}");
                    self.event(EventKind::Warning, "RestartRequired", note);
                }
                self.plan_catalog_retry(done.catalog_applied);
                if done.catalog_applied {
                    self.waiters.configured(&self.snapshot);
                } else {
                    // The rest is in force, but who asked for it must know.
                    self.waiters.configuration_failed(&self.catalog_failure());
                }
            }
            Err(Error::Cancelled) => {
                self.transition(Event::ConfigurationRolledBack);
            }
            Err(error) => {
                let text = chain(&error);
                error!("the changed spec could not be applied: {text}");
                self.event(EventKind::Warning, failure_event(&error), text.clone());
                self.transition(Event::ConfigurationRolledBack);
                self.waiters.configuration_failed(&text);
                self.snapshot.error = Some(text);
            }
        }
    }

    fn on_refreshed(&mut self, result: Result<Refreshed, Error>) {
        match result {
            Ok(refreshed) => {
                self.adopt_shards(refreshed.configured.pageservers.clone());
                if let Some(running) = &mut self.running {
                    running.configured = refreshed.configured;
                }
                self.transition(Event::RefreshSucceeded);
                self.snapshot.error = None;
                // The locations are the newest that anybody knows: no hurry to ask again.
                let wait = self.lookups.next(rand::random());
                self.timers.lookup = Some(Instant::now() + wait);
                if let Some(probed) = refreshed.probed {
                    self.on_fact(Fact::Probed(probed));
                }
            }
            Err(error) => {
                let text = chain(&error);
                self.event(EventKind::Warning, failure_event(&error), text.clone());
                self.transition(Event::RefreshFailed);
                let wait = self.lookups.next(rand::random());
                self.timers.refresh = Some(Instant::now() + wait);
                self.snapshot.error = Some(text);
            }
        }
    }

    /// Why it failed, if it did, stands in the condition already.
    fn on_catalog_retried(&mut self, result: Result<Reconfigured, Error>) {
        let applied = result.as_ref().is_ok_and(|done| done.catalog_applied);
        if let (Ok(done), Some(running)) = (result, &mut self.running) {
            running.configured = done.configured;
        }
        self.plan_catalog_retry(applied);
    }

    /// Takes over where the storage controller found the shards.
    fn adopt_shards(&mut self, shards: ShardMap) {
        let Some(current) = &mut self.current else {
            return;
        };
        if current.spec.pageservers == shards {
            return;
        }
        let moves = relocation::moves(&current.spec.pageservers, &shards);
        let mut spec = (*current.spec).clone();
        spec.pageservers = shards;
        current.spec = Arc::new(spec);
        if let Some(facts) = &mut self.snapshot.spec {
            facts.spec = current.spec.clone();
        }
        if let Some(moves) = moves {
            self.event(EventKind::Normal, "PageserverMoved", moves);
        }
    }

    fn plan_catalog_retry(&mut self, applied: bool) {
        if applied {
            self.timers.catalog_retry = None;
            self.timers.catalog_backoff = None;
            return;
        }
        self.retry_catalog_later();
        let note = self.catalog_failure();
        self.event(EventKind::Warning, "CatalogApplyFailed", note);
    }

    fn retry_catalog_later(&mut self) {
        let (first, longest) = CATALOG_RETRY;
        let backoff = &mut self.timers.catalog_backoff;
        let backoff = backoff.get_or_insert_with(|| Backoff::new(first, longest));
        let wait = backoff.next(rand::random());
        self.timers.catalog_retry = Some(Instant::now() + wait);
    }

    fn catalog_failure(&self) -> String {
        match &self.snapshot.catalog.step {
            StepFacts::Failed(_, text) => text.clone(),
            _ => "see the log".to_owned(),
        }
    }
}

/// The Event reason of a failed job.
fn failure_event(error: &Error) -> &'static str {
    match error {
        Error::Sync(_) => "SafekeeperSyncFailed",
        Error::Basebackup { .. } => "BasebackupFailed",
        Error::StorageWait { source, .. } => failure_event(source),
        Error::Catalog(_) => "CatalogApplyFailed",
        _ if error.is_configuration_refused() => "ConfigRejected",
        Error::Locate(_) => "StorageUnreachable",
        Error::Postgres(_) => "PostgresExited",
        _ => error.category(),
    }
}
