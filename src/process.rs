//! Starts, signals and reaps every child process, so that none outlives glowplug's
//! interest in it and no exit status is lost.
//!
//! One task owns all children: it forks them, waits for them, and signals them.
//! Forking and reaping in one place is what makes it safe to collect orphans as
//! PID 1: a status is never taken by somebody who does not know whose it is, and no
//! signal goes to a process id that was reused. That is also why
//! `tokio::process` is not used: its own reaper would compete for the statuses.
//!
//! # Guarantees
//!
//! 1. A child runs in a process group of its own, so signals of a terminal reach
//!    glowplug alone, which decides how to stop.
//! 2. Dropping a [`Child`] that still runs kills it and what it started, also when
//!    the runtime goes.
//! 3. Output is read with back-pressure: a child that writes faster than its reader
//!    waits; bytes that are not UTF-8 pass, lines of any length are split.

mod command;
mod exit;
mod lines;
pub mod log_joiner;
pub mod log_origin;
mod reaper;
mod run_as;
mod spawner;
#[cfg(test)]
mod tests;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

pub use command::Command;
pub use exit::Exit;
pub use lines::{Line, LineSplitter, Lines, MAX_LINE, Stream};
pub use run_as::RunAs;
pub use rustix::process::Signal;
pub use spawner::{Child, Output, Spawner};
pub use tree::kill_tree_of;

use crate::error::{Category, Retry};

/// What can go wrong with child processes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The signal handler that tells of ended children could not be installed, or
    /// orphans could not be adopted.
    #[error("cannot watch for ended child processes")]
    Watch(#[source] std::io::Error),
    /// The program could not be started.
    #[error("cannot start {}: check that it exists and may be executed", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A tool did not end in time and was killed.
    #[error(
        "{program} did not end within {limit:?} and was killed{}",
        tail(output)
    )]
    TimedOut {
        /// Name of the program.
        program: String,
        /// The limit.
        limit: Duration,
        /// The last that it wrote on stderr.
        output: String,
    },
    /// A tool ended without success.
    #[error("{program} ended with {exit}{}", tail(output))]
    Failed {
        /// Name of the program.
        program: String,
        /// How it ended.
        exit: Exit,
        /// The last that it wrote on stderr.
        output: String,
    },
    /// The child has ended and cannot be signalled.
    #[error("process {pid} has ended already")]
    Gone {
        /// Its process id.
        pid: i32,
    },
    /// The system refused to deliver a signal.
    #[error("cannot signal process {pid}")]
    Signal {
        /// Process id, or the group's.
        pid: i32,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The task that owns the children is gone: the program is ending.
    #[error("child processes are no longer supervised: the program is ending")]
    Closed,
}

fn tail(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!("; it wrote: {output}")
    }
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Watch(_) => "SupervisionFailed",
            Self::Spawn { .. } => "SpawnFailed",
            Self::TimedOut { .. } => "Timeout",
            Self::Failed { .. } => "ToolFailed",
            Self::Gone { .. } | Self::Signal { .. } => "SignalFailed",
            Self::Closed => "ShuttingDown",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::TimedOut { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }
}
