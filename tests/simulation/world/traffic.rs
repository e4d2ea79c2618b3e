//! Messages on their way, and what safekeepers do with them.

use bytes::{Bytes, BytesMut};
use glowplug::lsn::Lsn;
use glowplug::safekeeper::proposer::{Input, Loss, LossKind, Slot, Source};
use glowplug::wire::safekeeper::{AcceptorMessage, ProposerMessage};

use super::{Event, World, node_of};
use crate::network::{Ends, Parcel};
use crate::oracle::Verdict;

impl World {
    pub(super) fn delay(&mut self) -> u64 {
        if self.faulty && self.random.one_in(40) {
            self.random.within(1000..30_000)
        } else {
            self.random.within(30..600)
        }
    }

    pub(super) fn send_to_node(&mut self, id: u64, mut message: ProposerMessage) -> Verdict {
        if let ProposerMessage::Elected(elected) = &message {
            self.oracle.told(elected.term, &elected.term_history)?;
        }
        if let Some(ends) = self.network.at_compute(id) {
            self.note_sent(ends, &mut message);
        }
        if let Some(version) = self.version {
            let mut body = BytesMut::new();
            message.encode(version, &mut body);
            message = ProposerMessage::decode(version, body.freeze()).unwrap();
        }
        self.network.push_to_node(id, Parcel::Message(message));
        let delay = self.delay();
        self.after(delay, Event::AtNode(id));
        Ok(())
    }

    fn send_to_compute(&mut self, id: u64, mut message: AcceptorMessage) {
        if let Some(version) = self.version {
            let mut body = BytesMut::new();
            message.encode(version, &mut body);
            message = AcceptorMessage::decode(version, body.freeze()).unwrap();
        }
        self.network.push_to_compute(id, Parcel::Message(message));
        let delay = self.delay();
        self.after(delay, Event::AtCompute(id));
    }

    pub(super) fn arrive_at_node(&mut self, id: u64) {
        let Some(ends) = self.network.at_node(id) else {
            return;
        };
        if let Some(until) = self.network.held_until(id, ends, self.now) {
            return self.at(until, Event::AtNode(id));
        }
        if self.is_late(id, ends) {
            self.statistics.count("late message");
        }
        let node = ends.node;
        let message = match self.network.receive_at_node(id) {
            Some(Parcel::Message(message)) => message,
            Some(Parcel::End) => return self.network.close_node(id),
            None => return,
        };
        self.trace(|| format!("safekeeper {} on {id}: {message:?}", node + 1));
        if self.nodes[node].acceptor.is_none() {
            return self.refuse(id);
        }
        let is_append = matches!(message, ProposerMessage::AppendRequest(_));
        let (replies, lives) = self.nodes[node].handle(message, &mut self.statistics);
        for reply in replies {
            self.send_to_compute(id, reply);
        }
        if !lives {
            return self.refuse(id);
        }
        if is_append {
            if self.nodes[node].unanswered.is_empty() {
                let delay = if self.random.one_in(30) {
                    self.random.within(1000..40_000)
                } else {
                    self.random.within(20..1500)
                };
                self.after(delay, Event::Sync(node));
            }
            self.nodes[node].unanswered.insert(id);
        }
    }

    pub(super) fn sync(&mut self, node: usize) {
        let waiting = std::mem::take(&mut self.nodes[node].unanswered);
        if let Some(response) = self.nodes[node].sync(&mut self.statistics) {
            for id in waiting {
                self.send_to_compute(id, response.clone());
            }
        }
    }

    /// Whether the compute has given up this connection, or is gone.
    fn is_late(&self, id: u64, ends: Ends) -> bool {
        let compute = self.computes[ends.compute].as_ref();
        let compute = compute.filter(|compute| compute.life == ends.life);
        compute.and_then(|compute| compute.connections.get(&ends.slot)) != Some(&id)
    }

    /// The safekeeper ends a connection; the compute learns it behind what was sent.
    fn refuse(&mut self, id: u64) {
        self.network.push_to_compute(id, Parcel::End);
        self.network.close_node(id);
        let delay = self.delay();
        self.after(delay, Event::AtCompute(id));
    }

    /// The compute ends a connection; the safekeeper learns it behind what was sent.
    pub(super) fn hang_up(&mut self, id: u64) {
        self.network.push_to_node(id, Parcel::End);
        self.network.close_compute(id);
        let delay = self.delay();
        self.after(delay, Event::AtNode(id));
    }

    pub(super) fn arrive_at_compute(&mut self, id: u64) -> Verdict {
        let Some(ends) = self.network.at_compute(id) else {
            return Ok(());
        };
        if let Some(until) = self.network.parted_until(ends, self.now) {
            self.at(until, Event::AtCompute(id));
            return Ok(());
        }
        match self.network.receive_at_compute(id) {
            Some(Parcel::Message(message)) => {
                self.trace(|| format!("proposer {} on {id}: {message:?}", ends.life));
                for (slot, message) in self.hear(ends, message) {
                    self.input(ends.compute, ends.life, Input::Received(slot, message))?;
                }
                Ok(())
            }
            Some(Parcel::End) => self.end_at_compute(id),
            None => Ok(()),
        }
    }

    pub(super) fn end_at_compute(&mut self, id: u64) -> Verdict {
        let Some(ends) = self.network.at_compute(id) else {
            return Ok(());
        };
        self.network.close_compute(id);
        if let Some(compute) = self.compute(ends.compute, ends.life) {
            compute.connections.remove(&ends.slot);
        }
        let loss = Loss::new(LossKind::Unreachable, "the connection has ended");
        self.input(ends.compute, ends.life, Input::Lost(ends.slot, loss))
    }

    /// WAL is read back for a safekeeper that lags, piece by piece.
    pub(super) fn fetch(&mut self, index: usize, life: u64, slot: Slot) -> Verdict {
        let size = self.random.within(1..4000);
        let fails = self.faulty && self.random.one_in(20);
        let delay = self.delay();
        let now = self.now;
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        let Some(fetch) = compute.fetches.get(&slot).cloned() else {
            return Ok(());
        };
        if !compute.proposer.wants_fetched(slot) {
            self.after(delay + 1000, Event::Fetch(index, life, slot));
            return Ok(());
        }
        let start_lsn = fetch.position;
        let end = fetch.until.min(Lsn(start_lsn.0 + size));
        let wal = match &fetch.source {
            Source::Local => {
                let log = compute.log.as_ref().filter(|log| log.end() >= end);
                log.map(|log| log.read(start_lsn, end).to_vec())
            }
            Source::Donor { endpoint, term } => {
                let node = node_of(endpoint);
                let ends = Ends {
                    compute: index,
                    life,
                    slot,
                    node,
                };
                let parted = self.network.parted_until(ends, now).is_some();
                let wal = self.nodes[node].read(start_lsn, end, *term);
                wal.filter(|_| !parted)
            }
        };
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        let input = if let Some(wal) = wal.filter(|_| !fails) {
            if let Some(fetch) = compute.fetches.get_mut(&slot) {
                fetch.position = end;
            }
            self.after(delay, Event::Fetch(index, life, slot));
            let wal = Bytes::from(wal);
            Input::Fetched {
                slot,
                start_lsn,
                wal,
            }
        } else {
            compute.fetches.remove(&slot);
            let message = "it is not there".to_owned();
            Input::FetchFailed { slot, message }
        };
        self.input(index, life, input)
    }
}
