//! The heart: state, lifecycle and supervision of one compute.

pub mod state;
