//! Everything that happens, in one order that follows from the seed.

mod computes;
mod faults;
mod membership;
mod mutants;
mod traffic;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::time::{Duration, Instant};

use glowplug::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use glowplug::safekeeper::proposer::{Endpoints, Slot};
use glowplug::wire::safekeeper::ProtocolVersion;

use crate::bug::Bug;
use crate::compute::Compute;
use crate::network::Network;
use crate::node::{Creation, Node};
use crate::oracle::{Oracle, Verdict};
use crate::random::Random;
use crate::statistics::Statistics;
use membership::{Controller, membership};

/// How long faults happen, in microseconds.
const FAULTY: Range<u64> = 200_000..1_200_000;
/// How long everything may take to be well again, in microseconds.
const HEALING: u64 = 20_000_000;

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
    /// The storage controller does its next step.
    Control,
    /// A compute learns which safekeepers its spec names.
    Endpoints(usize),
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
    /// What the spec names.
    endpoints: Endpoints,
    controller: Controller,
    /// How far the clock of each compute's machine is ahead, in microseconds.
    clocks: Vec<u64>,
    /// Until when each compute's machine does nothing.
    stalled: Vec<u64>,
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
            WAL_SEGMENT_SIZE - 40_000,
            3 * WAL_PAGE_SIZE + 504,
        ]);
        let start = Lsn(WAL_SEGMENT_SIZE + start.unwrap_or(0));
        let version = match random.within(0..4) {
            0 => Some(ProtocolVersion::V3),
            1 if creation != Creation::WithMembership => Some(ProtocolVersion::V2),
            _ => None,
        };
        let members: Vec<_> = (0..count as usize).collect();
        let first = (creation == Creation::WithMembership).then(|| membership(1, &members, &[]));
        // Others may become members later.
        let spare = match &first {
            Some(_) => random.within(0..3),
            None => 0,
        };
        let nodes = (0..count + spare).map(|index| {
            let exists = index < count;
            Node::new(index + 1, start, first.as_ref(), creation, exists, bug)
        });
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
                generation: first.as_ref().map(|membership| membership.generation),
            },
            controller: Controller::new(first),
            clocks: vec![0; computes],
            stalled: vec![0; computes],
            version,
            start,
            lives: 0,
            faulty: true,
            oracle: Oracle::new(start, vec![members]),
            statistics: Statistics::default(),
            random,
        };
        for index in 0..computes {
            let delay = world.random.within(0..200_000) * index as u64;
            world.after(delay, Event::StartCompute(index));
        }
        world.after(50_000, Event::Fault);
        if creation == Creation::WithMembership {
            world.after(50_000, Event::Control);
        }
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
            let mut members = world.oracle.entrusted();
            let all = members.all(|node| Oracle::holds(&world.nodes[node], before));
            end > before && all && !world.controller.is_busy()
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
        self.stalled.fill(self.now);
        for node in &mut self.nodes {
            node.start();
        }
        for index in 1..self.computes.len() {
            self.kill(index);
        }
        self.after(0, Event::StartCompute(0));
        self.tell_endpoints();
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

    /// What time a compute believes it is.
    fn instant(&self, compute: usize) -> Instant {
        self.epoch + Duration::from_micros(self.now + self.clocks[compute])
    }

    /// Until when a machine that stands still puts off an event.
    fn put_off(&self, event: Event) -> Option<u64> {
        let compute = match event {
            Event::AtCompute(id) | Event::BrokenAtCompute(id) => {
                self.network.at_compute(id)?.compute
            }
            Event::Wake(index, _)
            | Event::Write(index, _)
            | Event::Fetch(index, _, _)
            | Event::Endpoints(index) => index,
            _ => return None,
        };
        let until = self.stalled[compute];
        (until > self.now).then_some(until)
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
        if let Some(until) = self.put_off(event) {
            self.at(until, event);
            return Ok(());
        }
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
            Event::Control => {
                self.control();
                Ok(())
            }
            Event::Endpoints(index) => self.learn_endpoints(index),
            Event::Fault => {
                self.fault();
                Ok(())
            }
        }
    }
}

/// A safekeeper may have several names, all of which begin alike.
fn node_of(endpoint: &str) -> usize {
    let name = endpoint.split('.').next().unwrap();
    name.trim_start_matches("node-").parse().unwrap()
}
