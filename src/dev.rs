//! The embedded default: storage and a compute on this machine.

pub mod display;
