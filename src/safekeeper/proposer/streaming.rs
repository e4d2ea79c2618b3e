//! WAL on its way to safekeepers, what they confirm, and what that commits.

use std::time::Instant;

use bytes::Bytes;

use super::loss::{Loss, LossKind};
use super::peer::{Fetch, Link, Peer};
use super::{Leader, Mode, Output, Phase, Proposer, Slot, Source, Synced};
use crate::lsn::Lsn;
use crate::wire::safekeeper::{AppendRequest, AppendResponse, MAX_APPEND_SIZE, ProposerMessage};

/// How much WAL that was read for one safekeeper may wait to be sent, in bytes.
const FETCH_AHEAD: usize = 4 * MAX_APPEND_SIZE;

/// A place that WAL for a lagging safekeeper can be read from, up to `end`.
struct Candidate {
    source: Source,
    end: Lsn,
}

impl Proposer {
    /// Whether there is room for more WAL of the local postgres. There is none while
    /// a majority has not been sent what is held: WAL then waits in postgres.
    pub fn wants_wal(&mut self) -> bool {
        if !matches!(self.phase, Phase::Leading(_)) {
            return false;
        }
        self.shrink_window();
        // Shrinking stops at the limit exactly, so there is always room for one more
        // piece then.
        self.window.size() <= self.config.window_limit
    }

    /// Whether WAL read for this safekeeper may be handed in.
    pub fn wants_fetched(&self, slot: Slot) -> bool {
        let stream = self.peers.get(slot.0).and_then(Peer::stream);
        stream.is_some_and(|stream| {
            matches!(stream.fetch, Fetch::Running { .. }) && stream.fetched_size < FETCH_AHEAD
        })
    }

    /// Takes in WAL of the local postgres. WAL that does not follow is left: the
    /// caller sees that [`wal_position`](Self::wal_position) has not moved, and
    /// reads again from there.
    pub(super) fn append_local(&mut self, now: Instant, start_lsn: Lsn, wal: Bytes) {
        if !matches!(self.phase, Phase::Leading(_)) {
            return;
        }
        if self.window.append(start_lsn, wal).is_ok() {
            self.shrink_window();
            self.plan_fetches(now);
        }
    }

    /// Forgets WAL above the limit that a majority has been sent. Who is behind is
    /// sent it from elsewhere.
    fn shrink_window(&mut self) {
        if self.window.size() <= self.config.window_limit {
            return;
        }
        let sent = self.electorate.reached(|voter| {
            let stream = self.peer_of(voter).and_then(Peer::stream);
            stream.map_or(Lsn::INVALID, |stream| stream.position)
        });
        self.window.shrink(self.config.window_limit, sent);
    }

    /// The next append for a safekeeper: WAL if there is some, else positions if
    /// they are due.
    pub(super) fn next_append(&mut self, now: Instant, slot: Slot) -> Option<ProposerMessage> {
        let Phase::Leading(leader) = &self.phase else {
            return None;
        };
        let (term, timing) = (leader.term, self.config.timing);
        let peer = self.peers.get_mut(slot.0)?;
        let flush_lsn = peer.acked.flush_lsn;
        let stream = peer.stream_mut()?;
        let wal = match stream.take_fetched() {
            Some(wal) => wal,
            None => self
                .window
                .read(stream.position, MAX_APPEND_SIZE)
                .unwrap_or_default(),
        };
        if wal.is_empty() && !stream.is_notice_due(now, &timing) {
            return None;
        }
        let request = AppendRequest {
            generation: self.membership.generation,
            term,
            begin_lsn: stream.position,
            commit_lsn: self.commit_lsn,
            truncate_lsn: self.truncate_lsn,
            wal,
        };
        stream.sent(now, request.end_lsn());
        if flush_lsn >= self.commit_lsn {
            stream.told_commit_lsn = self.commit_lsn;
        }
        Some(ProposerMessage::AppendRequest(request))
    }

    pub(super) fn take_append_response(
        &mut self,
        now: Instant,
        slot: Slot,
        response: &AppendResponse,
    ) {
        let Phase::Leading(leader) = &self.phase else {
            return;
        };
        // The term comes first: a reply in another term speaks of another
        // proposer's WAL, or of none.
        if response.term > leader.term {
            self.meet_newer_term(now, slot, response.term);
            return;
        }
        if response.term < leader.term {
            let text = format!("answered in term {}, below ours", response.term);
            self.drop_peer(now, slot, Loss::new(LossKind::Protocol, text));
            return;
        }
        if response.generation != self.membership.generation {
            let text = format!("is in membership generation {}", response.generation);
            self.drop_peer(now, slot, Loss::new(LossKind::Membership, text));
            return;
        }
        let peer = &mut self.peers[slot.0];
        peer.backoff.reset();
        peer.last_loss = None;
        // Pageservers' reports repeat older responses.
        peer.acked.flush_lsn = peer.acked.flush_lsn.max(response.flush_lsn);
        peer.acked.commit_lsn = peer.acked.commit_lsn.max(response.commit_lsn);
        self.settle(now, slot);
    }

    /// Draws the conclusions from what a safekeeper has confirmed.
    fn settle(&mut self, now: Instant, slot: Slot) {
        let Phase::Leading(leader) = &self.phase else {
            return;
        };
        let term_start_lsn = leader.term_start_lsn;
        // WAL of earlier terms is committed only along with the start of this one
        // (`pgxn/neon/walproposer.c: GetAcknowledgedByQuorumWALPosition`).
        let reached = self.electorate.reached(|voter| {
            let flushed = self.peer_of(voter).map(|peer| peer.acked.flush_lsn);
            flushed
                .filter(|lsn| *lsn >= term_start_lsn)
                .unwrap_or_default()
        });
        let notice_at = now + self.config.timing.commit_notice;
        if reached > self.commit_lsn {
            self.commit_lsn = reached;
            for stream in self.peers.iter_mut().filter_map(Peer::stream_mut) {
                stream.notice_by(notice_at);
            }
        }
        self.raise_truncate_lsn(term_start_lsn);
        self.forget_confirmed();
        let (commit_lsn, peer) = (self.commit_lsn, &mut self.peers[slot.0]);
        // A commit LSN above its own end is cut by the safekeeper, so it is told
        // again once its end is there.
        let untold = peer.acked.flush_lsn >= commit_lsn && peer.acked.commit_lsn < commit_lsn;
        if let Link::Active(stream) = &mut peer.link
            && untold
            && stream.told_commit_lsn < commit_lsn
        {
            stream.notice_by(notice_at);
        }
        self.finish_if_in_sync(now);
        self.plan_fetches(now);
    }

    /// The truncate LSN lets the next sync end after the votes, so all safekeepers
    /// must have it, listed or members.
    fn raise_truncate_lsn(&mut self, term_start_lsn: Lsn) {
        if self.commit_lsn < term_start_lsn {
            return;
        }
        let listed = self.peers.iter().map(|peer| peer.acked.flush_lsn).min();
        let flushed = |voter| {
            self.peer_of(voter)
                .map_or(Lsn::INVALID, |peer| peer.acked.flush_lsn)
        };
        let members = self.electorate.voters().map(flushed).min();
        let everywhere = listed.min(members).unwrap_or_default();
        self.truncate_lsn = self.truncate_lsn.max(everywhere.min(self.commit_lsn));
    }

    /// Forgets WAL that all have flushed.
    fn forget_confirmed(&mut self) {
        let flushed = self.peers.iter().map(|peer| peer.acked.flush_lsn);
        let everywhere = flushed.min().unwrap_or_default();
        self.window.forget_until(everywhere);
    }

    /// Ends a sync once a majority has persisted the commit of the term's start, and
    /// so have all who seem alive, or their time is up.
    pub(super) fn finish_if_in_sync(&mut self, now: Instant) {
        let (Mode::Sync, Phase::Leading(leader)) = (self.config.mode, &self.phase) else {
            return;
        };
        let (term, start) = (leader.term, leader.term_start_lsn);
        let persisted = self.electorate.reached(|voter| {
            let peer = self.peer_of(voter);
            peer.map_or(Lsn::INVALID, |peer| peer.acked.commit_lsn)
        });
        if self.commit_lsn < start || persisted < start {
            return;
        }
        let straggles = |peer: &Peer| {
            !matches!(peer.link, Link::Offline { .. }) && peer.acked.commit_lsn < start
        };
        let waits = self.peers.iter().any(straggles);
        let Phase::Leading(leader) = &mut self.phase else {
            return;
        };
        let since = *leader.in_sync_since.get_or_insert(now);
        if waits && now < since + self.config.timing.straggler_grace {
            return;
        }
        self.say_goodbye(now);
        self.finish(Ok(Synced {
            commit_lsn: start,
            term,
            by_votes_alone: false,
        }));
    }

    /// A last message to all who stream: it carries the truncate LSN, which saves
    /// the next sync all but the votes.
    fn say_goodbye(&mut self, now: Instant) {
        for slot in self.slots() {
            if let Some(stream) = self.peers[slot.0].stream_mut() {
                stream.notice_by(now);
                // WAL that is still on its way to a straggler is not waited for.
                stream.fetched.clear();
                stream.fetched_size = 0;
            }
            if let Some(message) = self.next_append(now, slot) {
                self.peers[slot.0].outbox.push_back(message);
            }
        }
    }
}

/// WAL that is not in memory.
impl Proposer {
    /// Starts reading WAL for each safekeeper that is behind what is in memory.
    pub(super) fn plan_fetches(&mut self, now: Instant) {
        for slot in self.slots() {
            self.plan_fetch(now, slot);
        }
    }

    fn plan_fetch(&mut self, now: Instant, slot: Slot) {
        let window_start = self.window.start();
        let Some(stream) = self.peers.get(slot.0).and_then(Peer::stream) else {
            return;
        };
        let from = stream.fetched_end();
        let idle = match stream.fetch {
            Fetch::Idle { retry_at } => retry_at.is_none_or(|at| at <= now),
            Fetch::Running { .. } => false,
        };
        if !idle || from >= window_start {
            return;
        }
        let attempts = stream.failed_fetches;
        let mut candidates = self.candidates(slot, from);
        if candidates.is_empty() {
            return;
        }
        // A place that has failed is not the first to be tried again.
        let candidate = candidates.swap_remove(attempts % candidates.len());
        let until = candidate.end.min(window_start);
        if let Some(stream) = self.peers[slot.0].stream_mut() {
            stream.fetch = Fetch::Running { until };
        }
        self.outputs.push_back(Output::Fetch {
            slot,
            from,
            until,
            source: candidate.source,
        });
    }

    /// Where WAL from `from` on can be read, the best place first.
    fn candidates(&self, slot: Slot, from: Lsn) -> Vec<Candidate> {
        let Phase::Leading(leader) = &self.phase else {
            return Vec::new();
        };
        let others = self.slots().filter(|other| *other != slot);
        let mut candidates: Vec<Candidate> = others
            .map(|other| Candidate {
                source: Source::Donor {
                    endpoint: self.peers[other.0].endpoint.clone(),
                    term: leader.term,
                },
                end: self.donates_until(leader, other),
            })
            .filter(|candidate| candidate.end > from)
            .collect();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.end));
        if let Mode::Stream { start_lsn } = self.config.mode
            && from >= start_lsn
        {
            candidates.push(Candidate {
                source: Source::Local,
                end: self.window.start(),
            });
        }
        candidates
    }

    /// Up to where a safekeeper surely has this term's log: what it has confirmed
    /// since it was told of the election, or what it voted with if its log became
    /// the log. One that merely voted may hold WAL of another history.
    fn donates_until(&self, leader: &Leader, slot: Slot) -> Lsn {
        let peer = &self.peers[slot.0];
        let voted = slot == leader.donor && peer.granted_term == Some(leader.term);
        match &peer.link {
            Link::Active(_) | Link::Voted(_) if voted => {
                peer.acked.flush_lsn.max(leader.term_start_lsn)
            }
            Link::Active(_) => peer.acked.flush_lsn,
            _ => Lsn::INVALID,
        }
    }

    pub(super) fn take_fetched(
        &mut self,
        now: Instant,
        slot: Slot,
        start_lsn: Lsn,
        mut wal: Bytes,
    ) {
        let Some(stream) = self.peers.get_mut(slot.0).and_then(Peer::stream_mut) else {
            return;
        };
        let Fetch::Running { until } = stream.fetch else {
            return;
        };
        if start_lsn != stream.fetched_end() {
            let message = format!(
                "WAL at {start_lsn} does not follow {}",
                stream.fetched_end()
            );
            self.outputs.push_back(Output::StopFetch(slot));
            self.fail_fetch(now, slot, &message);
            return;
        }
        let room = until.bytes_since(start_lsn) as usize;
        wal.truncate(room);
        stream.add_fetched(wal);
        if stream.fetched_end() >= until {
            stream.fetch = Fetch::Idle { retry_at: None };
            stream.failed_fetches = 0;
            self.outputs.push_back(Output::StopFetch(slot));
            self.plan_fetches(now);
        }
    }

    pub(super) fn fail_fetch(&mut self, now: Instant, slot: Slot, message: &str) {
        let wait = self.config.timing.reconnect_first;
        let Some(peer) = self.peers.get_mut(slot.0) else {
            return;
        };
        peer.last_loss = Some(Loss::new(
            LossKind::Unreachable,
            format!("WAL for it cannot be read: {message}"),
        ));
        if let Some(stream) = peer.stream_mut() {
            stream.failed_fetches += 1;
            let backoff = wait * stream.failed_fetches.min(20) as u32;
            stream.fetch = Fetch::Idle {
                retry_at: Some(now + backoff),
            };
        }
    }
}
