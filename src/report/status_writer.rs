//! Brings the newest status of a compute to one place, and only the newest.
//!
//! One task per sink. It holds one desired status: while the place cannot be
//! written, newer ones replace it and nothing piles up.
//! [`write_policy`](super::write_policy) decides when a write is due.
//!
//! # Failures
//!
//! - No answer, 429, 5xx, 403: tried again after 1 to 8 s, with the newest status.
//! - 404: the place is gone. It is looked for at the same pace; nothing is created
//!   in its stead.
//! - 409, 422: it may be another object by the same name. It is read again, and the
//!   write tried once more; refused again, it waits as after any other failure: a
//!   schema is upgraded, a webhook comes back, and nothing would tell us.
//!
//! So the status is right at most 15 s after the place can be written again: the
//! longest wait, and a request that has just begun to hang.
//!
//! A kind of failure is logged when it begins, and again when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::metrics::WriteMetrics;
use super::sink::{Sink, WriteError};
use super::write_policy::{Limits, WritePolicy, compare};
use super::{Snapshot, status};
use crate::api::failure::FailureKind;
use crate::api::status::ComputeSpecStatus;
use crate::backoff::Backoff;
use crate::error::{Category as _, Retry, chain};

/// Time for the last write when the compute ends.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(2);

/// Between attempts: at first, and at most.
const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// Longest time for which the API server can send us away. It names seconds where it is
/// busy itself; what stands before it may name minutes, and a status of minutes ago
/// misleads.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What a writer needs besides its sink.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often it may write.
    pub limits: Limits,
    /// Name of the pod that the compute runs in, if it is known.
    pub pod_name: Option<String>,
    /// Where its writes are counted; `None` for places that are not on the API server.
    pub metrics: Option<WriteMetrics>,
}

/// Follows `snapshots` until `cancel` or until their sender is gone; then writes the
/// last one, within two seconds, and returns.
pub async fn run<S: Sink>(
    sink: S,
    options: Options,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
) {
    let mut writer = Writer::new(sink, options);
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        writer.desire(&snapshot);
        let due = writer.due();
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            changed = snapshots.changed() => if changed.is_err() { break },
            () = tokio::time::sleep_until(due.unwrap_or_else(now).into()), if due.is_some() => {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    () = writer.attempt(&snapshot) => {}
                }
            }
        }
    }
    let snapshot = Arc::clone(&snapshots.borrow_and_update());
    writer.finish(&snapshot).await;
}

/// The runtime's clock, which tests can hold still.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

struct Writer<S> {
    sink: S,
    options: Options,
    policy: WritePolicy,
    /// What stands there, as far as we know.
    written: Option<ComputeSpecStatus>,
    /// What should stand there.
    desired: ComputeSpecStatus,
    /// Whether the sink was read since it last turned out to be another.
    opened: bool,
    backoff: Backoff,
    blocked_until: Option<Instant>,
    /// Category of the failure that was logged and is not over.
    failing: Option<&'static str>,
}

impl<S: Sink> Writer<S> {
    fn new(sink: S, options: Options) -> Self {
        Self {
            policy: WritePolicy::new(options.limits, now()),
            sink,
            options,
            written: None,
            desired: ComputeSpecStatus::default(),
            opened: false,
            backoff: Backoff::new(PACE.0, PACE.1),
            blocked_until: None,
            failing: None,
        }
    }

    /// Renders what should stand there.
    fn desire(&mut self, snapshot: &Snapshot) {
        self.desired = self.render(snapshot, &self.desired);
        self.policy
            .observe(compare(self.written.as_ref(), &self.desired), now());
        if let Some(metrics) = &self.options.metrics {
            metrics.pending(self.policy.is_pending());
        }
    }

    fn render(&self, snapshot: &Snapshot, previous: &ComputeSpecStatus) -> ComputeSpecStatus {
        ComputeSpecStatus {
            pod_name: self.options.pod_name.clone(),
            ..status::render(snapshot, previous, Timestamp::now())
        }
    }

    fn due(&self) -> Option<Instant> {
        let due = self.policy.due()?;
        Some(self.blocked_until.map_or(due, |blocked| blocked.max(due)))
    }

    async fn attempt(&mut self, snapshot: &Snapshot) {
        match self.open_and_write(snapshot).await {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(&error),
        }
    }

    /// Cancel safe: a write that is cut off counts as none.
    async fn open_and_write(&mut self, snapshot: &Snapshot) -> Result<(), WriteError> {
        self.open(snapshot).await?;
        let first = self.write().await;
        let changed_hands = matches!(
            first.as_ref().err().and_then(WriteError::api_failure),
            Some(FailureKind::Conflict | FailureKind::Invalid)
        );
        if !changed_hands {
            return first;
        }
        self.opened = false;
        self.open(snapshot).await?;
        self.write().await
    }

    async fn open(&mut self, snapshot: &Snapshot) -> Result<(), WriteError> {
        if !self.opened {
            let found = self.sink.open().await?;
            self.desired = self.render(snapshot, &found);
            self.opened = true;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), WriteError> {
        let started = now();
        let result = self.sink.write(&self.desired).await;
        if let Some(metrics) = &self.options.metrics {
            let kind = result.as_ref().err().and_then(WriteError::api_failure);
            let label = match &result {
                Ok(()) => "success",
                Err(_) => kind.map_or("unrenderable", FailureKind::label),
            };
            metrics.patched(label, started.elapsed());
        }
        result
    }

    fn succeeded(&mut self) {
        if self.failing.take().is_some() {
            info!(sink = %self.sink, "the status is written again");
        }
        self.reached(true);
        self.backoff.reset();
        self.blocked_until = None;
        self.written = Some(self.desired.clone());
        self.policy.wrote(now(), rand::random());
    }

    fn failed(&mut self, error: &WriteError) {
        let kind = error.api_failure();
        self.reached(kind.is_some_and(FailureKind::is_answer));
        if self.failing.replace(error.category()) == Some(error.category()) {
            debug!(sink = %self.sink, error = chain(error), "the status is still not written");
        } else {
            warn!(sink = %self.sink, error = chain(error), "the status is not written; postgres is not affected");
        }
        if kind == Some(FailureKind::NotFound) {
            self.opened = false;
        }
        let wait = self.backoff.next(rand::random());
        match error.retry() {
            // It was read again and written again already.
            Retry::Never | Retry::Backoff => self.blocked_until = Some(now() + wait),
            Retry::After(asked) => {
                self.blocked_until = Some(now() + asked.clamp(wait, LONGEST_WAIT));
            }
        }
    }

    fn reached(&self, reachable: bool) {
        if let Some(metrics) = &self.options.metrics {
            metrics.reachable(reachable);
        }
    }

    /// One last attempt.
    async fn finish(&mut self, snapshot: &Snapshot) {
        self.desire(snapshot);
        if !self.policy.is_pending() {
            return;
        }
        let attempt = self.attempt(snapshot);
        if tokio::time::timeout(LAST_WRITE_LIMIT, attempt)
            .await
            .is_err()
        {
            warn!(sink = %self.sink, limit = ?LAST_WRITE_LIMIT, "the last status is not written");
        }
    }
}

#[cfg(test)]
mod tests;
