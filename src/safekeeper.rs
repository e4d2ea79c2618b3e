//! The proposer of the safekeepers' consensus, sync and the WAL relay.

pub mod proposer;
