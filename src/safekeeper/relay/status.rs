//! What a relay tells about itself, often enough for people and not on every
//! message.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Error;
use crate::lsn::Lsn;
use crate::safekeeper::proposer::{PeerStatus, Proposer};

/// Positions are published at most this often.
const INTERVAL: Duration = Duration::from_millis(200);

/// How far a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayPhase {
    /// No majority of the safekeepers is connected.
    #[default]
    Connecting,
    /// A majority is connected, and decides.
    Electing,
    /// Elected: WAL is streamed, commits can complete.
    Streaming,
    /// Another compute was elected. Nothing is streamed any more.
    Fenced,
}

/// Who fenced a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    /// The term of the other compute.
    pub by_term: u64,
    /// What happened, for people.
    pub message: String,
}

/// What is true of a relay now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelayStatus {
    /// How far it is.
    pub phase: RelayPhase,
    /// The term in which it was elected.
    pub term: Option<u64>,
    /// End of the WAL received from the local postgres.
    pub received_lsn: Lsn,
    /// End of the WAL that a majority has flushed; `0/0` before the first election.
    pub commit_lsn: Lsn,
    /// Bytes received and not committed yet.
    pub lag_bytes: u64,
    /// Who fenced it, if it was.
    pub fenced: Option<Fenced>,
    /// What is known of each safekeeper.
    pub safekeepers: Vec<PeerStatus>,
}

/// Publishes the status of a relay.
pub(super) struct Publisher {
    status: watch::Sender<RelayStatus>,
    published_at: Instant,
    /// Whether something has changed since.
    dirty: bool,
}

impl Publisher {
    pub(super) fn new(status: watch::Sender<RelayStatus>) -> Self {
        Self {
            status,
            published_at: Instant::now(),
            dirty: true,
        }
    }

    /// Waits until a change is to be published. Cancel safe.
    pub(super) async fn due(&self) {
        if self.dirty {
            tokio::time::sleep_until(self.published_at + INTERVAL).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Publishes a change of phase or term at once, anything else after a while.
    pub(super) fn publish(&mut self, proposer: &Proposer) {
        let (phase, term) = (phase(proposer), proposer.leading_term());
        let urgent = {
            let before = self.status.borrow();
            before.phase != phase || before.term != term
        };
        let now = Instant::now();
        self.dirty = !urgent && now < self.published_at + INTERVAL;
        if self.dirty {
            return;
        }
        self.published_at = now;
        let status = snapshot(proposer, phase, term);
        self.status.send_if_modified(|before| {
            let changed = *before != status;
            *before = status;
            changed
        });
    }

    /// Publishes where a relay was when it was called off: nothing is held back any more.
    pub(super) fn close(&mut self, proposer: &Proposer) {
        let status = snapshot(proposer, phase(proposer), proposer.leading_term());
        self.status.send_replace(status);
    }

    /// Publishes how a relay ended.
    pub(super) fn end(&mut self, proposer: &Proposer, error: &Error) {
        let mut status = snapshot(proposer, RelayPhase::Connecting, None);
        if let Error::Fenced { by_term, ours, .. } = error {
            status.phase = RelayPhase::Fenced;
            status.term = Some(*ours);
            status.fenced = Some(Fenced {
                by_term: *by_term,
                message: error.to_string(),
            });
        }
        self.status.send_replace(status);
    }
}

fn phase(proposer: &Proposer) -> RelayPhase {
    if proposer.has_quorum() {
        return RelayPhase::Streaming;
    }
    if proposer.connected_count() > proposer.peer_count() / 2 {
        RelayPhase::Electing
    } else {
        RelayPhase::Connecting
    }
}

fn snapshot(proposer: &Proposer, phase: RelayPhase, term: Option<u64>) -> RelayStatus {
    let (received_lsn, commit_lsn) = (proposer.wal_position(), proposer.commit_lsn());
    RelayStatus {
        phase,
        term,
        received_lsn,
        commit_lsn,
        lag_bytes: received_lsn.bytes_since(commit_lsn),
        fenced: None,
        safekeepers: proposer.peers().collect(),
    }
}
