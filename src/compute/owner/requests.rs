//! Requests of the HTTP servers, and who waits for what.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tracing::info;

use super::Owner;
use crate::api::status::ComputeState;
use crate::compute::state::{self, Event};
use crate::http::control::{ConfigureError, Refusal, Request, TerminateMode, TerminateOutcome};
use crate::report::Snapshot;
use crate::spec::ComputeSpec;
use crate::spec::revision::Revision;

type ConfigureReply = oneshot::Sender<Result<Arc<Snapshot>, ConfigureError>>;
type TerminateReply = oneshot::Sender<Result<TerminateOutcome, Refusal>>;

/// Requests that are answered later. Each is answered exactly once, by what became of
/// its own spec or of one that replaced it.
#[derive(Default)]
pub(super) struct Waiters {
    /// For the revision that is pending.
    pending: Vec<ConfigureReply>,
    /// For the revision in force, or being applied.
    current: Vec<ConfigureReply>,
    terminate: Vec<TerminateReply>,
}

impl Waiters {
    /// The pending revision is the current one now.
    pub(super) fn taken(&mut self) {
        self.current.append(&mut self.pending);
    }

    /// The current revision is in force.
    pub(super) fn configured(&mut self, snapshot: &Snapshot) {
        let snapshot = Arc::new(snapshot.clone());
        for reply in self.current.drain(..) {
            // The client may have gone; its request was carried out all the same.
            let _ = reply.send(Ok(snapshot.clone()));
        }
    }

    /// The current revision could not be applied.
    pub(super) fn configuration_failed(&mut self, error: &str) {
        for reply in self.current.drain(..) {
            let _ = reply.send(Err(ConfigureError::Failed(error.to_owned())));
        }
    }

    /// Postgres has stopped.
    pub(super) fn terminated(&mut self, outcome: TerminateOutcome) {
        for reply in self.terminate.drain(..) {
            let _ = reply.send(Ok(outcome));
        }
        self.taken();
        self.configuration_failed("the compute terminated before the spec was applied");
    }
}

impl Owner {
    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            Request::Configure { spec, trace, reply } => {
                self.trace = trace;
                self.on_configure(*spec, reply);
            }
            Request::Terminate { mode, reply } => self.on_terminate(mode, reply),
            Request::Refresh { reply } => {
                // The client may have gone; its request was taken all the same.
                let _ = reply.send(self.on_refresh());
            }
        }
    }

    fn refusal(&self, request: &'static str, event: Event) -> Refusal {
        let state = self.snapshot.state;
        Refusal {
            request,
            state,
            advice: state::refusal(state, event),
        }
    }

    fn on_configure(&mut self, spec: ComputeSpec, reply: ConfigureReply) {
        if self.snapshot.state.is_terminating() {
            let refusal = self.refusal("a configuration", Event::SpecAccepted);
            let _ = reply.send(Err(refusal.into()));
            return;
        }
        if let Some(problem) = self.identity_change(&spec) {
            let _ = reply.send(Err(ConfigureError::Invalid(problem)));
            return;
        }
        // Every request counts as new, also one that repeats the spec in force: the
        // caller wants it applied and waits for the answer.
        let generation = self.snapshot.observed_generation.unwrap_or(0) + 1;
        let hash = Sha256::digest(format!("{spec:?}{generation}"));
        let revision = Revision {
            spec: Arc::new(spec),
            generation,
            hash: format!("sha256:{}", hex::encode(hash)),
            origin: "POST /configure".to_owned(),
        };
        self.waiters.pending.push(reply);
        self.accept(revision);
    }

    fn on_terminate(&mut self, mode: TerminateMode, reply: TerminateReply) {
        if self.snapshot.state == ComputeState::Terminated {
            let outcome = TerminateOutcome {
                lsn: self.snapshot.lsn.last_shutdown,
                already: true,
            };
            let _ = reply.send(Ok(outcome));
            return;
        }
        self.waiters.terminate.push(reply);
        self.terminate(match mode {
            TerminateMode::Fast => Event::TerminateFast,
            TerminateMode::Immediate => Event::TerminateImmediate,
        });
    }

    fn on_refresh(&mut self) -> Result<(), Refusal> {
        self.count_request_error();
        if self.snapshot.state == ComputeState::Empty || self.snapshot.state.is_terminating() {
            return Err(self.refusal("a refresh", Event::RefreshRequested));
        }
        // Nobody's postgres asks here: a start would take the timeline back.
        if self.is_fenced() {
            return Err(Refusal {
                advice: "a newer compute has the timeline; ask that one",
                ..self.refusal("a refresh", Event::RefreshRequested)
            });
        }
        info!(state = %self.snapshot.state, "postgres asks where its pageservers went");
        if self.transition(Event::RefreshRequested) {
            // A refresh under way is joined; other work does not look for storage.
            self.refresh_wanted |= matches!(
                self.snapshot.state,
                ComputeState::ConfigurationPending | ComputeState::Configuration
            );
            self.next_job();
        }
        Ok(())
    }
}
