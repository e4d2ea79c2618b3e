//! The internal compute specification: parse, validate, resolve. No I/O.

mod compute_spec;
pub mod revision;

pub use compute_spec::*;
