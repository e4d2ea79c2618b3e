//! Replays what clients sent to real safekeepers, and compares the answers.
//!
//! The transcripts under `tests/fixtures/safekeeper` were recorded from Neon's
//! safekeeper (commit 6a35a3e9f1) with WAL of PostgreSQL 15.20. What may differ:
//! timestamps, how many `AppendResponse`s answer a burst, and the wording of errors
//! about bytes that do not decode.
use std::collections::BTreeMap;
use std::time::Duration;

use glowplug::storage::safekeeper::Safekeeper;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::http::http;
use crate::proposer::Push;
use crate::replay::Client;
use crate::transcript::{Event, START, Transcript};
use crate::{LIMIT, TENANT, safekeeper_config};

/// The safekeepers and clients of one scenario.
struct Stage {
    name: &'static str,
    nodes: BTreeMap<u64, Safekeeper>,
    clients: BTreeMap<u64, Client>,
    _directory: TempDir,
}

impl Stage {
    async fn new(name: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        let mut nodes = BTreeMap::new();
        for id in 1..=3 {
            let mut config = safekeeper_config(id, directory.path().join(id.to_string()));
            config.fsync = false;
            let node = Safekeeper::start(config, &CancellationToken::new()).await;
            nodes.insert(id, node.unwrap());
        }
        Self {
            name,
            nodes,
            clients: BTreeMap::new(),
            _directory: directory,
        }
    }

    async fn restart(&mut self, id: u64) {
        let config = self.nodes.remove(&id).unwrap().stop().await;
        let node = Safekeeper::start(config, &CancellationToken::new()).await;
        self.nodes.insert(id, node.unwrap());
    }

    async fn connect(&mut self, connection: u64, node: u64) {
        let client = Client::connect(self.nodes[&node].pg_addr(), node).await;
        self.clients.insert(connection, client);
    }

    fn client(&mut self, connection: u64) -> &mut Client {
        self.clients.get_mut(&connection).unwrap()
    }

    async fn create(&self, node: u64, timeline: &str) {
        let body = serde_json::json!({
            "tenant_id": TENANT,
            "timeline_id": timeline,
            "mconf": {"generation": 0, "members": [], "new_members": null},
            "pg_version": 150_020,
            "start_lsn": START,
        });
        let address = self.nodes[&node].http_addr();
        let answer = http(address, "POST", "/v1/tenant/timeline", &body.to_string()).await;
        assert_eq!(answer, (200, Value::Null));
    }

    /// Waits until the HTTP status of a timeline is as wanted; without limit.
    async fn await_body(&self, node: u64, timeline: &str, wanted: impl Fn(&Value) -> bool) {
        let path = format!("/v1/tenant/{TENANT}/timeline/{timeline}");
        let address = self.nodes[&node].http_addr();
        while !wanted(&http(address, "GET", &path, "").await.1) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a timeline is in the recorded state.
    async fn await_status(&self, node: u64, timeline: &str, mut expected: Value, at: &str) {
        let fields = expected.as_object_mut().unwrap();
        // Remote storage and what it holds are not part of this safekeeper.
        fields.remove("backup");
        fields.remove("rcl");
        let seen = std::cell::RefCell::new(Value::Null);
        let same = |body: &Value| {
            let found = abridged(body);
            let same = found == expected;
            *seen.borrow_mut() = found;
            same
        };
        let waiting = tokio::time::timeout(LIMIT, self.await_body(node, timeline, same)).await;
        assert!(
            waiting.is_ok(),
            "{at}: found {}\nwanted {expected}",
            seen.take()
        );
    }

    async fn play(&mut self, transcript: &Transcript) {
        for (number, event) in transcript.events.iter().enumerate() {
            let at = format!("{} event {}", self.name, number + 1);
            match event {
                Event::Connect { connection, node } => self.connect(*connection, *node).await,
                Event::Close { connection } => self.client(*connection).close(),
                Event::HalfClose { connection } => self.client(*connection).half_close().await,
                Event::Send { connection, bytes } => self.client(*connection).send(bytes).await,
                Event::Prepare {
                    node,
                    timeline,
                    write_lsn,
                    flush_lsn,
                    commit_lsn,
                } => {
                    let address = self.nodes[node].pg_addr();
                    let mut push = Push::lead(address, timeline, 1, START).await;
                    push.append(START, *write_lsn).await;
                    push.await_flush(*flush_lsn).await;
                    if *commit_lsn > START {
                        push.commit(*commit_lsn).await;
                    }
                }
                Event::Create { node, timeline } => self.create(*node, timeline).await,
                Event::AwaitHistory {
                    node,
                    timeline,
                    history,
                } => {
                    let same = |body: &Value| abridged(body)["th"] == *history;
                    let waiting = self.await_body(*node, timeline, same);
                    tokio::time::timeout(LIMIT, waiting).await.expect(&at);
                }
                Event::AwaitReport {
                    node,
                    timeline,
                    report,
                } => {
                    let reported =
                        |body: &Value| body["walsenders"].to_string().contains(report.as_str());
                    let waiting = self.await_body(*node, timeline, reported);
                    tokio::time::timeout(LIMIT, waiting).await.expect(&at);
                }
                Event::Receive {
                    connection,
                    message,
                } => self.client(*connection).expect(message, &at).await,
                Event::End { connection } => self.client(*connection).expect_end(&at).await,
                Event::Status {
                    node,
                    timeline,
                    expected,
                } => {
                    self.await_status(*node, timeline, expected.clone(), &at)
                        .await;
                }
                Event::Restart => self.restart(1).await,
                Event::Http {
                    node,
                    method,
                    path,
                    body,
                    expected,
                } => {
                    let address = self.nodes[node].http_addr();
                    let answer = http(address, method, path, body).await;
                    assert_eq!(&answer, expected, "{at}: {method} {path}");
                }
            }
        }
    }
}

/// The status of a timeline, as the transcripts abridge it.
fn abridged(body: &Value) -> Value {
    let history = body["acceptor_state"]["term_history"].as_array();
    let history = history.into_iter().flatten();
    serde_json::json!({
        "term": body["acceptor_state"]["term"],
        "epoch": body["acceptor_state"]["epoch"],
        "th": history.map(|e| serde_json::json!([e["term"], e["lsn"]])).collect::<Value>(),
        "flush": body["flush_lsn"],
        "commit": body["commit_lsn"],
        "start": body["timeline_start_lsn"],
        "local": body["local_start_lsn"],
        "horizon": body["peer_horizon_lsn"],
        "gen": body["mconf"]["generation"],
    })
}

macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {$(
        #[tokio::test]
        async fn $test() {
            let bytes = include_bytes!(concat!("../fixtures/safekeeper/", $name, ".jsonl.gz"));
            let transcript = Transcript::read($name, bytes);
            Stage::new($name).await.play(&transcript).await;
        }
    )*};
}

scenarios! {
    basic_v2: "basic-v2",
    basic_v3: "basic-v3",
    votes_v2: "votes-v2",
    votes_v3: "votes-v3",
    term_edge: "term-edge",
    append_before_elected: "append-before-elected",
    append_errors_v2: "append-errors-v2",
    append_errors_v3: "append-errors-v3",
    mid_record: "mid-record",
    midrecord_switch: "midrecord-switch",
    elected_errors: "elected-errors",
    fencing_v2: "fencing-v2",
    fencing_v3: "fencing-v3",
    fencing_same_connection_pipelined: "fencing-same-connection-pipelined",
    two_connections: "two-connections",
    divergence_v2: "divergence-v2",
    divergence_v3: "divergence-v3",
    sync_recovery_v2: "sync-recovery-v2",
    sync_recovery_v3: "sync-recovery-v3",
    switch_cut: "switch-cut",
    restart: "restart",
    replication_read: "replication-read",
    replication_uninit: "replication-uninit",
    reply_sizes: "reply-sizes",
    pageserver_feedback: "pageserver-feedback",
    status_lsns: "status-lsns",
    startup_options: "startup-options",
    startup_walpush_variants: "startup-walpush-variants",
    commands: "commands",
    copy_end: "copy-end",
    framing: "framing",
    pipelined_handshake: "pipelined-handshake",
    greeting_checks: "greeting-checks",
    membership: "membership",
    membership_implicit: "membership-implicit",
    deleted_timeline: "deleted-timeline",
}
