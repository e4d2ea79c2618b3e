//! The HTTP API: calls, and what they lead to.

use std::net::SocketAddr;

use glowplug::lsn::Lsn;
use glowplug::storage::safekeeper::Safekeeper;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::proposer::Push;
use crate::transcript::START;
use crate::{LIMIT, TENANT, safekeeper_config};

/// Calls the HTTP API; the answer's body is null unless it is JSON.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, Value) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

const TIMELINE: &str = "80791b3ae7002cb88c246876d9faa8f8";

async fn call(node: &Safekeeper, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let path = path.replace(
        "{timeline}",
        &format!("/v1/tenant/{TENANT}/timeline/{TIMELINE}"),
    );
    http(node.http_addr(), method, &path, &body).await
}

fn creation() -> Value {
    json!({
        "tenant_id": TENANT,
        "timeline_id": TIMELINE,
        "mconf": membership(1, &[1, 2, 3]),
        "pg_version": 150_020,
        "start_lsn": "0/1511AE0",
    })
}

fn membership(generation: u32, ids: &[u64]) -> Value {
    let member = |id| json!({"id": id, "host": format!("sk-{id}"), "pg_port": 5454});
    let members: Vec<_> = ids.iter().map(member).collect();
    json!({"generation": generation, "members": members, "new_members": null})
}

async fn node(directory: &TempDir) -> Safekeeper {
    let mut config = safekeeper_config(1, directory.path());
    config.fsync = false;
    Safekeeper::start(config, &CancellationToken::new())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_timeline_is_made_described_and_deleted() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    let not_found = json!({"msg": format!("NotFound: timeline {TENANT}/{TIMELINE} not found")});
    assert_eq!(
        call(&node, "GET", "/v1/status", Value::Null).await,
        (200, json!({"id": 1}))
    );
    assert_eq!(
        call(&node, "GET", "{timeline}", Value::Null).await,
        (404, not_found)
    );
    let path = "/v1/tenant/timeline";
    for _ in 0..2 {
        assert_eq!(
            call(&node, "POST", path, creation()).await,
            (200, Value::Null)
        );
    }
    let listed = json!([{"tenant_id": TENANT, "timeline_id": TIMELINE}]);
    assert_eq!(call(&node, "GET", path, Value::Null).await, (200, listed));
    let (status, body) = call(&node, "GET", "{timeline}", Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(body["mconf"], membership(1, &[1, 2, 3]));
    assert_eq!(
        body["acceptor_state"]["term_history"],
        json!([{"term": 0, "lsn": "0/1511AE0"}])
    );
    for field in [
        "flush_lsn",
        "commit_lsn",
        "timeline_start_lsn",
        "peer_horizon_lsn",
    ] {
        assert_eq!(body[field], "0/1511AE0", "{field}");
    }

    for existed in [true, false] {
        let answer = call(&node, "DELETE", "{timeline}", Value::Null).await;
        assert_eq!(answer, (200, json!({"dir_existed": existed})));
    }
    let (status, body) = call(&node, "POST", path, creation()).await;
    assert_eq!(status, 500);
    assert!(
        body["msg"].as_str().unwrap().ends_with("has been deleted"),
        "{body}"
    );
    assert_eq!(call(&node, "GET", "{timeline}", Value::Null).await.0, 404);
    assert_eq!(
        call(&node, "GET", path, Value::Null).await,
        (200, json!([]))
    );
}

#[tokio::test]
async fn a_bumped_term_fences_the_connected_proposer() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    let mut push = Push::lead(node.pg_addr(), TIMELINE, 1, START).await;
    push.append(START, Lsn(0x151_2358)).await;
    push.await_flush(Lsn(0x151_2358)).await;
    let bumped = call(&node, "POST", "{timeline}/term_bump", json!({"term": 7})).await;
    assert_eq!(
        bumped,
        (200, json!({"previous_term": 1, "current_term": 7}))
    );
    push.append(Lsn(0x151_2358), Lsn(0x151_36F0)).await;
    assert_eq!(push.response().await.term, 7);
}

#[tokio::test]
async fn malformed_calls_are_refused_with_what_is_wrong() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    let check = async |method: &str, path: &str, body: Value, status: u16, text: &str| {
        let answer = call(&node, method, path, body).await;
        assert_eq!(answer.0, status, "{path}");
        if !text.is_empty() {
            assert_eq!(answer.1, json!({"msg": text}), "{path}");
        }
    };
    let path = "/v1/tenant/timeline";
    let missing = "\"Failed to parse json request: missing field `tenant_id` at line 1 column 2\"";
    check("POST", path, json!({}), 400, missing).await;
    check("POST", path, Value::Null, 400, "\"missing request body\"").await;
    let timeline = "/v1/tenant/xyz/timeline/abc";
    check(
        "GET",
        timeline,
        Value::Null,
        400,
        "\"failed to parse tenant_id\"",
    )
    .await;
    check("GET", "/v1/nope", Value::Null, 404, "").await;
    check("PATCH", "/v1/status", Value::Null, 404, "").await;
    let mut too_new = creation();
    too_new["pg_version"] = json!(990_000);
    check("POST", path, too_new, 500, "InvalidPgVersion(990000)").await;
}

#[tokio::test]
async fn metrics_tell_the_positions_of_each_timeline() {
    let directory = TempDir::new().unwrap();
    let node = node(&directory).await;
    call(&node, "POST", "/v1/tenant/timeline", creation()).await;
    let text = raw(
        node.http_addr(),
        "GET /metrics HTTP/1.1\r\nConnection: close\r\n",
    )
    .await;
    let start = START.0;
    let line = format!(
        "safekeeper_flush_lsn{{tenant_id=\"{TENANT}\",timeline_id=\"{TIMELINE}\"}} {start}"
    );
    assert!(text.lines().any(|found| found == line), "{text}");
}

#[tokio::test]
async fn a_token_is_asked_for_where_it_matters() {
    let directory = TempDir::new().unwrap();
    let mut config = safekeeper_config(1, directory.path());
    config.token = Some(glowplug::secret::Secret::new("letmein"));
    let node = Safekeeper::start(config, &CancellationToken::new())
        .await
        .unwrap();
    let get = async |path: &str, header: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{header}");
        let answer = raw(node.http_addr(), &request).await;
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(get("/v1/status", "").await, 200);
    assert_eq!(get("/metrics", "").await, 200);
    let list = "/v1/tenant/timeline";
    assert_eq!(get(list, "").await, 401);
    assert_eq!(get(list, "Authorization: Basic x\r\n").await, 401);
    assert_eq!(get(list, "Authorization: Bearer wrong\r\n").await, 403);
    assert_eq!(get(list, "Authorization: Bearer letmein\r\n").await, 200);
}

/// Sends a request head and reads the whole answer.
async fn raw(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{head}Host: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    answer
}
