//! A safekeeper: the acceptor, and a disk that may forget what was not synced.

use std::collections::BTreeSet;
use std::ops::Range;

use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::{Lsn, WAL_SEGMENT_SIZE};
use glowplug::storage::acceptor::{Acceptor, ControlState, Effect, ServerInfo};
use glowplug::wire::safekeeper::{
    AcceptorMessage, HotStandbyFeedback, Membership, ProposerMessage,
};
use glowplug::wire::wal_record::RecordDecoder;

use crate::bug::Bug;
use crate::random::Random;
use crate::statistics::Statistics;
use crate::wal::PG_MAJOR;

pub(crate) const TENANT: TenantId = TenantId([1; 16]);
pub(crate) const TIMELINE: TimelineId = TimelineId([2; 16]);
pub(crate) const PG_VERSION: u32 = PG_MAJOR * 10_000 + 20;

/// How the timeline came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Creation {
    /// By the first greeting.
    Implicit,
    /// By its storage, without membership.
    Explicit,
    /// By its storage, with a membership.
    WithMembership,
}

/// What survives a crash, but for the ranges that were not synced.
pub(crate) struct Disk {
    pub(crate) control: ControlState,
    start: Lsn,
    wal: Vec<u8>,
    unsynced: Vec<Range<usize>>,
}

pub(crate) struct Node {
    pub(crate) id: u64,
    /// Whether it holds the timeline.
    pub(crate) exists: bool,
    /// Whether it held the timeline before, and others do now.
    pub(crate) relieved: bool,
    pub(crate) disk: Disk,
    /// `None` while it is down.
    pub(crate) acceptor: Option<Acceptor>,
    /// Connections that wait for the answer to an append.
    pub(crate) unanswered: BTreeSet<u64>,
    bug: Option<Bug>,
    /// Up to where the oracle has compared its log with what the terms wrote.
    pub(crate) compared_until: Lsn,
    /// Up to where it surely holds what was committed.
    pub(crate) agreed_until: Lsn,
}

impl Node {
    pub(crate) fn new(
        id: u64,
        start: Lsn,
        membership: Option<&Membership>,
        creation: Creation,
        exists: bool,
        bug: Option<Bug>,
    ) -> Self {
        let server = ServerInfo {
            pg_version: PG_VERSION,
            system_id: 7,
            wal_segment_size: WAL_SEGMENT_SIZE as u32,
        };
        let membership = membership.cloned().unwrap_or_default();
        let start_lsn = match creation {
            Creation::Implicit => Lsn::INVALID,
            Creation::Explicit | Creation::WithMembership => start,
        };
        let control = ControlState::explicit(TENANT, TIMELINE, membership, server, start_lsn);
        let mut node = Self {
            id,
            exists,
            relieved: false,
            disk: Disk::empty(control.unwrap(), start),
            acceptor: None,
            unanswered: BTreeSet::new(),
            bug,
            compared_until: start,
            agreed_until: start,
        };
        node.start();
        node
    }

    pub(crate) fn start(&mut self) {
        if self.exists && self.acceptor.is_none() {
            let flush_lsn = self.disk.find_end();
            let control = self.disk.control.clone();
            self.acceptor = Some(Acceptor::load(self.id, control, flush_lsn));
        }
    }

    /// The machine goes down. Each piece that was written and not synced may be
    /// there afterwards, or not.
    pub(crate) fn crash(&mut self, random: &mut Random, statistics: &mut Statistics) {
        for range in std::mem::take(&mut self.disk.unsynced) {
            let end = range.end.min(self.disk.wal.len());
            if range.start < end && random.one_in(2) {
                self.disk.wal[range.start..end].fill(0);
                statistics.count("unsynced wal lost");
            }
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.acceptor = None;
        self.unanswered.clear();
        self.compared_until = self.disk.start;
        self.agreed_until = self.disk.start;
    }

    /// It holds the timeline no longer.
    pub(crate) fn remove(&mut self) {
        self.relieved |= self.exists;
        self.exists = false;
        self.disk = Disk::empty(self.disk.control.clone(), self.disk.start);
        self.forget();
    }

    /// What another one takes over from it.
    pub(crate) fn snapshot(&self) -> Disk {
        let start = self.disk.start;
        let end = self.acceptor.as_ref().map_or(start, Acceptor::flush_lsn);
        Disk {
            wal: self.disk.durable_copy(start, end.max(start)),
            ..Disk::empty(self.disk.control.clone(), start)
        }
    }

    /// It takes over the timeline of another one.
    pub(crate) fn create_from(&mut self, disk: Disk, membership: &Membership) {
        self.disk = disk;
        self.exists = true;
        self.relieved = false;
        self.start();
        self.switch(membership);
    }

    /// How much it has: last term of the log, its end, and the term; `None` if it is
    /// down or has no timeline.
    pub(crate) fn rank(&self) -> Option<(u64, Lsn, u64)> {
        let acceptor = self.acceptor.as_ref()?;
        let (term, flush_lsn) = (acceptor.last_log_term(), acceptor.flush_lsn());
        Some((term, flush_lsn, acceptor.term()))
    }

    /// Takes on a membership; its term, and where its log ends. `None` if it is down.
    pub(crate) fn switch(&mut self, to: &Membership) -> Option<(u64, (u64, Lsn))> {
        let acceptor = self.acceptor.as_mut()?;
        let mut effects = Vec::new();
        acceptor.switch_membership(to.clone(), &mut effects).ok()?;
        self.perform(effects, &mut Statistics::default());
        let (log_term, flush_lsn, term) = self.rank()?;
        Some((term, (log_term, flush_lsn)))
    }

    /// Raises its term; false if it is down.
    pub(crate) fn bump_term(&mut self, to: u64) -> bool {
        let Some(acceptor) = self.acceptor.as_mut() else {
            return false;
        };
        let mut effects = Vec::new();
        acceptor.bump_term(Some(to), &mut effects);
        self.perform(effects, &mut Statistics::default());
        true
    }

    /// Takes a message. The answers, and whether the connection lives on.
    pub(crate) fn handle(
        &mut self,
        mut message: ProposerMessage,
        statistics: &mut Statistics,
    ) -> (Vec<AcceptorMessage>, bool) {
        let Some(acceptor) = &mut self.acceptor else {
            return (Vec::new(), false);
        };
        match &mut message {
            ProposerMessage::AppendRequest(append)
                if self.bug == Some(Bug::IgnoresTermInAppend) =>
            {
                append.term = acceptor.term();
            }
            _ => {}
        }
        if self.bug == Some(Bug::IgnoresGeneration) {
            let own = acceptor.control().membership.generation;
            set_generation(&mut message, own);
        }
        let asked_term = match &message {
            ProposerMessage::VoteRequest(request) => Some(request.term),
            _ => None,
        };
        let mut effects = Vec::new();
        let accepted = acceptor.handle(message, &mut effects).is_ok();
        let mut replies = self.perform(effects, statistics);
        for reply in &mut replies {
            if let AcceptorMessage::VoteResponse(vote) = reply {
                let again = asked_term == Some(vote.term);
                vote.vote_given |= again && self.bug == Some(Bug::VotesTwice);
                if !vote.vote_given {
                    statistics.count("vote refused");
                }
            }
        }
        (replies, accepted)
    }

    /// Syncs; the answer to all appends so far.
    pub(crate) fn sync(&mut self, statistics: &mut Statistics) -> Option<AcceptorMessage> {
        let acceptor = self.acceptor.as_mut()?;
        let mut effects = Vec::new();
        acceptor.sync(&mut effects);
        let response = acceptor.append_response(HotStandbyFeedback::default());
        self.perform(effects, statistics);
        Some(AcceptorMessage::AppendResponse(response))
    }

    fn perform(
        &mut self,
        effects: Vec<Effect>,
        statistics: &mut Statistics,
    ) -> Vec<AcceptorMessage> {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist(mut control) => {
                    if self.bug == Some(Bug::ForgetsTerm) {
                        control.term = self.disk.control.term;
                    }
                    self.disk.control = *control;
                }
                Effect::InitializeWal { start } => assert_eq!(start, self.disk.start),
                Effect::TruncateWal { end } => {
                    if self.bug != Some(Bug::SkipsTruncation) && self.disk.truncate(end) {
                        statistics.count("truncated");
                    }
                    self.compared_until = self.compared_until.min(end);
                    self.agreed_until = self.agreed_until.min(end);
                }
                Effect::WriteWal { at, wal } => {
                    self.disk.write(at, &wal);
                    self.compared_until = self.compared_until.min(at);
                    self.agreed_until = self.agreed_until.min(at);
                }
                Effect::SyncWal if self.bug == Some(Bug::SkipsSync) => {}
                Effect::SyncWal => self.disk.unsynced.clear(),
                Effect::Reply(message) => replies.push(message),
            }
        }
        replies
    }

    /// WAL for a safekeeper that lags, if it is here under this term.
    pub(crate) fn read(&self, from: Lsn, until: Lsn, term: u64) -> Option<Vec<u8>> {
        let acceptor = self.acceptor.as_ref()?;
        let there = acceptor.term() == term && acceptor.flush_lsn() >= until;
        there.then(|| self.disk.copy(from, until))
    }
}

fn set_generation(message: &mut ProposerMessage, to: u32) {
    match message {
        ProposerMessage::Greeting(_) => {}
        ProposerMessage::VoteRequest(request) => request.generation = to,
        ProposerMessage::Elected(elected) => elected.generation = to,
        ProposerMessage::AppendRequest(append) => append.generation = to,
    }
}

impl Disk {
    fn empty(control: ControlState, start: Lsn) -> Self {
        Self {
            control,
            start,
            wal: Vec::new(),
            unsynced: Vec::new(),
        }
    }

    fn offset(&self, lsn: Lsn) -> usize {
        lsn.bytes_since(self.start) as usize
    }

    /// Cuts; tells whether something was cut off.
    fn truncate(&mut self, end: Lsn) -> bool {
        let end = self.offset(end);
        let cut = self.wal.len() > end;
        self.wal.resize(end, 0);
        self.unsynced.clear();
        cut
    }

    fn write(&mut self, at: Lsn, wal: &[u8]) {
        let start = self.offset(at);
        let end = start + wal.len();
        if self.wal.len() < end {
            self.wal.resize(end, 0);
        }
        self.wal[start..end].copy_from_slice(wal);
        self.unsynced.push(start..end);
    }

    /// WAL between two positions; what was never written reads as zeros.
    pub(crate) fn copy(&self, from: Lsn, until: Lsn) -> Vec<u8> {
        let (from, until) = (self.offset(from), self.offset(until));
        let mut wal = self.wal[from.min(self.wal.len())..until.min(self.wal.len())].to_vec();
        wal.resize(until - from, 0);
        wal
    }

    /// The same if everything were lost that may be lost.
    pub(crate) fn durable_copy(&self, from: Lsn, until: Lsn) -> Vec<u8> {
        let mut wal = self.copy(from, until);
        let base = self.offset(from);
        for range in &self.unsynced {
            let start = range.start.saturating_sub(base).min(wal.len());
            let end = range.end.saturating_sub(base).min(wal.len());
            wal[start..end].fill(0);
        }
        wal
    }

    fn find_end(&self) -> Lsn {
        let from = self.control.scan_from();
        if !from.is_valid() {
            return from;
        }
        let mut decoder = RecordDecoder::new(from, PG_MAJOR).unwrap();
        let mut input = &self.wal[self.offset(from).min(self.wal.len())..];
        let mut end = from;
        while let Ok(Some(record)) = decoder.next(&mut input) {
            end = record.next;
        }
        end
    }
}
