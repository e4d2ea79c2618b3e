//! What the proposer knows of one safekeeper.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use super::Timing;
use super::loss::Loss;
use crate::backoff::Backoff;
use crate::lsn::Lsn;
use crate::wire::safekeeper::{MAX_APPEND_SIZE, ProposerMessage, TermHistory};

/// One safekeeper. What stands outside of `link` outlives its connections.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) endpoint: String,
    pub(super) link: Link,
    /// Who answered there last.
    pub(super) node_id: Option<u64>,
    /// The highest term that it showed.
    pub(super) term: u64,
    /// Generation of the membership that it showed last.
    pub(super) generation: u32,
    /// Generation of the membership that the last greeting carried.
    pub(super) greeted_generation: u32,
    /// What it has confirmed in the current term.
    pub(super) acked: Acked,
    /// The last term in which it voted for this proposer.
    pub(super) granted_term: Option<u64>,
    /// Messages to send before any WAL.
    pub(super) outbox: VecDeque<ProposerMessage>,
    /// When it was last heard of.
    pub(super) heard_at: Instant,
    /// Since when an answer is due.
    pub(super) silent_since: Option<Instant>,
    pub(super) backoff: Backoff,
    pub(super) last_loss: Option<Loss>,
}

/// Positions that a safekeeper has confirmed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Acked {
    /// End of its durable WAL.
    pub(super) flush_lsn: Lsn,
    /// The commit LSN that it has persisted.
    pub(super) commit_lsn: Lsn,
}

/// The state of the connection to a safekeeper, in the order it goes through.
#[derive(Debug)]
pub(super) enum Link {
    /// None, and a new one is not made before this moment.
    Offline { retry_at: Instant },
    /// Being made; ends with the safekeeper's greeting.
    Connecting,
    /// Greeted, and waiting for enough others.
    Greeted,
    /// Asked for its vote.
    AwaitingVote,
    /// Has voted, and waits for the election's result.
    Voted(Vote),
    /// Was told of the election; receives WAL.
    Active(Stream),
}

/// What a safekeeper said when it voted.
#[derive(Debug, Clone)]
pub(super) struct Vote {
    pub(super) flush_lsn: Lsn,
    pub(super) truncate_lsn: Lsn,
    pub(super) term_history: TermHistory,
}

impl Vote {
    /// Who is ahead of whom: the last term counts first.
    pub(super) fn rank(&self) -> (u64, Lsn) {
        (
            self.term_history.last_log_term(self.flush_lsn),
            self.flush_lsn,
        )
    }
}

/// WAL on its way to one safekeeper.
#[derive(Debug)]
pub(super) struct Stream {
    /// The next position to send.
    pub(super) position: Lsn,
    /// When it is to be told of positions, if no WAL carries them before.
    pub(super) notice_at: Option<Instant>,
    /// That moment has come. It is then no deadline any more: a connection without
    /// room takes the message when it can.
    pub(super) notice_came: bool,
    /// When the last message was sent.
    pub(super) sent_at: Instant,
    /// The highest commit LSN that was sent in a message after the WAL below it was
    /// confirmed: a safekeeper forgets the part above its own end.
    pub(super) told_commit_lsn: Lsn,
    /// WAL from elsewhere that follows `position`.
    pub(super) fetched: VecDeque<Bytes>,
    pub(super) fetched_size: usize,
    pub(super) fetch: Fetch,
    /// How often reading has failed in a row.
    pub(super) failed_fetches: usize,
}

/// Whether WAL for a safekeeper is being read from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetch {
    /// No; not before this moment, if there is one.
    Idle { retry_at: Option<Instant> },
    /// Yes, up to this position.
    Running { until: Lsn },
}

impl Peer {
    pub(super) fn new(endpoint: String, now: Instant, timing: &Timing) -> Self {
        Self {
            endpoint,
            link: Link::Offline { retry_at: now },
            node_id: None,
            term: 0,
            generation: 0,
            greeted_generation: 0,
            acked: Acked::default(),
            granted_term: None,
            outbox: VecDeque::new(),
            heard_at: now,
            silent_since: None,
            backoff: Backoff::new(timing.reconnect_first, timing.reconnect_cap),
            last_loss: None,
        }
    }

    /// Forgets who answered there: it is somebody else now.
    pub(super) fn forget_node(&mut self) {
        self.node_id = None;
        self.term = 0;
        self.acked = Acked::default();
        self.granted_term = None;
    }

    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.link, Link::Offline { .. } | Link::Connecting)
    }

    /// Whether it has said all that it was asked.
    pub(super) fn waits_for_election(&self) -> bool {
        matches!(self.link, Link::Greeted | Link::Voted(_))
    }

    pub(super) fn vote(&self) -> Option<&Vote> {
        match &self.link {
            Link::Voted(vote) => Some(vote),
            _ => None,
        }
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        match &self.link {
            Link::Active(stream) => Some(stream),
            _ => None,
        }
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.link {
            Link::Active(stream) => Some(stream),
            _ => None,
        }
    }

    /// A word for the state, for status and logs.
    pub(super) fn state(&self) -> PeerState {
        match self.link {
            Link::Offline { .. } => PeerState::Offline,
            Link::Connecting => PeerState::Connecting,
            Link::Greeted | Link::AwaitingVote | Link::Voted(_) => PeerState::Electing,
            Link::Active(_) => PeerState::Streaming,
        }
    }
}

impl Stream {
    pub(super) fn new(position: Lsn, now: Instant) -> Self {
        Self {
            position,
            notice_at: Some(now),
            notice_came: false,
            sent_at: now,
            told_commit_lsn: Lsn::INVALID,
            fetched: VecDeque::new(),
            fetched_size: 0,
            fetch: Fetch::Idle { retry_at: None },
            failed_fetches: 0,
        }
    }

    /// Adds WAL from elsewhere.
    pub(super) fn add_fetched(&mut self, wal: Bytes) {
        self.fetched_size += wal.len();
        self.fetched.push_back(wal);
    }

    /// The next piece of WAL from elsewhere, not larger than one message may carry.
    pub(super) fn take_fetched(&mut self) -> Option<Bytes> {
        let mut wal = self.fetched.pop_front()?;
        if wal.len() > MAX_APPEND_SIZE {
            self.fetched.push_front(wal.split_off(MAX_APPEND_SIZE));
        }
        self.fetched_size -= wal.len();
        Some(wal)
    }

    /// Behind what is at hand for this safekeeper.
    pub(super) fn fetched_end(&self) -> Lsn {
        Lsn(self.position.0 + self.fetched_size as u64)
    }

    /// Asks for a message at `at`, or earlier if one was asked for earlier.
    pub(super) fn notice_by(&mut self, at: Instant) {
        self.notice_at = Some(self.notice_at.map_or(at, |before| before.min(at)));
    }

    /// When the next message without WAL is due.
    fn notice_due(&self, timing: &Timing) -> Instant {
        let heartbeat = self.sent_at + timing.heartbeat;
        self.notice_at.map_or(heartbeat, |at| at.min(heartbeat))
    }

    /// Whether a message without WAL is due.
    pub(super) fn is_notice_due(&self, now: Instant, timing: &Timing) -> bool {
        self.notice_came || self.notice_due(timing) <= now
    }

    /// When something is to be done for this stream.
    pub(super) fn deadline(&self, timing: &Timing) -> Option<Instant> {
        let notice = (!self.notice_came).then(|| self.notice_due(timing));
        let fetch = match self.fetch {
            Fetch::Idle { retry_at } => retry_at,
            Fetch::Running { .. } => None,
        };
        notice.into_iter().chain(fetch).min()
    }

    /// Takes note of the moments that have come.
    pub(super) fn expire(&mut self, now: Instant, timing: &Timing) {
        self.notice_came = self.is_notice_due(now, timing);
        if let Fetch::Idle { retry_at: Some(at) } = self.fetch
            && at <= now
        {
            self.fetch = Fetch::Idle { retry_at: None };
        }
    }

    /// Takes note that a message goes out, after which `position` is next.
    pub(super) fn sent(&mut self, now: Instant, position: Lsn) {
        self.position = position;
        self.notice_at = None;
        self.notice_came = false;
        self.sent_at = now;
    }
}

/// How far the proposer is with a safekeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Not connected.
    Offline,
    /// A connection is being made.
    Connecting,
    /// Greeted, or voting.
    Electing,
    /// Receives WAL.
    Streaming,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => "offline",
            Self::Connecting => "connecting",
            Self::Electing => "electing",
            Self::Streaming => "streaming",
        })
    }
}

/// What is known of a safekeeper, for status and errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// `host:port`.
    pub endpoint: String,
    /// Its id, once it has said so.
    pub node_id: Option<u64>,
    /// How far the proposer is with it.
    pub state: PeerState,
    /// End of the durable WAL that it has confirmed in this term.
    pub flush_lsn: Lsn,
    /// Why its last connection was lost, until it is well again.
    pub last_loss: Option<Loss>,
}
