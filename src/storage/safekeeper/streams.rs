//! Who pushes and who reads WAL of a timeline now, and what readers have reported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lsn::Lsn;
use crate::wire::replication::StatusUpdate;
use crate::wire::safekeeper::{HotStandbyFeedback, PageserverFeedback};

/// The streams of one timeline. Each entry goes with its guard.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    proposers: BTreeSet<u64>,
    readers: BTreeMap<u64, Reader>,
}

/// A reader of WAL.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) peer: SocketAddr,
    pub(super) application: Option<String>,
    pub(super) standby: Option<Standby>,
    pub(super) pageserver: Option<PageserverFeedback>,
}

/// What a standby has reported.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standby {
    pub(super) status: StatusUpdate,
    pub(super) feedback: HotStandbyFeedback,
}

impl Streams {
    /// Counts a proposer as long as the guard lives.
    pub(super) fn proposer(&self) -> StreamGuard {
        let mut state = self.lock();
        let id = state.number();
        state.proposers.insert(id);
        self.guard(id)
    }

    /// Counts a reader as long as the guard lives.
    pub(super) fn reader(&self, peer: SocketAddr, application: Option<String>) -> StreamGuard {
        let reader = Reader {
            peer,
            application,
            standby: None,
            pageserver: None,
        };
        let mut state = self.lock();
        let id = state.number();
        state.readers.insert(id, reader);
        self.guard(id)
    }

    fn guard(&self, id: u64) -> StreamGuard {
        StreamGuard {
            id,
            streams: self.clone(),
        }
    }

    /// Ids of the connected proposers.
    pub(super) fn proposers(&self) -> Vec<u64> {
        self.lock().proposers.iter().copied().collect()
    }

    /// The connected readers by id.
    pub(super) fn readers(&self) -> BTreeMap<u64, Reader> {
        self.lock().readers.clone()
    }

    /// What all hot standbys together need: the oldest transactions, the latest time.
    pub(super) fn hot_standby(&self) -> HotStandbyFeedback {
        let state = self.lock();
        let standbys = state.readers.values().filter_map(|reader| reader.standby);
        standbys.fold(HotStandbyFeedback::default(), |all, standby| {
            let one = standby.feedback;
            HotStandbyFeedback {
                timestamp: all.timestamp.max(one.timestamp),
                xmin: oldest(all.xmin, one.xmin),
                catalog_xmin: oldest(all.catalog_xmin, one.catalog_xmin),
            }
        })
    }

    /// End of the WAL that some pageserver has stored for good.
    pub(super) fn remote_consistent_lsn(&self) -> Lsn {
        let state = self.lock();
        let reports = state
            .readers
            .values()
            .filter_map(|reader| reader.pageserver);
        let stored = reports.map(|feedback| feedback.remote_consistent_lsn);
        stored.max().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Takes its stream off the list when dropped.
#[derive(Debug)]
pub(super) struct StreamGuard {
    id: u64,
    streams: Streams,
}

impl StreamGuard {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn report_status(&self, status: StatusUpdate) {
        self.update(|reader| reader.standby.get_or_insert_default().status = status);
    }

    pub(super) fn report_standby(&self, feedback: HotStandbyFeedback) {
        self.update(|reader| reader.standby.get_or_insert_default().feedback = feedback);
    }

    pub(super) fn report_pageserver(&self, feedback: PageserverFeedback) {
        self.update(|reader| reader.pageserver = Some(feedback));
    }

    fn update(&self, change: impl FnOnce(&mut Reader)) {
        if let Some(reader) = self.streams.lock().readers.get_mut(&self.id) {
            change(reader);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        state.proposers.remove(&self.id);
        state.readers.remove(&self.id);
    }
}

/// The lower transaction id; 0 means none.
fn oldest(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_counted_as_long_as_they_read() {
        let streams = Streams::default();
        let reader = || streams.reader(SocketAddr::from(([127, 0, 0, 1], 1)), None);
        let report = |timestamp, xmin, catalog_xmin| HotStandbyFeedback {
            timestamp,
            xmin,
            catalog_xmin,
        };
        let (one, two, silent) = (reader(), reader(), reader());
        one.report_standby(report(5, 700, 0));
        two.report_standby(report(3, 650, 800));
        assert_eq!(streams.hot_standby(), report(5, 650, 800));
        drop(two);
        assert_eq!(streams.hot_standby(), report(5, 700, 0));
        drop((one, silent));
        assert_eq!(streams.hot_standby(), HotStandbyFeedback::default());
    }
}
