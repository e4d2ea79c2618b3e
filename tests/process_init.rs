//! As an init process, glowplug reaps what others left behind, and still delivers
//! every status of its own children. A program of its own: it takes the statuses of
//! every child of this process.

use std::time::Duration;

use glowplug::process::{Command, Exit, Spawner};
use prometheus::IntCounter;

/// Orphans for each of our own children.
const ORPHANS: u64 = 3;
const CHILDREN: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_reaped_among_our_own_children() {
    let orphans = IntCounter::new("orphans", "reaped").unwrap();
    let spawner = Spawner::start_as_init(orphans.clone()).unwrap();
    let mut waits = tokio::task::JoinSet::new();
    for code in 0..CHILDREN {
        let spawner = spawner.clone();
        waits.spawn(async move {
            // Each subshell ends before the process that it started.
            let orphan = "(sh -c 'sleep 0.01; exit 7' &); ".repeat(ORPHANS as usize);
            let script = format!("{orphan} exit {code}");
            let command = Command::new("/bin/sh").args(["-c", &script]);
            let child = spawner.spawn(command).await.unwrap();
            assert_eq!(child.wait().await, Exit::Code(code as i32));
        });
    }
    let reaped = async {
        waits.join_all().await;
        while orphans.get() < ORPHANS * CHILDREN {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reaped)
        .await
        .expect("every orphan is reaped");
}
