//! Arguments of each role, and what a role does with them.
//!
//! `compute` takes every flag of Neon's `compute_ctl`
//! (`compute_tools/src/bin/compute_ctl.rs`), under the same names, and is what the
//! program runs when it is started under that name.

pub mod args;
mod compute_role;
mod inspect;
mod runtime;

use args::{Cli, Role};

use crate::compute::ending::Ending;

/// A role that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// How.
    pub ending: Ending,
}

/// Runs the role that the command line names.
pub fn run(cli: Cli) -> anyhow::Result<Finished> {
    let ending = match cli.role {
        Role::Crd => inspect::print_crd()?,
        Role::Validate(args) => inspect::validate(&args)?,
        Role::Plan(args) => runtime::block_on(&cli.log, inspect::plan(args))?,
        Role::Compute(args) => runtime::block_on(&cli.log, compute_role::run(*args))?,
        #[cfg(feature = "storage")]
        Role::Dev(args) => {
            let settings = crate::dev::Settings::from(args);
            runtime::block_on(&cli.log, crate::dev::run(settings))?
        }
        #[cfg(feature = "storage")]
        Role::Storage(args) => runtime::block_on(&cli.log, crate::dev::storage_alone(args.into()))?,
    };
    Ok(Finished { ending })
}
