//! Child processes of a bench, and what the kernel says of them.

use std::fs;
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal and waits for the end.
pub(crate) fn end(child: &mut Child, signal: Signal) {
    let pid = i32::try_from(child.id()).unwrap();
    let _ = kill(Pid::from_raw(pid), signal);
    child.wait().unwrap();
}

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that it ever was.
    pub(crate) peak: u64,
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
    /// Shared in proportion with other processes (PSS).
    pub(crate) proportional: u64,
}

pub(crate) fn memory(pid: u32) -> Memory {
    let kib = |file: &str, name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
        number.and_then(|text| text.parse().ok()).unwrap_or(0) * 1024
    };
    Memory {
        resident: kib("status", "VmRSS"),
        peak: kib("status", "VmHWM"),
        anonymous: kib("status", "RssAnon"),
        file: kib("status", "RssFile"),
        proportional: kib("smaps_rollup", "Pss:"),
    }
}

/// Makes the peak of a process begin anew.
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// Processor time that a process has used, of all its threads.
pub(crate) fn processor_time(pid: u32) -> Duration {
    // The scheduler's own account is exact; `stat` counts in ticks of 10 ms.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Number of threads of a process.
pub(crate) fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}
