//! Children are started, signalled and reaped for real.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Child, Command, Error, Exit, Lines, RunAs, Signal, Spawner, Stream};

/// For what must happen soon; far longer than it takes.
const SOON: Duration = Duration::from_secs(30);

fn sh(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script])
}

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, event).await.expect("it happens")
}

/// Starts a script and waits until it has written its first line.
async fn started(spawner: &Spawner, script: &str) -> (Child, Lines) {
    let mut child = spawner.spawn(sh(script).lines()).await.unwrap();
    let mut lines = child.take_lines().unwrap();
    assert_eq!(soon(lines.next()).await.unwrap().bytes, "up");
    (child, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exit_of_a_storm_of_children_reaches_its_waiter() {
    let spawner = Spawner::start().unwrap();
    let mut waits = tokio::task::JoinSet::new();
    for code in 0..200 {
        let spawner = spawner.clone();
        waits.spawn(async move {
            let child = spawner.spawn(sh(&format!("exit {code}"))).await.unwrap();
            (code, child.wait().await, child.wait().await)
        });
    }
    let ended: BTreeMap<i32, (Exit, Exit)> = soon(waits.join_all())
        .await
        .into_iter()
        .map(|(code, first, again)| (code, (first, again)))
        .collect();
    let expected = (0..200).map(|code| (code, (Exit::Code(code), Exit::Code(code))));
    assert_eq!(ended, expected.collect());
}

#[tokio::test]
async fn a_signal_ends_the_whole_group() {
    let spawner = Spawner::start().unwrap();
    let (child, mut lines) = started(&spawner, "sleep 1000 & echo up; wait").await;
    child.signal_group(Signal::TERM).await.unwrap();
    assert_eq!(soon(child.wait()).await, Exit::Signal(15));
    // The output ends when the last process that holds it has ended.
    assert_eq!(soon(lines.next()).await, None);
    let gone = child.signal(Signal::TERM).await.unwrap_err();
    assert!(matches!(gone, Error::Gone { .. }), "{gone}");
}

#[tokio::test]
async fn a_killed_tree_leaves_no_session_behind() {
    let spawner = Spawner::start().unwrap();
    let script = "setsid sh -c 'setsid sleep 1000 & echo up; wait' & wait";
    let (child, mut lines) = started(&spawner, script).await;
    child.kill_tree().await.unwrap();
    assert_eq!(soon(child.wait()).await, Exit::Signal(9));
    assert_eq!(soon(lines.next()).await, None);
}

#[tokio::test]
async fn a_dropped_child_is_killed() {
    let spawner = Spawner::start().unwrap();
    let (child, mut lines) = started(&spawner, "sleep 1000 & echo up; wait").await;
    drop(child);
    assert_eq!(soon(lines.next()).await, None);
}

#[test]
fn a_child_dies_with_the_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let child = first.block_on(async {
        let spawner = Spawner::start().unwrap();
        started(&spawner, "echo up; exec sleep 1000").await.0
    });
    drop(first);
    assert_eq!(runtime().block_on(soon(child.wait())), Exit::Signal(9));
}

#[tokio::test]
async fn output_that_is_not_utf8_passes() {
    let spawner = Spawner::start().unwrap();
    let script = r"printf 'a\377b\n\200'; printf 'oops\n' >&2";
    let output = spawner.run(sh(script), SOON).await.unwrap();
    assert_eq!(output.stdout, b"a\xffb\n\x80\n");
    assert_eq!(output.stderr, b"oops\n");
}

#[tokio::test]
async fn output_without_an_end_arrives_whole_and_in_pieces() {
    const BYTES: usize = 20_000_000;
    let spawner = Spawner::start().unwrap();
    let script = format!("head -c {BYTES} /dev/zero");
    let mut child = spawner.spawn(sh(&script).lines()).await.unwrap();
    let mut lines = child.take_lines().unwrap();
    let mut received = 0;
    while let Some(line) = soon(lines.next()).await {
        assert_eq!(line.stream, Stream::Stdout);
        assert!(line.bytes.len() <= super::MAX_LINE);
        received += line.bytes.len();
    }
    assert_eq!(received, BYTES);
    assert_eq!(soon(child.wait()).await, Exit::Code(0));
}

#[tokio::test]
async fn a_tool_that_leaves_a_daemon_behind_does_not_hang() {
    let spawner = Spawner::start().unwrap();
    let output = spawner.run(sh("sleep 60 & echo $!"), SOON).await.unwrap();
    assert_eq!(output.exit, Exit::Code(0));
    let daemon = String::from_utf8(output.stdout).unwrap();
    let kill = sh(&format!("kill -9 {daemon}"));
    spawner
        .run(kill, SOON)
        .await
        .unwrap()
        .require_success()
        .unwrap();
}

#[tokio::test]
async fn a_tool_that_fails_is_quoted() {
    let spawner = Spawner::start().unwrap();
    let script = "echo >&2 'initdb: error:'; echo >&2 '  disk full'; exit 1";
    let output = spawner.run(sh(script), SOON).await.unwrap();
    assert_eq!(
        output.require_success().unwrap_err().to_string(),
        "sh ended with exit code 1; it wrote: initdb: error: | disk full"
    );
}

#[tokio::test]
async fn a_tool_that_takes_too_long_is_killed() {
    let spawner = Spawner::start().unwrap();
    let limit = Duration::from_millis(1);
    let error = spawner.run(sh("exec sleep 1000"), limit).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let spawner = Spawner::start().unwrap();
    let error = spawner
        .spawn(Command::new("/nonexistent/initdb"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot start /nonexistent/initdb: check that it exists and may be executed"
    );
}

#[tokio::test]
async fn a_child_of_root_drops_every_group() {
    let Some(run_as) = RunAs::for_postgres() else {
        return;
    };
    let spawner = Spawner::start().unwrap();
    let command = sh("id -u; id -G; pwd").run_as(Some(run_as.clone()));
    let output = spawner.run(command, SOON).await.unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{}\n{}\n/\n", run_as.uid, run_as.gid)
    );
}
