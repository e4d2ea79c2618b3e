//! The ComputeSpec resource, its status and conditions, and failures of its API
//! server. No I/O.

pub mod failure;
pub mod resource;
pub mod status;
