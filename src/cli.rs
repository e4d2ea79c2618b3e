//! Arguments of each role, and what a role does with them.
//!
//! `compute` takes every flag of Neon's `compute_ctl`
//! (`compute_tools/src/bin/compute_ctl.rs`), under the same names, and is what the
//! program runs when it is started under that name.

pub mod args;
mod compute_role;
mod definition;
mod inspect;
mod log_level;
mod plan;
mod probe;
mod runtime;

use std::pin::Pin;

use anyhow::Context as _;
use args::{Cli, Role};

use crate::compute::ending::Ending;
use crate::telemetry::correlation::Correlation;
use crate::telemetry::terminal::Terminal;

/// A role that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// How.
    pub ending: Ending,
}

fn split_name(text: &str) -> anyhow::Result<(String, String)> {
    let (namespace, name) = text
        .split_once('/')
        .with_context(|| format!("'{text}' is not NAMESPACE/NAME"))?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Runs the role that the command line names.
pub fn run(cli: Cli) -> anyhow::Result<Finished> {
    let (log, terminal) = (&cli.log, &Terminal::stderr());
    let correlation = Correlation::default();
    let block_on = |role: Pin<Box<dyn Future<Output = anyhow::Result<Ending>>>>| {
        runtime::block_on(log, terminal, correlation.clone(), role)
    };
    let ending = match cli.role {
        Role::Crd(args) if args.apply => block_on(Box::pin(definition::apply()))?,
        Role::Crd(_) => inspect::print_crd()?,
        Role::Validate(args) => inspect::validate(&args)?,
        Role::Plan(args) => block_on(Box::pin(plan::run(args)))?,
        Role::Probe(args) => block_on(Box::pin(probe::run(args)))?,
        Role::Compute(args) => {
            let role = compute_role::run(*args, terminal.clone(), correlation.clone());
            block_on(Box::pin(role))?
        }
        #[cfg(feature = "storage")]
        Role::Dev(args) => {
            let settings = crate::dev::Settings::from(args);
            let role = crate::dev::run(settings, terminal.clone());
            // It tells what happens itself.
            runtime::block_on(&log.for_people(), terminal, correlation.clone(), role)?
        }
        #[cfg(feature = "storage")]
        Role::Storage(args) => {
            let role = crate::dev::storage_alone(args.into());
            block_on(Box::pin(role))?
        }
    };
    Ok(Finished { ending })
}
