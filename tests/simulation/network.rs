//! Connections between computes and safekeepers: streams in order, which end
//! without either side knowing when.

use std::collections::{BTreeMap, VecDeque};

use glowplug::safekeeper::proposer::Slot;
use glowplug::wire::safekeeper::{AcceptorMessage, ProposerMessage};

/// What travels in one direction: messages, and behind them the sender's end.
#[derive(Debug)]
pub(crate) enum Parcel<M> {
    Message(M),
    End,
}

/// A connection. Each side believes in it until it learns otherwise.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: Ends,
    /// The compute still listens.
    pub(crate) compute_open: bool,
    /// The safekeeper still listens.
    pub(crate) node_open: bool,
    to_node: VecDeque<Parcel<ProposerMessage>>,
    to_compute: VecDeque<Parcel<AcceptorMessage>>,
}

/// Whom a connection connects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) compute: usize,
    pub(crate) life: u64,
    pub(crate) slot: Slot,
    pub(crate) node: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Between these computes and safekeepers nothing passes until then.
    parted: BTreeMap<(usize, usize), u64>,
    /// What is on its way to the safekeeper on these connections waits until then.
    held: BTreeMap<u64, u64>,
}

impl Network {
    pub(crate) fn connect(&mut self, ends: Ends) -> u64 {
        self.next += 1;
        let connection = Connection {
            ends,
            compute_open: true,
            node_open: true,
            to_node: VecDeque::new(),
            to_compute: VecDeque::new(),
        };
        self.connections.insert(self.next, connection);
        self.next
    }

    /// Whom a connection connects, if the safekeeper listens.
    pub(crate) fn at_node(&self, id: u64) -> Option<Ends> {
        let connection = self.connections.get(&id)?;
        connection.node_open.then_some(connection.ends)
    }

    /// Whom a connection connects, if the compute listens.
    pub(crate) fn at_compute(&self, id: u64) -> Option<Ends> {
        let connection = self.connections.get(&id)?;
        connection.compute_open.then_some(connection.ends)
    }

    /// Sends towards the safekeeper.
    pub(crate) fn push_to_node(&mut self, id: u64, parcel: Parcel<ProposerMessage>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.to_node.push_back(parcel);
        }
    }

    /// Sends towards the compute.
    pub(crate) fn push_to_compute(&mut self, id: u64, parcel: Parcel<AcceptorMessage>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.to_compute.push_back(parcel);
        }
    }

    /// What arrives at the safekeeper next.
    pub(crate) fn receive_at_node(&mut self, id: u64) -> Option<Parcel<ProposerMessage>> {
        self.connections.get_mut(&id)?.to_node.pop_front()
    }

    /// What arrives at the compute next.
    pub(crate) fn receive_at_compute(&mut self, id: u64) -> Option<Parcel<AcceptorMessage>> {
        self.connections.get_mut(&id)?.to_compute.pop_front()
    }

    /// The compute does not listen any more.
    pub(crate) fn close_compute(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.compute_open = false;
        }
        self.forget_if_closed(id);
    }

    /// The safekeeper does not listen any more.
    pub(crate) fn close_node(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.node_open = false;
        }
        self.forget_if_closed(id);
    }

    fn forget_if_closed(&mut self, id: u64) {
        let closed = |c: &Connection| !c.compute_open && !c.node_open;
        if self.connections.get(&id).is_some_and(closed) {
            self.connections.remove(&id);
            self.held.remove(&id);
        }
    }

    /// Connections that a side still believes in.
    pub(crate) fn ids(&self, of: impl Fn(&Connection) -> bool) -> Vec<u64> {
        let found = self.connections.iter().filter(|(_, c)| of(c));
        found.map(|(id, _)| *id).collect()
    }

    pub(crate) fn part(&mut self, compute: usize, node: usize, until: u64) {
        self.parted.insert((compute, node), until);
    }

    /// Holds up what is on its way to the safekeeper.
    pub(crate) fn hold(&mut self, id: u64, until: u64) {
        self.held.insert(id, until);
    }

    pub(crate) fn unite(&mut self) {
        self.parted.clear();
        self.held.clear();
    }

    /// Until when nothing arrives at the safekeeper on this connection.
    pub(crate) fn held_until(&self, id: u64, ends: Ends, now: u64) -> Option<u64> {
        let held = self.held.get(&id).copied().filter(|until| *until > now);
        held.max(self.parted_until(ends, now))
    }

    /// Until when nothing passes between the two.
    pub(crate) fn parted_until(&self, ends: Ends, now: u64) -> Option<u64> {
        let until = self.parted.get(&(ends.compute, ends.node)).copied();
        until.filter(|until| *until > now)
    }
}
