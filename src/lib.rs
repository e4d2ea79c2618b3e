//! glowplug turns a compute specification into a running, stateless Postgres on
//! Neon storage, keeps it running, and says in the specification's status how it is.
//!
//! Rooms from top to bottom; each may use those below it, none above
//! (`tests/tidy.rs` checks this). ARCHITECTURE.md tells what each is for.

pub mod cli;
#[cfg(feature = "storage")]
pub mod dev;
pub mod source;

pub mod compute;
pub mod http;
pub mod report;

pub mod catalog;
pub mod pageserver;
pub mod pgdata;
pub mod safekeeper;
#[cfg(feature = "storage")]
pub mod storage;

pub mod access;
pub mod api;
pub mod spec;

pub mod pgwire;
pub mod process;
pub mod telemetry;
pub mod tls;
pub mod wire;

pub mod backoff;
pub mod error;
pub mod id;
pub mod lsn;
pub mod secret;
