//! Sees everything, and tells when a promise is broken.

use std::collections::BTreeMap;

use glowplug::lsn::Lsn;
use glowplug::wire::safekeeper::TermHistory;

use crate::node::Node;
use crate::wal::Log;

pub(crate) struct Oracle {
    start: Lsn,
    /// Sets of nodes: a majority of each must have what is committed.
    entrusted: Vec<Vec<usize>>,
    /// What was committed just now, and by whose majorities.
    fresh: Vec<(Lsn, Vec<Vec<usize>>)>,
    /// Who won each term.
    winners: BTreeMap<u64, u64>,
    /// The log of each proposer that writes one.
    logs: BTreeMap<u64, Log>,
    /// The history that each term's proposer told.
    histories: BTreeMap<u64, TermHistory>,
    /// What was committed in each term.
    commits: BTreeMap<u64, Lsn>,
    /// Everything that was ever committed.
    committed: Log,
}

pub(crate) type Verdict = Result<(), String>;

impl Oracle {
    pub(crate) fn new(start: Lsn, entrusted: Vec<Vec<usize>>) -> Self {
        Self {
            start,
            entrusted,
            fresh: Vec::new(),
            winners: BTreeMap::new(),
            logs: BTreeMap::new(),
            histories: BTreeMap::new(),
            commits: BTreeMap::new(),
            committed: Log::new(start, Vec::new()),
        }
    }

    /// From now on these sets must have what is committed.
    pub(crate) fn entrust(&mut self, sets: Vec<Vec<usize>>) {
        self.entrusted = sets;
    }

    /// All nodes that are to have what is committed.
    pub(crate) fn entrusted(&self) -> impl Iterator<Item = usize> + '_ {
        self.entrusted.iter().flatten().copied()
    }

    /// End of what was ever committed.
    pub(crate) fn committed_end(&self) -> Lsn {
        self.committed.end()
    }

    /// A proposer writes this log, and has extended it.
    pub(crate) fn write(&mut self, life: u64, log: &Log) {
        let known = self.logs.entry(life);
        let known = known.or_insert_with(|| Log::new(log.start, Vec::new()));
        let from = known.bytes.len();
        known.bytes.extend_from_slice(&log.bytes[from..]);
    }

    /// A proposer says that it was elected.
    pub(crate) fn elected(&mut self, term: u64, life: u64, term_start_lsn: Lsn) -> Verdict {
        if let Some(other) = self.winners.insert(term, life) {
            return Err(format!(
                "term {term} was won by proposer {other} and by proposer {life}"
            ));
        }
        // It may learn late that it was elected: later terms do not count.
        let earlier = self.commits.range(..term).map(|(_, lsn)| *lsn).max();
        match earlier.filter(|lsn| *lsn > term_start_lsn) {
            None => Ok(()),
            Some(lsn) => Err(format!(
                "term {term} starts at {term_start_lsn}, although everything up to {lsn} was \
                 committed in an earlier one"
            )),
        }
    }

    /// Whether nobody else was elected since a proposer was for the first time.
    pub(crate) fn is_alone(&self, life: u64) -> bool {
        let mut since = self.winners.values().skip_while(|winner| **winner != life);
        since.next().is_some() && since.all(|winner| *winner == life)
    }

    /// A proposer tells this history of its term.
    pub(crate) fn told(&mut self, term: u64, history: &TermHistory) -> Verdict {
        let known = self
            .histories
            .entry(term)
            .or_insert_with(|| history.clone());
        if known != history {
            return Err(format!(
                "term {term} has two histories: {known:?} and {history:?}"
            ));
        }
        Ok(())
    }

    /// Everything that was committed, up to here.
    pub(crate) fn committed_until(&self, end: Lsn) -> Option<Log> {
        let bytes = self.committed.read(self.start, end);
        let whole = end <= self.committed_end();
        whole.then(|| Log::new(self.start, bytes.to_vec()))
    }

    /// What the history of a term says that stands between two positions.
    fn assemble(&self, term: u64, from: Lsn, end: Lsn) -> Option<Log> {
        let mut log = Log::new(from, Vec::new());
        let history = &self.histories.get(&term)?.0;
        for (index, entry) in history.iter().enumerate() {
            let until = history.get(index + 1).map_or(end, |next| next.lsn.min(end));
            if until <= entry.lsn || until <= log.end() {
                continue;
            }
            let writer = self.winners.get(&entry.term)?;
            let written = self.logs.get(writer)?.read(log.end(), until);
            log.bytes.extend_from_slice(written);
        }
        (log.end() == end).then_some(log)
    }

    /// The proposer of a term counts everything up to here as committed, by majorities
    /// of these sets.
    pub(crate) fn commit(&mut self, term: u64, commit_lsn: Lsn, sets: Vec<Vec<usize>>) -> Verdict {
        self.fresh.push((commit_lsn, sets));
        // What was compared when it committed before is not compared again.
        let from = self.commits.get(&term).copied().unwrap_or(self.start);
        let Some(log) = self.assemble(term, from, commit_lsn) else {
            return Err(format!(
                "in term {term} WAL up to {commit_lsn} is committed that nobody wrote"
            ));
        };
        let known = self.committed_end();
        let shared = commit_lsn.min(known);
        if log.read(from, shared) != self.committed.read(from, shared) {
            return Err(format!(
                "in term {term} another log is committed up to {commit_lsn} than before"
            ));
        }
        self.commits.insert(term, commit_lsn);
        let more = log.read(known, commit_lsn);
        self.committed.bytes.extend_from_slice(more);
        Ok(())
    }

    /// Checks all safekeepers.
    pub(crate) fn check(&mut self, nodes: &mut [Node]) -> Verdict {
        for node in nodes.iter_mut() {
            self.check_log(node)?;
            self.check_commit(node)?;
        }
        self.check_majority(nodes)
    }

    /// What a safekeeper holds is, term by term, what that term's proposer wrote.
    fn check_log(&self, node: &mut Node) -> Verdict {
        let Some(acceptor) = &node.acceptor else {
            return Ok(());
        };
        let end = acceptor.stored_flush_lsn();
        let from = node.compared_until;
        if end <= from {
            return Ok(());
        }
        let history = &acceptor.control().term_history.0;
        for (index, entry) in history.iter().enumerate() {
            let until = history.get(index + 1).map_or(end, |next| next.lsn.min(end));
            let from = from.max(entry.lsn);
            if until <= from {
                continue;
            }
            let written = self.winners.get(&entry.term).and_then(|winner| {
                let log = self.logs.get(winner)?;
                Some(log.read(from, until))
            });
            let held = node.disk.copy(from, until);
            if written != Some(&held[..]) {
                return Err(format!(
                    "safekeeper {} holds between {from} and {until} what nobody wrote in term {}",
                    node.id, entry.term
                ));
            }
        }
        node.compared_until = end;
        Ok(())
    }

    fn check_commit(&self, node: &Node) -> Verdict {
        let Some(acceptor) = &node.acceptor else {
            return Ok(());
        };
        let commit_lsn = acceptor.commit_lsn();
        if commit_lsn > self.committed_end() {
            return Err(format!(
                "safekeeper {} believes {commit_lsn} to be committed, but only {} is",
                node.id,
                self.committed_end()
            ));
        }
        if acceptor.persisted_commit_lsn() > commit_lsn || commit_lsn > acceptor.flush_lsn() {
            return Err(format!(
                "safekeeper {} has not what it believes committed",
                node.id
            ));
        }
        Ok(())
    }

    /// What was committed is on a majority, even if all of them crash now.
    fn check_majority(&mut self, nodes: &mut [Node]) -> Verdict {
        let end = self.committed_end();
        for node in nodes.iter_mut() {
            while node.agreed_until < end {
                // In small pieces: who lags differs in the first one.
                let from = node.agreed_until;
                let until = end.min(Lsn(from.0 + 512));
                let held = node.disk.durable_copy(from, until);
                let wanted = self.committed.read(from, until);
                let same = held.iter().zip(wanted).take_while(|(a, b)| a == b);
                node.agreed_until = Lsn(from.0 + same.count() as u64);
                if node.agreed_until < until {
                    break;
                }
            }
        }
        let holds = |end: Lsn| move |node: &Node| node.agreed_until >= end;
        for (end, sets) in self.fresh.drain(..) {
            // Who has confirmed it may have been relieved since: then others have it.
            check_sets(nodes, end, &sets, |node| node.relieved || holds(end)(node))?;
        }
        check_sets(nodes, end, &self.entrusted, holds(end))
    }

    /// Whether a safekeeper holds everything up to here.
    pub(crate) fn holds(node: &Node, end: Lsn) -> bool {
        node.acceptor.is_some() && node.agreed_until >= end
    }
}

fn check_sets(
    nodes: &[Node],
    end: Lsn,
    sets: &[Vec<usize>],
    holds: impl Fn(&Node) -> bool,
) -> Verdict {
    for set in sets {
        let holders = set.iter().filter(|index| holds(&nodes[**index])).count();
        if holders <= set.len() / 2 {
            return Err(format!(
                "what was committed up to {end} is durable on {holders} safekeepers only of {set:?}"
            ));
        }
    }
    Ok(())
}
