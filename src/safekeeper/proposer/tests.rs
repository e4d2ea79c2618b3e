//! Rules of the proposer, each against safekeepers that follow theirs.

mod acceptor;
mod membership;
mod stream;
mod sync;
mod world;
