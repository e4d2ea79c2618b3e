//! A proposer that does what a test says, message by message.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::Lsn;
use glowplug::pgwire::{ConnectConfig, Connection, CopyBoth};
use glowplug::secret::Secret;
use glowplug::wire::safekeeper::{
    AcceptorMessage, AppendRequest, AppendResponse, Elected, Membership, ProposerGreeting,
    ProposerMessage, ProtocolVersion, TermHistory, TermLsn, VoteRequest, VoteResponse,
};
use tokio::time::timeout;

use crate::transcript::{START, wal};
use crate::{LIMIT, TENANT};

/// Where to connect, and as whom.
pub(crate) fn config(address: SocketAddr, timeline: &str, token: Option<&str>) -> ConnectConfig {
    ConnectConfig {
        password: token.map(Secret::new),
        parameters: vec![(
            "options".to_owned(),
            format!("-c timeline_id={timeline} tenant_id={TENANT}"),
        )],
        ..ConnectConfig::tcp(address.ip().to_string(), address.port(), "no_user")
    }
}

/// A push of recorded WAL, in protocol version 3 and without membership.
pub(crate) struct Push {
    stream: CopyBoth,
    pub(crate) term: u64,
    position: Lsn,
}

impl Push {
    /// Connects and greets.
    pub(crate) async fn greet(address: SocketAddr, timeline: &str) -> Self {
        let connection = Connection::connect(&config(address, timeline, None)).await;
        let command = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')";
        let stream = connection.unwrap().copy_both(command).await.unwrap();
        let mut push = Self {
            stream,
            term: 0,
            position: Lsn::INVALID,
        };
        let tenant_id: TenantId = TENANT.parse().unwrap();
        let timeline_id: TimelineId = timeline.parse().unwrap();
        push.send(&ProposerMessage::Greeting(ProposerGreeting {
            tenant_id,
            timeline_id,
            membership: Membership::default(),
            pg_version: 150_020,
            system_id: 0,
            wal_segment_size: 16 * 1024 * 1024,
        }))
        .await;
        push
    }

    /// Is elected in `term` on a timeline without history, from `start` on.
    pub(crate) async fn lead(address: SocketAddr, timeline: &str, term: u64, start: Lsn) -> Self {
        let mut push = Self::greet(address, timeline).await;
        push.expect_greeting().await;
        assert!(push.vote(term).await.vote_given);
        push.elect(start, &[(term, start)]).await;
        push
    }

    pub(crate) async fn send(&mut self, message: &ProposerMessage) {
        let mut body = BytesMut::new();
        message.encode(ProtocolVersion::V3, &mut body);
        self.stream.writer.send(&body).await.unwrap();
    }

    /// The next answer; `None` at the end of the stream, with or without an error.
    pub(crate) async fn next(&mut self) -> Result<AcceptorMessage, String> {
        let body = timeout(LIMIT, self.stream.reader.next()).await.unwrap();
        match body {
            Ok(Some(body)) => Ok(AcceptorMessage::decode(ProtocolVersion::V3, body).unwrap()),
            Ok(None) => Err("end".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) async fn expect_greeting(&mut self) {
        match self.next().await {
            Ok(AcceptorMessage::Greeting(_)) => {}
            other => panic!("{other:?} instead of a greeting"),
        }
    }

    pub(crate) async fn vote(&mut self, term: u64) -> VoteResponse {
        self.term = term;
        let request = VoteRequest {
            generation: 0,
            term,
        };
        self.send(&ProposerMessage::VoteRequest(request)).await;
        match self.next().await {
            Ok(AcceptorMessage::VoteResponse(response)) => response,
            other => panic!("{other:?} instead of a vote"),
        }
    }

    pub(crate) async fn elect(&mut self, start: Lsn, history: &[(u64, Lsn)]) {
        self.position = start;
        let entry = |(term, lsn): &(u64, Lsn)| TermLsn {
            term: *term,
            lsn: *lsn,
        };
        self.send(&ProposerMessage::Elected(Elected {
            generation: 0,
            term: self.term,
            start_streaming_at: start,
            term_history: TermHistory(history.iter().map(entry).collect()),
        }))
        .await;
    }

    /// Sends recorded WAL, in as many messages as it takes.
    pub(crate) async fn append(&mut self, from: Lsn, to: Lsn) {
        let mut at = from;
        while at < to {
            let next = Lsn((at.0 + 131_072).min(to.0));
            self.append_bytes(at, wal(at, next), Lsn::INVALID).await;
            at = next;
        }
        self.position = to;
    }

    /// Tells a commit LSN, and waits for the answer.
    pub(crate) async fn commit(&mut self, commit_lsn: Lsn) -> AppendResponse {
        self.append_bytes(self.position, &[], commit_lsn).await;
        self.response().await
    }

    async fn append_bytes(&mut self, begin_lsn: Lsn, wal: &'static [u8], commit_lsn: Lsn) {
        self.send(&ProposerMessage::AppendRequest(AppendRequest {
            generation: 0,
            term: self.term,
            begin_lsn,
            commit_lsn,
            truncate_lsn: START,
            wal: Bytes::from_static(wal),
        }))
        .await;
    }

    pub(crate) async fn response(&mut self) -> AppendResponse {
        match self.next().await {
            Ok(AcceptorMessage::AppendResponse(response)) => response,
            other => panic!("{other:?} instead of an answer to an append"),
        }
    }

    pub(crate) async fn await_flush(&mut self, flush_lsn: Lsn) {
        while self.response().await.flush_lsn != flush_lsn {}
    }
}
