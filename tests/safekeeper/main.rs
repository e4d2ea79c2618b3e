//! The development storage's safekeepers over their sockets: against recorded
//! sessions of real ones, under faults and restarts, and with this crate's proposer.
#![cfg(feature = "storage")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod conformance;
mod faults;
mod http;
mod proposer;
mod recovery;
mod replay;
mod transcript;

use std::time::Duration;

/// How long anything that is awaited may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The tenant of the recorded sessions, and of all tests.
pub(crate) const TENANT: &str = "9e4c8f36063c6c6e93bc20d65a820f3d";
