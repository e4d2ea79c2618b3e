//! The development storage: safekeepers, a pageserver and a storage-controller
//! endpoint that speak the real wire protocols. For development and tests only.

pub mod acceptor;
pub mod membership;
pub mod pgwire_server;
pub mod safekeeper;
pub mod wal_store;
