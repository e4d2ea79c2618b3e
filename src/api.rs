//! The ComputeSpec resource, its status and conditions. No I/O.

pub mod resource;
pub mod status;
