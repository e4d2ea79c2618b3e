//! Decides what a safekeeper promises, stores and answers.
//!
//! Pure: messages of a proposer go in, [`Effect`]s come out, in the order in which
//! they must take place. Whoever performs them (`storage::safekeeper` on disk, the
//! simulation in memory) may not reorder them, and must discard the acceptor and
//! load it anew when one fails.
//!
//! # Protocol
//! The acceptor of Neon's consensus, versions 2 and 3; upstream:
//! `safekeeper/src/safekeeper.rs`.
//!
//! # Guarantees
//! 1. A term is persisted before its vote is sent, and given once
//!    (`a_term_is_voted_for_once`).
//! 2. WAL is taken only from the proposer of the current term, without gap or
//!    overlap (`append_of_an_older_term_is_answered_with_the_term_alone`,
//!    `append_must_continue_at_the_write_position`).
//! 3. Committed WAL is never cut (`committed_wal_is_not_truncated`).
//! 4. `flush_lsn` is the end of a whole record that a sync has covered
//!    (`wal_counts_once_it_is_synced`).
//!
//! # Assumptions
//! One proposer message per call, in the order of its connection. WAL found by
//! [`Acceptor::load`]'s caller ends at a whole record.

mod control;
mod history;
mod log;
mod refusal;

pub use control::{ControlState, ServerInfo};
pub use refusal::Refusal;

use bytes::Bytes;

use crate::lsn::Lsn;
use crate::wire::safekeeper::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, Elected, HotStandbyFeedback,
    Membership, ProposerGreeting, ProposerMessage, TermHistory, VoteRequest, VoteResponse,
};
use control::contains;
use history::common_point;
use log::Log;

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Replace the control file, and make that durable.
    Persist(Box<ControlState>),
    /// Lay out the segment that holds `start`, so that it reads as WAL from its
    /// beginning.
    InitializeWal {
        /// First position of the log.
        start: Lsn,
    },
    /// Remove all WAL from `end` on, and make that durable.
    TruncateWal {
        /// The new end.
        end: Lsn,
    },
    /// Write WAL; it need not be durable yet.
    WriteWal {
        /// Position of the first byte.
        at: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// Make all WAL written so far durable.
    SyncWal,
    /// Answer the connection that the message came from.
    Reply(AcceptorMessage),
}

/// The acceptor of one timeline.
#[derive(Debug, Clone)]
pub struct Acceptor {
    node_id: u64,
    /// What the control file holds, with a newer commit LSN and horizon.
    control: ControlState,
    persisted_commit_lsn: Lsn,
    log: Log,
    /// Start of the current term's WAL; 0 until its `Elected` has come.
    term_start_lsn: Lsn,
}

impl Acceptor {
    /// Continues from what is on disk: the control file, and WAL whose last whole
    /// record ends at `flush_lsn` (0 if there is no WAL).
    pub fn load(node_id: u64, control: ControlState, flush_lsn: Lsn) -> Self {
        Self {
            node_id,
            persisted_commit_lsn: control.commit_lsn,
            log: Log::found(flush_lsn, control.server.pg_version),
            control,
            term_start_lsn: Lsn::INVALID,
        }
    }

    /// Takes one message. The effects stand even if it is refused: they are what
    /// happened before the refusal. A refusal ends the connection.
    ///
    /// An `AppendRequest` puts no answer into `effects` unless it is of an older
    /// term: once the caller has synced (see [`Acceptor::wal_synced`]), it answers
    /// all appends since then with one [`Acceptor::append_response`].
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn handle(
        &mut self,
        message: ProposerMessage,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        match message {
            ProposerMessage::Greeting(greeting) => self.greeting(greeting, effects),
            ProposerMessage::VoteRequest(request) => self.vote(request, effects),
            ProposerMessage::Elected(elected) => self.elected(elected, effects),
            ProposerMessage::AppendRequest(request) => self.append(request, effects),
        }
    }

    fn greeting(
        &mut self,
        greeting: ProposerGreeting,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.control.check_greeting(&greeting)?;
        let server = &mut self.control.server;
        if greeting.system_id != 0 && server.system_id != greeting.system_id {
            server.system_id = greeting.system_id;
            server.pg_version = greeting.pg_version;
            self.persist(effects);
        }
        self.switch_membership(greeting.membership, effects)?;
        effects.push(Effect::Reply(AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: self.node_id,
            membership: self.control.membership.clone(),
            term: self.control.term,
        })));
        Ok(())
    }

    fn vote(&mut self, request: VoteRequest, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let own = self.control.membership.generation;
        if request.generation != own {
            return Err(Refusal::VoteGeneration { request, own });
        }
        // From here on nothing of an older proposer is taken. What it has sent must
        // be in the log that the new one is told about.
        self.sync(effects);
        let vote_given = self.control.term < request.term;
        if vote_given {
            self.control.term = request.term;
            self.persist(effects);
        }
        effects.push(Effect::Reply(AcceptorMessage::VoteResponse(VoteResponse {
            generation: own,
            term: self.control.term,
            vote_given,
            flush_lsn: self.flush_lsn(),
            truncate_lsn: self.control.peer_horizon_lsn,
            term_history: self.log_history(),
        })));
        Ok(())
    }

    fn elected(&mut self, elected: Elected, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let own = self.control.membership.generation;
        if elected.generation != own {
            return Err(Refusal::ElectedGeneration { elected, own });
        }
        if self.control.term < elected.term {
            self.control.term = elected.term;
            self.persist(effects);
        }
        if self.control.term > elected.term {
            // Its next append tells the proposer so.
            return Ok(());
        }
        self.check_truncation_point(&elected)?;
        if !self.log.flush_lsn().is_valid() {
            effects.push(Effect::InitializeWal {
                start: elected.start_streaming_at,
            });
        }
        if self.log.truncate(elected.start_streaming_at)? {
            effects.push(Effect::TruncateWal {
                end: elected.start_streaming_at,
            });
        }
        self.term_start_lsn = elected.term_history.last().map_or(Lsn::INVALID, |e| e.lsn);
        self.control.adopt_history(elected);
        self.persist(effects);
        Ok(())
    }

    /// The proposer computed where our log must be cut. We compute it again: a cut
    /// at another place would lose or keep WAL that it should not.
    fn check_truncation_point(&self, elected: &Elected) -> Result<(), Refusal> {
        let log_history = self.log_history();
        let common = common_point(&elected.term_history, &log_history, self.flush_lsn()).map_err(
            |conflict| Refusal::HistoryConflict {
                term: conflict.term,
                proposer_lsn: conflict.proposer_lsn,
                own_lsn: conflict.own_lsn,
            },
        )?;
        let first = || elected.term_history.0.first().copied();
        let Some(common) = common.or_else(first) else {
            return Err(Refusal::EmptyHistory);
        };
        let start = elected.start_streaming_at;
        if common.lsn != start {
            return Err(Refusal::TruncationPoint {
                elected: elected.clone(),
                common,
                log_history,
                flush_lsn: self.flush_lsn(),
            });
        }
        if start < self.control.commit_lsn {
            return Err(Refusal::TruncatesCommitted {
                start_streaming_at: start,
                commit_lsn: self.control.commit_lsn,
                term: elected.term,
            });
        }
        Ok(())
    }

    fn append(&mut self, request: AppendRequest, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let own = self.control.membership.generation;
        if request.generation != own {
            let request = request.generation;
            return Err(Refusal::AppendGeneration { request, own });
        }
        if self.control.term < request.term {
            return Err(Refusal::AppendBeforeElected);
        }
        if self.control.term > request.term {
            let response = AppendResponse {
                generation: own,
                term: self.control.term,
                flush_lsn: Lsn::INVALID,
                commit_lsn: Lsn::INVALID,
                hot_standby: HotStandbyFeedback::default(),
                pageserver_feedback: None,
            };
            effects.push(Effect::Reply(AcceptorMessage::AppendResponse(response)));
            return Ok(());
        }
        self.log.check_position(request.begin_lsn)?;
        if !request.wal.is_empty() {
            let at = request.begin_lsn;
            self.log.check_writable(at)?;
            let written = self.log.write(&request.wal);
            effects.push(Effect::WriteWal {
                at,
                wal: request.wal,
            });
            written?;
        }
        if request.commit_lsn.is_valid() {
            self.advance_commit(request.commit_lsn, effects);
        }
        let horizon = &mut self.control.peer_horizon_lsn;
        *horizon = (*horizon).max(request.truncate_lsn);
        Ok(())
    }

    /// What is above the flushed end is not remembered: the proposer repeats it.
    fn advance_commit(&mut self, commit_lsn: Lsn, effects: &mut Vec<Effect>) {
        let own = self.control.commit_lsn;
        self.control.commit_lsn = commit_lsn.min(self.flush_lsn()).max(own);
        // A sync ends when it finds the commit LSN of its term persisted.
        if self.control.commit_lsn >= self.term_start_lsn
            && self.persisted_commit_lsn < self.term_start_lsn
        {
            self.persist(effects);
        }
    }

    /// Adopts a configuration with a higher generation; tells whether it did.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotMember`].
    pub fn switch_membership(
        &mut self,
        to: Membership,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Refusal> {
        if to.generation <= self.control.membership.generation {
            return Ok(false);
        }
        if !contains(&to, self.node_id) {
            let node_id = self.node_id;
            return Err(Refusal::NotMember { to, node_id });
        }
        self.control.membership = to;
        self.persist(effects);
        Ok(true)
    }

    /// Raises the term to `to`, or by one, so that every proposer before is fenced.
    /// Returns the term before.
    pub fn bump_term(&mut self, to: Option<u64>, effects: &mut Vec<Effect>) -> u64 {
        let before = self.control.term;
        let to = to.unwrap_or(before.saturating_add(1));
        if to > before {
            self.control.term = to;
            self.persist(effects);
        }
        before
    }

    /// Persists the commit LSN and the horizon if they have moved.
    pub fn checkpoint(&mut self, effects: &mut Vec<Effect>) {
        self.persist(effects);
    }

    fn persist(&mut self, effects: &mut Vec<Effect>) {
        self.persisted_commit_lsn = self.control.commit_lsn;
        effects.push(Effect::Persist(Box::new(self.control.clone())));
    }

    /// Asks for a sync if there is WAL that none has covered.
    pub fn sync(&mut self, effects: &mut Vec<Effect>) {
        if self.log.sync() {
            effects.push(Effect::SyncWal);
        }
    }

    /// The answer to all appends since the last one. Call [`Acceptor::sync`] first,
    /// and send this behind its effect.
    pub fn append_response(&self, hot_standby: HotStandbyFeedback) -> AppendResponse {
        AppendResponse {
            generation: self.control.membership.generation,
            term: self.control.term,
            flush_lsn: self.flush_lsn(),
            commit_lsn: self.persisted_commit_lsn,
            hot_standby,
            pageserver_feedback: None,
        }
    }

    /// Id of the safekeeper.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The state that the control file would have now.
    pub fn control(&self) -> &ControlState {
        &self.control
    }

    /// The highest term that was promised.
    pub fn term(&self) -> u64 {
        self.control.term
    }

    /// The commit LSN, persisted or not.
    pub fn commit_lsn(&self) -> Lsn {
        self.control.commit_lsn
    }

    /// The commit LSN that a restart would find.
    pub fn persisted_commit_lsn(&self) -> Lsn {
        self.persisted_commit_lsn
    }

    /// End of the last whole record that is durable, and never before the start of
    /// the timeline.
    pub fn flush_lsn(&self) -> Lsn {
        self.log.flush_lsn().max(self.control.timeline_start_lsn)
    }

    /// The same without regard to where the timeline starts: 0 as long as there is
    /// no WAL.
    pub fn stored_flush_lsn(&self) -> Lsn {
        self.log.flush_lsn()
    }

    /// End of the bytes received, also in the middle of a record.
    pub fn write_lsn(&self) -> Lsn {
        self.log.write_lsn()
    }

    /// The part of the term history that the log has reached.
    pub fn log_history(&self) -> TermHistory {
        self.control.term_history.up_to(self.flush_lsn())
    }

    /// Term of the last WAL in the log; 0 if there is none.
    pub fn last_log_term(&self) -> u64 {
        self.control.term_history.last_log_term(self.flush_lsn())
    }
}

#[cfg(test)]
mod tests;
