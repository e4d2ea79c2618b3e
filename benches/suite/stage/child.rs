//! Parts of a bench that run as a process of their own, so that their memory can be
//! told from the bench's.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::memory;

/// The first argument of such a process.
pub(crate) const CHILD: &str = "--as-child";

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What a part said at its end, and what it took.
pub(crate) struct Ended {
    /// The only line that it printed.
    pub(crate) said: String,
    pub(crate) elapsed: Duration,
    /// The most memory of its own, without the program's file, in bytes.
    pub(crate) peak_anonymous: u64,
}

/// Runs a part to its end.
pub(crate) fn run(part: &str, arguments: &[&str]) -> Ended {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg(CHILD).arg(part).args(arguments);
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut peak_anonymous = 0;
    let status = loop {
        peak_anonymous = peak_anonymous.max(memory(child.id()).anonymous);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(LOOK),
        }
    };
    let elapsed = started.elapsed();
    assert!(status.success(), "{part} failed");
    Ended {
        said: line(&mut child),
        elapsed,
        peak_anonymous,
    }
}

fn line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    line.trim().to_owned()
}
