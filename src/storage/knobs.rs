//! What tests do to a node while it runs: pause it, make its next backup fail.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// How a backup fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFault {
    /// It is refused before it starts.
    Refused,
    /// It ends too early, as if it were complete.
    Truncated,
    /// The connection breaks in the middle.
    Dropped,
    /// A byte in the middle is wrong.
    Corrupt,
    /// An error comes in the middle.
    ErrorMidway,
    /// All of it comes, and then an error.
    ErrorAtEnd,
    /// Nothing more comes after the middle, and the connection stays.
    Stall,
}

/// The knobs of a pageserver. Shared between it and whoever turns them.
#[derive(Debug, Default)]
pub struct Knobs {
    paused: watch::Sender<bool>,
    next_backup: Mutex<Option<BackupFault>>,
}

impl Knobs {
    /// From now on connections are accepted, and nothing is answered: so does a
    /// pageserver that waits for its storage controller.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Answers again.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Makes the next backup fail, once.
    pub fn fail_next_backup(&self, fault: BackupFault) {
        *self.lock() = Some(fault);
    }

    /// Waits until the node is not paused.
    pub(in crate::storage) async fn unpaused(&self) {
        // The sender is ours, so that this cannot fail.
        let _ = self.paused.subscribe().wait_for(|paused| !paused).await;
    }

    /// Takes the fault of the backup that starts now.
    pub(in crate::storage) fn take_backup_fault(&self) -> Option<BackupFault> {
        self.lock().take()
    }

    /// Whether the backup that is asked for now is to be refused; if so, the next is
    /// not.
    pub(in crate::storage) fn take_refusal(&self) -> bool {
        let mut next = self.lock();
        let refused = *next == Some(BackupFault::Refused);
        next.take_if(|_| refused);
        refused
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BackupFault>> {
        self.next_backup
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_happens_once() {
        let knobs = Knobs::default();
        knobs.fail_next_backup(BackupFault::Stall);
        assert_eq!(knobs.take_backup_fault(), Some(BackupFault::Stall));
        assert_eq!(knobs.take_backup_fault(), None);
    }

    #[tokio::test]
    async fn a_paused_node_waits_for_its_resumption() {
        let knobs = Knobs::default();
        knobs.unpaused().await;
        knobs.pause();
        let mut waiting = std::pin::pin!(knobs.unpaused());
        assert!(futures::poll!(&mut waiting).is_pending());
        knobs.resume();
        waiting.await;
    }
}
