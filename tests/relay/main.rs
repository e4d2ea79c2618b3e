//! The WAL relay between a real PostgreSQL and the development storage's
//! safekeepers: commits wait for a majority, faults lose nothing, and a newer
//! proposer ends it.
#![cfg(feature = "storage")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bench;
#[path = "../postgres/mod.rs"]
mod postgres;

use std::time::Duration;

use bench::{Quorum, Relay, last_checkpoint, local_wal, postgres, postgres_with};
use glowplug::error::Category;
use glowplug::lsn::Lsn;
use glowplug::safekeeper::relay::Error;
use glowplug::safekeeper::{RelayCommand, RelayPhase};
use tokio::time::timeout;
use tokio_postgres::Client;

/// How long anything that is awaited may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

async fn execute(client: &Client, sql: &str) {
    let done = timeout(LIMIT, client.batch_execute(sql)).await;
    done.expect("the commit completes").unwrap();
}

async fn lsn(client: &Client) -> Lsn {
    let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]);
    row.await.unwrap().get::<_, &str>(0).parse().unwrap()
}

/// Waits until another session waits for the safekeepers.
async fn await_blocked_commit(client: &Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let blocked = async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, blocked).await.expect("the commit waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_a_majority_and_go_on_when_it_is_back() {
    let mut quorum = Quorum::start(3).await;
    let (postgres, start_lsn) = postgres().await;
    let mut relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(&client, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    relay
        .await_status(|status| status.phase == RelayPhase::Streaming)
        .await;

    // One down: nothing changes.
    quorum.crash(2).await;
    execute(&client, "INSERT INTO t VALUES (2)").await;

    // Two down: a commit waits, until one is back.
    quorum.crash(1).await;
    let watcher = postgres.connect("postgres").await;
    let insert = tokio::spawn(async move {
        execute(&client, "INSERT INTO t VALUES (3)").await;
        client
    });
    await_blocked_commit(&watcher).await;
    quorum.restart(2).await;
    let client = insert.await.unwrap();
    quorum.restart(1).await;

    let end = lsn(&client).await;
    for index in 0..3 {
        quorum.await_flush(index, end).await;
        assert!(quorum.wal(index, start_lsn, end) == local_wal(&postgres, start_lsn, end));
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_proposer_fences_the_first() {
    let quorum = Quorum::start(3).await;
    let (postgres, start_lsn) = postgres().await;
    let mut relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(&client, "CREATE TABLE t (n int)").await;
    let acknowledged = lsn(&client).await;
    let before = relay
        .await_status(|status| status.phase == RelayPhase::Streaming)
        .await;

    let synced = quorum.sync().await;
    assert!(synced.commit_lsn >= acknowledged);
    assert!(synced.term > before.term);
    let status = relay
        .await_status(|status| status.phase == RelayPhase::Fenced)
        .await;
    assert_eq!(Some(status.fenced.unwrap().by_term), synced.term);
    let error = relay.ended().await;
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(error.category(), "TakeoverDetected");

    // The old postgres cannot commit any more, not even with a new relay.
    let watcher = postgres.connect("postgres").await;
    let insert =
        tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
    await_blocked_commit(&watcher).await;
    let relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let error = relay.ended().await;
    assert!(matches!(error, Error::Diverged(_)), "{error}");
    assert!(!insert.is_finished());
    assert_eq!(quorum.sync().await.commit_lsn, synced.commit_lsn);
    insert.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_ends_once_a_majority_has_all_wal() {
    let quorum = Quorum::start(3).await;
    let (mut postgres, start_lsn) = postgres().await;
    let relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(
        &client,
        "CREATE TABLE t AS SELECT generate_series(1, 20000) n",
    )
    .await;
    let stopped = timeout(LIMIT, postgres.shut_down()).await;
    stopped.expect("postgres stops");
    let checkpoint = last_checkpoint(&postgres);
    assert!(relay.is_running());
    relay.stop().await;
    let synced = quorum.sync().await;
    assert!(
        synced.commit_lsn > checkpoint,
        "the shutdown checkpoint is on the safekeepers"
    );
    let expected = local_wal(&postgres, start_lsn, synced.commit_lsn);
    assert!(quorum.wal(0, start_lsn, synced.commit_lsn) == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_connections_are_resumed_without_loss_or_repetition() {
    let mut quorum = Quorum::start(3).await;
    let (postgres, start_lsn) = postgres().await;
    let mut relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(&client, "CREATE TABLE t (n int, text text)").await;
    for round in 0..6 {
        execute(
            &client,
            "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 5000) n",
        )
        .await;
        match round % 3 {
            0 => {
                execute(
                    &client,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_replication",
                )
                .await;
            }
            1 => {
                quorum.crash(round / 3).await;
                quorum.restart(round / 3).await;
            }
            _ => execute(&client, "SELECT pg_switch_wal()").await,
        }
    }
    execute(&client, "INSERT INTO t VALUES (0)").await;
    let end = lsn(&client).await;
    let expected = local_wal(&postgres, start_lsn, end);
    for index in 0..3 {
        quorum.await_flush(index, end).await;
        assert!(
            quorum.wal(index, start_lsn, end) == expected,
            "safekeeper {index}"
        );
    }
    let status = relay.await_status(|status| status.commit_lsn >= end).await;
    assert_eq!(status.phase, RelayPhase::Streaming);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_safekeeper_that_was_away_for_long_is_caught_up() {
    let mut quorum = Quorum::start(3).await;
    let (postgres, start_lsn) = postgres().await;
    let relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(&client, "CREATE TABLE t (text text)").await;
    quorum.crash(1).await;
    // More than the relay keeps in memory.
    let insert = "INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 20000)";
    execute(&client, insert).await;
    quorum.restart(1).await;
    let end = lsn(&client).await;
    assert!(end.bytes_since(start_lsn) > 4 << 20);
    quorum.await_flush(1, end).await;
    assert!(quorum.wal(1, start_lsn, end) == local_wal(&postgres, start_lsn, end));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_writes_without_a_majority_wait_in_postgres_and_survive_checkpoints() {
    let mut quorum = Quorum::start(3).await;
    let (postgres, start_lsn) =
        postgres_with(&[("wal_keep_size", "0"), ("max_wal_size", "32MB")]).await;
    let relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(&client, "CREATE TABLE t (text text)").await;
    quorum.crash(0).await;
    quorum.crash(1).await;
    // Nothing of this is committed, so it waits for nobody.
    let bulk = "BEGIN; INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 50000)";
    execute(&client, bulk).await;
    let other = postgres.connect("postgres").await;
    for _ in 0..3 {
        execute(&other, "SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    quorum.restart(0).await;
    quorum.restart(1).await;
    execute(&client, "COMMIT").await;
    let end = lsn(&client).await;
    quorum.await_flush(1, end).await;
    assert!(relay.is_running());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_safekeepers_take_over_while_postgres_runs() {
    let mut quorum = Quorum::start(4).await;
    let (postgres, start_lsn) = postgres().await;
    let mut relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    let client = postgres.connect("postgres").await;
    execute(&client, "CREATE TABLE t (n int)").await;
    let before = relay
        .await_status(|status| status.phase == RelayPhase::Streaming)
        .await;

    let command = RelayCommand::Membership(quorum.set(&[0, 1, 3]));
    relay.commands.send(command).await.unwrap();
    relay
        .await_status(|status| status.phase == RelayPhase::Streaming && status.term > before.term)
        .await;
    // Only the new one makes a majority with the first.
    quorum.crash(1).await;
    execute(&client, "INSERT INTO t VALUES (1)").await;
    let end = lsn(&client).await;
    quorum.await_flush(3, end).await;
    assert!(quorum.wal(3, start_lsn, end) == local_wal(&postgres, start_lsn, end));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_waits_for_a_postgres_that_is_not_up_yet() {
    let quorum = Quorum::start(3).await;
    let (mut postgres, start_lsn) = postgres_with(&[("synchronous_standby_names", "")]).await;
    let stopped = timeout(LIMIT, postgres.shut_down()).await;
    stopped.expect("postgres stops");
    let checkpoint = last_checkpoint(&postgres);
    let mut relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    relay
        .await_status(|status| status.phase == RelayPhase::Streaming)
        .await;
    postgres.start_again().await;
    quorum.await_flush(0, checkpoint).await;
    relay.stop().await;
}
