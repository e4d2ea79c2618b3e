//! Rules of the proposer, each against safekeepers that follow theirs.

pub(crate) mod acceptor;
mod membership;
mod stream;
mod sync;
mod worked_example;
mod world;
