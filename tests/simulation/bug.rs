//! Deliberately broken proposers and acceptors, which the simulation must catch.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A proposer counts as committed what a single safekeeper has.
    CommitsWithMinority,
    /// A proposer counts as committed what a majority of the old members has,
    /// whatever the new ones have.
    CommitsWithOldMembers,
    /// A proposer believes to be elected once one safekeeper has voted for it.
    ElectsItself,
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
    /// An acceptor takes messages of any generation of the membership.
    IgnoresGeneration,
}

impl Bug {
    pub(crate) const ALL: [Self; 9] = [
        Self::CommitsWithMinority,
        Self::CommitsWithOldMembers,
        Self::ElectsItself,
        Self::SkipsTruncation,
        Self::IgnoresTermInAppend,
        Self::VotesTwice,
        Self::ForgetsTerm,
        Self::SkipsSync,
        Self::IgnoresGeneration,
    ];
}
