//! What an acceptor must not forget.

use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::acceptor::Refusal;
use crate::wire::safekeeper::{Elected, Membership, ProposerGreeting, TermHistory, TermLsn};
use crate::wire::wal_page::page_magic;

/// Who writes the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerInfo {
    /// `PG_VERSION_NUM`, such as 150018.
    pub pg_version: u32,
    /// System identifier of the cluster; 0 until one was named.
    pub system_id: u64,
    /// Size of a WAL segment, in bytes.
    pub wal_segment_size: u32,
}

/// The persistent state of one timeline's acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlState {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
    /// The membership that was adopted.
    pub membership: Membership,
    /// The highest term that was promised.
    pub term: u64,
    /// Which term wrote which part of the log. May run ahead of the log.
    pub term_history: TermHistory,
    /// Who writes the WAL.
    pub server: ServerInfo,
    /// Where the WAL of the timeline begins; 0 until that is known.
    pub timeline_start_lsn: Lsn,
    /// Where the WAL on this safekeeper begins; 0 until there is some.
    pub local_start_lsn: Lsn,
    /// End of the WAL that is known to be on a quorum, and is here too.
    pub commit_lsn: Lsn,
    /// End of the WAL that is known to be on all safekeepers.
    pub peer_horizon_lsn: Lsn,
}

impl ControlState {
    /// A timeline that a proposer's greeting brings into being: without membership,
    /// history or WAL.
    ///
    /// # Errors
    ///
    /// [`Refusal::Uninitialized`] or [`Refusal::PgVersion`].
    pub fn implicit(greeting: &ProposerGreeting) -> Result<Self, Refusal> {
        let server = ServerInfo {
            pg_version: greeting.pg_version,
            system_id: greeting.system_id,
            wal_segment_size: greeting.wal_segment_size,
        };
        Self::explicit(
            greeting.tenant_id,
            greeting.timeline_id,
            Membership::default(),
            server,
            Lsn::INVALID,
        )
    }

    /// A timeline that the storage brings into being, at `start_lsn`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Uninitialized`] or [`Refusal::PgVersion`].
    pub fn explicit(
        tenant_id: TenantId,
        timeline_id: TimelineId,
        membership: Membership,
        server: ServerInfo,
        start_lsn: Lsn,
    ) -> Result<Self, Refusal> {
        let missing = match (server.pg_version, server.wal_segment_size) {
            (0, _) => Some("pg_version is unknown"),
            (_, 0) => Some("wal_seg_size is zero"),
            _ => None,
        };
        if let Some(what) = missing {
            return Err(Refusal::Uninitialized {
                tenant_id,
                timeline_id,
                what,
            });
        }
        known_version(server.pg_version)?;
        let mut term_history = TermHistory::default();
        if start_lsn.is_valid() {
            term_history.0.push(TermLsn {
                term: 0,
                lsn: start_lsn,
            });
        }
        Ok(Self {
            tenant_id,
            timeline_id,
            membership,
            term: 0,
            term_history,
            server,
            timeline_start_lsn: start_lsn,
            local_start_lsn: start_lsn,
            commit_lsn: start_lsn,
            peer_horizon_lsn: start_lsn,
        })
    }

    /// Where the log's records are looked for after a restart.
    pub fn scan_from(&self) -> Lsn {
        self.commit_lsn.max(self.local_start_lsn)
    }

    /// Whether a greeting is meant for this timeline, and from a server that can
    /// write its WAL.
    pub(super) fn check_greeting(&self, greeting: &ProposerGreeting) -> Result<(), Refusal> {
        known_version(greeting.pg_version)?;
        let own = &self.server;
        if greeting.pg_version / 10_000 != own.pg_version / 10_000 {
            return Err(Refusal::ServerVersion {
                got: greeting.pg_version,
                own: own.pg_version / 10_000 * 10_000,
            });
        }
        if greeting.tenant_id != self.tenant_id {
            return Err(Refusal::TenantId {
                got: greeting.tenant_id,
                own: self.tenant_id,
            });
        }
        if greeting.timeline_id != self.timeline_id {
            return Err(Refusal::TimelineId {
                got: greeting.timeline_id,
                own: self.timeline_id,
            });
        }
        if greeting.wal_segment_size != own.wal_segment_size {
            return Err(Refusal::SegmentSize {
                got: greeting.wal_segment_size,
                own: own.wal_segment_size,
            });
        }
        Ok(())
    }

    /// Adopts the winner's history, and learns where the WAL begins if this is the
    /// first of it.
    pub(super) fn adopt_history(&mut self, elected: Elected) {
        let first = elected
            .term_history
            .0
            .first()
            .map_or(Lsn::INVALID, |e| e.lsn);
        set_if_zero(&mut self.timeline_start_lsn, first);
        set_if_zero(&mut self.peer_horizon_lsn, self.timeline_start_lsn);
        set_if_zero(&mut self.local_start_lsn, elected.start_streaming_at);
        self.commit_lsn = self.commit_lsn.max(self.timeline_start_lsn);
        self.term_history = elected.term_history;
    }
}

fn set_if_zero(lsn: &mut Lsn, to: Lsn) {
    if !lsn.is_valid() {
        *lsn = to;
    }
}

fn known_version(pg_version: u32) -> Result<(), Refusal> {
    match page_magic(pg_version / 10_000) {
        Some(_) => Ok(()),
        None => Err(Refusal::PgVersion(pg_version)),
    }
}

/// Whether a node is in one of the two sets of a membership.
pub(super) fn contains(membership: &Membership, node_id: u64) -> bool {
    let mut all = membership.members.iter().chain(&membership.new_members);
    all.any(|member| member.node_id == node_id)
}
