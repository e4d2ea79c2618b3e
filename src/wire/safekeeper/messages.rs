//! The messages as values, the same for both versions of the protocol.

use std::fmt;

use bytes::Bytes;

use super::PageserverFeedback;
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;

/// From a proposer to an acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposerMessage {
    /// Opens a stream.
    Greeting(ProposerGreeting),
    /// Asks for a vote.
    VoteRequest(VoteRequest),
    /// Says that the proposer was elected, and with which history. Has no answer.
    Elected(Elected),
    /// Carries WAL, or nothing but positions (a heartbeat).
    AppendRequest(AppendRequest),
}

/// From an acceptor to a proposer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptorMessage {
    /// Answers a greeting.
    Greeting(AcceptorGreeting),
    /// Answers a vote request.
    VoteResponse(VoteResponse),
    /// Reports the acceptor's state. Not tied to one request: several requests may
    /// get one response, one request two, and a pageserver's report repeats one.
    AppendResponse(AppendResponse),
}

/// Who the proposer is, and of which timeline it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposerGreeting {
    /// The tenant; compared with the stream's startup options by the acceptor.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
    /// The membership that the proposer knows; an acceptor adopts a higher
    /// generation. Not sent in version 2.
    pub membership: Membership,
    /// `PG_VERSION_NUM`, such as 150018.
    pub pg_version: u32,
    /// PostgreSQL's system identifier; 0 if unknown.
    pub system_id: u64,
    /// Bytes in a WAL segment.
    pub wal_segment_size: u32,
}

/// Asks for a vote in a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteRequest {
    /// Generation of the membership; 0 in version 2.
    pub generation: u32,
    /// The term that the proposer wants to lead.
    pub term: u64,
}

/// Tells an acceptor what the log is, from the winner of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    /// Generation of the membership; 0 in version 2.
    pub generation: u32,
    /// The term won.
    pub term: u64,
    /// Where the acceptor cuts its WAL and the proposer goes on.
    pub start_streaming_at: Lsn,
    /// The whole history, this term's entry included.
    pub term_history: TermHistory,
}

/// WAL and positions. With empty `wal` it is a heartbeat.
#[derive(Clone, PartialEq, Eq)]
pub struct AppendRequest {
    /// Generation of the membership; 0 in version 2.
    pub generation: u32,
    /// The proposer's term.
    pub term: u64,
    /// Position of the first byte of `wal`.
    pub begin_lsn: Lsn,
    /// End of the WAL that a quorum has; 0 while not known.
    pub commit_lsn: Lsn,
    /// End of the WAL that all acceptors have.
    pub truncate_lsn: Lsn,
    /// At most [`super::MAX_APPEND_SIZE`] bytes.
    pub wal: Bytes,
}

impl AppendRequest {
    /// Position behind the last byte of `wal`.
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.begin_lsn.0.wrapping_add(self.wal.len() as u64))
    }
}

impl fmt::Debug for AppendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendRequest")
            .field("generation", &self.generation)
            .field("term", &self.term)
            .field("begin_lsn", &self.begin_lsn)
            .field("end_lsn", &self.end_lsn())
            .field("commit_lsn", &self.commit_lsn)
            .field("truncate_lsn", &self.truncate_lsn)
            .finish_non_exhaustive()
    }
}

/// Who the acceptor is, and what it has promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptorGreeting {
    /// Id of the safekeeper; unique in the storage, never 0.
    pub node_id: u64,
    /// The membership that it has adopted. Not sent in version 2.
    pub membership: Membership,
    /// The highest term that it has promised.
    pub term: u64,
}

/// A vote, or its refusal, and the acceptor's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteResponse {
    /// Generation of the membership; 0 in version 2.
    pub generation: u32,
    /// The acceptor's term, after a granted vote the one asked for.
    pub term: u64,
    /// Whether the vote was given.
    pub vote_given: bool,
    /// End of the last whole record on the acceptor's disk.
    pub flush_lsn: Lsn,
    /// End of the WAL that all acceptors have, as far as this one knows.
    pub truncate_lsn: Lsn,
    /// The part of its history that its WAL has reached.
    pub term_history: TermHistory,
}

/// The acceptor's state.
///
/// With a term above the proposer's, the positions are zero or speak of another
/// proposer's WAL: look at the term first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendResponse {
    /// Generation of the membership; 0 in version 2.
    pub generation: u32,
    /// The acceptor's term.
    pub term: u64,
    /// End of the last whole record on the acceptor's disk. May be above the last
    /// byte sent: rounded up to 8, and to the next segment behind a switch record.
    pub flush_lsn: Lsn,
    /// The commit LSN that the acceptor has persisted.
    pub commit_lsn: Lsn,
    /// What hot standbys that read from the acceptor ask for.
    pub hot_standby: HotStandbyFeedback,
    /// What a pageserver that reads from the acceptor has reported.
    pub pageserver_feedback: Option<PageserverFeedback>,
}

/// Aggregated feedback of hot standbys; zeros where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HotStandbyFeedback {
    /// Latest report, in microseconds since 2000-01-01 UTC.
    pub timestamp: i64,
    /// Oldest full transaction id that must be kept.
    pub xmin: u64,
    /// The same for catalogs.
    pub catalog_xmin: u64,
}

/// From `lsn` on, WAL was written under `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TermLsn {
    /// The term.
    pub term: u64,
    /// Its first position.
    pub lsn: Lsn,
}

/// Which term wrote which part of the log, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TermHistory(pub Vec<TermLsn>);

/// The safekeepers of a timeline, as its storage has configured them.
///
/// With `new_members` it is a joint configuration: a decision needs a majority of
/// each of the two sets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Number of the configuration; 0 means that there is none, and the
    /// proposer's static list counts.
    pub generation: u32,
    /// Those who decide.
    pub members: Vec<Member>,
    /// Those who are to decide next; empty unless a change is under way.
    pub new_members: Vec<Member>,
}

/// A safekeeper in a [`Membership`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node_id: u64,
    /// Its host name. A zero byte, which the wire cannot carry, is sent as `?`.
    pub host: String,
    /// Its port for proposers.
    pub pg_port: u16,
}
