//! What happened in runs, so that one can see that something did.

use std::collections::BTreeMap;
use std::fmt;

/// Everything that must have happened in a good number of runs.
const WANTED: &[&str] = &[
    "clock jumped",
    "committed",
    "compute crashed",
    "compute stood still",
    "connection broken",
    "diverged",
    "elected",
    "fenced",
    "fetched from donor",
    "fetched locally",
    "late message",
    "list changed",
    "membership changed",
    "membership change given up",
    "membership joint",
    "network parted",
    "node crashed",
    "segment switched",
    "synced by votes",
    "synced in full",
    "timeline copied",
    "truncated",
    "unsynced wal lost",
    "vote refused",
];

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Statistics(BTreeMap<&'static str, u64>);

impl Statistics {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let missing = WANTED.iter().filter(|what| !self.0.contains_key(**what));
        missing.copied().collect()
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.0.iter().map(|(what, count)| format!("{what} {count}"));
        f.write_str(&entries.collect::<Vec<_>>().join(", "))
    }
}
