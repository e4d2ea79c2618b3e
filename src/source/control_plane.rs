//! A spec from a control plane, asked for as `compute_ctl` asks
//! (`compute_tools/src/spec.rs`).
//!
//! A control plane pushes what is new by `POST /configure`, so it is asked twice only:
//! at the start until it answers, and when somebody wants to know whether the spec in
//! hand is still the newest. An answer that holds no spec (`empty`) is an answer.

mod request;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::request::{ControlPlane, Error};

use super::intake::{Closed, Document, Intake};
use super::secret_set::SecretSet;
use super::{Options, ReadDocument};
use crate::backoff::Backoff;
use crate::compute::LookAgain;
use crate::error::{Category as _, Retry, chain};
use crate::spec::revision::SourceEvent;

/// Waits between attempts: the first at most, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Attempts for one question; upstream makes as many.
const ATTEMPTS: u32 = 3;

/// Asks until there is an answer, then whenever `questions` wants to know, until `cancel`
/// or until nobody listens.
pub async fn run(
    place: ControlPlane,
    options: Options,
    events: mpsc::Sender<SourceEvent>,
    questions: mpsc::Receiver<LookAgain>,
    cancel: CancellationToken,
) {
    let closed = events.clone();
    let follower = Follower {
        intake: Intake::new(place.origin(), &options, events),
        place,
        questions,
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = closed.closed() => {}
        Err(Closed) = follower.follow(options.start_limit) => {}
    }
}

/// Asks anew, once.
pub fn reader(place: ControlPlane) -> ReadDocument {
    Box::new(move || {
        let place = place.clone();
        Box::pin(async move { place.ask().await.ok() })
    })
}

struct Follower {
    place: ControlPlane,
    intake: Intake,
    questions: mpsc::Receiver<LookAgain>,
}

impl Follower {
    async fn follow(mut self, start_limit: Duration) -> Result<Infallible, Closed> {
        self.ask_until_answered(start_limit).await?;
        while let Some(question) = self.questions.recv().await {
            let looked = self.look_again().await?;
            // Who asked may have given up meanwhile.
            let _ = question.send(looked);
        }
        std::future::pending().await
    }

    /// Errors that may pass by themselves are told only once they have lasted for
    /// `start_limit`.
    async fn ask_until_answered(&mut self, start_limit: Duration) -> Result<(), Closed> {
        let tell_at = Instant::now() + start_limit;
        let mut backoff = Backoff::new(WAITS.0, WAITS.1);
        loop {
            let error = match self.place.ask().await {
                Ok(text) => return self.offer(text).await,
                Err(error) => error,
            };
            debug!(error = chain(&error), "ask the control plane");
            let mut wait = backoff.next(rand::random());
            match error.retry() {
                Retry::Backoff => {}
                Retry::After(told) => wait = told.min(WAITS.1),
                Retry::Never => wait = WAITS.1,
            }
            if error.retry() == Retry::Never || Instant::now() + wait >= tell_at {
                self.intake.unreachable(chain(&error)).await?;
            }
            sleep(wait).await;
        }
    }

    async fn look_again(&mut self) -> Result<Result<bool, String>, Closed> {
        let mut backoff = Backoff::new(WAITS.0, WAITS.1);
        loop {
            let error = match self.place.ask().await {
                Ok(text) => {
                    let before = self.intake.accepted();
                    self.offer(text).await?;
                    return Ok(Ok(self.intake.accepted() != before));
                }
                Err(error) => error,
            };
            debug!(error = chain(&error), "ask the control plane again");
            let wait = backoff.next(rand::random());
            if error.retry() == Retry::Never || backoff.attempts() >= ATTEMPTS {
                return Ok(Err(chain(&error)));
            }
            sleep(wait).await;
        }
    }

    async fn offer(&mut self, text: String) -> Result<(), Closed> {
        let document = Document {
            text,
            generation: None,
        };
        self.intake.offer(document, &SecretSet::default()).await
    }
}
