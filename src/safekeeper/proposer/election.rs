//! Greetings, votes, and what an election settles.

use std::time::Instant;

use super::loss::{Failure, Loss, LossKind};
use super::peer::{Acked, Fetch, Link, Peer, Stream, Vote};
use super::quorum::{self, Electorate};
use super::{Endpoints, Leader, Mode, Output, Phase, Proposer, Slot, Synced, config};
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE};
use crate::wire::safekeeper::{
    AcceptorGreeting, Elected, Membership, ProposerGreeting, ProposerMessage, TermHistory, TermLsn,
    VoteRequest, VoteResponse,
};

/// The log that a majority's votes add up to.
struct VotedLog {
    donor: Slot,
    term_history: TermHistory,
    last_term: u64,
    end: Lsn,
    truncate_lsn: Lsn,
}

impl Proposer {
    pub(super) fn use_endpoints(&mut self, list: Endpoints, now: Instant) {
        let timing = self.config.timing;
        self.spec_generation = list.generation;
        let peer = |endpoint| Peer::new(endpoint, now, &timing);
        self.peers = list.endpoints.into_iter().map(peer).collect();
        if self.membership.generation == 0 {
            self.electorate = Electorate::everybody(self.peers.len());
        }
    }

    /// Starts over with other safekeepers. What was written stays: the election that
    /// follows must find it.
    pub(super) fn change_endpoints(&mut self, now: Instant, list: Endpoints) {
        if let Err(error) = config::validate_endpoints(&list) {
            self.finish(Err(Failure::Config(error)));
            return;
        }
        let known = self.peers.iter().map(|peer| &peer.endpoint);
        if list.generation == self.spec_generation && known.eq(&list.endpoints) {
            return;
        }
        self.disconnect_all(now);
        self.use_endpoints(list, now);
        self.collect(now);
    }

    pub(super) fn connect(&mut self, now: Instant, slot: Slot) {
        let may_create_timeline = self.spec_generation.unwrap_or(0) == 0;
        let greeting = ProposerGreeting {
            tenant_id: self.config.tenant_id,
            timeline_id: self.config.timeline_id,
            membership: self.membership.clone(),
            pg_version: self.config.pg_version,
            system_id: self.config.system_id,
            wal_segment_size: WAL_SEGMENT_SIZE as u32,
        };
        let Some(peer) = self.peers.get_mut(slot.0) else {
            return;
        };
        peer.link = Link::Connecting;
        peer.silent_since = Some(now);
        peer.greeted_generation = greeting.membership.generation;
        self.outputs.push_back(Output::Connect {
            slot,
            endpoint: peer.endpoint.clone(),
            greeting: Box::new(greeting),
            may_create_timeline,
        });
    }

    pub(super) fn take_greeting(&mut self, now: Instant, slot: Slot, greeting: AcceptorGreeting) {
        if let Err(loss) = self.identify(slot, greeting.node_id) {
            self.drop_peer(now, slot, loss);
            return;
        }
        let generation = greeting.membership.generation;
        let peer = &mut self.peers[slot.0];
        peer.term = greeting.term;
        peer.generation = generation;
        if generation > self.membership.generation && self.adopt(now, slot, greeting.membership) {
            return;
        }
        if generation < self.membership.generation {
            self.upgrade(now, slot);
            return;
        }
        if greeting.term > self.tolerated_term() {
            self.meet_newer_term(now, slot, greeting.term);
            return;
        }
        self.peers[slot.0].link = Link::Greeted;
        match &self.phase {
            Phase::Collecting => self.campaign_if_ready(),
            Phase::Campaign { term } => self.ask_for_vote(slot, *term),
            Phase::Leading(leader) => self.ask_for_vote(slot, leader.term),
            Phase::Pausing { .. } | Phase::Finished => {}
        }
    }

    /// Takes note of who answers at a place of the list.
    fn identify(&mut self, slot: Slot, node_id: u64) -> Result<(), Loss> {
        if node_id == 0 {
            let text = "introduced itself as node 0, which no safekeeper is";
            return Err(Loss::new(LossKind::Protocol, text));
        }
        for (index, other) in self.peers.iter_mut().enumerate() {
            if index == slot.0 || other.node_id != Some(node_id) {
                continue;
            }
            if other.is_connected() {
                let text = format!("is safekeeper {node_id}, as {} is", other.endpoint);
                return Err(Loss::new(LossKind::Misconfigured, text));
            }
            other.forget_node();
        }
        let peer = &mut self.peers[slot.0];
        if peer.node_id != Some(node_id) {
            peer.forget_node();
            peer.node_id = Some(node_id);
        }
        Ok(())
    }

    /// Takes on a membership of a higher generation. True if that starts the
    /// election over.
    fn adopt(&mut self, now: Instant, from: Slot, membership: Membership) -> bool {
        self.electorate = Electorate::members(&membership);
        self.membership = membership;
        if !matches!(self.phase, Phase::Collecting) {
            self.disconnect_all(now);
            self.collect(now);
            return true;
        }
        for slot in self.slots().filter(|slot| *slot != from) {
            if matches!(self.peers[slot.0].link, Link::Greeted) {
                self.upgrade(now, slot);
            }
        }
        false
    }

    /// Tells a safekeeper of a lower generation the membership, by greeting it
    /// again.
    fn upgrade(&mut self, now: Instant, slot: Slot) {
        let generation = self.membership.generation;
        let peer = &self.peers[slot.0];
        let is_member = peer
            .node_id
            .is_some_and(|id| self.electorate.contains_node(id));
        if is_member && peer.greeted_generation < generation {
            self.greet_again(now, slot);
            return;
        }
        let text = if is_member {
            format!(
                "stays in membership generation {}, although it was told of {generation}",
                peer.generation
            )
        } else {
            format!("is not a member of the timeline in generation {generation}")
        };
        self.drop_peer(now, slot, Loss::new(LossKind::Membership, text));
    }

    pub(super) fn greet_again(&mut self, now: Instant, slot: Slot) {
        self.outputs.push_back(Output::Disconnect(slot));
        self.connect(now, slot);
    }

    /// The highest term that a greeting may show without meaning that somebody else
    /// was elected since.
    fn tolerated_term(&self) -> u64 {
        match &self.phase {
            Phase::Campaign { term } => *term,
            Phase::Leading(leader) => leader.term,
            _ if !self.won_terms.is_empty() => self.asked_term,
            _ => u64::MAX,
        }
    }

    /// Somebody else was elected, or is about to be.
    pub(super) fn meet_newer_term(&mut self, now: Instant, slot: Slot, term: u64) {
        let streams = matches!(self.config.mode, Mode::Stream { .. });
        if streams && let Some(&ours) = self.won_terms.last() {
            let endpoint = self.peers[slot.0].endpoint.clone();
            self.finish(Err(Failure::NewerTerm {
                endpoint,
                term,
                ours,
            }));
            return;
        }
        self.asked_term = self.asked_term.max(term);
        self.lose_election(now);
    }

    /// Starts over after a wait, so that two proposers do not duel.
    fn lose_election(&mut self, now: Instant) {
        let elections = self.lost_elections.attempts() + 1;
        if elections > self.config.timing.elections {
            let term = self.asked_term;
            self.finish(Err(Failure::Contended { elections, term }));
            return;
        }
        let wait = self.lost_elections.next(self.random.next_fraction());
        self.disconnect_all(now);
        self.phase = Phase::Pausing { until: now + wait };
    }

    /// Begins to collect greetings, for a new election.
    pub(super) fn collect(&mut self, now: Instant) {
        self.phase = Phase::Collecting;
        self.connect_due(now);
    }

    pub(super) fn disconnect_all(&mut self, now: Instant) {
        for slot in self.slots() {
            let peer = &mut self.peers[slot.0];
            if let Link::Active(stream) = &peer.link
                && matches!(stream.fetch, Fetch::Running { .. })
            {
                self.outputs.push_back(Output::StopFetch(slot));
            }
            if !matches!(peer.link, Link::Offline { .. }) {
                self.outputs.push_back(Output::Disconnect(slot));
                peer.link = Link::Offline { retry_at: now };
            }
            peer.outbox.clear();
            peer.silent_since = None;
        }
    }

    fn campaign_if_ready(&mut self) {
        let generation = self.membership.generation;
        let wanted = self.spec_generation.unwrap_or(0);
        let greeted = self.peers.iter().filter(|peer| peer.is_connected()).count();
        if generation == 0 && wanted > 0 {
            if greeted >= quorum::majority(self.peers.len()) {
                self.finish(Err(Failure::NoMembership { generation: wanted }));
            }
            return;
        }
        let ready = |peer: &Peer| matches!(peer.link, Link::Greeted);
        if !self
            .electorate
            .agrees(|voter| self.peer_of(voter).is_some_and(ready))
        {
            return;
        }
        let seen = self.peers.iter().map(|peer| peer.term).max().unwrap_or(0);
        // A term of 2^64 - 1 cannot be followed; nobody gets there by elections.
        let term = seen.max(self.asked_term).saturating_add(1);
        self.asked_term = term;
        self.phase = Phase::Campaign { term };
        for slot in self.slots() {
            self.peers[slot.0].acked = Acked::default();
            if matches!(self.peers[slot.0].link, Link::Greeted) {
                self.ask_for_vote(slot, term);
            }
        }
    }

    fn ask_for_vote(&mut self, slot: Slot, term: u64) {
        let generation = self.membership.generation;
        let peer = &mut self.peers[slot.0];
        peer.link = Link::AwaitingVote;
        let request = VoteRequest { generation, term };
        peer.outbox.push_back(ProposerMessage::VoteRequest(request));
    }

    pub(super) fn take_vote(&mut self, now: Instant, slot: Slot, response: VoteResponse) {
        let (term, leading) = match &self.phase {
            Phase::Campaign { term } => (*term, false),
            Phase::Leading(leader) => (leader.term, true),
            _ => return,
        };
        let peer = &mut self.peers[slot.0];
        peer.term = response.term;
        if response.term > term {
            self.meet_newer_term(now, slot, response.term);
            return;
        }
        let history_holds = response.term_history.is_ordered()
            && response
                .term_history
                .last()
                .is_none_or(|last| last.term <= term);
        if response.term < term || !history_holds {
            let text = "voted with a history or a term that contradicts itself";
            self.drop_peer(now, slot, Loss::new(LossKind::Protocol, text));
            return;
        }
        if response.vote_given {
            peer.granted_term = Some(term);
        }
        // A vote is bound to the term alone, so the repeated request after a
        // reconnect is refused; that we were given it counts all the same.
        if !leading && peer.granted_term != Some(term) {
            self.lose_election(now);
            return;
        }
        // A safekeeper that lost its disk has less than it had confirmed.
        peer.acked.flush_lsn = peer.acked.flush_lsn.min(response.flush_lsn);
        peer.link = Link::Voted(Vote {
            flush_lsn: response.flush_lsn,
            truncate_lsn: response.truncate_lsn,
            term_history: response.term_history,
        });
        if leading {
            self.tell_elected(now, slot);
            self.plan_fetches(now);
        } else {
            self.elect_if_voted(now, term);
        }
    }

    fn elect_if_voted(&mut self, now: Instant, term: u64) {
        let voted = |peer: &Peer| peer.vote().is_some();
        if !self
            .electorate
            .agrees(|voter| self.peer_of(voter).is_some_and(voted))
        {
            return;
        }
        let Some(log) = self.voted_log() else {
            return;
        };
        let result = match self.config.mode {
            Mode::Sync => self.settle_sync(term, &log),
            Mode::Stream { start_lsn } => self.settle_stream(start_lsn, &log),
        };
        let Some((term_start_lsn, mut history)) = result else {
            return;
        };
        history.0.push(TermLsn {
            term,
            lsn: term_start_lsn,
        });
        self.truncate_lsn = self.truncate_lsn.max(log.truncate_lsn);
        self.won_terms.push(term);
        self.lost_elections.reset();
        self.phase = Phase::Leading(Leader {
            term,
            term_start_lsn,
            history,
            donor: log.donor,
            in_sync_since: None,
        });
        self.outputs.push_back(Output::Elected {
            term,
            term_start_lsn,
        });
        for slot in self.slots() {
            self.tell_elected(now, slot);
        }
        self.plan_fetches(now);
    }

    /// The most advanced log among the voters that count.
    fn voted_log(&self) -> Option<VotedLog> {
        let mut best: Option<(Slot, &Vote)> = None;
        let mut truncate_lsn = Lsn::INVALID;
        for slot in self
            .electorate
            .voters()
            .filter_map(|voter| self.slot_of(voter))
        {
            let Some(vote) = self.peers.get(slot.0).and_then(Peer::vote) else {
                continue;
            };
            truncate_lsn = truncate_lsn.max(vote.truncate_lsn);
            if best.is_none_or(|(_, other)| vote.rank() > other.rank()) {
                best = Some((slot, vote));
            }
        }
        best.map(|(donor, vote)| VotedLog {
            donor,
            term_history: vote.term_history.up_to(vote.flush_lsn),
            last_term: vote.rank().0,
            end: vote.flush_lsn,
            truncate_lsn,
        })
    }

    /// Where a sync's term begins and after which history; `None` if the votes
    /// settle everything.
    fn settle_sync(&mut self, term: u64, log: &VotedLog) -> Option<(Lsn, TermHistory)> {
        if !log.end.is_valid() || log.truncate_lsn == log.end {
            self.finish(Ok(Synced {
                commit_lsn: log.end,
                term,
                by_votes_alone: true,
            }));
            return None;
        }
        self.window = super::WalWindow::empty_at(log.end);
        Some((log.end, log.term_history.clone()))
    }

    /// The same for a stream: the local postgres must continue exactly this log.
    fn settle_stream(&mut self, start_lsn: Lsn, log: &VotedLog) -> Option<(Lsn, TermHistory)> {
        let is_first = self.won_terms.is_empty();
        if !log.end.is_valid() && !self.commit_lsn.is_valid() {
            if is_first {
                self.window = super::WalWindow::empty_at(start_lsn);
            }
            return Some((start_lsn, TermHistory::default()));
        }
        // Replay skips the header of a page, so a basebackup may name the place
        // behind it (`pgxn/neon/walproposer_pg.c: walprop_pg_after_election`).
        let untouched = log.end.skip_page_header() == start_lsn.skip_page_header();
        let ours = self.won_terms.contains(&log.last_term) && log.end >= self.commit_lsn;
        if !untouched && !ours {
            self.finish(Err(Failure::Diverged {
                start_lsn,
                term_start_lsn: log.end,
                last_term: log.last_term,
            }));
            return None;
        }
        if is_first {
            self.window = super::WalWindow::empty_at(log.end);
        }
        Some((log.end, log.term_history.clone()))
    }

    /// Tells a safekeeper that has voted where its log is cut and goes on.
    fn tell_elected(&mut self, now: Instant, slot: Slot) {
        let Phase::Leading(leader) = &self.phase else {
            return;
        };
        let peer = &mut self.peers[slot.0];
        let Some(vote) = peer.vote() else {
            return;
        };
        let start_streaming_at = leader
            .history
            .start_streaming_at(&vote.term_history, vote.flush_lsn);
        peer.outbox.push_back(ProposerMessage::Elected(Elected {
            generation: self.membership.generation,
            term: leader.term,
            start_streaming_at,
            term_history: leader.history.clone(),
        }));
        peer.link = Link::Active(Stream::new(start_streaming_at, now));
    }
}
