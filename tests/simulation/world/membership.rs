//! The storage controller, which changes while computes write which safekeepers hold
//! the timeline (`docs/rfcs/035-safekeeper-dynamic-membership-change.md` of Neon).
//!
//! In the joint configuration a majority of the old and one of the new set must agree.
//! The new one alone counts once a majority of it has what a majority of the old one
//! had when it learned of the change.

use std::collections::{BTreeMap, BTreeSet};

use glowplug::lsn::Lsn;
use glowplug::wire::safekeeper::{Member, Membership};

use super::{Event, World};

/// What was configured, and what is being changed.
pub(crate) struct Controller {
    /// Every configuration that ever was, by its generation.
    configurations: BTreeMap<u32, Membership>,
    change: Option<Change>,
}

struct Change {
    joint: Membership,
    old: Vec<usize>,
    new: Vec<usize>,
    step: Step,
    /// Who has done this step.
    done: BTreeSet<usize>,
    /// Last term of the log, and its end: the new set must get there.
    position: (u64, Lsn),
    /// The highest term of the old set.
    term: u64,
}

/// What is to be reached next, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A majority of the old set knows the joint configuration.
    Announce,
    /// A majority of the new set has a copy of the timeline.
    Copy,
    /// A majority of the new set is in the term of the old one.
    Bump,
    /// A majority of the new set has what the old one had.
    Await,
    /// A majority of the new set knows that it is alone.
    Conclude,
    /// All of the new set are told; the others have no timeline any more.
    CleanUp,
}

impl Controller {
    pub(crate) fn new(first: Option<Membership>) -> Self {
        let known = first.map(|membership| (membership.generation, membership));
        Self {
            configurations: known.into_iter().collect(),
            change: None,
        }
    }

    /// The sets of nodes that each must agree by majority in a generation.
    pub(crate) fn sets(&self, generation: u32) -> Vec<Vec<usize>> {
        let Some(membership) = self.configurations.get(&generation) else {
            return Vec::new();
        };
        let sets = [&membership.members, &membership.new_members];
        let sets = sets.into_iter().filter(|set| !set.is_empty());
        sets.map(|set| indices(set)).collect()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.change.is_some()
    }

    fn latest(&self) -> Option<&Membership> {
        self.configurations.values().last()
    }
}

/// The configuration of these nodes, or the joint one of two sets.
pub(crate) fn membership(generation: u32, members: &[usize], new_members: &[usize]) -> Membership {
    let set = |nodes: &[usize]| nodes.iter().map(|node| member(*node)).collect();
    Membership {
        generation,
        members: set(members),
        new_members: set(new_members),
    }
}

fn member(node: usize) -> Member {
    Member {
        node_id: node as u64 + 1,
        host: format!("node-{node}"),
        pg_port: 5454,
    }
}

fn indices(members: &[Member]) -> Vec<usize> {
    let indices = members.iter().map(|member| member.node_id as usize - 1);
    indices.collect()
}

fn is_majority(done: &BTreeSet<usize>, of: &[usize]) -> bool {
    of.iter().filter(|node| done.contains(node)).count() > of.len() / 2
}

impl World {
    /// One call to one safekeeper, or the beginning of a change.
    pub(super) fn control(&mut self) {
        let delay = self
            .random
            .within(300..if self.faulty { 12_000 } else { 3000 });
        self.after(delay, Event::Control);
        let Some(mut change) = self.controller.change.take() else {
            if self.faulty && self.random.one_in(8) {
                self.begin_change();
            }
            return;
        };
        let is_done = self.advance(&mut change);
        self.controller.change = (!is_done).then_some(change);
    }

    fn begin_change(&mut self) {
        let Some(latest) = self.controller.latest() else {
            return;
        };
        let (generation, old) = (latest.generation + 1, indices(&latest.members));
        let mut new: Vec<_> = (0..self.nodes.len()).collect();
        let size = self.random.within(1..new.len() as u64 + 1) as usize;
        while new.len() > size {
            new.remove(self.random.within(0..new.len() as u64) as usize);
        }
        let joint = membership(generation, &old, &new);
        self.trace(|| format!("controller: {joint:?}"));
        self.statistics.count("membership joint");
        let all: BTreeSet<usize> = old.iter().chain(&new).copied().collect();
        self.publish(generation, all);
        self.controller
            .configurations
            .insert(generation, joint.clone());
        self.controller.change = Some(Change {
            joint,
            old,
            new,
            step: Step::Announce,
            done: BTreeSet::new(),
            position: (0, Lsn::INVALID),
            term: 0,
        });
    }

    /// Does one thing for a change; true once nothing is left to do.
    fn advance(&mut self, change: &mut Change) -> bool {
        let set = match change.step {
            Step::Announce => change.old.clone(),
            Step::CleanUp => return self.clean_up(change),
            _ => change.new.clone(),
        };
        let Some(node) = self.random.pick(&set) else {
            return true;
        };
        if self.call(change, node) {
            change.done.insert(node);
        }
        if !is_majority(&change.done, &set) {
            return false;
        }
        change.done.clear();
        let next = match change.step {
            Step::Announce if self.random.one_in(6) => {
                self.statistics.count("membership change given up");
                change.new.clone_from(&change.old);
                self.decide(change)
            }
            Step::Announce => Step::Copy,
            Step::Copy => Step::Bump,
            Step::Bump => Step::Await,
            Step::Await => self.decide(change),
            Step::Conclude | Step::CleanUp => Step::CleanUp,
        };
        self.trace(|| format!("controller: {next:?} {:?}", change.position));
        change.step = next;
        false
    }

    /// From here on the new set alone must have what is committed.
    fn decide(&mut self, change: &Change) -> Step {
        let generation = change.joint.generation + 1;
        let last = membership(generation, &change.new, &[]);
        self.statistics.count("membership changed");
        self.controller.configurations.insert(generation, last);
        self.oracle.entrust(vec![change.new.clone()]);
        self.publish(generation, change.new.iter().copied());
        Step::Conclude
    }

    /// A call that a safekeeper may not be there for.
    fn call(&mut self, change: &mut Change, node: usize) -> bool {
        match change.step {
            Step::Copy => self.copy_to(change, node),
            Step::Bump => self.nodes[node].bump_term(change.term),
            Step::Announce | Step::Await => {
                let Some((term, position)) = self.nodes[node].switch(&change.joint) else {
                    return false;
                };
                if change.step == Step::Await {
                    return position >= change.position;
                }
                change.term = change.term.max(term);
                change.position = change.position.max(position);
                true
            }
            Step::Conclude | Step::CleanUp => {
                let last = change.joint.generation + 1;
                let last = self.controller.configurations[&last].clone();
                self.nodes[node].switch(&last).is_some()
            }
        }
    }

    /// Copies the timeline from the safekeeper that has most of it, as
    /// `pull_timeline` does.
    fn copy_to(&mut self, change: &Change, node: usize) -> bool {
        if self.nodes[node].exists {
            return true;
        }
        let sources = change.old.iter().chain(&change.new).copied();
        let known = sources.filter_map(|source| Some((self.nodes[source].rank()?, source)));
        let Some((_, donor)) = known.max() else {
            return false;
        };
        let disk = self.nodes[donor].snapshot();
        self.nodes[node].create_from(disk, &change.joint);
        self.statistics.count("timeline copied");
        true
    }

    fn clean_up(&mut self, change: &mut Change) -> bool {
        let sets = [&change.joint.members, &change.joint.new_members];
        for node in sets.into_iter().flat_map(|set| indices(set)) {
            if !change.new.contains(&node) {
                self.nodes[node].remove();
            }
        }
        let undone = change.new.iter().filter(|node| !change.done.contains(node));
        let undone: Vec<_> = undone.copied().collect();
        let Some(node) = self.random.pick(&undone) else {
            return true;
        };
        if self.copy_to(change, node) && self.call(change, node) {
            change.done.insert(node);
        }
        false
    }

    /// The spec names these safekeepers; computes learn it one after the other.
    fn publish(&mut self, generation: u32, nodes: impl IntoIterator<Item = usize>) {
        self.endpoints.generation = Some(generation);
        self.endpoints.endpoints = nodes
            .into_iter()
            .map(|node| format!("node-{node}"))
            .collect();
        self.tell_endpoints();
    }
}
