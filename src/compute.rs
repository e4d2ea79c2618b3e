//! The heart: state, lifecycle and supervision of one compute.

pub mod postgres;
pub mod restart_budget;
pub mod state;
