//! Arguments of each role, and what a role does with them.
//!
//! `compute` takes every flag of Neon's `compute_ctl`
//! (`compute_tools/src/bin/compute_ctl.rs`), under the same names, and is what the
//! program runs when it is started under that name.

pub mod args;
