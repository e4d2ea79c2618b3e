//! The HTTP servers of a compute.
//!
//! Handlers hold no state: they read the [`Snapshot`](crate::report::Snapshot) and
//! send [`control::Request`]s to the one task that owns the compute.

pub mod control;
