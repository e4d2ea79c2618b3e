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
#[path = "../loopback/mod.rs"]
mod loopback;
mod proposer;
mod recovery;
mod replay;
mod transcript;

use std::path::PathBuf;
use std::time::Duration;

use glowplug::storage::safekeeper::SafekeeperConfig;

/// How long anything that is awaited may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

/// A safekeeper that can be started again at the same addresses.
pub(crate) fn safekeeper_config(id: u64, dir: impl Into<PathBuf>) -> SafekeeperConfig {
    let any = loopback::any_port();
    SafekeeperConfig {
        listen: any,
        http_listen: any,
        ..SafekeeperConfig::new(id, dir)
    }
}

/// The tenant of the recorded sessions, and of all tests.
pub(crate) const TENANT: &str = "9e4c8f36063c6c6e93bc20d65a820f3d";
