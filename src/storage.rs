//! The development storage: safekeepers, a pageserver and a storage-controller
//! endpoint that speak the real wire protocols. For development and tests only.

pub mod acceptor;
mod archive;
mod files;
mod http_listener;
pub mod knobs;
pub mod membership;
pub mod pageserver;
pub mod pgwire_server;
pub mod safekeeper;
pub mod timelines;
pub mod wal_store;
