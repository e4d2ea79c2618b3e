//! Tells whether the task that owns the compute gets on: it publishes its snapshot every
//! few seconds, and a probe looks only at when it last did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::report::Snapshot;

/// An owner that was silent for this long is stuck. It publishes every 5 s, and waits for
/// nothing itself but the end of a postgres that it kills, which has a limit.
const STUCK: Duration = Duration::from_secs(45);

/// When the owner was alive last.
#[derive(Debug, Clone)]
pub(super) struct Heartbeat {
    started: Instant,
    /// Milliseconds after `started`.
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            last: Arc::default(),
        }
    }
}

impl Heartbeat {
    /// Notes each snapshot, until there will be no more.
    pub(super) async fn follow(&self, mut snapshot: watch::Receiver<Arc<Snapshot>>) {
        while snapshot.changed().await.is_ok() {
            self.beat_at(self.started.elapsed());
        }
    }

    fn beat_at(&self, now: Duration) {
        self.last.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the owner gets on. Never waits.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        self.check_at(self.started.elapsed())
    }

    fn check_at(&self, now: Duration) -> Result<(), &'static str> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        if now.saturating_sub(last) > STUCK {
            Err("stuck")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_is_silent_for_too_long_is_stuck_until_it_is_heard_of_again() {
        let heartbeat = Heartbeat::default();
        let seconds = Duration::from_secs;
        assert_eq!(heartbeat.check_at(seconds(45)), Ok(()));
        assert_eq!(heartbeat.check_at(seconds(46)), Err("stuck"));
        heartbeat.beat_at(seconds(50));
        assert_eq!(heartbeat.check_at(seconds(95)), Ok(()));
        assert_eq!(heartbeat.check_at(seconds(96)), Err("stuck"));
    }

    #[tokio::test]
    async fn every_snapshot_is_a_sign_of_life() {
        let snapshot = Arc::new(Snapshot::new("c", jiff::Timestamp::UNIX_EPOCH));
        let (sender, receiver) = watch::channel(snapshot.clone());
        let heartbeat = Heartbeat {
            started: Instant::now()
                .checked_sub(Duration::from_mins(1))
                .unwrap_or_else(Instant::now),
            ..Heartbeat::default()
        };
        let following = heartbeat.clone();
        let task = tokio::spawn(async move { following.follow(receiver).await });
        sender.send(snapshot).unwrap();
        drop(sender);
        task.await.unwrap();
        assert!(heartbeat.last.load(Ordering::Relaxed) > 0);
        assert_eq!(heartbeat.check(), Ok(()));
    }
}
