//! What is due when, and what happens then.

use std::time::Instant;

use super::loss::{Loss, LossKind};
use super::peer::{Link, Peer};
use super::{Mode, Phase, Proposer, Slot};

impl Proposer {
    /// When to hand in [`Input::Deadline`](super::Input::Deadline), and to ask for
    /// messages again. `None` while only a connection's room is waited for, and when
    /// nothing is left to do.
    pub fn deadline(&self) -> Option<Instant> {
        let of_phase = match &self.phase {
            Phase::Finished => return None,
            Phase::Pausing { until } => return Some(*until),
            Phase::Leading(leader) => leader
                .in_sync_since
                .map(|since| since + self.config.timing.straggler_grace),
            Phase::Collecting | Phase::Campaign { .. } => None,
        };
        let of_peers = self
            .peers
            .iter()
            .filter_map(|peer| self.peer_deadline(peer));
        of_peers.chain(of_phase).min()
    }

    fn peer_deadline(&self, peer: &Peer) -> Option<Instant> {
        let timing = &self.config.timing;
        let silence = peer.silent_since.map(|since| since + timing.silence_limit);
        let of_link = match &peer.link {
            Link::Offline { retry_at } => Some(*retry_at),
            Link::Active(stream) => stream.deadline(timing),
            Link::Greeted | Link::Voted(_) => Some(peer.heard_at + timing.ask_again),
            Link::Connecting | Link::AwaitingVote => None,
        };
        silence.into_iter().chain(of_link).min()
    }

    /// Does what is due; heartbeats then come out of
    /// [`poll_message`](Self::poll_message).
    pub(super) fn expire(&mut self, now: Instant) {
        if let Phase::Pausing { until } = self.phase {
            if until > now {
                return;
            }
            self.collect(now);
        }
        self.drop_silent(now);
        self.ask_again(now);
        self.connect_due(now);
        self.expire_streams(now);
        if matches!(self.config.mode, Mode::Sync) {
            self.finish_if_in_sync(now);
        }
    }

    fn drop_silent(&mut self, now: Instant) {
        let limit = self.config.timing.silence_limit;
        for slot in self.slots() {
            let since = self.peers[slot.0].silent_since;
            if since.is_some_and(|since| since + limit <= now) {
                let text = format!("did not answer for {limit:?}");
                self.drop_peer(now, slot, Loss::new(LossKind::Silent, text));
            }
        }
    }

    /// Greets safekeepers anew that wait for an election. Nobody tells when a
    /// membership changes, and the one they named may need somebody who is gone.
    fn ask_again(&mut self, now: Instant) {
        let wait = self.config.timing.ask_again;
        for slot in self.slots() {
            let peer = &self.peers[slot.0];
            if peer.waits_for_election() && peer.heard_at + wait <= now {
                self.greet_again(now, slot);
            }
        }
    }

    /// Connects to whom it is time to connect to.
    pub(super) fn connect_due(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Finished | Phase::Pausing { .. }) {
            return;
        }
        let due = |slot: &Slot| match self.peers[slot.0].link {
            Link::Offline { retry_at } => retry_at <= now,
            _ => false,
        };
        let due: Vec<Slot> = self.slots().filter(due).collect();
        for slot in due {
            self.connect(now, slot);
        }
    }

    fn expire_streams(&mut self, now: Instant) {
        let timing = self.config.timing;
        for stream in self.peers.iter_mut().filter_map(Peer::stream_mut) {
            stream.expire(now, &timing);
        }
        self.plan_fetches(now);
    }
}
