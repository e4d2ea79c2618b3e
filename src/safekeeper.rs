//! The side of the safekeepers' consensus that writes: a sync finds where the log
//! ends before a postgres starts, a relay streams a local postgres' WAL.
//!
//! [`proposer`] decides everything and does no I/O; the shells around it open
//! connections, move bytes and tell the time. Each shell is one task that owns all
//! its connections: a slow peer can hold up nobody but itself, and dropping the
//! future closes everything.

pub mod proposer;
pub mod relay;
pub mod sync;

mod address;
mod driver;
mod fetch;
mod link;
mod precheck;
mod refusal;

pub use relay::{RelayCommand, RelayConfig, RelayPhase, RelayStatus, relay};
pub use sync::{SyncConfig, Synced, SyncedHow, sync};

#[cfg(test)]
mod tests;
