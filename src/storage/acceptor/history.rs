//! Compares term histories: where two logs part.
//!
//! A proposer computes the same from the votes; an acceptor does not take its word
//! for it (`safekeeper/src/safekeeper.rs`, `find_highest_common_point`).

use crate::lsn::Lsn;
use crate::wire::safekeeper::{TermHistory, TermLsn};

/// The last position up to which two logs are the same, and its term.
pub type CommonPoint = TermLsn;

/// Two histories let one term start at different positions, which the election
/// rules exclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The term.
    pub term: u64,
    /// Where the proposer lets it start.
    pub proposer_lsn: Lsn,
    /// Where the acceptor lets it start.
    pub own_lsn: Lsn,
}

/// Finds the last point that a proposer's log and the own one have in common; the
/// own one ends at `flush_lsn`. `None` if they have no term in common.
///
/// # Errors
///
/// [`Conflict`].
pub fn common_point(
    proposer: &TermHistory,
    own: &TermHistory,
    flush_lsn: Lsn,
) -> Result<Option<CommonPoint>, Conflict> {
    let mut last = None;
    for (index, (theirs, ours)) in proposer.0.iter().zip(&own.0).enumerate() {
        if theirs.term != ours.term {
            break;
        }
        if theirs.lsn != ours.lsn {
            return Err(Conflict {
                term: theirs.term,
                proposer_lsn: theirs.lsn,
                own_lsn: ours.lsn,
            });
        }
        last = Some((index, theirs.term));
    }
    let Some((index, term)) = last else {
        return Ok(None);
    };
    // A term ends where the next one starts. The proposer's last one has no end yet:
    // its log is at least as long as ours.
    let own_end = own.0.get(index + 1).map_or(flush_lsn, |next| next.lsn);
    let lsn = match proposer.0.get(index + 1) {
        Some(next) => next.lsn.min(own_end),
        None => flush_lsn,
    };
    Ok(Some(CommonPoint { term, lsn }))
}

/// The entries that a log which ends at `flush_lsn` has reached. One that starts
/// exactly there counts.
pub fn reached(history: &TermHistory, flush_lsn: Lsn) -> TermHistory {
    let entries = history.0.iter().take_while(|entry| entry.lsn <= flush_lsn);
    TermHistory(entries.copied().collect())
}

/// Term of the last entry that a log which ends at `flush_lsn` has reached; 0 if
/// there is none.
pub fn last_log_term(history: &TermHistory, flush_lsn: Lsn) -> u64 {
    reached(history, flush_lsn).0.last().map_or(0, |e| e.term)
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

    #[test]
    fn a_term_that_starts_at_the_end_of_the_log_is_its_last_one() {
        let history = history(&[(1, 10), (2, 40)]);
        for (flush, term) in [(9, 0), (10, 1), (39, 1), (40, 2)] {
            assert_eq!(last_log_term(&history, Lsn(flush)), term, "{flush}");
        }
    }
}
