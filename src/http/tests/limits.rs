//! What a client cannot take from the others, and what cannot take the probes from the
//! kubelet.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Call, Fixture, SOON, snapshot};
use crate::api::status::ComputeState;
use crate::http::Limits;

/// Sends half a head, and waits until the server hangs up.
async fn slow_loris(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream
        .write_all(b"GET /status HTTP/1.1\r\nx: ")
        .await
        .unwrap();
    stream
}

async fn hung_up(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is a way to hang up, too.
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    let _ = read.expect("the server hangs up");
    rest
}

#[tokio::test]
async fn those_who_only_hold_connections_make_room_for_those_who_ask() {
    let limits = Limits {
        connections: 4,
        head_time: Duration::from_hours(1),
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(limits).await;
    let mut attackers = Vec::new();
    for _ in 0..12 {
        attackers.push(slow_loris(fixture.serving.external).await);
    }
    for _ in 0..8 {
        assert_eq!(fixture.external("GET", "/status").send().await.status, 200);
    }
    // At most the cap of them is still there; those who came first are not.
    for attacker in attackers.into_iter().take(8) {
        assert_eq!(hung_up(attacker).await, b"");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let limits = Limits {
        head_time: Duration::from_millis(50),
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(limits).await;
    let silent = TcpStream::connect(fixture.serving.external).await.unwrap();
    let slow = slow_loris(fixture.serving.external).await;
    assert_eq!(hung_up(silent).await, b"");
    let farewell = hung_up(slow).await;
    assert!(farewell.is_empty() || farewell.starts_with(b"HTTP/1.1 408"));
    assert_eq!(fixture.external("GET", "/status").send().await.status, 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let fixture = Fixture::start().await;
    let call = fixture.external("GET", "/status");
    let answer = call.header("x-padding", &"x".repeat(64 * 1024)).send();
    assert_eq!(answer.await.status, 431);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_by_every_route() {
    let fixture = Fixture::start().await;
    for path in ["/extensions", "/grants"] {
        let padded = format!("{{\"x\": \"{}\"}}", "x".repeat(64 * 1024));
        let answer = fixture.internal("POST", path).json(&padded).send().await;
        assert_eq!(answer.status, 413, "{path}");
    }
}

#[tokio::test]
async fn requests_beyond_the_cap_are_told_to_come_again() {
    let limits = Limits {
        requests: 1,
        ..Limits::default()
    };
    let mut fixture = Fixture::with_limits(limits).await;
    let waiting = tokio::spawn(fixture.external("POST", "/terminate").send());
    let request = fixture.requests.recv().await.unwrap();
    let answer = fixture.external("GET", "/status").send().await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    // The other servers have caps of their own.
    assert_eq!(fixture.probe("/livez").send().await.status, 200);
    drop(request);
    assert_eq!(waiting.await.unwrap().status, 503);
    assert_eq!(fixture.external("GET", "/status").send().await.status, 200);
}

/// Blocks the only thread of the runtime that the servers run on, and asks from outside.
#[test]
fn probes_are_answered_while_everything_else_is_stuck() {
    let (told, listen) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let stuck = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let fixture = Fixture::start().await;
            fixture.publish(snapshot(ComputeState::Init));
            told.send(fixture.serving.probes).unwrap();
            // Not a wait of the runtime's: its thread stands still.
            let _ = released.recv();
        });
    });
    let probes = listen.recv().unwrap();
    for (path, code) in [
        ("/livez?verbose", "200"),
        ("/startupz", "200"),
        ("/readyz", "503"),
    ] {
        let mut stream = StdStream::connect(probes).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    }
    release.send(()).unwrap();
    stuck.join().unwrap();
}

#[tokio::test]
async fn each_server_describes_its_own_routes() {
    let fixture = Fixture::start().await;
    for (server, path, method) in [
        (fixture.serving.external, "/status", "get"),
        (
            fixture.serving.internal,
            "/extension_server/{filename}",
            "post",
        ),
        (fixture.serving.probes, "/readyz", "get"),
    ] {
        let answer = Call::new(server, "GET", "/openapi.json").send().await;
        assert_eq!(answer.status, 200);
        let document = answer.json();
        assert_eq!(document["openapi"], "3.1.0");
        let operation = &document["paths"][path][method];
        assert!(operation["operationId"].is_string(), "{path} in {document}");
        let guarded = server == fixture.serving.external;
        assert_eq!(operation["responses"]["401"].is_object(), guarded, "{path}");
    }
    let document = Call::new(fixture.serving.external, "GET", "/openapi.json");
    let mut document = document.send().await.json();
    assert_eq!(
        document["info"]["version"].take(),
        env!("CARGO_PKG_VERSION")
    );
    insta::assert_yaml_snapshot!("external", document);
}
