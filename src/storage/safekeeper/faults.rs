//! What a test can make go wrong.

use std::time::Duration;

use tokio::sync::watch;

/// Faults of one safekeeper, in force until they are taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// Connections are accepted and nothing is ever answered, on open ones neither.
    pub paused: bool,
    /// No vote is given.
    pub refuse_votes: bool,
    /// A proposer's connection ends behind the greeting.
    pub close_after_greeting: bool,
    /// Each command is answered with this error.
    pub error: Option<String>,
    /// How long making WAL durable takes longer than it would.
    pub sync_delay: Duration,
}

/// The faults as the parts of a safekeeper see them.
#[derive(Debug, Clone)]
pub(super) struct FaultView(watch::Receiver<Faults>);

impl FaultView {
    pub(super) fn new(faults: watch::Receiver<Faults>) -> Self {
        Self(faults)
    }

    /// Waits while the safekeeper is paused. Without limit: a pause has none.
    /// Cancel safe.
    pub(super) async fn unpaused(&mut self) {
        if self.0.wait_for(|faults| !faults.paused).await.is_err() {
            // The safekeeper is going away; nothing is answered any more.
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn refuse_votes(&self) -> bool {
        self.0.borrow().refuse_votes
    }

    pub(super) fn close_after_greeting(&self) -> bool {
        self.0.borrow().close_after_greeting
    }

    pub(super) fn error(&self) -> Option<String> {
        self.0.borrow().error.clone()
    }

    pub(super) fn sync_delay(&self) -> Duration {
        self.0.borrow().sync_delay
    }
}
