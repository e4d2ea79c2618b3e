//! The development storage: safekeepers, a pageserver and a storage-controller
//! endpoint that speak the real wire protocols. For development and tests only.

pub mod acceptor;
mod archive;
mod cluster;
pub mod controller;
mod files;
mod http_listener;
pub mod knobs;
mod management;
pub mod membership;
pub mod pageserver;
pub mod pgwire_server;
pub mod safekeeper;
pub mod timelines;
pub mod wal_store;

pub use cluster::{Error, NodeTls, Storage, StorageConfig, StorageOptions, start, start_with};
