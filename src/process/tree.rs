//! Finds every descendant of a process, also those that left its process group:
//! backends of postgres are leaders of sessions of their own
//! (`src/backend/utils/init/miscinit.c: InitPostmasterChild`).

use std::fs;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Kills a process group and all descendants of its leader. What is gone already is
/// ignored. Blocks for as long as reading `/proc` takes.
pub(super) fn kill(leader: Pid) {
    // A stopped leader starts nothing while its descendants are listed.
    let _ = kill_process(leader, Signal::STOP);
    let descendants = descendants(leader.as_raw_pid(), &parents());
    let _ = kill_process_group(leader, Signal::KILL);
    for pid in descendants.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Kills a process that is not our child, the group that it leads, and all its
/// descendants. What is gone already is ignored. Blocks for as long as reading
/// `/proc` takes.
pub fn kill_tree_of(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid).filter(|pid| !pid.is_init()) {
        kill(pid);
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Process id and parent of every process that can be seen.
fn parents() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parent_in_stat(&stat)?))
        })
        .collect()
}

/// The parent's id in `/proc/PID/stat`: `PID (NAME) STATE PPID …`, where NAME may
/// hold anything, parentheses included (proc(5)).
fn parent_in_stat(stat: &[u8]) -> Option<i32> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// All descendants of `root`, given the parent of each process.
fn descendants(root: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        for &(pid, ppid) in parents {
            if ppid == parent && !found.contains(&pid) {
                found.push(pid);
            }
        }
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_in_stat(b"12 (postgres) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in_stat(b"12 (a) S 1) (b) R 8 12"), Some(8));
        assert_eq!(parent_in_stat(b"12 (\xff) Z 9 1"), Some(9));
        assert_eq!(parent_in_stat(b"12 (postgres)"), None);
        assert_eq!(parent_in_stat(b""), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let parents = [(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 5)];
        assert_eq!(descendants(5, &parents), [6, 9, 7]);
        assert!(descendants(8, &parents).is_empty());
        // A listing taken while ids are reused may hold a circle.
        assert_eq!(descendants(2, &[(2, 3), (3, 2)]), [3]);
    }
}
