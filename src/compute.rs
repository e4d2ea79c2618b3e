//! The heart: state, lifecycle and supervision of one compute.

pub mod restart_budget;
pub mod state;
