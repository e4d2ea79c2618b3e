//! Tells at once when postgres has written `postmaster.pid`, by inotify(7).
//!
//! Only a hint: where the kernel gives no notices (a network file system, no instance
//! left) it never tells, and the caller looks now and then anyway.

use std::io;
use std::path::Path;

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};

/// Room for notices, in bytes: a start-up writes few files at the top of its directory.
const ROOM: usize = 4096;

/// A watch of the directory that the file is in: postgres makes the file itself.
pub(super) struct PidFileWatch(Option<EventStream<[u8; ROOM]>>);

impl PidFileWatch {
    /// Watches from now on.
    pub(super) fn start(pgdata: &Path) -> Self {
        let watch = watch(pgdata);
        if let Err(error) = &watch {
            tracing::debug!(%error, "no notices of postmaster.pid: looking now and then");
        }
        Self(watch.ok())
    }

    /// Waits until a file at the top of the data directory was written and closed; for
    /// ever if that cannot be known. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let told = match &mut self.0 {
            Some(notices) => matches!(notices.next().await, Some(Ok(_))),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }
}

fn watch(pgdata: &Path) -> io::Result<EventStream<[u8; ROOM]>> {
    let inotify = Inotify::init()?;
    inotify.watches().add(pgdata, WatchMask::CLOSE_WRITE)?;
    inotify.into_event_stream([0; ROOM])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::tempdir;

    use super::*;

    #[tokio::test]
    async fn a_write_is_told() {
        let pgdata = tempdir().unwrap();
        let mut watch = PidFileWatch::start(pgdata.path());
        fs::write(pgdata.path().join("postmaster.pid"), "1").unwrap();
        watch.changed().await;
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_watched_never_tells() {
        let pgdata = tempdir().unwrap();
        let mut watch = PidFileWatch::start(&pgdata.path().join("missing"));
        let mut changed = std::pin::pin!(watch.changed());
        assert!(futures::poll!(&mut changed).is_pending());
    }
}
