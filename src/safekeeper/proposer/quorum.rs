//! What a majority is, and what it has.

use crate::lsn::Lsn;
use crate::wire::safekeeper::{Member, Membership};

/// Who of `n` must agree: more than half.
pub(super) const fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// The highest position that a majority of one set has reached. An empty set has
/// reached nothing.
pub(super) fn majority_lsn(mut reached: Vec<Lsn>) -> Lsn {
    reached.sort_unstable();
    let n = reached.len();
    if n == 0 {
        return Lsn::INVALID;
    }
    reached[n - majority(n)]
}

/// A safekeeper whose word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voter {
    /// The one at this place of the static list.
    Slot(usize),
    /// The one with this node id, wherever it is.
    Node(u64),
}

/// The sets of safekeepers that each must agree by majority: one, or the old and
/// the new one of a joint configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Electorate {
    sets: Vec<Vec<Voter>>,
}

impl Electorate {
    /// Everybody on a list of `count`, where no membership is known.
    pub(super) fn everybody(count: usize) -> Self {
        Self {
            sets: vec![(0..count).map(Voter::Slot).collect()],
        }
    }

    /// The members of a configuration.
    pub(super) fn members(membership: &Membership) -> Self {
        let voters = |set: &[Member]| -> Vec<Voter> {
            set.iter()
                .map(|member| Voter::Node(member.node_id))
                .collect()
        };
        let mut sets = vec![voters(&membership.members)];
        if !membership.new_members.is_empty() {
            sets.push(voters(&membership.new_members));
        }
        Self { sets }
    }

    /// Whether a majority of each set agrees.
    pub(super) fn agrees(&self, says: impl Fn(Voter) -> bool) -> bool {
        self.sets.iter().all(|set| {
            let count = set.iter().filter(|voter| says(**voter)).count();
            count >= majority(set.len())
        })
    }

    /// The highest position that a majority of each set has reached.
    pub(super) fn reached(&self, position: impl Fn(Voter) -> Lsn) -> Lsn {
        let of_set =
            |set: &Vec<Voter>| majority_lsn(set.iter().map(|voter| position(*voter)).collect());
        self.sets.iter().map(of_set).min().unwrap_or_default()
    }

    /// Each who has a say, in order; those of both sets twice.
    pub(super) fn voters(&self) -> impl Iterator<Item = Voter> + '_ {
        self.sets.iter().flatten().copied()
    }

    /// Whether this node is in a set.
    pub(super) fn contains_node(&self, node_id: u64) -> bool {
        self.voters().any(|voter| voter == Voter::Node(node_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(lsns: &[u64]) -> u64 {
        majority_lsn(lsns.iter().copied().map(Lsn).collect()).0
    }

    fn member(node_id: u64) -> Member {
        Member {
            node_id,
            host: format!("sk-{node_id}"),
            pg_port: 5454,
        }
    }

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
    }

    #[test]
    fn a_majority_has_what_its_last_member_has() {
        assert_eq!(reached(&[100, 0, 0]), 0);
        assert_eq!(reached(&[100, 100, 0]), 100);
        assert_eq!(reached(&[120, 110, 0]), 110);
        assert_eq!(reached(&[120, 0, 0]), 0);
        assert_eq!(reached(&[7]), 7);
        assert_eq!(reached(&[]), 0);
    }

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let membership = Membership {
            generation: 3,
            members: [1, 2, 3].map(member).into(),
            new_members: [1, 4, 5].map(member).into(),
        };
        let electorate = Electorate::members(&membership);
        let mut flushed = [0, 120, 120, 0, 0, 0];
        let at = |flushed: [u64; 6]| {
            move |voter| match voter {
                Voter::Node(id) => Lsn(flushed[id as usize]),
                Voter::Slot(_) => unreachable!(),
            }
        };
        assert_eq!(electorate.reached(at(flushed)), Lsn(0));
        flushed[4] = 110;
        assert_eq!(electorate.reached(at(flushed)), Lsn(110));

        let old_only = |voter| matches!(voter, Voter::Node(1..=3));
        assert!(!electorate.agrees(old_only));
        assert!(electorate.agrees(|voter| matches!(voter, Voter::Node(1 | 2 | 5))));
        assert!(electorate.contains_node(5) && !electorate.contains_node(6));
    }
}
