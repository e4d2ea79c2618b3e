//! The proposer of the safekeepers' consensus, sync and the WAL relay.
