//! A client of raw bytes, which compares what it reads with what was recorded.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::LIMIT;
use crate::transcript::Recorded;

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
