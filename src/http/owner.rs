//! How handlers reach the task that owns the compute.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::Request;
use super::heartbeat::Heartbeat;
use super::respond;
use crate::report::Snapshot;

/// How long a request may wait to be taken.
const TAKE_LIMIT: Duration = Duration::from_secs(5);

/// The owning task, seen from a handler.
#[derive(Clone)]
pub(super) struct Owner {
    control: mpsc::Sender<Request>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    heartbeat: Heartbeat,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It does not take requests at the moment.
    Busy,
    /// It has ended.
    Ended,
    /// It took the request and has not answered within this time.
    Late(Duration),
}

impl Owner {
    pub(super) fn new(
        control: mpsc::Sender<Request>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        Self {
            control,
            snapshot,
            heartbeat: Heartbeat::default(),
        }
    }

    /// Begins to watch whether the owning task gets on, until `cancel`.
    pub(super) fn watch(&self, tasks: &TaskTracker, cancel: CancellationToken) {
        let (heartbeat, snapshot) = (self.heartbeat.clone(), self.snapshot.clone());
        tasks.spawn(async move {
            cancel.run_until_cancelled(heartbeat.follow(snapshot)).await;
        });
    }

    /// What is true now. Never waits.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Whether the owning task takes requests and gets on. Never waits.
    pub(super) fn is_responsive(&self) -> Result<(), &'static str> {
        if self.control.is_closed() {
            Err("ended")
        } else if self.control.capacity() == 0 {
            Err("takes no requests")
        } else {
            self.heartbeat.check()
        }
    }

    /// Asks, and waits at most `limit` for the answer. The request is carried out
    /// also if this is cancelled once it was taken.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
        limit: Duration,
    ) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        match timeout(TAKE_LIMIT, self.control.send(request(reply))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Unanswered::Ended),
            Err(_) => return Err(Unanswered::Busy),
        }
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Unanswered::Ended),
            Err(_) => Err(Unanswered::Late(limit)),
        }
    }
}

impl Unanswered {
    pub(super) fn into_response(self) -> Response {
        match self {
            Self::Busy => respond::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the compute does not take requests at the moment: try again",
            ),
            Self::Ended => respond::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the compute ended before it answered",
            ),
            Self::Late(limit) => respond::error(
                StatusCode::GATEWAY_TIMEOUT,
                &format!(
                    "the compute took the request and has not finished it within {limit:?}: \
                     watch GET /status"
                ),
            ),
        }
    }
}
