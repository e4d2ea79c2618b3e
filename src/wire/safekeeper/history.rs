//! What a term history says about a log, computed alike on both ends: an acceptor
//! refuses an `Elected` whose truncation point it finds elsewhere.

use super::{TermHistory, TermLsn};
use crate::lsn::Lsn;

impl TermHistory {
    /// The entry of the last term, if there is any.
    pub fn last(&self) -> Option<TermLsn> {
        self.0.last().copied()
    }

    /// The term that wrote the end of a log that is flushed up to `flush_lsn`; 0 if
    /// none did. An entry that starts exactly there counts already
    /// (`safekeeper/src/safekeeper.rs: SafeKeeper::get_last_log_term`).
    pub fn last_log_term(&self, flush_lsn: Lsn) -> u64 {
        let reached = self.0.iter().rev().find(|entry| entry.lsn <= flush_lsn);
        reached.map_or(0, |entry| entry.term)
    }

    /// The entries that a log flushed up to `flush_lsn` has reached.
    #[must_use]
    pub fn up_to(&self, flush_lsn: Lsn) -> Self {
        let reached = self.0.iter().take_while(|entry| entry.lsn <= flush_lsn);
        Self(reached.copied().collect())
    }

    /// Whether terms rise, and positions do not fall.
    pub fn is_ordered(&self) -> bool {
        let rises = |pair: &[TermLsn]| pair[0].term < pair[1].term && pair[0].lsn <= pair[1].lsn;
        self.0.windows(2).all(rises)
    }

    /// Where the log of an acceptor and that of the proposer with this history
    /// part: the last term that both have, and the last position under it. `None`
    /// if they have no term in common.
    ///
    /// `acceptor` is the acceptor's history, `flush_lsn` the end of its log
    /// (`TermHistory::find_highest_common_point`).
    pub fn highest_common_point(&self, acceptor: &Self, flush_lsn: Lsn) -> Option<TermLsn> {
        let pairs = self.0.iter().zip(&acceptor.0);
        let shared = pairs.take_while(|(ours, theirs)| ours.term == theirs.term);
        let index = shared.count().checked_sub(1)?;
        let common = self.0.get(index)?;
        let theirs_ends = acceptor.0.get(index + 1).map_or(flush_lsn, |next| next.lsn);
        // Under the proposer's last term the acceptor may have anything: it was all
        // written by this proposer.
        let ours_ends = self.0.get(index + 1).map_or(theirs_ends, |next| next.lsn);
        Some(TermLsn {
            term: common.term,
            lsn: ours_ends.min(theirs_ends),
        })
    }

    /// Where the proposer with this history starts to stream to an acceptor: at the
    /// [highest common point](Self::highest_common_point), or else at the start of
    /// the timeline.
    pub fn start_streaming_at(&self, acceptor: &Self, flush_lsn: Lsn) -> Lsn {
        let start = self.0.first().map_or(Lsn::INVALID, |first| first.lsn);
        let common = self.highest_common_point(acceptor, flush_lsn);
        common.map_or(start, |point| point.lsn)
    }
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

    #[track_caller]
    fn check(proposer: &[(u64, u64)], acceptor: &[(u64, u64)], flush: u64, expected: (u64, u64)) {
        let (proposer, acceptor) = (history(proposer), history(acceptor));
        let point = proposer.highest_common_point(&acceptor, Lsn(flush));
        assert_eq!(point.map_or(0, |point| point.term), expected.0);
        let start = proposer.start_streaming_at(&acceptor, Lsn(flush));
        assert_eq!(start, Lsn(expected.1));
    }

    #[test]
    fn histories_without_a_common_term_start_over() {
        check(&[(0, 1)], &[(1, 1), (2, 2)], 3, (0, 1));
        check(&[(1, 10), (3, 50)], &[], 0, (0, 10));
    }

    #[test]
    fn a_foreign_term_is_cut() {
        let proposer = [(1, 10), (2, 20), (4, 40)];
        check(&proposer, &[(1, 10), (2, 20), (3, 30)], 40, (2, 30));
        check(&proposer, &[(1, 10), (2, 20), (3, 45)], 60, (2, 40));
    }

    #[test]
    fn a_prefix_goes_on_where_it_ends() {
        check(
            &[(1, 10), (2, 20), (4, 40)],
            &[(1, 10), (2, 20)],
            32,
            (2, 32),
        );
        check(
            &[(1, 10), (2, 20), (4, 40)],
            &[(1, 10), (2, 20)],
            50,
            (2, 40),
        );
    }

    #[test]
    fn under_the_proposers_own_term_everything_is_common() {
        check(&[(1, 10), (2, 20)], &[(1, 10), (2, 20)], 32, (2, 32));
    }

    #[test]
    fn a_term_counts_from_its_first_position_on() {
        let history = history(&[(1, 10), (2, 40)]);
        assert_eq!(history.last_log_term(Lsn(39)), 1);
        assert_eq!(history.last_log_term(Lsn(40)), 2);
        assert_eq!(history.last_log_term(Lsn(9)), 0);
        assert_eq!(history.up_to(Lsn(39)).0.len(), 1);
        assert_eq!(history.up_to(Lsn(40)).0.len(), 2);
    }

    #[test]
    fn disorder_is_seen() {
        assert!(history(&[(0, 10), (1, 10), (3, 40)]).is_ordered());
        assert!(!history(&[(1, 10), (1, 20)]).is_ordered());
        assert!(!history(&[(1, 20), (2, 10)]).is_ordered());
    }
}
