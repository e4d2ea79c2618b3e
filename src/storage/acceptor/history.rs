//! Compares a proposer's term history with the own one.

use crate::lsn::Lsn;
use crate::wire::safekeeper::{TermHistory, TermLsn};

/// Two histories let one term start at different positions, which the election
/// rules exclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The term.
    pub(super) term: u64,
    /// Where the proposer lets it start.
    pub(super) proposer_lsn: Lsn,
    /// Where the acceptor lets it start.
    pub(super) own_lsn: Lsn,
}

/// Where the log of a proposer and the own one, which ends at `flush_lsn`, part;
/// `None` if they have no term in common
/// (`safekeeper/src/safekeeper.rs: TermHistory::find_highest_common_point`).
pub(super) fn common_point(
    proposer: &TermHistory,
    own: &TermHistory,
    flush_lsn: Lsn,
) -> Result<Option<TermLsn>, Conflict> {
    let pairs = proposer.0.iter().zip(&own.0);
    let shared = pairs.take_while(|(theirs, ours)| theirs.term == ours.term);
    for (theirs, ours) in shared {
        if theirs.lsn != ours.lsn {
            return Err(Conflict {
                term: theirs.term,
                proposer_lsn: theirs.lsn,
                own_lsn: ours.lsn,
            });
        }
    }
    Ok(proposer.highest_common_point(own, flush_lsn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u64, u64)]) -> TermHistory {
        let entry = |(term, lsn): &(u64, u64)| TermLsn {
            term: *term,
            lsn: Lsn(*lsn),
        };
        TermHistory(entries.iter().map(entry).collect())
    }

    #[test]
    fn logs_part_where_the_first_of_them_leaves_the_last_common_term() {
        let check = |proposer: &[_], own: &[_], flush, expected: Option<(u64, u64)>| {
            let found = common_point(&history(proposer), &history(own), Lsn(flush)).unwrap();
            assert_eq!(found.map(|point| (point.term, point.lsn.0)), expected);
        };
        check(&[(0, 1)], &[(1, 1), (2, 2)], 3, None);
        check(&[(1, 10), (3, 50)], &[], 0, None);
        let longer = [(1, 10), (2, 20), (4, 40)];
        check(&longer, &[(1, 10), (2, 20), (3, 30)], 40, Some((2, 30)));
        check(&longer, &[(1, 10), (2, 20)], 32, Some((2, 32)));
        check(&longer, &[(1, 10), (2, 20)], 99, Some((2, 40)));
        check(&longer[..2], &[(1, 10), (2, 20)], 32, Some((2, 32)));
    }

    #[test]
    fn one_term_with_two_starts_is_a_conflict() {
        let conflict = common_point(&history(&[(1, 11)]), &history(&[(1, 10)]), Lsn(20));
        let expected = Conflict {
            term: 1,
            proposer_lsn: Lsn(11),
            own_lsn: Lsn(10),
        };
        assert_eq!(conflict, Err(expected));
    }
}
