//! The development pageserver answers as a real one was recorded to.

use glowplug::storage::timelines::Timelines;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::Bench;
use crate::node::{ATTACHED, LIMIT, Node, SHARD, timelines};

const REFUSALS: &str = include_str!("../fixtures/pageserver/refusals.txt");

/// A client that is past its start-up.
async fn connect(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(node.pageserver.pg_addr()).await.unwrap();
    let startup = [&22_u32.to_be_bytes()[..], b"\0\x03\0\0user\0no_user\0\0"].concat();
    stream.write_all(&startup).await.unwrap();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await.unwrap();
        if head[0] == b'Z' {
            return stream;
        }
    }
}

async fn replay(node: &Node, text: &str) {
    let mut stream = None;
    let mut case = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "case" {
            case = rest;
            stream = Some(connect(node).await);
            continue;
        }
        let stream = stream.as_mut().expect("a case comes first");
        let bytes = hex::decode(rest).unwrap();
        match word {
            "C" => stream.write_all(&bytes).await.unwrap(),
            "S" => {
                let mut answer = vec![0; bytes.len()];
                let read = stream.read_exact(&mut answer);
                let read = tokio::time::timeout(LIMIT, read).await;
                read.unwrap_or_else(|_| panic!("{case}: no answer {line}"))
                    .unwrap();
                assert_eq!(hex::encode(answer), rest, "{case}");
            }
            "EOF" => {
                let mut byte = [0];
                let ended = tokio::time::timeout(LIMIT, stream.read(&mut byte)).await;
                let ended = ended.unwrap_or_else(|_| panic!("{case}: no end"));
                assert_eq!(ended.unwrap(), 0, "{case}: {byte:?}");
            }
            other => panic!("{other}"),
        }
    }
}

async fn empty(bench: &Bench) -> (Timelines, Node) {
    let cancel = CancellationToken::new();
    let timelines = timelines(bench, Vec::new(), None, &cancel).await;
    let node = Node::start(bench, 1, &timelines, &cancel).await;
    (timelines, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_a_pageservers_to_the_byte() {
    let bench = Bench::new();
    let (_timelines, node) = empty(&bench).await;
    let (elsewhere, here): (Vec<_>, Vec<_>) = cases()
        .into_iter()
        .partition(|case| case.starts_with("case the tenant"));
    assert_eq!((elsewhere.len(), here.len()), (3, 5));
    replay(&node, &elsewhere.concat()).await;
    // The other cases are about a tenant that is here.
    node.locations.set(SHARD, ATTACHED).unwrap();
    replay(&node, &here.concat()).await;
}

fn cases() -> Vec<String> {
    let (_, text) = REFUSALS.split_once("case ").unwrap();
    text.trim_end()
        .split("\ncase ")
        .map(|case| format!("case {case}\n"))
        .collect()
}

/// Method, path behind `/v1/tenant/`, body; status and `msg`, recorded from a
/// pageserver of commit 6a35a3e9.
fn exchanges() -> Vec<(&'static str, &'static str, Value, u16, &'static str)> {
    const T: &str = "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1/location_config";
    let attached = |generation: u32| json!({"mode": "AttachedSingle", "generation": generation, "secondary_conf": null, "tenant_conf": {}});
    let sharded = |number: u8, stripe: u32| {
        json!({"mode": "AttachedSingle", "generation": 5, "tenant_conf": {},
               "shard_number": number, "shard_count": 2, "shard_stripe_size": stripe})
    };
    vec![
        (
            "GET",
            "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1",
            Value::Null,
            404,
            "NotFound: tenant e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1",
        ),
        ("PUT", T, attached(5), 200, ""),
        ("PUT", T, attached(5), 200, ""),
        (
            "PUT",
            T,
            attached(4),
            400,
            "\"Generation 00000004 is less than existing 00000005\"",
        ),
        (
            "PUT",
            T,
            json!({"mode": "AttachedSingle", "tenant_conf": {}}),
            400,
            "\"Generation must be set when attaching\"",
        ),
        (
            "PUT",
            T,
            json!({"generation": 5, "mode": "AttachedSingle"}),
            400,
            "\"Failed to parse json request: missing field `tenant_conf` at line 1 column 40\"",
        ),
        (
            "PUT",
            T,
            json!({"mode": "Secondary", "generation": 5, "tenant_conf": {}}),
            400,
            "\"Condition failed: `conf.generation.is_none()`\"",
        ),
        (
            "PUT",
            "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1-0002/location_config",
            sharded(0, 0),
            400,
            "InvalidStripeSize",
        ),
        (
            "PUT",
            "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1-0202/location_config",
            sharded(2, 2048),
            400,
            "InvalidNumber",
        ),
        (
            "GET",
            "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1/timeline/f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8",
            Value::Null,
            404,
            "NotFound: Timeline e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1/f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8 was not found",
        ),
        (
            "POST",
            "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1/wait_lsn",
            json!({"f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8": "0/10", "timeout": {"secs": 1, "nanos": 0}}),
            404,
            "",
        ),
        (
            "PUT",
            T,
            json!({"mode": "Detached", "tenant_conf": {}}),
            200,
            "",
        ),
        (
            "PUT",
            T,
            json!({"mode": "Detached", "tenant_conf": {}}),
            200,
            "",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_is_a_pageservers() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench::new();
    let (_timelines, node) = empty(&bench).await;
    let http = reqwest::Client::new();
    let base = node.location().http.unwrap();
    let status = http.get(format!("{base}/v1/status")).send().await.unwrap();
    assert_eq!(status.text().await.unwrap(), "{\"id\":1}");
    for (method, path, body, status, message) in exchanges() {
        let url = format!("{base}/v1/tenant/{path}");
        let mut request = http.request(method.parse().unwrap(), url);
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let answer = request.timeout(LIMIT).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path} {body}");
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let given = answer
            .get("msg")
            .and_then(Value::as_str)
            .unwrap_or_default();
        assert_eq!(given, message, "{method} {path} {body}");
    }
}
