//! Everything that happens, in one order that follows from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use glowplug::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use glowplug::safekeeper::proposer::{
    Endpoints, Failure, Input, Loss, LossKind, Output, Slot, Source, Synced,
};
use glowplug::wire::safekeeper::{AcceptorMessage, ProposerMessage, ProtocolVersion};

use crate::bug::Bug;
use crate::compute::{Compute, Fetch};
use crate::network::{Ends, Network, Parcel};
use crate::node::{Creation, Node};
use crate::oracle::{Oracle, Verdict};
use crate::random::Random;
use crate::statistics::Statistics;

/// How long faults happen, in microseconds.
const FAULTY: Range<u64> = 200_000..1_200_000;
/// How long everything may take to be well again, in microseconds.
const HEALING: u64 = 20_000_000;
/// Most WAL that a compute writes ahead of what is committed, in bytes.
const UNCOMMITTED: u64 = 8000;

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Something arrives on a connection.
    AtNode(u64),
    AtCompute(u64),
    /// A connection breaks, as one side sees it.
    BrokenAtCompute(u64),
    BrokenAtNode(u64),
    /// A safekeeper syncs, and answers.
    Sync(usize),
    Wake(usize, u64),
    Write(usize, u64),
    Fetch(usize, u64, Slot),
    StartCompute(usize),
    StartNode(usize),
    Fault,
}

pub(crate) struct World {
    random: Random,
    traced: bool,
    bug: Option<Bug>,
    epoch: Instant,
    /// Microseconds since the start.
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    network: Network,
    nodes: Vec<Node>,
    computes: Vec<Option<Compute>>,
    endpoints: Endpoints,
    /// Messages pass through the codec of this version, or not at all.
    version: Option<ProtocolVersion>,
    start: Lsn,
    lives: u64,
    faulty: bool,
    oracle: Oracle,
    statistics: Statistics,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let count = random.pick(&[3, 3, 3, 4, 5, 2]).unwrap_or(3);
        let computes = random.within(1..4) as usize;
        let creation = [
            Creation::Implicit,
            Creation::Explicit,
            Creation::WithMembership,
        ];
        let creation = random.pick(&creation).unwrap_or(Creation::Implicit);
        // Just before a page, just before a segment, or in the middle of a page.
        let start = random.pick(&[
            WAL_PAGE_SIZE - 64,
            WAL_SEGMENT_SIZE - 2048,
            3 * WAL_PAGE_SIZE + 504,
        ]);
        let start = Lsn(WAL_SEGMENT_SIZE + start.unwrap_or(0));
        let version = match random.within(0..4) {
            0 => Some(ProtocolVersion::V3),
            1 if creation != Creation::WithMembership => Some(ProtocolVersion::V2),
            _ => None,
        };
        let nodes = (1..=count).map(|id| Node::new(id, start, count, creation, bug));
        let mut world = Self {
            traced,
            bug,
            epoch: Instant::now(),
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            network: Network::default(),
            nodes: nodes.collect(),
            computes: (0..computes).map(|_| None).collect(),
            endpoints: Endpoints {
                endpoints: (0..count).map(|index| format!("node-{index}")).collect(),
                generation: (creation == Creation::WithMembership).then_some(1),
            },
            version,
            start,
            lives: 0,
            faulty: true,
            oracle: Oracle::new(start, count as usize),
            statistics: Statistics::default(),
            random,
        };
        for index in 0..computes {
            let delay = world.random.within(0..200_000) * index as u64;
            world.after(delay, Event::StartCompute(index));
        }
        world.after(50_000, Event::Fault);
        world
    }

    /// Runs to the end: a time of faults, then one without.
    pub(crate) fn run(mut self) -> Result<Statistics, String> {
        let until = self.random.within(FAULTY);
        self.run_until(until, |_| false)?;
        self.heal();
        let before = self.oracle.committed_end();
        let healed = |world: &Self| {
            let end = world.oracle.committed_end();
            end > before && world.nodes.iter().all(|node| Oracle::holds(node, before))
        };
        self.run_until(self.now + HEALING, healed)?;
        if !healed(&self) {
            return Err(format!(
                "nothing more is committed, or not everywhere, though nothing fails\n{}",
                self.describe()
            ));
        }
        Ok(self.statistics)
    }

    fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> Verdict {
        while !done(self) {
            match self.queue.peek() {
                Some(Reverse((time, _))) if *time <= end => {}
                _ => break,
            }
            let Some(Reverse((time, sequence))) = self.queue.pop() else {
                break;
            };
            self.now = self.now.max(time);
            let Some(event) = self.events.remove(&sequence) else {
                continue;
            };
            self.happen(event)
                .and_then(|()| self.oracle.check(&mut self.nodes))
                .map_err(|violation| format!("{violation}\n{}", self.describe()))?;
        }
        Ok(())
    }

    /// No faults any more, all safekeepers up, and one compute alone.
    fn heal(&mut self) {
        self.trace(|| "the faults end".to_owned());
        self.faulty = false;
        self.network.unite();
        for node in &mut self.nodes {
            node.start();
        }
        for index in 1..self.computes.len() {
            self.kill(index);
        }
        self.after(0, Event::StartCompute(0));
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            let (seconds, micros) = (self.now / 1_000_000, self.now % 1_000_000);
            eprintln!("{seconds}.{micros:06} {}", what());
        }
    }

    /// Who is how far, for whoever looks into a failure.
    fn describe(&self) -> String {
        let mut lines = vec![format!(
            "at {} µs, committed {}",
            self.now,
            self.oracle.committed_end()
        )];
        for compute in self.computes.iter().flatten() {
            lines.push(format!(
                "proposer {}: streams {}, term {:?}, commit {}, read {}, fetches {:?}",
                compute.life,
                compute.log.is_some(),
                compute.proposer.leading_term(),
                compute.proposer.commit_lsn(),
                compute.proposer.wal_position(),
                compute.fetches,
            ));
            lines.extend(compute.proposer.peers().map(|peer| format!("  {peer:?}")));
        }
        for node in &self.nodes {
            lines.push(match &node.acceptor {
                Some(acceptor) => format!(
                    "safekeeper {}: term {}, flush {}, write {}, commit {}, history {:?}",
                    node.id,
                    acceptor.term(),
                    acceptor.flush_lsn(),
                    acceptor.write_lsn(),
                    acceptor.commit_lsn(),
                    acceptor.control().term_history,
                ),
                None => format!("safekeeper {}: down", node.id),
            });
        }
        lines.join("\n")
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_micros(self.now)
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((time, self.sequence)));
    }

    fn happen(&mut self, event: Event) -> Verdict {
        match event {
            Event::AtNode(id) => {
                self.arrive_at_node(id);
                Ok(())
            }
            Event::AtCompute(id) => self.arrive_at_compute(id),
            Event::BrokenAtCompute(id) => self.end_at_compute(id),
            Event::BrokenAtNode(id) => {
                self.network.close_node(id);
                Ok(())
            }
            Event::Sync(node) => {
                self.sync(node);
                Ok(())
            }
            Event::Wake(index, life) => self.wake(index, life),
            Event::Write(index, life) => self.write(index, life),
            Event::Fetch(index, life, slot) => self.fetch(index, life, slot),
            Event::StartCompute(index) => self.start_compute(index),
            Event::StartNode(node) => {
                self.nodes[node].start();
                Ok(())
            }
            Event::Fault => {
                self.fault();
                Ok(())
            }
        }
    }
}

/// Computes.
impl World {
    fn compute(&mut self, index: usize, life: u64) -> Option<&mut Compute> {
        let compute = self.computes[index].as_mut();
        compute.filter(|compute| compute.life == life)
    }

    fn input(&mut self, index: usize, life: u64, input: Input) -> Verdict {
        let now = self.instant();
        if let Some(compute) = self.compute(index, life) {
            compute.proposer.handle(now, input);
        }
        self.pump(index, life)
    }

    /// Carries out what the proposer wants, hands in WAL, sends what it has to say.
    fn pump(&mut self, index: usize, life: u64) -> Verdict {
        let now = self.instant();
        loop {
            while let Some(output) = self
                .compute(index, life)
                .and_then(|compute| compute.proposer.poll_output())
            {
                self.perform(index, life, output)?;
            }
            if !self.feed(index, life) {
                break;
            }
        }
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        for (slot, id) in compute.connections.clone() {
            while let Some(message) = self
                .compute(index, life)
                .and_then(|compute| compute.proposer.poll_message(now, slot))
            {
                self.send_to_node(index, life, id, message)?;
            }
        }
        self.note_commit(index, life)?;
        self.note_end(index, life)?;
        self.wake_when_due(index, life);
        Ok(())
    }

    fn wake_when_due(&mut self, index: usize, life: u64) {
        let (epoch, now) = (self.epoch, self.now);
        let Some(compute) = self.compute(index, life) else {
            return;
        };
        let Some(deadline) = compute.proposer.deadline() else {
            return;
        };
        let due = deadline.saturating_duration_since(epoch).as_micros() as u64 + 1;
        let due = due.max(now + 1);
        if compute.wakes_at.is_none_or(|at| at > due || at <= now) {
            compute.wakes_at = Some(due);
            self.at(due, Event::Wake(index, life));
        }
    }

    fn wake(&mut self, index: usize, life: u64) -> Verdict {
        let now = self.instant();
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        compute.wakes_at = None;
        if compute
            .proposer
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            return self.input(index, life, Input::Deadline);
        }
        self.wake_when_due(index, life);
        Ok(())
    }

    fn perform(&mut self, index: usize, life: u64, output: Output) -> Verdict {
        self.trace(|| format!("proposer {life}: {output:?}"));
        match output {
            Output::Connect {
                slot,
                endpoint,
                greeting,
                ..
            } => {
                let id = self.network.connect(Ends {
                    compute: index,
                    life,
                    slot,
                    node: node_of(&endpoint),
                });
                if let Some(compute) = self.compute(index, life) {
                    compute.connections.insert(slot, id);
                }
                let greeting = ProposerMessage::Greeting(*greeting);
                self.send_to_node(index, life, id, greeting)?;
            }
            Output::Disconnect(slot) => {
                let id = self
                    .compute(index, life)
                    .and_then(|c| c.connections.remove(&slot));
                if let Some(id) = id {
                    self.hang_up(id);
                }
            }
            Output::Fetch {
                slot,
                from,
                until,
                source,
            } => {
                self.statistics.count(match source {
                    Source::Donor { .. } => "fetched from donor",
                    Source::Local => "fetched locally",
                });
                let fetch = Fetch {
                    position: from,
                    until,
                    source,
                };
                if let Some(compute) = self.compute(index, life) {
                    compute.fetches.insert(slot, fetch);
                }
                let delay = self.delay();
                self.after(delay, Event::Fetch(index, life, slot));
            }
            Output::StopFetch(slot) => {
                if let Some(compute) = self.compute(index, life) {
                    compute.fetches.remove(&slot);
                }
            }
            Output::Elected {
                term,
                term_start_lsn,
            } => {
                self.statistics.count("elected");
                self.oracle.elected(term, life, term_start_lsn)?;
            }
            Output::Finished(result) => {
                if let Some(compute) = self.compute(index, life) {
                    compute.finished = Some(result);
                }
            }
        }
        Ok(())
    }

    /// Hands in WAL of the local postgres, in a piece that ends anywhere; false if
    /// there is none, or no room for it.
    fn feed(&mut self, index: usize, life: u64) -> bool {
        let now = self.instant();
        let size = self.random.within(1..1500);
        let Some(compute) = self.compute(index, life) else {
            return false;
        };
        let Some(log) = &compute.log else {
            return false;
        };
        let start_lsn = compute.proposer.wal_position();
        let end = log.end().min(Lsn(start_lsn.0 + size));
        if end <= start_lsn || !compute.proposer.wants_wal() {
            return false;
        }
        let wal = Bytes::copy_from_slice(log.read(start_lsn, end));
        compute.proposer.handle(now, Input::Wal { start_lsn, wal });
        compute.proposer.wal_position() > start_lsn
    }

    /// Postgres writes a record.
    fn write(&mut self, index: usize, life: u64) -> Verdict {
        let size = match self.random.within(0..20) {
            0 => self.random.within(1000..9000),
            1..4 => self.random.within(16..300),
            // Mostly of one size, so that different writers' records end alike.
            _ => 40,
        };
        let delay = self.random.within(200..8000);
        let compute = self.computes[index].as_mut();
        let Some(compute) = compute.filter(|compute| compute.life == life) else {
            return Ok(());
        };
        if let Some(log) = &mut compute.log
            && log.end().bytes_since(compute.committed.max(log.start)) < UNCOMMITTED
        {
            compute.records += 1;
            log.append(life, compute.records, size as usize);
            self.oracle.write(life, log);
        }
        self.after(delay, Event::Write(index, life));
        self.pump(index, life)
    }

    fn note_commit(&mut self, index: usize, life: u64) -> Verdict {
        let minority = self.bug == Some(Bug::CommitsWithMinority);
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        let Some(term) = compute.proposer.leading_term() else {
            return Ok(());
        };
        let mut commit_lsn = compute.proposer.commit_lsn();
        if minority {
            commit_lsn = minority_commit(compute).max(commit_lsn);
        }
        if commit_lsn <= compute.committed {
            return Ok(());
        }
        compute.committed = commit_lsn;
        self.trace(|| format!("proposer {life}: committed {commit_lsn}"));
        self.statistics.count("committed");
        self.oracle.commit(term, commit_lsn)
    }

    fn note_end(&mut self, index: usize, life: u64) -> Verdict {
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        let before = compute.committed_before;
        match compute.finished.take() {
            None => Ok(()),
            Some(Ok(synced)) => self.take_over(index, before, synced),
            Some(Err(failure)) => {
                self.statistics.count(match failure {
                    Failure::NewerTerm { .. } => "fenced",
                    Failure::Diverged { .. } => "diverged",
                    Failure::Contended { .. } => "contended",
                    other => return Err(format!("proposer {life} gives up: {other}")),
                });
                let pause = self.random.within(1000..300_000);
                self.kill(index);
                self.after(pause, Event::StartCompute(index));
                Ok(())
            }
        }
    }

    /// A sync has ended: postgres starts from there.
    fn take_over(&mut self, index: usize, before: Lsn, synced: Synced) -> Verdict {
        let kind = if synced.by_votes_alone {
            "synced by votes"
        } else {
            "synced in full"
        };
        self.statistics.count(kind);
        let is_new = !synced.commit_lsn.is_valid();
        let end = if is_new {
            self.start
        } else {
            synced.commit_lsn
        };
        if end < before {
            return Err(format!(
                "a sync ends at {end}, although {before} was committed before it"
            ));
        }
        let Some(log) = self.oracle.committed_until(end) else {
            return Err(format!("a sync ends at {end}, which is not committed"));
        };
        self.kill(index);
        self.lives += 1;
        let life = self.lives;
        self.oracle.write(life, &log);
        let compute = Compute::streaming(life, self.endpoints.clone(), self.instant(), log);
        self.computes[index] = Some(compute);
        self.after(500, Event::Write(index, life));
        self.pump(index, life)
    }

    fn start_compute(&mut self, index: usize) -> Verdict {
        if self.computes[index].is_some() || (index > 0 && !self.faulty) {
            return Ok(());
        }
        self.lives += 1;
        let life = self.lives;
        let mut compute = Compute::syncing(life, self.endpoints.clone(), self.instant());
        compute.committed_before = self.oracle.committed_end();
        self.computes[index] = Some(compute);
        self.pump(index, life)
    }

    /// What it has sent may still arrive.
    fn kill(&mut self, index: usize) {
        if let Some(compute) = self.computes[index].take() {
            for id in compute.connections.into_values() {
                self.hang_up(id);
            }
        }
    }
}

/// What a single safekeeper has, under a term that was won.
fn minority_commit(compute: &Compute) -> Lsn {
    let flushed = compute.proposer.peers().map(|peer| peer.flush_lsn);
    flushed.max().unwrap_or_default()
}

fn node_of(endpoint: &str) -> usize {
    endpoint.trim_start_matches("node-").parse().unwrap()
}

/// The network.
impl World {
    fn delay(&mut self) -> u64 {
        if self.faulty && self.random.one_in(40) {
            self.random.within(1000..30_000)
        } else {
            self.random.within(30..600)
        }
    }

    fn send_to_node(
        &mut self,
        index: usize,
        life: u64,
        id: u64,
        mut message: ProposerMessage,
    ) -> Verdict {
        if let ProposerMessage::Elected(elected) = &message {
            self.oracle.told(elected.term, &elected.term_history)?;
        }
        if let ProposerMessage::AppendRequest(append) = &mut message
            && self.bug == Some(Bug::CommitsWithMinority)
            && let Some(compute) = self.compute(index, life)
        {
            append.commit_lsn = minority_commit(compute).max(append.commit_lsn);
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

    fn arrive_at_node(&mut self, id: u64) {
        let Some(ends) = self.network.at_node(id) else {
            return;
        };
        if let Some(until) = self.network.parted_until(ends, self.now) {
            return self.at(until, Event::AtNode(id));
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

    fn sync(&mut self, node: usize) {
        let waiting = std::mem::take(&mut self.nodes[node].unanswered);
        if let Some(response) = self.nodes[node].sync(&mut self.statistics) {
            for id in waiting {
                self.send_to_compute(id, response.clone());
            }
        }
    }

    /// The safekeeper ends a connection; the compute learns it behind what was sent.
    fn refuse(&mut self, id: u64) {
        self.network.push_to_compute(id, Parcel::End);
        self.network.close_node(id);
        let delay = self.delay();
        self.after(delay, Event::AtCompute(id));
    }

    /// The compute ends a connection; the safekeeper learns it behind what was sent.
    fn hang_up(&mut self, id: u64) {
        self.network.push_to_node(id, Parcel::End);
        self.network.close_compute(id);
        let delay = self.delay();
        self.after(delay, Event::AtNode(id));
    }

    fn arrive_at_compute(&mut self, id: u64) -> Verdict {
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
                self.input(ends.compute, ends.life, Input::Received(ends.slot, message))
            }
            Some(Parcel::End) => self.end_at_compute(id),
            None => Ok(()),
        }
    }

    fn end_at_compute(&mut self, id: u64) -> Verdict {
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
    fn fetch(&mut self, index: usize, life: u64, slot: Slot) -> Verdict {
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

/// Faults.
impl World {
    fn fault(&mut self) {
        if !self.faulty {
            return;
        }
        let delay = self.random.within(2000..60_000);
        self.after(delay, Event::Fault);
        match self.random.within(0..12) {
            0..5 => self.break_connection(),
            5..8 => self.crash_node(),
            8..10 => self.part(),
            _ => self.crash_compute(),
        }
    }

    fn break_connection(&mut self) {
        let open = self.network.ids(|c| c.compute_open);
        if let Some(id) = self.random.pick(&open) {
            self.statistics.count("connection broken");
            self.cut(id);
        }
    }

    /// Ends a connection without either side's will. What is on its way may arrive.
    fn cut(&mut self, id: u64) {
        let delays = [self.random.within(1..20_000), self.random.within(1..20_000)];
        self.after(delays[0], Event::BrokenAtCompute(id));
        self.after(delays[1], Event::BrokenAtNode(id));
    }

    fn crash_node(&mut self) {
        let node = self.random.within(0..self.nodes.len() as u64) as usize;
        if self.nodes[node].acceptor.is_none() {
            return;
        }
        self.trace(|| format!("safekeeper {} crashes", node + 1));
        self.statistics.count("node crashed");
        self.nodes[node].crash(&mut self.random, &mut self.statistics);
        // Its computes may learn it at once, or only by its silence.
        let silent = self.random.one_in(4);
        for id in self.network.ids(|c| c.ends.node == node) {
            self.network.close_node(id);
            if !silent {
                let delay = self.random.within(1..2000);
                self.after(delay, Event::BrokenAtCompute(id));
            }
        }
        let down = self.random.within(500..150_000);
        self.after(down, Event::StartNode(node));
    }

    fn crash_compute(&mut self) {
        let index = self.random.within(0..self.computes.len() as u64) as usize;
        if let Some(compute) = &self.computes[index] {
            let life = compute.life;
            self.trace(|| format!("proposer {life} crashes"));
            self.statistics.count("compute crashed");
            self.kill(index);
            let pause = self.random.within(100..100_000);
            self.after(pause, Event::StartCompute(index));
        }
    }

    /// Some computes and some safekeepers do not hear of each other for a while.
    fn part(&mut self) {
        self.statistics.count("network parted");
        let until = self.now + self.random.within(5000..250_000);
        for compute in 0..self.computes.len() {
            for node in 0..self.nodes.len() {
                if self.random.one_in(2) {
                    self.network.part(compute, node, until);
                }
            }
        }
    }
}
