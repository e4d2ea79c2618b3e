//! Why an acceptor refuses a message, in the words that a safekeeper sends.
//!
//! Clients of Neon's safekeepers see these texts, and some have nothing else to
//! recognize a case by: they are upstream's.

use std::fmt;

use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::wire::safekeeper::{Elected, Member, Membership, TermHistory, TermLsn, VoteRequest};
use crate::wire::wal_record;

/// A message that breaks the rules, or comes at the wrong time. It ends its
/// connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The PostgreSQL version is not one whose WAL is known.
    #[error("InvalidPgVersion({0})")]
    PgVersion(u32),
    /// The server is of another major version than the timeline.
    #[error("incompatible server version {got}, expected {own}")]
    ServerVersion {
        /// The server's `PG_VERSION_NUM`.
        got: u32,
        /// The timeline's, with the minor version cut off.
        own: u32,
    },
    /// The greeting is for another tenant.
    #[error("invalid tenant ID, got {got}, expected {own}")]
    TenantId {
        /// The one named.
        got: TenantId,
        /// The one served.
        own: TenantId,
    },
    /// The greeting is for another timeline.
    #[error("invalid timeline ID, got {got}, expected {own}")]
    TimelineId {
        /// The one named.
        got: TimelineId,
        /// The one served.
        own: TimelineId,
    },
    /// The server cuts its WAL into other segments.
    #[error("invalid wal_seg_size, got {got}, expected {own}")]
    SegmentSize {
        /// The server's, in bytes.
        got: u32,
        /// The timeline's, in bytes.
        own: u32,
    },
    /// A timeline cannot be made without knowing this.
    #[error("Timeline {tenant_id}/{timeline_id} is not initialized, {what}")]
    Uninitialized {
        /// The tenant.
        tenant_id: TenantId,
        /// The timeline.
        timeline_id: TimelineId,
        /// What is missing.
        what: &'static str,
    },
    /// A newer membership leaves this node out.
    #[error(
        "refused to switch into {}, node {node_id} is not a member of it",
        Shown(to)
    )]
    NotMember {
        /// The membership.
        to: Membership,
        /// This node.
        node_id: u64,
    },
    /// A vote is asked for under another membership.
    #[error(
        "refusing VoteRequest {{ generation: SafekeeperGeneration({}), term: {} }} \
         due to generation mismatch: sk generation {own}",
        request.generation, request.term
    )]
    VoteGeneration {
        /// The request.
        request: VoteRequest,
        /// Generation of the own membership.
        own: u32,
    },
    /// A proposer was elected under another membership.
    #[error(
        "refusing ProposerElected {{ generation: SafekeeperGeneration({}), term: {}, \
         start_streaming_at: {}, term_history: {} }} \
         due to generation mismatch: sk generation {own}",
        elected.generation, elected.term, elected.start_streaming_at,
        Newest(&elected.term_history)
    )]
    ElectedGeneration {
        /// The message.
        elected: Elected,
        /// Generation of the own membership.
        own: u32,
    },
    /// WAL comes under another membership.
    #[error("refusing append request due to generation mismatch: request {request}, sk {own}")]
    AppendGeneration {
        /// Generation of the request.
        request: u32,
        /// Generation of the own membership.
        own: u32,
    },
    /// A proposer names no history.
    #[error("empty walproposer term history []")]
    EmptyHistory,
    /// The proposer wants the log cut at another place than where the histories part.
    #[error(
        "refusing ProposerElected with unexpected truncation point: \
         lcp=TermLsn {{ term: {}, lsn: {} }} start_streaming_at={}, term={}, sk_th={} \
         flush_lsn={flush_lsn}, wp_th={}",
        common.term, common.lsn, elected.start_streaming_at, elected.term,
        Newest(log_history), Newest(&elected.term_history)
    )]
    TruncationPoint {
        /// The message.
        elected: Elected,
        /// Where the histories part.
        common: TermLsn,
        /// The own history.
        log_history: TermHistory,
        /// End of the own log.
        flush_lsn: Lsn,
    },
    /// The proposer wants committed WAL cut off.
    #[error(
        "attempt to truncate committed data: start_streaming_at={start_streaming_at}, \
         commit_lsn={commit_lsn}, term={term}"
    )]
    TruncatesCommitted {
        /// Where it wants the log cut.
        start_streaming_at: Lsn,
        /// What is committed.
        commit_lsn: Lsn,
        /// Its term.
        term: u64,
    },
    /// One term has two starts.
    #[error("same term {term} has different start LSNs: prop {proposer_lsn}, sk {own_lsn}")]
    HistoryConflict {
        /// The term.
        term: u64,
        /// Its start in the proposer's history.
        proposer_lsn: Lsn,
        /// Its start in the own history.
        own_lsn: Lsn,
    },
    /// The log would have to be cut behind its end.
    #[error("truncate_wal called on non-written WAL, write_record_lsn={record_lsn}, end_pos={end}")]
    TruncatesUnwritten {
        /// End of the log.
        record_lsn: Lsn,
        /// Where it was to be cut.
        end: Lsn,
    },
    /// WAL of a term for which nobody was elected here.
    #[error("got AppendRequest before ProposerElected")]
    AppendBeforeElected,
    /// WAL that is there already.
    #[error(
        "append request rewrites WAL written before, write_lsn={write_lsn}, msg lsn={begin_lsn}"
    )]
    Rewrite {
        /// End of the bytes received.
        write_lsn: Lsn,
        /// Where the request begins.
        begin_lsn: Lsn,
    },
    /// WAL that does not continue what is there.
    #[error(
        "append request creates gap in written WAL, write_lsn={write_lsn}, msg lsn={begin_lsn}"
    )]
    Gap {
        /// End of the bytes received.
        write_lsn: Lsn,
        /// Where the request begins.
        begin_lsn: Lsn,
    },
    /// WAL before the log was cut to its known end.
    #[error(
        "write_wal called with pending WAL truncation, write_lsn={write_lsn}, startpos={begin_lsn}"
    )]
    PendingTruncation {
        /// End of the log.
        write_lsn: Lsn,
        /// Where the request begins.
        begin_lsn: Lsn,
    },
    /// Bytes that are not WAL.
    #[error(transparent)]
    NotWal(wal_record::Error),
}

impl Refusal {
    /// Whether upstream's acceptor panics over this, so that its client reads
    /// `WalAcceptor task panicked`: the histories contradict each other.
    pub fn is_history_conflict(&self) -> bool {
        matches!(
            self,
            Self::TruncatesCommitted { .. } | Self::HistoryConflict { .. }
        )
    }
}

/// A history as upstream prints it: newest entry first.
struct Newest<'a>(&'a TermHistory);

impl fmt::Display for Newest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to see where two histories part; upstream cuts at the same number.
        const SHOWN: usize = 20;
        f.write_str("[")?;
        for (index, entry) in self.0.0.iter().rev().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}({}, {})", entry.term, entry.lsn)?;
        }
        f.write_str("]")
    }
}

/// A membership as upstream prints it.
struct Shown<'a>(&'a Membership);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen={}, members=", self.0.generation)?;
        members(f, &self.0.members)?;
        f.write_str(", new_members=")?;
        if self.0.new_members.is_empty() {
            return f.write_str("none");
        }
        members(f, &self.0.new_members)
    }
}

fn members(f: &mut fmt::Formatter<'_>, members: &[Member]) -> fmt::Result {
    f.write_str("(")?;
    for (index, member) in members.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let Member {
            node_id,
            host,
            pg_port,
        } = member;
        write!(f, "{separator}[id={node_id}, ep={host}:{pg_port}]")?;
    }
    f.write_str(")")
}
