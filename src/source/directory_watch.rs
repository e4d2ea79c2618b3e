//! Notices changes below directories, and looks again now and then in case it did not.
//!
//! Kubernetes changes a mounted file by swapping the symbolic link `..data` beside it;
//! editors write another file and rename it. So the directory is watched, never the
//! file. What changed is for the caller to find out, by reading and comparing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracing::{debug, warn};

use super::Error;
use crate::error::chain;

/// Quiet time after a change, so that a write in several steps is seen as one.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest wait for quiet.
const LONGEST_SETTLE: Duration = Duration::from_secs(1);
/// How often the directories are looked at without a notice: some file systems give
/// none, and a directory that was replaced gives no more.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A directory to watch.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) path: PathBuf,
    /// Whether its subdirectories are watched too.
    pub(crate) recursive: bool,
}

/// Watches a few directories.
pub(crate) struct DirectoryWatch {
    watched: Vec<Watched>,
    watchers: Vec<Option<OneWatch>>,
    /// Counts notices.
    notices: watch::Sender<u64>,
    seen: watch::Receiver<u64>,
    /// A change was noticed and not returned yet.
    unreturned: bool,
    look_again: Interval,
}

/// The watch of one directory. A replaced directory needs another.
struct OneWatch {
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl DirectoryWatch {
    /// Watches these; one that does not exist yet, as soon as it does.
    pub(crate) async fn start(watched: Vec<Watched>) -> Self {
        let (notices, seen) = watch::channel(0);
        let mut look_again = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watchers = watched.iter().map(|_| None).collect();
        let mut this = Self {
            watched,
            watchers,
            notices,
            seen,
            unreturned: false,
            look_again,
        };
        this.renew().await;
        this
    }

    /// Waits until something may have changed. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if !self.unreturned {
            tokio::select! {
                // The sender is our own: this cannot fail.
                _ = self.seen.changed() => {}
                _ = self.look_again.tick() => {
                    self.renew().await;
                    return;
                }
            }
            self.unreturned = true;
        }
        let quiet = async { while timeout(SETTLE, self.seen.changed()).await.is_ok() {} };
        let _ = timeout(LONGEST_SETTLE, quiet).await;
        self.unreturned = false;
    }

    /// Sets up the watches that are missing or look at a directory that is no more.
    async fn renew(&mut self) {
        for (watched, slot) in self.watched.iter().zip(&mut self.watchers) {
            let (watched, notices) = (watched.clone(), self.notices.clone());
            let current = slot.take();
            let begin = move || watch_one(&watched, current, notices);
            *slot = tokio::task::spawn_blocking(begin).await.unwrap_or_default();
        }
    }
}

/// Blocking: the kernel walks the directory.
fn watch_one(
    watched: &Watched,
    current: Option<OneWatch>,
    notices: watch::Sender<u64>,
) -> Option<OneWatch> {
    let identity = match fs::metadata(&watched.path) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) => {
            debug!(directory = %watched.path.display(), %error, "not watched yet");
            return None;
        }
    };
    if current
        .as_ref()
        .is_some_and(|current| current.identity == identity)
    {
        return current;
    }
    match begin(watched, notices) {
        Ok(watcher) => Some(OneWatch {
            identity,
            _watcher: watcher,
        }),
        Err(error) => {
            warn!(
                error = chain(&error),
                "changes are noticed only every {} s",
                LOOK_AGAIN.as_secs()
            );
            None
        }
    }
}

fn begin(watched: &Watched, notices: watch::Sender<u64>) -> Result<RecommendedWatcher, Error> {
    let error = |source| Error::Watch {
        path: watched.path.clone(),
        source,
    };
    let notice = move |event: notify::Result<notify::Event>| {
        // An error means that notices were lost: look.
        if event.map_or(true, |event| is_change(event.kind)) {
            notices.send_modify(|count| *count = count.wrapping_add(1));
        }
    };
    let mut watcher = notify::recommended_watcher(notice).map_err(error)?;
    let mode = if watched.recursive {
        RecursiveMode::Recursive
    } else {
        RecursiveMode::NonRecursive
    };
    watcher.watch(&watched.path, mode).map_err(error)?;
    Ok(watcher)
}

/// Whether something was written: reading makes notices too, our own included.
const fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
