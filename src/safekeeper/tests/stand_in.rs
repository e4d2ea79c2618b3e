//! A safekeeper on a socket, played by the rules of the proposer's tests, that can
//! misbehave on request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::lsn::Lsn;
use crate::pgwire::put_copy_data;
use crate::safekeeper::proposer::tests::acceptor::Acceptor;
use crate::wire::replication::SenderMessage;
use crate::wire::safekeeper::{ProposerMessage, ProtocolVersion};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// Takes connections and never answers.
    Silent,
    /// Asks for a password and refuses it.
    RefusesTokens,
    /// Closes the connection after the greeting, as one without the timeline does.
    LacksTimeline,
    /// Speaks version 2 alone.
    Old,
}

pub(super) struct StandIn {
    address: SocketAddr,
    acceptor: Arc<Mutex<Acceptor>>,
    _listening: AbortOnDropHandle<()>,
}

impl StandIn {
    pub(super) async fn start(acceptor: Acceptor, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Arc::new(Mutex::new(acceptor));
        let shared = Arc::clone(&acceptor);
        let listening = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = Arc::clone(&shared);
                let session = Session {
                    stream,
                    input: BytesMut::new(),
                    acceptor,
                    fault,
                };
                sessions.spawn(session.run());
            }
        });
        Self {
            address,
            acceptor,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    pub(super) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn acceptor(&self) -> MutexGuard<'_, Acceptor> {
        self.acceptor.lock().unwrap()
    }
}

struct Session {
    stream: TcpStream,
    input: BytesMut,
    acceptor: Arc<Mutex<Acceptor>>,
    fault: Fault,
}

impl Session {
    async fn run(mut self) {
        if self.fault == Fault::Silent {
            std::future::pending::<()>().await;
        }
        // The connection ends with the first thing that goes wrong.
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> Option<()> {
        let length = self.fill(4).await?.get_u32() as usize;
        self.fill(length - 4).await?;
        if self.fault == Fault::RefusesTokens {
            self.write(b"R\0\0\0\x08\0\0\0\x03").await?;
            self.message().await?;
            return self.refuse("JWT authentication error").await;
        }
        self.write(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
        loop {
            let (tag, body) = self.message().await?;
            if tag != b'Q' {
                return None;
            }
            let query = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
            if query == "TIMELINE_STATUS" {
                self.answer_status().await?;
            } else if let Some(rest) = query.strip_prefix("START_REPLICATION PHYSICAL ") {
                self.write(b"W\0\0\0\x07\0\0\0").await?;
                return self.replicate(rest).await;
            } else if let Some(rest) = query.strip_prefix("START_WAL_PUSH (proto_version '") {
                self.write(b"W\0\0\0\x07\0\0\0").await?;
                let number = rest[..1].parse().unwrap();
                return self.push(ProtocolVersion::from_number(number)?).await;
            }
        }
    }

    async fn push(&mut self, version: ProtocolVersion) -> Option<()> {
        loop {
            let (tag, body) = self.message().await?;
            if tag != b'd' || self.fault == Fault::LacksTimeline {
                return None;
            }
            if self.fault == Fault::Old && version != ProtocolVersion::V2 {
                return self.refuse("unsupported protocol version 3").await;
            }
            let message = ProposerMessage::decode(version, body).unwrap();
            let replies = self.acceptor.lock().unwrap().handle(message);
            let mut out = BytesMut::new();
            match replies {
                Ok(replies) => {
                    for reply in replies {
                        put_copy_data(&mut out, |out| reply.encode(version, out));
                    }
                }
                Err(text) => return self.refuse(&text).await,
            }
            self.write(&out).await?;
        }
    }

    async fn replicate(&mut self, command: &str) -> Option<()> {
        let from: Lsn = command.split(' ').next()?.parse().ok()?;
        let mut out = BytesMut::new();
        {
            let acceptor = self.acceptor.lock().unwrap();
            let end_lsn = acceptor.flush_lsn();
            let mut start_lsn = from;
            while start_lsn < end_lsn {
                let end = Lsn(end_lsn.0.min(start_lsn.0 + 100_000));
                let wal = Bytes::copy_from_slice(acceptor.read(start_lsn, end));
                let message = SenderMessage::XLogData {
                    start_lsn,
                    end_lsn,
                    timestamp: 0,
                    wal,
                };
                put_copy_data(&mut out, |out| message.encode(out));
                start_lsn = end;
            }
        }
        self.write(&out).await?;
        self.message().await?;
        None
    }

    async fn answer_status(&mut self) -> Option<()> {
        let (flush, commit) = {
            let acceptor = self.acceptor.lock().unwrap();
            (acceptor.flush_lsn(), acceptor.commit_lsn)
        };
        let mut out = BytesMut::from(&b"T\0\0\0\x06\0\0"[..]);
        let columns = [flush.to_string(), commit.to_string()];
        let length = 6 + columns.iter().map(|column| 4 + column.len()).sum::<usize>();
        out.put_u8(b'D');
        out.put_u32(length as u32);
        out.put_u16(2);
        for column in columns {
            out.put_u32(column.len() as u32);
            out.put_slice(column.as_bytes());
        }
        out.put_slice(b"C\0\0\0\x14TIMELINE_STATUS\0Z\0\0\0\x05I");
        self.write(&out).await
    }

    async fn refuse(&mut self, text: &str) -> Option<()> {
        let mut out = BytesMut::from(&b"E"[..]);
        let fields = format!("SERROR\0CXX000\0M{text}\0\0");
        out.put_u32(4 + fields.len() as u32);
        out.put_slice(fields.as_bytes());
        self.write(&out).await
    }

    async fn message(&mut self) -> Option<(u8, Bytes)> {
        let mut header = self.fill(5).await?;
        let tag = header.get_u8();
        let length = header.get_u32() as usize;
        let body = self.fill(length - 4).await?;
        Some((tag, body))
    }

    async fn fill(&mut self, count: usize) -> Option<Bytes> {
        while self.input.len() < count {
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
        Some(self.input.split_to(count).freeze())
    }

    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }
}
