//! Deliberately broken proposers and acceptors, which the simulation must catch.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A proposer counts as committed what a single safekeeper has.
    CommitsWithMinority,
    /// An acceptor does not cut its log at an `Elected`.
    SkipsTruncation,
    /// An acceptor takes WAL of any term.
    IgnoresTermInAppend,
    /// An acceptor gives its vote in one term to whoever asks.
    VotesTwice,
    /// An acceptor does not persist the term that it votes for.
    ForgetsTerm,
    /// An acceptor confirms WAL that it has not synced.
    SkipsSync,
}

impl Bug {
    pub(crate) const ALL: [Self; 6] = [
        Self::CommitsWithMinority,
        Self::SkipsTruncation,
        Self::IgnoresTermInAppend,
        Self::VotesTwice,
        Self::ForgetsTerm,
        Self::SkipsSync,
    ];
}
