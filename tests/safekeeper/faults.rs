//! What a test can make go wrong, and what survives it.

use std::time::Duration;

use glowplug::lsn::Lsn;
use glowplug::pgwire::Connection;
use glowplug::secret::Secret;
use glowplug::storage::safekeeper::{
    Error, Safekeeper, SafekeeperConfig, TimelineKey, TimelineStatus,
};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::proposer::{Push, config};
use crate::transcript::START;
use crate::{LIMIT, TENANT, safekeeper_config};

const TIMELINE: &str = "112ded66422aa5e953e5440fa5427ac4";
/// Ends of records.
const FIRST: Lsn = Lsn(0x151_2358);
const SECOND: Lsn = Lsn(0x151_36F0);

fn key() -> TimelineKey {
    TimelineKey {
        tenant_id: TENANT.parse().unwrap(),
        timeline_id: TIMELINE.parse().unwrap(),
    }
}

async fn start(config: SafekeeperConfig) -> Safekeeper {
    Safekeeper::start(config, &CancellationToken::new())
        .await
        .unwrap()
}

async fn node(directory: &TempDir) -> Safekeeper {
    start(safekeeper_config(1, directory.path())).await
}

async fn status(node: &Safekeeper) -> TimelineStatus {
    node.timeline(key()).await.unwrap()
}

/// Waits until the timeline is as wanted.
async fn until(node: &Safekeeper, wanted: impl FnMut(&TimelineStatus) -> bool) {
    let mut watch = node.watch_timeline(key()).await.unwrap();
    timeout(LIMIT, watch.wait_for(wanted))
        .await
        .unwrap()
        .unwrap();
}

async fn query(node: &Safekeeper, text: &str) -> Result<Vec<glowplug::pgwire::Row>, String> {
    let connection = Connection::connect(&config(node.pg_addr(), TIMELINE, None)).await;
    let mut connection = connection.map_err(|error| error.to_string())?;
    let answer = connection.simple_query(text).await;
    answer.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_was_promised_survives_a_stop_and_a_start_at_the_same_addresses() {
    let directory = TempDir::new().unwrap();
    let first = node(&directory).await;
    let mut push = Push::lead(first.pg_addr(), TIMELINE, 3, START).await;
    push.append(START, SECOND).await;
    push.await_flush(SECOND).await;
    let (pg, http) = (first.pg_addr(), first.http_addr());
    let second = start(first.stop().await).await;
    assert_eq!((second.pg_addr(), second.http_addr()), (pg, http));
    assert!(push.next().await.is_err(), "the old connection has ended");
    let found = status(&second).await;
    assert_eq!((found.control.term, found.flush_lsn), (3, SECOND));
    assert_eq!(found.control.term_history.0.len(), 1);
    let mut next = Push::greet(pg, TIMELINE).await;
    next.expect_greeting().await;
    assert!(!next.vote(3).await.vote_given);
    assert!(next.vote(4).await.vote_given);
}

#[tokio::test]
async fn a_crash_loses_what_no_sync_has_covered_and_nobody_was_told_of() {
    let directory = TempDir::new().unwrap();
    let first = node(&directory).await;
    let mut push = Push::lead(first.pg_addr(), TIMELINE, 1, START).await;
    push.append(START, FIRST).await;
    push.await_flush(FIRST).await;
    first.set_faults(|faults| faults.sync_delay = Duration::from_hours(1));
    push.append(FIRST, SECOND).await;
    // Written, but neither synced nor answered.
    let file = directory.path().join(key().to_string());
    let file = file.join("000000010000000000000001.partial");
    let written = async || {
        let bytes = tokio::fs::read(&file).await.unwrap();
        bytes[FIRST.segment_offset() as usize] != 0
    };
    let waiting = async {
        while !written().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap();
    assert_eq!(status(&first).await.flush_lsn, FIRST);
    let second = start(first.crash().await).await;
    assert_eq!(status(&second).await.flush_lsn, FIRST);
    assert!(!written().await);
}

#[tokio::test]
async fn a_paused_safekeeper_takes_connections_and_answers_nothing_until_it_goes_on() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    let mut push = Push::lead(node.pg_addr(), TIMELINE, 1, START).await;
    until(&node, |status| status.control.timeline_start_lsn == START).await;
    node.set_faults(|faults| faults.paused = true);
    push.append(START, FIRST).await;
    let address = node.pg_addr();
    let late = tokio::spawn(async move { Push::greet(address, TIMELINE).await });
    tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(status(&node).await.write_lsn, START);
    assert!(!late.is_finished());
    node.set_faults(|faults| faults.paused = false);
    push.await_flush(FIRST).await;
    timeout(LIMIT, late)
        .await
        .unwrap()
        .unwrap()
        .expect_greeting()
        .await;
}

#[tokio::test]
async fn a_paused_safekeeper_can_be_stopped() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    let _push = Push::lead(node.pg_addr(), TIMELINE, 1, START).await;
    node.set_faults(|faults| faults.paused = true);
    let _waiting = tokio::net::TcpStream::connect(node.pg_addr())
        .await
        .unwrap();
    timeout(LIMIT, node.stop()).await.unwrap();
}

#[tokio::test]
async fn votes_can_be_refused() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    node.set_faults(|faults| faults.refuse_votes = true);
    let mut push = Push::greet(node.pg_addr(), TIMELINE).await;
    push.expect_greeting().await;
    assert!(!push.vote(9).await.vote_given);
    assert_eq!(status(&node).await.control.term, 0);
    node.set_faults(|faults| faults.refuse_votes = false);
    assert!(push.vote(9).await.vote_given);
}

#[tokio::test]
async fn connections_can_be_closed_behind_the_greeting() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    node.set_faults(|faults| faults.close_after_greeting = true);
    let mut push = Push::greet(node.pg_addr(), TIMELINE).await;
    push.expect_greeting().await;
    assert_eq!(push.next().await, Err("end".to_owned()));
}

#[tokio::test]
async fn commands_can_be_answered_with_an_error() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    node.set_faults(|faults| faults.error = Some("out of order".to_owned()));
    let error = query(&node, "TIMELINE_STATUS").await.unwrap_err();
    assert!(error.ends_with("out of order"), "{error}");
    node.set_faults(|faults| faults.error = None);
    assert_eq!(query(&node, "TIMELINE_STATUS").await, Ok(vec![]));
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let directory = TempDir::new().unwrap();
    let mut with_token = safekeeper_config(1, directory.path());
    with_token.token = Some(Secret::new("letmein"));
    let node = start(with_token).await;
    for (given, works) in [
        (Some("letmein"), true),
        (Some("wrong"), false),
        (None, false),
    ] {
        let connected = Connection::connect(&config(node.pg_addr(), TIMELINE, given)).await;
        assert_eq!(connected.is_ok(), works, "{given:?}");
    }
}

#[tokio::test]
async fn a_directory_serves_one_safekeeper_only() {
    let directory = TempDir::new().unwrap();
    node(&directory).await.stop().await;
    let other = safekeeper_config(2, directory.path());
    let refused = Safekeeper::start(other, &CancellationToken::new()).await;
    assert!(matches!(refused, Err(Error::OtherNode { id: 2, .. })));
}

#[tokio::test]
async fn a_directory_in_use_is_refused_until_it_is_free() {
    let directory = TempDir::new().unwrap();
    let first = node(&directory).await;
    let second = safekeeper_config(1, directory.path());
    let refused = Safekeeper::start(second.clone(), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(Error::InUse { .. })));
    first.stop().await;
    start(second).await;
}

#[tokio::test]
async fn a_half_sent_call_does_not_keep_a_safekeeper_from_stopping() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    let mut call = tokio::net::TcpStream::connect(node.http_addr())
        .await
        .unwrap();
    call.write_all(b"GET /v1/sta").await.unwrap();
    timeout(LIMIT, node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_timeline_is_an_error_for_whoever_asks_and_for_nobody_else() {
    let directory = TempDir::new().unwrap();
    let first = node(&directory).await;
    let mut push = Push::lead(first.pg_addr(), TIMELINE, 1, START).await;
    push.append(START, FIRST).await;
    push.await_flush(FIRST).await;
    let config = first.stop().await;
    let file = directory
        .path()
        .join(key().to_string())
        .join("safekeeper.control");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let second = start(config).await;
    let error = query(&second, "TIMELINE_STATUS").await.unwrap_err();
    assert!(error.contains("safekeeper.control is damaged"), "{error}");
    Push::lead(
        second.pg_addr(),
        "00000000000000000000000000000001",
        1,
        START,
    )
    .await;
}

#[tokio::test]
async fn cancelling_ends_all_connections() {
    let directory = TempDir::new().unwrap();
    let cancel = CancellationToken::new();
    let config = safekeeper_config(1, directory.path());
    let node = Safekeeper::start(config, &cancel).await.unwrap();
    let mut push = Push::lead(node.pg_addr(), TIMELINE, 1, START).await;
    cancel.cancel();
    assert!(push.next().await.is_err());
    timeout(LIMIT, node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_commit_is_persisted_by_the_clock() {
    let directory = TempDir::new().unwrap();
    let mut config = safekeeper_config(1, directory.path());
    config.checkpoint_interval = Duration::from_millis(20);
    let node = start(config).await;
    let mut push = Push::lead(node.pg_addr(), TIMELINE, 1, START).await;
    push.append(START, SECOND).await;
    push.await_flush(SECOND).await;
    push.commit(FIRST).await;
    until(&node, |status| status.persisted_commit_lsn == FIRST).await;
}
