//! One timeline: what it holds, and waiting for what it does not hold yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::ingest::ReceiverStatus;
use super::wal_files::{LogEnd, WalFiles, segment_path};
use super::{Base, Key};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::files;

/// Directory of the bases of a timeline.
pub(super) const BASES: &str = "bases";
/// Directory of its WAL.
pub(super) const WAL: &str = "wal";

/// A timeline.
#[derive(Debug)]
pub struct Timeline {
    key: Key,
    dir: PathBuf,
    pg_major: u32,
    system_id: u64,
    /// By their end, never empty.
    bases: watch::Sender<Vec<Arc<Base>>>,
    pub(super) end: watch::Sender<LogEnd>,
    pub(super) receiver: watch::Sender<ReceiverStatus>,
    /// How many wait for WAL that is not here yet.
    waiting: watch::Sender<usize>,
}

/// A position was not reached in time. The text is a pageserver's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Timed out while waiting for WAL record at LSN {lsn} to arrive, last_record_lsn {last} \
     disk consistent LSN={last}, WalReceiver status: {status}"
)]
pub struct WaitTimeout {
    lsn: Lsn,
    last: Lsn,
    status: String,
}

impl Timeline {
    /// Opens a timeline: itself, and the files that its receiver appends to.
    pub(super) fn open(key: Key, dir: &Path) -> Result<(Self, WalFiles), files::Error> {
        let mut bases = Vec::new();
        for path in files::list(&dir.join(BASES))? {
            if files::is_unfinished(&path) {
                files::remove_dir(&path)?;
            } else {
                bases.push(Arc::new(Base::open(&path)?));
            }
        }
        for base in superseded(&mut bases) {
            base.remove()?;
        }
        let newest = bases.last();
        let newest = newest.ok_or_else(|| files::damaged(dir, "it has no base"))?;
        let facts = newest.facts.clone();
        let wal = WalFiles::open(&dir.join(WAL), facts.checkpoint_lsn, facts.pg_major)?;
        let timeline = Self {
            key,
            dir: dir.to_owned(),
            pg_major: facts.pg_major,
            system_id: facts.system_id,
            bases: watch::Sender::new(bases),
            end: watch::Sender::new(wal.end()),
            receiver: watch::Sender::default(),
            waiting: watch::Sender::default(),
        };
        Ok((timeline, wal))
    }

    /// Its tenant.
    pub fn tenant_id(&self) -> TenantId {
        self.key.0
    }

    /// Its id.
    pub fn timeline_id(&self) -> TimelineId {
        self.key.1
    }

    /// Major version of its postgres.
    pub fn pg_major(&self) -> u32 {
        self.pg_major
    }

    /// Identifies its cluster, also in WAL.
    pub fn system_id(&self) -> u64 {
        self.system_id
    }

    /// Where its log ends.
    pub fn end(&self) -> LogEnd {
        *self.end.borrow()
    }

    /// Who sends its WAL.
    pub fn receiver(&self) -> ReceiverStatus {
        self.receiver.borrow().clone()
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the newest base of a data directory. Bases between the oldest and the
    /// newest go, unless somebody reads them: those go at the next start. Blocks.
    pub(super) fn add_base(&self, data: &Path) -> Result<Arc<Base>, files::Error> {
        let made = Base::make(&self.dir.join(BASES), data, &self.dir.join(WAL))?;
        let made = Arc::new(made);
        let mut gone = Vec::new();
        self.bases.send_modify(|bases| {
            bases.push(made.clone());
            gone = superseded(bases);
        });
        for base in gone {
            if Arc::strong_count(&base) == 1 {
                base.remove()?;
            }
        }
        Ok(made)
    }

    /// The newest base.
    #[expect(clippy::expect_used, reason = "`open` refuses a timeline without")]
    pub(super) fn newest_base(&self) -> Arc<Base> {
        self.bases
            .borrow()
            .last()
            .cloned()
            .expect("a timeline has a base")
    }

    /// The first position that a backup can be made at.
    pub fn oldest_lsn(&self) -> Lsn {
        let bases = self.bases.borrow();
        bases.first().map_or(Lsn::INVALID, |base| base.end_lsn())
    }

    /// The newest base that the timeline at `lsn` can be made of; `None` below the
    /// oldest.
    pub fn base_for(&self, lsn: Lsn) -> Option<Arc<Base>> {
        let bases = self.bases.borrow();
        let usable = |base: &&Arc<Base>| base.end_lsn() <= lsn.align_up().skip_page_header();
        bases.iter().rev().find(usable).cloned()
    }

    /// Waits, without limit, for a base that is made at this position or later.
    pub async fn base_from(&self, lsn: Lsn) -> Arc<Base> {
        let mut bases = self.bases.subscribe();
        let made = |bases: &Vec<Arc<Base>>| bases.last().is_some_and(|base| base.end_lsn() >= lsn);
        // The sender is ours, so that this cannot fail.
        let _ = bases.wait_for(made).await;
        self.newest_base()
    }

    /// Path of a WAL segment.
    pub fn segment_path(&self, number: u64) -> PathBuf {
        segment_path(&self.dir.join(WAL), number)
    }

    /// Waits until WAL up to `lsn` is here.
    ///
    /// # Errors
    ///
    /// [`WaitTimeout`] after `limit`.
    pub async fn wait_for(&self, lsn: Lsn, limit: Duration) -> Result<LogEnd, WaitTimeout> {
        let mut end = self.end.subscribe();
        let arrived = end.wait_for(|end| reached(end.last_record_lsn, lsn));
        let waiting = Waiting::start(&self.waiting);
        let arrived = tokio::time::timeout(limit, arrived).await;
        drop(waiting);
        match arrived {
            Ok(Ok(end)) => Ok(*end),
            _ => Err(WaitTimeout {
                lsn,
                last: self.end().last_record_lsn,
                status: self.receiver().to_string(),
            }),
        }
    }

    /// Follows how many wait.
    pub(super) fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }
}

/// Takes out all bases but the oldest, for the past, and the newest.
fn superseded(bases: &mut Vec<Arc<Base>>) -> Vec<Arc<Base>> {
    match bases.len() {
        0..=2 => Vec::new(),
        count => bases.drain(1..count - 1).collect(),
    }
}

/// Somebody who waits, counted until dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn start(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Whether a log that ends at `end` reaches `lsn`: a position behind the header of an
/// empty page is the one before it.
pub(super) fn reached(end: Lsn, lsn: Lsn) -> bool {
    end.align_up().skip_page_header() >= lsn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_header_adds_nothing_to_a_log() {
        let page = 0x151_2000;
        assert!(reached(Lsn(page), Lsn(page + 24)));
        assert!(!reached(Lsn(page), Lsn(page + 32)));
        assert!(reached(Lsn(0x100_0000), Lsn(0x100_0028)));
        assert!(reached(Lsn(page + 0x31), Lsn(page + 0x38)));
    }
}
