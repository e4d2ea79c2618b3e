//! A client of raw bytes, which compares what it reads with what was recorded.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::Lsn;
use glowplug::pgwire::{ConnectConfig, Connection};
use glowplug::wire::safekeeper::{
    AcceptorMessage, AppendRequest, Elected, Membership, ProposerGreeting, ProposerMessage,
    ProtocolVersion, TermHistory, TermLsn, VoteRequest,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::transcript::{Recorded, START, wal};

const LIMIT: Duration = Duration::from_secs(30);

/// One connection.
pub(crate) struct Client {
    stream: Option<TcpStream>,
    input: BytesMut,
    /// Connections are recorded from one node; its id is part of greetings.
    node: u64,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, node: u64) -> Self {
        Self {
            stream: Some(TcpStream::connect(address).await.unwrap()),
            input: BytesMut::new(),
            node,
        }
    }

    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    pub(crate) async fn half_close(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.shutdown().await.ok();
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The safekeeper may have closed the connection already, as it did then.
        if let Some(stream) = &mut self.stream {
            stream.write_all(bytes).await.ok();
        }
    }

    /// Reads until the recorded message comes. States that are repeated or skipped
    /// on the way are none of the transcript's business.
    pub(crate) async fn expect(&mut self, recorded: &Recorded, at: &str) {
        let mut seen = Vec::new();
        loop {
            let read = timeout(LIMIT, self.next_message()).await;
            let read = read.unwrap_or_else(|_| panic!("{at}: no {}\nseen {seen:?}", recorded.note));
            let Some(found) = read else {
                panic!("{at}: end instead of {}\nseen {seen:?}", recorded.note);
            };
            if matches(&found, recorded) {
                return;
            }
            let state = is_state(&found) && (is_state(&recorded.bytes) || is_keepalive(&found));
            assert!(
                state || is_keepalive(&found) || is_append_response(&found),
                "{at} on safekeeper {}: found {}\nwanted {} ({})",
                self.node,
                hex::encode(&found[..found.len().min(300)]),
                hex::encode(&recorded.bytes),
                recorded.note
            );
            seen.push(hex::encode(&found[..found.len().min(60)]));
        }
    }

    /// Reads to the end of the stream.
    pub(crate) async fn expect_end(&mut self, at: &str) {
        loop {
            let read = timeout(LIMIT, self.next_message()).await;
            match read.unwrap_or_else(|_| panic!("{at}: the connection does not end")) {
                None => return,
                Some(found) if is_state(&found) => {}
                // Upstream's task panics over these, and says nothing.
                Some(found) if is_told_here_only(&error_fields(&found).1) => {}
                Some(found) => panic!("{at}: {} instead of the end", hex::encode(&found)),
            }
        }
    }

    /// One message with its type byte, or the single byte that declines encryption.
    async fn next_message(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = split(&mut self.input) {
                return Some(message);
            }
            let stream = self.stream.as_mut()?;
            match stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

fn split(input: &mut BytesMut) -> Option<Vec<u8>> {
    if input.first() == Some(&b'N') {
        input.advance(1);
        return Some(vec![b'N']);
    }
    let length = u32::from_be_bytes(input.get(1..5)?.try_into().unwrap()) as usize;
    (input.len() > length).then(|| input.split_to(length + 1).to_vec())
}

/// Whether a message only tells a state: a newer one may take its place.
fn is_state(message: &[u8]) -> bool {
    is_append_response(message) || is_keepalive(message)
}

fn is_append_response(message: &[u8]) -> bool {
    message.first() == Some(&b'd') && message.get(5) == Some(&b'a')
}

fn is_keepalive(message: &[u8]) -> bool {
    message.first() == Some(&b'd') && message.get(5) == Some(&b'k')
}

fn matches(found: &[u8], recorded: &Recorded) -> bool {
    if found.first() == Some(&b'E') && recorded.bytes.first() == Some(&b'E') {
        return error_matches(&error_fields(found), &error_fields(&recorded.bytes));
    }
    let length = recorded.full_length.unwrap_or(recorded.bytes.len());
    let (mut found, mut wanted) = (found.to_vec(), recorded.bytes.clone());
    for message in [&mut found, &mut wanted] {
        blank_timestamp(message);
    }
    found.len() == length && found.starts_with(&wanted)
}

/// XLogData and KeepAlive say when they were sent.
fn blank_timestamp(message: &mut [u8]) {
    let at = match (message.first(), message.get(5)) {
        (Some(b'd'), Some(b'w')) => 22..30,
        (Some(b'd'), Some(b'k')) => 14..22,
        _ => return,
    };
    if let Some(timestamp) = message.get_mut(at) {
        timestamp.fill(0);
    }
}

/// SQLSTATE and text.
fn error_fields(message: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(&message[5..]).into_owned();
    let field = |tag: char| {
        let mut fields = text.split('\0');
        let found = fields.find_map(|field| field.strip_prefix(tag));
        found.unwrap_or_default().to_owned()
    };
    (field('C'), field('M'))
}

fn is_told_here_only(text: &str) -> bool {
    text.contains("server version 180000")
        || text.contains("InvalidPgVersion(")
        || text.contains("deserialize PageserverFeedback")
}

fn error_matches(found: &(String, String), wanted: &(String, String)) -> bool {
    let text = wanted.1.as_str();
    // Texts about bytes that do not decode are each implementation's own.
    let decoding = [
        "failed to fill",
        "deserialize error",
        "reading ",
        "begin_lsn > end_lsn",
        "AppendRequest is longer",
        "TermHistory pos",
        "empty members_len",
        "sk 1 is already",
        "unknown proposer-acceptor",
        "ProposerAcceptorMessage is not",
        "Invalid string length",
        "unexpected message",
    ];
    let same = decoding.iter().any(|start| text.starts_with(start))
        || (text == "WalAcceptor task panicked" && found.1.starts_with(text))
        // Upstream looks at one byte of the tag of version 2, and stumbles later.
        || (text.ends_with("wal_seg_size is zero") && found.1.starts_with("unknown message tag"))
        // PostgreSQL 18 is known here, and only of the wrong version.
        || (text.ends_with("InvalidPgVersion(180000)") && found.1.contains("180000"))
        || found.1 == text;
    found.0 == wanted.0 && same
}

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

/// Writes recorded WAL under term 1 up to `end`, which is flushed up to `flush_lsn`, and commits it up to
/// `commit_lsn`, on a connection of its own.
pub(crate) async fn prepare(
    address: SocketAddr,
    timeline: &str,
    end: Lsn,
    flush_lsn: Lsn,
    commit_lsn: Lsn,
) {
    let tenant_id: TenantId = super::super::TENANT.parse().unwrap();
    let timeline_id: TimelineId = timeline.parse().unwrap();
    let config = ConnectConfig {
        parameters: vec![(
            "options".to_owned(),
            format!("-c timeline_id={timeline_id} tenant_id={tenant_id}"),
        )],
        ..ConnectConfig::tcp(address.ip().to_string(), address.port(), "no_user")
    };
    let connection = Connection::connect(&config).await.unwrap();
    let command = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')";
    let mut stream = connection.copy_both(command).await.unwrap();
    let greeting = ProposerGreeting {
        tenant_id,
        timeline_id,
        membership: Membership::default(),
        pg_version: 150_020,
        system_id: 0,
        wal_segment_size: 16 * 1024 * 1024,
    };
    let elected = Elected {
        generation: 0,
        term: 1,
        start_streaming_at: START,
        term_history: TermHistory(vec![TermLsn {
            term: 1,
            lsn: START,
        }]),
    };
    let append = |begin_lsn: Lsn, wal: &'static [u8], commit_lsn: Lsn| {
        ProposerMessage::AppendRequest(AppendRequest {
            generation: 0,
            term: 1,
            begin_lsn,
            commit_lsn,
            truncate_lsn: START,
            wal: Bytes::from_static(wal),
        })
    };
    let mut messages = vec![
        ProposerMessage::Greeting(greeting),
        ProposerMessage::VoteRequest(VoteRequest {
            generation: 0,
            term: 1,
        }),
        ProposerMessage::Elected(elected),
    ];
    let mut at = START;
    while at < end {
        let next = Lsn((at.0 + 131_072).min(end.0));
        messages.push(append(at, wal(at, next), Lsn::INVALID));
        at = next;
    }
    for message in messages {
        send(&mut stream, &message).await;
    }
    wait_for(&mut stream, flush_lsn).await;
    if commit_lsn > START {
        send(&mut stream, &append(end, &[], commit_lsn)).await;
        wait_for(&mut stream, flush_lsn).await;
    }
}

async fn send(stream: &mut glowplug::pgwire::CopyBoth, message: &ProposerMessage) {
    let mut body = BytesMut::new();
    message.encode(ProtocolVersion::V3, &mut body);
    stream.writer.send(&body).await.unwrap();
}

async fn wait_for(stream: &mut glowplug::pgwire::CopyBoth, flush_lsn: Lsn) {
    loop {
        let body = timeout(LIMIT, stream.reader.next()).await.unwrap();
        let body = body.unwrap().expect("the safekeeper goes on");
        match AcceptorMessage::decode(ProtocolVersion::V3, body).unwrap() {
            AcceptorMessage::AppendResponse(response) if response.flush_lsn == flush_lsn => return,
            _ => {}
        }
    }
}
