//! What the source says: specs accepted, refused, gone, out of reach.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Owner;
use crate::api::status::ComputeState;
use crate::compute::ending::Ending;
use crate::compute::state::Event;
use crate::error::truncate;
use crate::report::{EventKind, Phase, SpecFacts};
use crate::spec::revision::{Rejection, Revision, SourceEvent};
use crate::spec::{ComputeSpec, ShardMap, change};

/// How much of a rejection goes into the log, in bytes.
const LOGGED: usize = 4096;

impl Owner {
    pub(super) fn on_source(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Accepted(revision) => {
                self.snapshot.source_unreachable = None;
                self.on_accepted(revision);
            }
            SourceEvent::Rejected(rejection) => self.on_rejected(rejection),
            SourceEvent::Absent { origin } => {
                let why = format!("{origin} does not exist");
                warn!("{why}; the last good spec stays in force");
                self.snapshot.source_unreachable = Some(why);
            }
            SourceEvent::Unreachable { message } => {
                warn!("the source of the spec cannot be reached: {message}");
                self.snapshot.source_unreachable = Some(message);
            }
        }
    }

    fn on_accepted(&mut self, revision: Revision) {
        let pending = self.pending.as_ref().map(|pending| &pending.spec);
        if pending.or(self.specified.as_ref()) == Some(&revision.spec) {
            // Same content under a new generation: nothing to do but to say so.
            self.observe(revision.generation);
            return;
        }
        if let Some(message) = self.identity_change(&revision.spec) {
            let Revision {
                generation, origin, ..
            } = revision;
            let reason = "ImmutableFieldChanged";
            return self.on_rejected(Rejection {
                generation,
                origin,
                reason,
                message,
            });
        }
        if self.snapshot.state.is_terminating() {
            return;
        }
        self.accept(revision);
    }

    /// Takes a revision as the newest, and starts whatever work it needs.
    pub(super) fn accept(&mut self, revision: Revision) {
        info!(generation = revision.generation, origin = %revision.origin, "spec accepted");
        self.event(
            EventKind::Normal,
            "SpecAccepted",
            format!("accepted {}", revision.origin),
        );
        self.observe(revision.generation);
        if self.current.is_none() && self.pending.is_none() {
            let waited = jiff::Timestamp::now().duration_since(self.snapshot.started_at);
            let waited = waited.try_into().unwrap_or_default();
            self.snapshot
                .durations
                .phases
                .insert(Phase::WaitForSpec, waited);
        }
        self.outputs.access.follow(&revision.spec);
        self.pending = Some(revision);
        self.timers.end = None;
        self.ending = Ending::Stopped;
        self.transition(Event::SpecAccepted);
        if self.snapshot.state == ComputeState::Init {
            self.interrupt_failing_startup();
        }
        self.next_job();
    }

    fn observe(&mut self, generation: i64) {
        self.snapshot.observed_generation = Some(generation);
        self.snapshot.rejection = None;
    }

    fn on_rejected(&mut self, rejection: Rejection) {
        let text = truncate(&rejection.message, LOGGED);
        warn!(
            generation = rejection.generation,
            "{} is refused:\n{text}", rejection.origin
        );
        self.event(
            EventKind::Warning,
            "SpecRejected",
            rejection.message.clone(),
        );
        self.snapshot.observed_generation = Some(rejection.generation);
        self.snapshot.rejection = Some(rejection);
        // Without a good spec before it there is nothing to run; who supervises this
        // process is to see that.
        let has_spec = self.current.is_some() || self.pending.is_some();
        if !has_spec && self.timers.end.is_none() {
            self.ending = Ending::SpecInvalid;
            let linger = self.config.limits.invalid_spec_linger;
            self.timers.end = linger.map(|linger| Instant::now() + linger);
        }
    }

    /// Why a spec is not for this compute: a compute serves one timeline all its life.
    pub(super) fn identity_change(&self, spec: &ComputeSpec) -> Option<String> {
        let known = &self.pending.as_ref().or(self.current.as_ref())?.spec;
        change::between(known, spec)
            .err()
            .map(|errors| errors.to_string())
    }

    /// Where the storage controller found the shards, if the new spec only says again what
    /// the one before it said.
    fn still_located(&self, new: &ComputeSpec) -> Option<ShardMap> {
        let (current, specified) = (self.current.as_ref()?, self.specified.as_ref()?);
        (specified.pageservers == new.pageservers).then(|| current.spec.pageservers.clone())
    }

    /// Makes the pending revision the current one.
    pub(super) fn take_pending(&mut self) {
        if let Some(mut revision) = self.pending.take() {
            self.waiters.taken();
            let specified = revision.spec.clone();
            if let Some(located) = self.still_located(&specified) {
                let mut spec = (*specified).clone();
                spec.pageservers = located;
                revision.spec = Arc::new(spec);
            }
            self.specified = Some(specified);
            self.snapshot.spec = Some(SpecFacts {
                spec: revision.spec.clone(),
                generation: revision.generation,
                hash: revision.hash.clone(),
                origin: revision.origin.clone(),
            });
            self.current = Some(revision);
        }
    }
}
