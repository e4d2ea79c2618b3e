//! A safekeeper's rules in their shortest form: every byte of WAL ends a record.

use std::collections::BTreeMap;

use crate::lsn::Lsn;
use crate::wire::safekeeper::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, Elected, HotStandbyFeedback,
    Membership, ProposerMessage, TermHistory, TermLsn, VoteRequest, VoteResponse,
};

#[derive(Debug, Clone, Default)]
pub(in crate::safekeeper) struct Acceptor {
    pub(in crate::safekeeper) node_id: u64,
    pub(in crate::safekeeper) membership: Membership,
    pub(in crate::safekeeper) term: u64,
    pub(in crate::safekeeper) history: TermHistory,
    /// The log, from `start` to `start + log.len()`.
    pub(in crate::safekeeper) start: Lsn,
    pub(in crate::safekeeper) log: Vec<u8>,
    pub(in crate::safekeeper) commit_lsn: Lsn,
    pub(in crate::safekeeper) persisted_commit_lsn: Lsn,
    pub(in crate::safekeeper) horizon: Lsn,
    /// Keep commit LSNs in memory, as a real one does for minutes.
    pub(in crate::safekeeper) lazy: bool,
    /// Closes the connection at an `Elected`, before it takes note of it.
    pub(in crate::safekeeper) drops_elected: bool,
    /// Another proposer is always one vote ahead.
    pub(in crate::safekeeper) contested: bool,
    term_start_lsn: Lsn,
    /// Messages received, by kind.
    pub(in crate::safekeeper) counts: BTreeMap<&'static str, usize>,
    pub(in crate::safekeeper) appends: Vec<AppendRequest>,
    pub(in crate::safekeeper) last_elected: Option<Elected>,
}

/// A history of these entries.
pub(in crate::safekeeper) fn history(entries: &[(u64, u64)]) -> TermHistory {
    let entry = |(term, lsn): &(u64, u64)| TermLsn {
        term: *term,
        lsn: Lsn(*lsn),
    };
    TermHistory(entries.iter().map(entry).collect())
}

impl Acceptor {
    pub(in crate::safekeeper) fn new(node_id: u64) -> Self {
        Self {
            node_id,
            ..Self::default()
        }
    }

    /// With this history and the log under it up to `flush_lsn`, each byte telling
    /// the term that wrote it.
    pub(in crate::safekeeper) fn with_log(
        mut self,
        entries: &[(u64, u64)],
        flush_lsn: u64,
    ) -> Self {
        self.history = history(entries);
        self.start = self.history.0[0].lsn;
        let term_at = |lsn: u64| self.history.last_log_term(Lsn(lsn)) as u8;
        self.log = (self.start.0..flush_lsn).map(term_at).collect();
        self.term = self.history.last().unwrap().term;
        self.horizon = self.start;
        self
    }

    pub(in crate::safekeeper) fn flush_lsn(&self) -> Lsn {
        Lsn(self.start.0 + self.log.len() as u64)
    }

    /// The bytes from `from` up to `until`.
    pub(in crate::safekeeper) fn read(&self, from: Lsn, until: Lsn) -> &[u8] {
        &self.log[from.bytes_since(self.start) as usize..until.bytes_since(self.start) as usize]
    }

    pub(in crate::safekeeper) fn handle(
        &mut self,
        message: ProposerMessage,
    ) -> Result<Vec<AcceptorMessage>, String> {
        let name = match &message {
            ProposerMessage::Greeting(_) => "greeting",
            ProposerMessage::VoteRequest(_) => "vote",
            ProposerMessage::Elected(_) => "elected",
            ProposerMessage::AppendRequest(append) if append.wal.is_empty() => "heartbeat",
            ProposerMessage::AppendRequest(_) => "append",
        };
        *self.counts.entry(name).or_default() += 1;
        match message {
            ProposerMessage::Greeting(greeting) => {
                if greeting.membership.generation > self.membership.generation {
                    self.membership = greeting.membership;
                }
                Ok(vec![AcceptorMessage::Greeting(AcceptorGreeting {
                    node_id: self.node_id,
                    membership: self.membership.clone(),
                    term: self.term,
                })])
            }
            ProposerMessage::VoteRequest(request) => self.vote(request).map(|vote| vec![vote]),
            ProposerMessage::Elected(elected) => self.elected(elected).map(|()| Vec::new()),
            ProposerMessage::AppendRequest(request) => self.append(&request),
        }
    }

    fn check_generation(&self, generation: u32) -> Result<(), String> {
        if generation == self.membership.generation {
            return Ok(());
        }
        let own = self.membership.generation;
        Err(format!(
            "generation mismatch: request {generation}, sk {own}"
        ))
    }

    fn vote(&mut self, request: VoteRequest) -> Result<AcceptorMessage, String> {
        self.check_generation(request.generation)?;
        if self.contested {
            self.term = request.term + 1;
        }
        let vote_given = self.term < request.term;
        self.term = self.term.max(request.term);
        Ok(AcceptorMessage::VoteResponse(VoteResponse {
            generation: request.generation,
            term: self.term,
            vote_given,
            flush_lsn: self.flush_lsn(),
            truncate_lsn: self.horizon,
            term_history: self.history.up_to(self.flush_lsn()),
        }))
    }

    fn elected(&mut self, elected: Elected) -> Result<(), String> {
        self.check_generation(elected.generation)?;
        if self.drops_elected {
            return Err("going away".into());
        }
        if self.term > elected.term {
            return Ok(());
        }
        self.term = elected.term;
        let flush_lsn = self.flush_lsn();
        let expected = elected
            .term_history
            .start_streaming_at(&self.history, flush_lsn);
        if expected != elected.start_streaming_at {
            return Err(format!("unexpected truncation point: lcp={expected}"));
        }
        assert!(expected >= self.commit_lsn, "truncates committed WAL");
        if !self.start.is_valid() {
            self.start = elected.term_history.0[0].lsn;
            self.horizon = self.start;
            self.commit_lsn = self.start;
        }
        self.log.truncate(expected.bytes_since(self.start) as usize);
        self.term_start_lsn = elected.term_history.last().unwrap().lsn;
        self.history = elected.term_history.clone();
        self.persisted_commit_lsn = self.commit_lsn;
        self.last_elected = Some(elected);
        Ok(())
    }

    fn append(&mut self, request: &AppendRequest) -> Result<Vec<AcceptorMessage>, String> {
        self.check_generation(request.generation)?;
        if self.term < request.term {
            return Err("got AppendRequest before ProposerElected".into());
        }
        if self.term > request.term {
            let full = self.append_response();
            let term_only = AppendResponse {
                flush_lsn: Lsn::INVALID,
                commit_lsn: Lsn::INVALID,
                ..full.clone()
            };
            let both = [term_only, full].map(AcceptorMessage::AppendResponse);
            return Ok(both.into());
        }
        let write_lsn = self.flush_lsn();
        if request.begin_lsn != write_lsn {
            let begin = request.begin_lsn;
            return Err(format!(
                "not where WAL ends: write_lsn={write_lsn}, msg lsn={begin}"
            ));
        }
        if request.commit_lsn.is_valid() {
            let commit_lsn = request.commit_lsn.max(self.commit_lsn).min(write_lsn);
            let reaches = commit_lsn >= self.term_start_lsn
                && self.persisted_commit_lsn < self.term_start_lsn;
            self.commit_lsn = self.commit_lsn.max(commit_lsn);
            if reaches && !self.lazy {
                self.persisted_commit_lsn = self.commit_lsn;
            }
        }
        self.log.extend_from_slice(&request.wal);
        self.horizon = self.horizon.max(request.truncate_lsn);
        self.appends.push(request.clone());
        Ok(vec![AcceptorMessage::AppendResponse(
            self.append_response(),
        )])
    }

    fn append_response(&self) -> AppendResponse {
        AppendResponse {
            generation: self.membership.generation,
            term: self.term,
            flush_lsn: self.flush_lsn(),
            commit_lsn: self.persisted_commit_lsn,
            hot_standby: HotStandbyFeedback::default(),
            pageserver_feedback: None,
        }
    }
}
