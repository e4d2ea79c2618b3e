//! The one task that owns a compute's state.
//!
//! It takes spec revisions from the source, requests from the HTTP servers, signals,
//! and what its jobs report; it publishes a snapshot after each. At most one job runs
//! at a time (a start-up, a configuration, a refresh, a stop), and which one may follows
//! from the state's table alone.

mod jobs;
mod pagestream;
mod probes;
mod requests;
mod revisions;
mod scrape;
mod termination;
#[cfg(test)]
mod tests;
mod timers;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::config::ComputeConfig;
use super::ending::Ending;
use super::facts::{self, Fact};
use super::measure;
use super::pagestream_health::PagestreamHealth;
use super::relay_task::RelayNews;
use super::restart_budget::{Decision, RestartBudget};
use super::running::Running;
use super::server_version::ServerVersion;
use super::state;
use super::{Inputs, Outputs};
use crate::api::status::ComputeState;
use crate::backoff::Backoff;
use crate::error::chain;
use crate::process::Spawner;
use crate::report::{self, EventKind, PostgresPhase, Snapshot, StepFacts};
use crate::spec::ComputeSpec;
use crate::spec::revision::Revision;
use crate::telemetry::traces::Parent;
pub(super) use jobs::JobDone;
use jobs::{Job, Perform};
use requests::Waiters;
use timers::Timers;

/// The snapshot is published at least this often: it is the owner's sign of life.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Facts that may wait for the owner. Jobs wait when it is full.
const FACT_QUEUE: usize = 64;
/// Between two attempts to find shards that nobody serves: at first, and at most.
const LOOKUP_PACE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// The owner's state.
pub(super) struct Owner {
    config: Arc<ComputeConfig>,
    spawner: Spawner,
    version: ServerVersion,
    outputs: Outputs,
    snapshot: Snapshot,
    fact_sender: mpsc::Sender<Fact>,
    /// The newest accepted revision that is not in force yet.
    pending: Option<Revision>,
    /// The revision in force, or being applied; its shards are where the storage
    /// controller found them last.
    current: Option<Revision>,
    /// Its spec as the source has it.
    specified: Option<Arc<ComputeSpec>>,
    /// Postgres asked for its storage while other work was under way.
    refresh_wanted: bool,
    perform: Perform,
    job: Option<Job>,
    running: Option<Running>,
    waiters: Waiters,
    restarts: RestartBudget,
    timers: Timers,
    pagestream: PagestreamHealth,
    /// The trace that the next job is part of.
    trace: Parent,
    /// Rounds over the pageservers; ended with the owner.
    rounds: JoinSet<()>,
    /// How often to look for shards that are not where they should be.
    lookups: Backoff,
    /// How the process ends once its state allows it.
    ending: Ending,
    /// Hastens a stop that is under way.
    escalate: CancellationToken,
    /// A signal asked to stop.
    signalled: bool,
    finished: bool,
}

/// Runs a compute until it ends, and says how.
pub async fn run(
    config: ComputeConfig,
    snapshot: Snapshot,
    spawner: Spawner,
    inputs: Inputs,
    outputs: Outputs,
) -> Ending {
    let perform: Perform = Box::new(|_, _, work| work);
    run_with(config, snapshot, spawner, inputs, outputs, perform).await
}

async fn run_with(
    config: ComputeConfig,
    snapshot: Snapshot,
    spawner: Spawner,
    mut inputs: Inputs,
    outputs: Outputs,
    perform: Perform,
) -> Ending {
    let (fact_sender, mut facts) = mpsc::channel(FACT_QUEUE);
    let pagestream = PagestreamHealth::new(config.limits.pagestream);
    let trace = config.trace.clone();
    let config = Arc::new(config);
    let version = ServerVersion::new(config.clone(), spawner.clone());
    let mut ahead = JoinSet::new();
    let asked = version.clone();
    ahead.spawn(async move { asked.of_program().await });
    let mut owner = Owner {
        config,
        spawner,
        version,
        outputs,
        snapshot,
        fact_sender,
        pending: None,
        current: None,
        specified: None,
        refresh_wanted: false,
        perform,
        job: None,
        running: None,
        waiters: Waiters::default(),
        restarts: RestartBudget::default(),
        timers: Timers::default(),
        pagestream,
        trace,
        rounds: JoinSet::new(),
        lookups: Backoff::new(LOOKUP_PACE.0, LOOKUP_PACE.1),
        ending: Ending::Stopped,
        escalate: CancellationToken::new(),
        signalled: false,
        finished: false,
    };
    while !owner.finished {
        owner.publish();
        owner.step(&mut inputs, &mut facts).await;
    }
    owner.publish();
    owner.ending
}

/// What woke the owner.
enum Wake {
    Source(Option<crate::spec::revision::SourceEvent>),
    Request(crate::http::control::Request),
    Signal(super::StopSignal),
    Fact(Fact),
    Job(JobDone),
    PostgresExited(String),
    RelayEnded,
    Timer,
}

impl Owner {
    async fn step(&mut self, inputs: &mut Inputs, facts: &mut mpsc::Receiver<Fact>) {
        let heartbeat = Instant::now() + HEARTBEAT;
        let deadline = self.timers.next().map_or(heartbeat, |at| at.min(heartbeat));
        let wake = tokio::select! {
            biased;
            Some(signal) = inputs.signals.recv() => Wake::Signal(signal),
            // Before the job's end, so that what it said last is not lost.
            Some(fact) = facts.recv() => Wake::Fact(fact),
            done = jobs::finished(&mut self.job) => Wake::Job(done),
            wake = watch_running(&mut self.running) => wake,
            Some(request) = inputs.control.recv() => Wake::Request(request),
            event = inputs.source.recv(), if !inputs.source.is_closed() => Wake::Source(event),
            () = tokio::time::sleep_until(deadline) => Wake::Timer,
        };
        match wake {
            Wake::Signal(signal) => self.on_signal(signal),
            Wake::Fact(fact) => self.on_fact(fact),
            Wake::Job(done) => self.on_job_done(done),
            Wake::PostgresExited(how) => self.on_postgres_exited(how).await,
            Wake::RelayEnded => self.on_relay_ended().await,
            Wake::Request(request) => self.on_request(request),
            Wake::Source(Some(event)) => self.on_source(event),
            Wake::Source(None) => {}
            Wake::Timer => self.on_timer(),
        }
    }

    fn on_fact(&mut self, fact: Fact) {
        measure::fact(&self.outputs.metrics, &fact);
        if let Fact::Misrouted(scraped) = &fact {
            self.count_misrouted(scraped);
        }
        self.tell_retries(&fact);
        let is_probe = matches!(fact, Fact::Probed(_));
        let before = probes::lost(&self.snapshot);
        facts::apply(&mut self.snapshot, fact);
        if is_probe {
            self.on_probed(&before);
        }
    }

    /// Tells that a step which talks to storage begins to fail, or does so for another
    /// reason than before; it is retried meanwhile.
    fn tell_retries(&self, fact: &Fact) {
        let (reason, before, now) = match fact {
            Fact::Safekeepers(now) => ("SafekeeperSyncFailed", &self.snapshot.safekeepers, now),
            Fact::Basebackup(now) => ("BasebackupFailed", &self.snapshot.basebackup, now),
            _ => return,
        };
        let category = |step: &StepFacts| match step {
            StepFacts::Running { last_error } => last_error.as_ref().map(|error| error.0),
            _ => None,
        };
        if let StepFacts::Running {
            last_error: Some((failing, text)),
        } = now
            && category(before) != Some(*failing)
        {
            self.event(EventKind::Warning, reason, text.clone());
        }
    }

    /// Makes the current facts visible to everyone who reads them.
    fn publish(&mut self) {
        self.outputs
            .snapshot
            .send_replace(Arc::new(self.snapshot.clone()));
    }

    /// Moves the state as the table says. A refusal is a fault of this room's own, so it
    /// is logged and changes nothing.
    fn transition(&mut self, event: state::Event) -> bool {
        let before = self.snapshot.state;
        match state::next(before, event) {
            Ok(after) => {
                if after != before {
                    info!(from = %before, to = %after, "{event}");
                }
                self.snapshot.state = after;
                true
            }
            Err(refused) => {
                error!("{refused}");
                false
            }
        }
    }

    fn event(&self, kind: EventKind, reason: &'static str, note: impl Into<String>) {
        let event = report::Event {
            kind,
            reason,
            note: note.into(),
        };
        // Events are best effort: a full queue loses the newest, never blocks the owner.
        let _ = self.outputs.events.try_send(event);
    }

    async fn on_postgres_exited(&mut self, how: String) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.call_off_job();
        let served_since = self
            .snapshot
            .durations
            .total
            .is_some()
            .then_some(running.started_at);
        let relay = running.kill(&self.config).await;
        if self.snapshot.state.is_terminating() {
            return self.stop();
        }
        // The relay's own end may be why: a fenced one must not be started again.
        if let Some(error) = relay
            && error.is_takeover()
        {
            return self.on_fenced(&chain(&error));
        }
        warn!("postgres ended by itself: {how}");
        self.event(EventKind::Warning, "PostgresExited", how.clone());
        self.restart(how, served_since);
    }

    /// Plans another start after an unplanned end, or gives up.
    fn restart(&mut self, how: String, served_since: Option<Instant>) {
        self.snapshot.postgres.last_exit = Some(how.clone());
        self.snapshot.postgres.pid = None;
        self.snapshot.postgres.phase = PostgresPhase::Exited;
        facts::unanswered(&mut self.snapshot, std::time::Instant::now());
        match self
            .restarts
            .exited(Instant::now(), served_since, rand::random())
        {
            Decision::Restart {
                after,
                crash_looping,
            } => {
                self.transition(state::Event::PostgresExited);
                self.snapshot.postgres.restarts += 1;
                if crash_looping {
                    self.snapshot.postgres.phase = PostgresPhase::CrashLooping;
                    self.event(EventKind::Warning, "CrashLoopDetected", how);
                }
                info!(?after, "postgres is started again from a fresh basebackup");
                self.timers.restart = Some(Instant::now() + after);
            }
            Decision::Spent => {
                self.snapshot.postgres.phase = PostgresPhase::CrashLooping;
                self.fail(
                    state::Event::PostgresExited,
                    format!("postgres kept ending by itself, the last time: {how}"),
                    Ending::RestartBudgetSpent,
                );
            }
        }
    }

    /// Enters `Failed` and, unless a new spec comes, ends the process after a while.
    fn fail(&mut self, event: state::Event, error: String, ending: Ending) {
        error!("{error}");
        if event == state::Event::PostgresExited {
            // The budget is spent: through Init, as a start-up that gave up at once.
            self.transition(state::Event::PostgresExited);
            if self.snapshot.state == ComputeState::Init {
                self.transition(state::Event::StartupFailed);
            }
        } else {
            self.transition(event);
        }
        self.waiters.configuration_failed(&error);
        self.snapshot.error = Some(error);
        self.ending = ending;
        self.timers.end = self
            .config
            .limits
            .failed_linger
            .map(|linger| Instant::now() + linger);
    }

    /// Whether a newer compute has the timeline.
    fn is_fenced(&self) -> bool {
        let relay = self.snapshot.relay.as_ref();
        self.snapshot.state == ComputeState::Failed
            && relay.is_some_and(|relay| relay.fenced.is_some())
    }

    async fn on_relay_ended(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.call_off_job();
        // Whatever ended the relay, nothing can commit any more: stop taking writes at
        // once, before anything else is said or done.
        let error = running.kill(&self.config).await;
        if self.snapshot.state.is_terminating() {
            return self.stop();
        }
        match error {
            Some(error) if error.is_takeover() => self.on_fenced(&chain(&error)),
            Some(error) => {
                let how = chain(&error);
                self.event(EventKind::Warning, "WalRelayFailed", how.clone());
                self.restart(how, None);
            }
            None => self.restart("the WAL relay ended".to_owned(), None),
        }
    }

    /// A newer compute has the timeline. This one stays down and does not fight back:
    /// two computes that both restart would take the timeline from each other for ever.
    fn on_fenced(&mut self, why: &str) {
        facts::unanswered(&mut self.snapshot, std::time::Instant::now());
        self.snapshot.postgres.phase = PostgresPhase::Exited;
        self.snapshot.postgres.pid = None;
        self.snapshot.postgres.last_exit = Some(why.to_owned());
        if let Some(relay) = &mut self.snapshot.relay {
            relay.phase = "Fenced";
            relay.fenced = Some(why.to_owned());
        }
        self.event(EventKind::Warning, "TakeoverDetected", why);
        self.fail(
            state::Event::Fenced,
            why.to_owned(),
            Ending::StorageUnavailable,
        );
        self.timers.end = None;
    }
}

/// Waits for something that the running postgres or its relay does, also while a job
/// works on them. A start-up and a stop hold them themselves, and watch or end them.
async fn watch_running(running: &mut Option<Running>) -> Wake {
    let Some(running) = running else {
        return std::future::pending().await;
    };
    let Running {
        postgres, relay, ..
    } = running;
    let relay_wake = async {
        let Some(relay) = relay else {
            return std::future::pending().await;
        };
        match relay.news().await {
            RelayNews::Changed(facts) => Wake::Fact(Fact::Relay(facts)),
            RelayNews::Ended => Wake::RelayEnded,
        }
    };
    tokio::select! {
        biased;
        wake = relay_wake => wake,
        exited = postgres.exited() => Wake::PostgresExited(exited.to_string()),
    }
}

/// The channel of snapshots, and its first value.
pub fn snapshot_channel(
    first: &Snapshot,
) -> (watch::Sender<Arc<Snapshot>>, watch::Receiver<Arc<Snapshot>>) {
    watch::channel(Arc::new(first.clone()))
}
