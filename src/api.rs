//! The ComputeSpec resource, its status and its conditions. No I/O.

pub mod status;
