//! The `glowplug` program: picks a role, and maps how it ends to an exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use glowplug::cli::args::Cli;
use glowplug::cli::{self, Finished};
use glowplug::compute::ending::Ending;

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arguments(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let help = !error.use_stderr();
            // A closed stdout is no reason to fail.
            let _ = error.print();
            return if help { Ending::Stopped } else { Ending::Usage }.into();
        }
    };
    match cli::run(cli) {
        Ok(Finished { ending }) => ending.into(),
        Err(error) => {
            tracing::error!("{error:#}");
            Ending::Internal.into()
        }
    }
}

/// Started as `compute_ctl`, the program is the compute role, and its arguments are
/// upstream's.
fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "compute_ctl") {
        arguments.insert(1, "compute".into());
    }
    arguments
}
