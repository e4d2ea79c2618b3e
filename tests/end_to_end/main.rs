//! Whole computes on real PostgreSQL and the development storage: what was acknowledged
//! is there after any crash, two computes cannot both commit, and trouble ends in a clear
//! condition.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

mod activity;
#[path = "../authority/mod.rs"]
mod authority;
mod control_plane;
mod durability;
mod endings;
mod exposition;
#[path = "../apiserver/harness.rs"]
mod harness;
mod kubernetes;
mod kubernetes_trouble;
mod lifecycle;
mod logs;
#[path = "../loopback/mod.rs"]
mod loopback;
mod moved;
mod neon_stand_in;
#[path = "../postgres/programs.rs"]
mod programs;
mod stage;
mod storage_access;
mod traces;
mod trouble;
mod versions;

/// A client of the compute's HTTP servers.
fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
