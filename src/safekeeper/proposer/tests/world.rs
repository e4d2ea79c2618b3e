//! A proposer among safekeepers, without a network: messages arrive at once, time
//! passes only when nothing is left to be done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::acceptor::Acceptor;
use crate::lsn::Lsn;
use crate::safekeeper::proposer::{
    Endpoints, Failure, Input, Loss, LossKind, Mode, Output, PeerState, Proposer, ProposerConfig,
    Slot, Source, Synced, Timing,
};
use crate::wire::safekeeper::{ProposerGreeting, ProposerMessage};

/// How a safekeeper behaves on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Network {
    Up,
    /// Connections are refused, and open ones broken.
    Down,
    /// Connections are accepted, and nothing ever answers.
    Silent,
    /// Says this, and closes.
    Refuses(LossKind),
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) started: Instant,
    pub(super) proposer: Proposer,
    pub(super) acceptors: Vec<Acceptor>,
    pub(super) network: Vec<Network>,
    /// Open connections: which safekeeper is at the other end.
    links: BTreeMap<Slot, usize>,
    fetches: BTreeMap<Slot, (Lsn, Lsn, Source)>,
    /// The log of the local postgres: its first position and its bytes.
    pub(super) local: Option<(Lsn, Vec<u8>)>,
    /// Messages to this safekeeper are held back.
    pub(super) held: Option<Slot>,
    pub(super) outputs: Vec<Output>,
    pub(super) finished: Option<Result<Synced, Failure>>,
}

pub(super) fn config(mode: Mode) -> ProposerConfig {
    ProposerConfig {
        tenant_id: "9e4c8f36063c6c6e93bc20d65a820f3d".parse().unwrap(),
        timeline_id: "112ded66422aa5e953e5440fa5427ac4".parse().unwrap(),
        pg_version: 150_018,
        system_id: 0,
        mode,
        timing: match mode {
            Mode::Sync => Timing::SYNC,
            Mode::Stream { .. } => Timing::STREAM,
        },
        window_limit: 4096,
    }
}

pub(super) fn endpoints(count: usize, generation: Option<u32>) -> Endpoints {
    Endpoints {
        endpoints: (1..=count).map(|n| format!("sk-{n}:5454")).collect(),
        generation,
    }
}

/// The place of the safekeeper that `endpoints` names so.
fn place(endpoint: &str) -> usize {
    endpoint[3..4].parse::<usize>().unwrap() - 1
}

impl World {
    pub(super) fn sync(acceptors: Vec<Acceptor>) -> Self {
        Self::new(Mode::Sync, acceptors, None)
    }

    pub(super) fn stream(start_lsn: u64, acceptors: Vec<Acceptor>) -> Self {
        let start_lsn = Lsn(start_lsn);
        let mut world = Self::new(Mode::Stream { start_lsn }, acceptors, None);
        world.local = Some((start_lsn, Vec::new()));
        world
    }

    pub(super) fn new(mode: Mode, acceptors: Vec<Acceptor>, generation: Option<u32>) -> Self {
        let now = Instant::now();
        let list = endpoints(acceptors.len(), generation);
        let proposer = Proposer::new(config(mode), list, now, 7).unwrap();
        Self {
            now,
            started: now,
            proposer,
            network: vec![Network::Up; acceptors.len()],
            links: BTreeMap::new(),
            acceptors,
            fetches: BTreeMap::new(),
            local: None,
            held: None,
            outputs: Vec::new(),
            finished: None,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.started
    }

    /// Lets everything happen that can without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("never comes to rest");
    }

    /// Lets everything happen until the proposer is done, or for this long.
    pub(super) fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            self.settle();
            match self.proposer.deadline() {
                Some(at) if self.finished.is_none() && at <= end => {
                    self.now = self.now.max(at);
                    self.proposer.handle(self.now, Input::Deadline);
                }
                _ => return,
            }
        }
    }

    /// Runs a sync to its end.
    pub(super) fn synced(&mut self) -> Synced {
        self.run(Duration::from_mins(1));
        self.finished.clone().expect("finished").expect("in sync")
    }

    pub(super) fn failure(&mut self) -> Failure {
        self.run(Duration::from_mins(1));
        self.finished
            .clone()
            .expect("finished")
            .expect_err("failed")
    }

    /// The local postgres writes.
    pub(super) fn write(&mut self, wal: &[u8]) {
        self.local.as_mut().unwrap().1.extend_from_slice(wal);
        self.settle();
    }

    pub(super) fn break_connection(&mut self, index: usize) {
        let slot = self.links.iter().find(|(_, at)| **at == index);
        if let Some(slot) = slot.map(|(slot, _)| *slot) {
            self.links.remove(&slot);
            let loss = Loss::new(LossKind::Unreachable, "connection reset");
            self.proposer.handle(self.now, Input::Lost(slot, loss));
        }
    }

    pub(super) fn take_down(&mut self, index: usize) {
        self.network[index] = Network::Down;
        self.break_connection(index);
    }

    pub(super) fn state(&self, index: usize) -> PeerState {
        self.proposer.peers().nth(index).unwrap().state
    }

    fn step(&mut self) -> bool {
        if let Some(output) = self.proposer.poll_output() {
            self.outputs.push(output.clone());
            self.perform(output);
            return true;
        }
        let free = |slot: &&Slot| self.held != Some(**slot);
        let slots: Vec<Slot> = self.links.keys().filter(free).copied().collect();
        for slot in slots {
            if let Some(message) = self.proposer.poll_message(self.now, slot) {
                self.deliver(slot, message);
                return true;
            }
        }
        self.feed_fetch() || self.feed_local()
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect {
                slot,
                endpoint,
                greeting,
                ..
            } => self.connect(slot, place(&endpoint), *greeting),
            Output::Disconnect(slot) => {
                self.links.remove(&slot);
            }
            Output::Fetch {
                slot,
                from,
                until,
                source,
            } => {
                self.fetches.insert(slot, (from, until, source));
            }
            Output::StopFetch(slot) => {
                self.fetches.remove(&slot);
            }
            Output::Elected { .. } => {}
            Output::Finished(result) => self.finished = Some(result),
        }
    }

    fn connect(&mut self, slot: Slot, index: usize, greeting: ProposerGreeting) {
        let loss = match self.network[index] {
            Network::Up | Network::Silent => {
                self.links.insert(slot, index);
                self.deliver(slot, ProposerMessage::Greeting(greeting));
                return;
            }
            Network::Down => Loss::new(LossKind::Unreachable, "connection refused"),
            Network::Refuses(kind) => Loss::new(kind, format!("{kind:?}")),
        };
        self.proposer.handle(self.now, Input::Lost(slot, loss));
    }

    fn deliver(&mut self, slot: Slot, message: ProposerMessage) {
        let index = self.links[&slot];
        if self.network[index] == Network::Silent {
            return;
        }
        match self.acceptors[index].handle(message) {
            Ok(replies) => {
                for reply in replies {
                    if self.links.contains_key(&slot) {
                        let input = Input::Received(slot, reply);
                        self.proposer.handle(self.now, input);
                        self.drain();
                    }
                }
            }
            Err(message) => {
                self.links.remove(&slot);
                let loss = Loss::new(LossKind::Refused, message);
                self.proposer.handle(self.now, Input::Lost(slot, loss));
            }
        }
    }

    /// Carries out disconnects before the next message is delivered.
    fn drain(&mut self) {
        while let Some(output) = self.proposer.poll_output() {
            self.outputs.push(output.clone());
            self.perform(output);
        }
    }

    fn feed_fetch(&mut self) -> bool {
        let Some((&slot, (from, until, source))) = self
            .fetches
            .iter()
            .find(|(slot, _)| self.proposer.wants_fetched(**slot))
        else {
            return false;
        };
        let end = Lsn(until.0.min(from.0 + 1000));
        let wal = match source {
            Source::Local => {
                let (start, log) = self.local.as_ref().unwrap();
                log[from.bytes_since(*start) as usize..end.bytes_since(*start) as usize].to_vec()
            }
            Source::Donor { endpoint, term } => {
                let index = place(endpoint);
                let donor = &self.acceptors[index];
                if self.network[index] != Network::Up || donor.term != *term {
                    let message = "failed to acquire term".to_owned();
                    self.fetches.remove(&slot);
                    let input = Input::FetchFailed { slot, message };
                    self.proposer.handle(self.now, input);
                    return true;
                }
                donor.read(*from, end).to_vec()
            }
        };
        let start_lsn = *from;
        let (until, source) = (*until, source.clone());
        self.fetches.insert(slot, (end, until, source));
        let wal = Bytes::from(wal);
        let input = Input::Fetched {
            slot,
            start_lsn,
            wal,
        };
        self.proposer.handle(self.now, input);
        true
    }

    fn feed_local(&mut self) -> bool {
        let Some((start, log)) = &self.local else {
            return false;
        };
        if !self.proposer.wants_wal() {
            return false;
        }
        let at = self.proposer.wal_position();
        let wal = log
            .get(at.bytes_since(*start) as usize..)
            .unwrap_or_default();
        if wal.is_empty() {
            return false;
        }
        let wal = Bytes::copy_from_slice(&wal[..wal.len().min(700)]);
        let input = Input::Wal { start_lsn: at, wal };
        self.proposer.handle(self.now, input);
        true
    }
}
