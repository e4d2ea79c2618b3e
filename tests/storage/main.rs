//! The development storage on a real PostgreSQL: what it serves is what was written.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers outside of test functions belong to tests"
)]

#[path = "../authority/mod.rs"]
mod authority;
#[path = "../pgdata/cluster.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod cluster;
mod grpc;
#[path = "../loopback/mod.rs"]
mod loopback;
mod node;
mod pages;
mod recorded;
mod recovery;
mod tls;
mod wal_source;
mod whole;
