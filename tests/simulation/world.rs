//! Everything that happens, in one order that follows from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug::lsn::Lsn;
use glowplug::safekeeper::proposer::{Failure, Input, Loss, LossKind, Output, Slot, Source};
use glowplug::storage::acceptor::Acceptor;
use glowplug::wire::safekeeper::{AcceptorMessage, ProposerMessage};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::compute::{Compute, Fetch};
use super::node::Node;
use super::wal::Log;

const START: Lsn = Lsn(0x00FF_8000 + 0x100);
const COMPUTES: usize = 2;

type Life = (usize, u64);

#[derive(Debug)]
enum Event {
    ToNode(u64, ProposerMessage),
    ToCompute(u64, AcceptorMessage),
    /// The compute learns that a connection is gone.
    Broken(u64),
    Answer(usize),
    Tick(Life),
    /// A connection that had no room has some.
    Room(Life),
    FetchNext(Life, Slot),
    Write(Life),
    StartCompute(usize),
    StartNode(usize),
    Fault,
}

struct Connection {
    compute: Life,
    slot: Slot,
    node: usize,
    open: bool,
    /// Messages of one direction do not overtake each other.
    last: [u64; 2],
}

pub(crate) struct World {
    random: StdRng,
    epoch: Instant,
    /// Microseconds.
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    nodes: Vec<Node>,
    computes: Vec<Option<Compute>>,
    lives: u64,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    faults: bool,
    writes: bool,
    /// Everything that was ever acknowledged, from the start of the timeline on.
    pub(crate) committed: Vec<u8>,
    pub(crate) statistics: BTreeMap<&'static str, usize>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            epoch: Instant::now(),
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            nodes: (1..=nodes as u64).map(|id| Node::new(id, START)).collect(),
            computes: (0..COMPUTES).map(|_| None).collect(),
            lives: 0,
            connections: BTreeMap::new(),
            next_connection: 0,
            faults: true,
            writes: true,
            committed: Vec::new(),
            statistics: BTreeMap::new(),
        };
        for index in 0..COMPUTES {
            world.after(index as u64 * 3_000_000, Event::StartCompute(index));
        }
        world.after(100_000, Event::Fault);
        world
    }

    /// Runs for this long.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration.as_micros() as u64;
        while let Some(Reverse((time, sequence))) = self.queue.peek().copied() {
            if time > end {
                break;
            }
            self.queue.pop();
            self.now = time;
            let event = self.events.remove(&sequence).unwrap();
            self.happen(event);
        }
        self.now = end;
    }

    /// No faults any more, all nodes up, and one compute alone.
    pub(crate) fn heal(&mut self) {
        self.faults = false;
        for node in &mut self.nodes {
            if node.acceptor.is_none() {
                node.start();
            }
        }
        for index in 1..COMPUTES {
            self.kill(index);
        }
        if self.computes[0].is_none() {
            self.after(0, Event::StartCompute(0));
        }
    }

    /// Who is how far, for a failure.
    pub(crate) fn describe(&self) -> String {
        let computes = self.computes.iter().flatten().map(|compute| {
            let proposer = &compute.proposer;
            let peers: Vec<_> = proposer
                .peers()
                .map(|peer| format!("\n  {peer:?}"))
                .collect();
            format!(
                "compute {}: streams {}, term {:?}, commit {}, wal {}, log {}, fetches {:?}{}",
                compute.life,
                compute.streams,
                proposer.leading_term(),
                proposer.commit_lsn(),
                proposer.wal_position(),
                compute.log.end(),
                compute.fetches,
                peers.concat(),
            )
        });
        let up = self.nodes.iter().filter_map(|node| node.acceptor.as_ref());
        let nodes = up.map(|acceptor| {
            format!(
                "node {}: term {}, flush {}, write {}, commit {}, history {:?}",
                acceptor.node_id(),
                acceptor.term(),
                acceptor.flush_lsn(),
                acceptor.write_lsn(),
                acceptor.commit_lsn(),
                acceptor.log_history(),
            )
        });
        computes.chain(nodes).collect::<Vec<_>>().join("\n")
    }

    /// Nobody writes any more.
    pub(crate) fn rest(&mut self) {
        self.writes = false;
    }

    /// Whether all nodes hold what was acknowledged.
    pub(crate) fn everywhere(&self) -> bool {
        let end = Lsn(START.0 + self.committed.len() as u64);
        self.nodes.iter().all(|node| {
            let flushed = node.acceptor.as_ref().map(Acceptor::flush_lsn);
            flushed.is_some_and(|lsn| lsn >= end) && node.copy(START, end) == self.committed
        })
    }

    fn count(&mut self, what: &'static str) {
        *self.statistics.entry(what).or_default() += 1;
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_micros(self.now)
    }

    fn after(&mut self, micros: u64, event: Event) {
        self.at(self.now + micros, event);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((time, self.sequence)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToNode(connection, message) => self.arrive_at_node(connection, message),
            Event::ToCompute(connection, message) => self.arrive_at_compute(connection, message),
            Event::Broken(connection) => self.notice(connection),
            Event::Answer(node) => self.answer(node),
            Event::Tick(life) => {
                if let Some(compute) = self.compute(life) {
                    let due = compute.proposer.deadline();
                    let now = self.instant();
                    if due.is_some_and(|due| due <= now) {
                        self.input(life, Input::Deadline);
                    }
                }
            }
            Event::Room(life) => self.pump(life),
            Event::FetchNext(life, slot) => self.fetch(life, slot),
            Event::Write(life) => self.write(life),
            Event::StartCompute(index) => self.start_compute(index),
            Event::StartNode(node) => {
                if self.nodes[node].acceptor.is_none() {
                    self.nodes[node].start();
                }
            }
            Event::Fault => self.fault(),
        }
    }

    fn compute(&mut self, life: Life) -> Option<&mut Compute> {
        let compute = self.computes[life.0].as_mut();
        compute.filter(|compute| compute.life == life.1)
    }

    fn input(&mut self, life: Life, input: Input) {
        let now = self.instant();
        let Some(compute) = self.compute(life) else {
            return;
        };
        compute.proposer.handle(now, input);
        self.pump(life);
    }

    /// Carries out what the proposer wants, and sends what it has to say.
    fn pump(&mut self, life: Life) {
        let now = self.instant();
        while let Some(output) = self.compute(life).and_then(|c| c.proposer.poll_output()) {
            self.perform(life, output);
        }
        let Some(compute) = self.compute(life) else {
            return;
        };
        let connections: Vec<_> = compute.connections.iter().map(|(s, c)| (*s, *c)).collect();
        for (slot, connection) in connections {
            // Now and then a connection has no room, and is asked again later.
            if self.random.random_ratio(1, 10) {
                self.after(500, Event::Room(life));
                continue;
            }
            while let Some(message) = self
                .compute(life)
                .and_then(|compute| compute.proposer.poll_message(now, slot))
            {
                self.send(connection, 0, |connection| {
                    Event::ToNode(connection, message)
                });
            }
        }
        self.feed(life);
        self.acknowledge(life);
        self.end_of_life(life);
        if let Some(due) = self
            .compute(life)
            .and_then(|compute| compute.proposer.deadline())
        {
            let due = due.saturating_duration_since(self.epoch).as_micros() as u64 + 1;
            let due = due.max(self.now + 1);
            self.at(due, Event::Tick(life));
        }
    }

    fn perform(&mut self, life: Life, output: Output) {
        match output {
            Output::Connect {
                slot,
                endpoint,
                greeting,
                ..
            } => {
                let node = endpoint.trim_start_matches("node-").parse().unwrap();
                let id = self.next_connection;
                self.next_connection += 1;
                let connection = Connection {
                    compute: life,
                    slot,
                    node,
                    open: true,
                    last: [0; 2],
                };
                self.connections.insert(id, connection);
                self.compute(life).unwrap().connections.insert(slot, id);
                let greeting = ProposerMessage::Greeting(*greeting);
                self.send(id, 0, |id| Event::ToNode(id, greeting));
            }
            Output::Disconnect(slot) => {
                let id = self.compute(life).unwrap().connections.remove(&slot);
                if let Some(id) = id {
                    self.connections.remove(&id);
                }
            }
            Output::Fetch {
                slot,
                from,
                until,
                source,
            } => {
                self.count("fetch");
                let fetch = Fetch {
                    position: from,
                    until,
                    source,
                };
                self.compute(life).unwrap().fetches.insert(slot, fetch);
                self.after(500, Event::FetchNext(life, slot));
            }
            Output::StopFetch(slot) => {
                self.compute(life).unwrap().fetches.remove(&slot);
            }
            Output::Elected { .. } => self.count("elected"),
            Output::Finished(result) => self.compute(life).unwrap().finished = Some(result),
        }
    }

    fn send(&mut self, id: u64, direction: usize, event: impl FnOnce(u64) -> Event) {
        let delay = if self.random.random_ratio(1, 50) {
            self.random.random_range(1000..200_000)
        } else {
            self.random.random_range(50..1500)
        };
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let time = (now + delay).max(connection.last[direction]);
        connection.last[direction] = time;
        self.at(time, event(id));
    }

    fn arrive_at_node(&mut self, id: u64, message: ProposerMessage) {
        let Some(node) = self.connections.get(&id).filter(|c| c.open).map(|c| c.node) else {
            return;
        };
        let is_append = matches!(message, ProposerMessage::AppendRequest(_));
        let (replies, lives) = self.nodes[node].handle(message);
        let answered = !replies.is_empty();
        for reply in replies {
            self.send(id, 1, |id| Event::ToCompute(id, reply));
        }
        if !lives {
            self.count("not accepted");
            self.break_connection(id);
        } else if is_append && !answered {
            self.nodes[node].unanswered.push(id);
            let delay = self.random.random_range(0..3000);
            self.after(delay, Event::Answer(node));
        }
    }

    fn answer(&mut self, node: usize) {
        let waiting = std::mem::take(&mut self.nodes[node].unanswered);
        if waiting.is_empty() {
            return;
        }
        let Some(response) = self.nodes[node].answer() else {
            return;
        };
        for id in waiting {
            let response = response.clone();
            if self.connections.get(&id).is_some_and(|c| c.open) {
                self.send(id, 1, |id| Event::ToCompute(id, response));
            }
        }
    }

    fn arrive_at_compute(&mut self, id: u64, message: AcceptorMessage) {
        // Answers that were on their way when a connection broke may still arrive.
        if let Some(connection) = self.connections.get(&id) {
            let (life, slot) = (connection.compute, connection.slot);
            self.input(life, Input::Received(slot, message));
        }
    }

    /// From now on nothing gets through; the compute notices later.
    fn break_connection(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.open
        {
            connection.open = false;
            self.send(id, 1, Event::Broken);
        }
    }

    fn notice(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        let (life, slot) = (connection.compute, connection.slot);
        if let Some(compute) = self.compute(life)
            && compute.connections.get(&slot) == Some(&id)
        {
            compute.connections.remove(&slot);
            let loss = Loss::new(LossKind::Unreachable, "broken");
            self.input(life, Input::Lost(slot, loss));
        }
    }

    fn fetch(&mut self, life: Life, slot: Slot) {
        let size = self.random.random_range(1..9000);
        let fails = self.faults && self.random.random_ratio(1, 20);
        let Some(compute) = self.compute(life) else {
            return;
        };
        let Some(fetch) = compute.fetches.get_mut(&slot) else {
            return;
        };
        if !compute.proposer.wants_fetched(slot) {
            self.after(1000, Event::FetchNext(life, slot));
            return;
        }
        let from = fetch.position;
        let end = Lsn(fetch.until.0.min(from.0 + size));
        let wal = match fetch.source.clone() {
            Source::Local if end <= compute.log.end() => Some(compute.log.read(from, end).to_vec()),
            Source::Local => None,
            Source::Donor { endpoint, term } => {
                let node: usize = endpoint.trim_start_matches("node-").parse().unwrap();
                self.nodes[node].read(from, end, term)
            }
        };
        let compute = self.compute(life).unwrap();
        let input = if let Some(wal) = wal.filter(|_| !fails) {
            compute.fetches.get_mut(&slot).unwrap().position = end;
            self.after(200, Event::FetchNext(life, slot));
            Input::Fetched {
                slot,
                start_lsn: from,
                wal: Bytes::from(wal),
            }
        } else {
            compute.fetches.remove(&slot);
            let message = "not there".to_owned();
            Input::FetchFailed { slot, message }
        };
        self.input(life, input);
    }

    /// The relay reads the log of its postgres, in pieces that end anywhere.
    fn feed(&mut self, life: Life) {
        loop {
            let size = self.random.random_range(1..5000);
            let now = self.instant();
            let Some(compute) = self.compute(life).filter(|compute| compute.streams) else {
                return;
            };
            if !compute.proposer.wants_wal() {
                return;
            }
            let from = compute.proposer.wal_position();
            let end = Lsn(compute.log.end().0.min(from.0 + size));
            if end <= from {
                return;
            }
            let wal = Bytes::copy_from_slice(compute.log.read(from, end));
            let input = Input::Wal {
                start_lsn: from,
                wal,
            };
            compute.proposer.handle(now, input);
            // What it has to say is sent when the next thing happens, or right now.
            let slots: Vec<_> = self
                .compute(life)
                .unwrap()
                .connections
                .clone()
                .into_iter()
                .collect();
            for (slot, connection) in slots {
                while let Some(message) = self
                    .compute(life)
                    .and_then(|compute| compute.proposer.poll_message(now, slot))
                {
                    self.send(connection, 0, |id| Event::ToNode(id, message));
                }
            }
        }
    }

    fn write(&mut self, life: Life) {
        let size = if self.random.random_ratio(1, 20) {
            self.random.random_range(5000..60_000)
        } else {
            self.random.random_range(8..600)
        };
        let delay = self.random.random_range(500..20_000);
        let writes = self.writes;
        let Some(compute) = self.compute(life) else {
            return;
        };
        if !writes {
            return;
        }
        // Commits wait for their turn: only so much is ever unacknowledged.
        if compute.log.end().bytes_since(compute.acknowledged_lsn) < 200_000 {
            compute.log.append(life.1, size);
        }
        self.after(delay, Event::Write(life));
        self.pump(life);
    }

    /// What the compute may acknowledge now must continue everything acknowledged
    /// before, by whomever.
    fn acknowledge(&mut self, life: Life) {
        let Some(compute) = self.compute(life).filter(|compute| compute.streams) else {
            return;
        };
        let commit_lsn = compute.proposer.commit_lsn().min(compute.log.end());
        if commit_lsn <= compute.acknowledged_lsn {
            return;
        }
        compute.acknowledged_lsn = commit_lsn;
        let from = compute.compared_lsn;
        compute.compared_lsn = commit_lsn;
        let acknowledged = compute.log.read(from, commit_lsn).to_vec();
        let before = &self.committed[from.bytes_since(START) as usize..];
        // An answer that was long on its way may tell an older compute of a commit
        // that a newer one has built on.
        let common = acknowledged.len().min(before.len());
        assert_eq!(
            acknowledged[..common],
            before[..common],
            "two computes acknowledged different WAL"
        );
        self.committed.extend_from_slice(&acknowledged[common..]);
        self.count("acknowledged");
    }

    fn start_compute(&mut self, index: usize) {
        if self.computes[index].is_some() || (index > 0 && !self.faults) {
            return;
        }
        self.lives += 1;
        let life = (index, self.lives);
        let nodes = self.nodes.len();
        let mut compute = Compute::syncing(life.1, nodes, self.instant(), START);
        compute.acknowledged_before = Lsn(START.0 + self.committed.len() as u64);
        self.computes[index] = Some(compute);
        self.pump(life);
    }

    fn end_of_life(&mut self, life: Life) {
        let Some(compute) = self.compute(life) else {
            return;
        };
        let Some(result) = compute.finished.clone() else {
            return;
        };
        match result {
            Ok(synced) => {
                // A rival that is elected after this sync may have acknowledged more;
                // the stream that follows will find that out.
                let floor = compute.acknowledged_before;
                assert!(
                    synced.commit_lsn >= floor,
                    "a sync missed acknowledged WAL: {synced:?} is before {floor}\n{}",
                    self.describe()
                );
                self.count("synced");
                match self.basebackup(synced.commit_lsn) {
                    Some(log) => self.stream(life, log),
                    None => self.restart_later(life.0, 50_000),
                }
            }
            Err(failure) => {
                match failure {
                    Failure::NewerTerm { .. } => self.count("fenced"),
                    Failure::Diverged { .. } => self.count("diverged"),
                    Failure::Contended { .. } => self.count("contended"),
                    other => panic!("{other}"),
                }
                let pause = self.random.random_range(100_000..4_000_000);
                self.restart_later(life.0, pause);
            }
        }
    }

    /// The log up to `lsn`, from the node that is furthest: a pageserver has what
    /// the last term's donor has.
    fn basebackup(&self, lsn: Lsn) -> Option<Log> {
        let up = self
            .nodes
            .iter()
            .filter_map(|node| Some((node, node.acceptor.as_ref()?)));
        let (node, _) = up
            .filter(|(_, acceptor)| acceptor.flush_lsn() >= lsn)
            .max_by_key(|(_, acceptor)| (acceptor.last_log_term(), acceptor.flush_lsn()))?;
        Some(Log::new(START, node.copy(START, lsn)))
    }

    fn stream(&mut self, life: Life, log: Log) {
        self.kill(life.0);
        self.lives += 1;
        let next = (life.0, self.lives);
        let nodes = self.nodes.len();
        let compute = Compute::streaming(next.1, nodes, self.instant(), log);
        self.computes[life.0] = Some(compute);
        self.after(1000, Event::Write(next));
        self.pump(next);
    }

    fn restart_later(&mut self, index: usize, pause: u64) {
        self.kill(index);
        self.after(pause, Event::StartCompute(index));
    }

    fn kill(&mut self, index: usize) {
        if let Some(compute) = self.computes[index].take() {
            // What it has sent may still arrive.
            for id in compute.connections.values() {
                self.break_later(*id);
            }
        }
    }

    fn break_later(&mut self, id: u64) {
        let delay = self.random.random_range(0..50_000);
        self.after(delay, Event::Broken(id));
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let delay = self.random.random_range(5_000..400_000);
        self.after(delay, Event::Fault);
        match self.random.random_range(0..10) {
            0..=5 => {
                let open: Vec<_> = self.connections.keys().copied().collect();
                if !open.is_empty() {
                    let index = self.random.random_range(0..open.len());
                    self.break_connection(open[index]);
                }
            }
            6..=8 => {
                let node = self.random.random_range(0..self.nodes.len());
                if self.nodes[node].acceptor.is_some() {
                    self.count("node crashed");
                    let kept = self.random.random_range(0.0..=1.0);
                    self.nodes[node].crash(kept);
                    let downtime = self.random.random_range(1_000..2_000_000);
                    self.after(downtime, Event::StartNode(node));
                    let of_node = self.connections.iter().filter(|(_, c)| c.node == node);
                    let broken: Vec<_> = of_node.map(|(id, _)| *id).collect();
                    for id in broken {
                        self.break_connection(id);
                    }
                }
            }
            _ => {
                let index = self.random.random_range(0..COMPUTES);
                if self.computes[index].is_some() {
                    self.count("compute crashed");
                    let pause = self.random.random_range(1_000..1_000_000);
                    self.restart_later(index, pause);
                }
            }
        }
    }
}
