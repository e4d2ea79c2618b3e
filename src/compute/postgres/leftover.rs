//! Ends a postgres that a killed glowplug left behind on a data directory, so that
//! it neither holds the port nor writes into what is made anew, nor leaves a shared
//! memory segment for ever.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::process::{self, Command, Spawner};

/// How long a killed process may take to go.
const LIMIT: Duration = Duration::from_secs(5);

/// How often its end is looked for. It is nobody's child here that could be waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Kills the postmaster named by `postmaster.pid`, and its backends, if it really
/// runs on `pgdata`. Returns its process id if there was one.
///
/// Call it before a data directory is removed. What the postgres had not committed to
/// storage is lost, as with any crash. A process that does not go is logged, and left
/// to the next start to stumble over.
pub async fn stop_leftover(spawner: &Spawner, pgdata: &Path) -> Option<i32> {
    let dir = pgdata.to_owned();
    let find = tokio::task::spawn_blocking(move || {
        let pid_file = std::fs::read_to_string(dir.join("postmaster.pid")).ok()?;
        Some((postmaster_on(&dir, &pid_file), segment(&pid_file)))
    });
    let (pid, segment) = find.await.ok().flatten()?;
    if let Some(pid) = pid {
        kill(pid, pgdata).await;
    }
    if let Some(segment) = segment {
        free(spawner, segment).await;
    }
    pid
}

async fn kill(pid: i32, pgdata: &Path) {
    tracing::warn!(pid, pgdata = %pgdata.display(), "killing a postgres that was left behind");
    let kill = tokio::task::spawn_blocking(move || process::kill_tree_of(pid));
    let _ = kill.await;
    let deadline = Instant::now() + LIMIT;
    while runs(pid) {
        if Instant::now() > deadline {
            tracing::error!(pid, "postgres was killed and does not end");
            break;
        }
        sleep(PAUSE).await;
    }
}

/// The postmaster of a data directory. Its working directory proves it to be the one:
/// the id in the file may be another process' by now.
fn postmaster_on(pgdata: &Path, pid_file: &str) -> Option<i32> {
    let pid: i32 = pid_file.lines().next()?.trim().parse().ok()?;
    let runs_in = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let wanted = std::fs::canonicalize(pgdata).ok()?;
    (pid > 1 && runs_in == wanted).then_some(pid)
}

/// A zombie has ended: somebody else has to reap it.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// A System V shared memory segment. Postgres has one of 56 bytes as an interlock;
/// it outlives a postmaster that was killed, and the system has 4,096 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    key: i32,
    id: i32,
}

/// The segment in the seventh line of `postmaster.pid` (`src/include/utils/pidfile.h`,
/// `LOCK_FILE_LINE_SHMEM_KEY`).
fn segment(pid_file: &str) -> Option<Segment> {
    const SEGMENT_LINE: usize = 7;
    let line = pid_file.lines().nth(SEGMENT_LINE - 1)?;
    let mut words = line.split_ascii_whitespace();
    // Printed as an unsigned long.
    let key = words.next()?.parse::<i64>().ok()? as i32;
    let id = words.next()?.parse().ok()?;
    Some(Segment { key, id })
}

/// Whether `/proc/sysvipc/shm` lists the segment, and nobody is attached to it. Its
/// id alone does not prove it: ids are used again.
fn is_abandoned(segment: Segment, listing: &str) -> bool {
    listing.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<i64>);
        let mut number = |skip| words.nth(skip).and_then(Result::ok);
        let listed = (number(0), number(0));
        // perms, size, cpid, lpid stand between.
        let attached = number(4);
        listed == (Some(segment.key.into()), Some(segment.id.into())) && attached == Some(0)
    })
}

/// Removes a segment if nobody uses it. Best effort: one more costs little.
async fn free(spawner: &Spawner, segment: Segment) {
    let listing = tokio::fs::read_to_string("/proc/sysvipc/shm").await;
    if !is_abandoned(segment, &listing.unwrap_or_default()) {
        return;
    }
    let ipcrm = Command::new("ipcrm").arg("-m").arg(segment.id.to_string());
    let removed = spawner.run(ipcrm, LIMIT).await;
    if let Err(error) = removed.and_then(process::Output::require_success) {
        let error = crate::error::chain(&error);
        tracing::debug!(segment = segment.id, %error, "a shared memory segment stays behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid\n   \
        10193198         37   600                    56 11894 13377      0   102\n  \
        -10242357         42   600                    56 13890 13959      2   102\n";

    #[test]
    fn the_segment_is_read_from_the_pid_file() {
        let file = "7\n/d\n1700000000\n5432\n/tmp\n\n 10193198        37\nready   \n";
        let segment = segment(file).unwrap();
        assert_eq!(
            segment,
            Segment {
                key: 10_193_198,
                id: 37
            }
        );
        assert!(is_abandoned(segment, LISTING));
        assert_eq!(super::segment("7\n/d\n"), None);
    }

    #[test]
    fn a_segment_in_use_or_with_another_key_is_not_abandoned() {
        let used = Segment {
            key: -10_242_357,
            id: 42,
        };
        assert!(!is_abandoned(used, LISTING));
        assert!(is_abandoned(used, &LISTING.replace(" 2   102", " 0   102")));
        assert!(!is_abandoned(Segment { key: 1, id: 37 }, LISTING));
        assert!(!is_abandoned(used, ""));
    }
}
