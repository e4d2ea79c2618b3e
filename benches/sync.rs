//! From the first connection attempt to the commit LSN, with three equal safekeepers
//! on loopback that make everything durable: the question alone, an election that
//! ends after the votes, and a full one.
//!
//! A client that waits for each answer before it asks on takes 3, 5 and 7 round
//! trips, the TCP handshake included; this one 2, 3 and 5.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench that cannot run fails, and shares what it starts with the tests"
)]

#[path = "../tests/relay/bench.rs"]
mod bench;
#[path = "../tests/postgres/mod.rs"]
mod postgres;
#[path = "../tests/simulation/wal.rs"]
mod wal;

use std::time::{Duration, Instant};

use bench::{Quorum, key};
use bytes::{Bytes, BytesMut};
use glowplug::lsn::Lsn;
use glowplug::pgwire::{ConnectConfig, Connection, CopyBoth};
use glowplug::safekeeper::SyncedHow;
use glowplug::wire::safekeeper::{
    AcceptorMessage, AppendRequest, Elected, Membership, ProposerGreeting, ProposerMessage,
    ProtocolVersion, TermHistory, TermLsn, VoteRequest,
};

/// How long the parts shared with the tests wait for anything.
const LIMIT: Duration = Duration::from_mins(2);

const RUNS: usize = 50;

/// Where the timeline begins.
const START: Lsn = Lsn(0x0151_1AE0);

/// An older proposer that has given all safekeepers the same WAL and told nobody.
struct Writer {
    term: u64,
    end: Lsn,
    history: TermHistory,
}

impl Writer {
    /// Appends one record everywhere.
    async fn write(&mut self, quorum: &Quorum, term: u64) {
        self.term = term;
        self.history.0.push(TermLsn {
            term,
            lsn: self.end,
        });
        let mut log = wal::Log::new(self.end, Vec::new());
        log.append(1, 1, 64);
        for endpoint in &quorum.endpoints {
            self.push(endpoint, &log.bytes).await;
        }
        self.end = log.end();
    }

    async fn push(&self, endpoint: &str, wal: &[u8]) {
        let (host, port) = endpoint.split_once(':').unwrap();
        let (tenant_id, timeline_id) = (key().tenant_id, key().timeline_id);
        let options = format!("-c timeline_id={timeline_id} tenant_id={tenant_id}");
        let config = ConnectConfig::tcp(host, port.parse().unwrap(), "no_user");
        let connection = Connection::connect(&config.parameter("options", options)).await;
        let command = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')";
        let mut stream = connection.unwrap().copy_both(command).await.unwrap();
        let messages = [
            ProposerMessage::Greeting(ProposerGreeting {
                tenant_id,
                timeline_id,
                membership: Membership::default(),
                pg_version: 150_000,
                system_id: 0,
                wal_segment_size: 16 * 1024 * 1024,
            }),
            ProposerMessage::VoteRequest(VoteRequest {
                generation: 0,
                term: self.term,
            }),
            ProposerMessage::Elected(Elected {
                generation: 0,
                term: self.term,
                start_streaming_at: self.end,
                term_history: self.history.clone(),
            }),
            ProposerMessage::AppendRequest(AppendRequest {
                generation: 0,
                term: self.term,
                begin_lsn: self.end,
                commit_lsn: Lsn::INVALID,
                truncate_lsn: Lsn::INVALID,
                wal: Bytes::copy_from_slice(wal),
            }),
        ];
        for message in &messages {
            send(&mut stream, message).await;
        }
        let end = Lsn(self.end.0 + wal.len() as u64);
        while flushed(&mut stream).await < end {}
    }
}

async fn send(stream: &mut CopyBoth, message: &ProposerMessage) {
    let mut body = BytesMut::new();
    message.encode(ProtocolVersion::V3, &mut body);
    stream.writer.send(&body).await.unwrap();
}

async fn flushed(stream: &mut CopyBoth) -> Lsn {
    let body = stream.reader.next().await.unwrap().expect("an answer");
    match AcceptorMessage::decode(ProtocolVersion::V3, body).unwrap() {
        AcceptorMessage::AppendResponse(response) => response.flush_lsn,
        _ => Lsn::INVALID,
    }
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1000.0;
    println!("{name:<10} p50 {:6.2} ms   p90 {:6.2} ms", at(50), at(90));
}

async fn run() {
    let quorum = Quorum::start_durable(3).await;
    let mut writer = Writer {
        term: 0,
        end: START,
        history: TermHistory::default(),
    };
    let mut term = 1;
    for (name, how) in [
        ("full", SyncedHow::Full),
        ("votes", SyncedHow::Votes),
        ("pre-check", SyncedHow::PreCheck),
    ] {
        let mut times = Vec::with_capacity(RUNS);
        while times.len() < RUNS {
            if how == SyncedHow::Full {
                writer.write(&quorum, term).await;
            }
            let started = Instant::now();
            let synced = quorum.sync_as(how != SyncedHow::PreCheck).await;
            times.push(started.elapsed());
            assert_eq!((synced.how, synced.commit_lsn), (how, writer.end));
            if let (SyncedHow::Full, Some(won)) = (how, synced.term) {
                let lsn = synced.commit_lsn;
                writer.history.0.push(TermLsn { term: won, lsn });
                term = won + 1;
            }
        }
        report(name, times);
    }
}

fn main() {
    // Under `cargo test` a bench is only built.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(run());
}
