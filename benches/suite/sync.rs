//! From the first connection attempt to the commit LSN, with three equal safekeepers
//! on loopback that make everything durable: the question alone, an election that
//! ends after the votes, and a full one.
//!
//! The yardstick asks three servers over loopback the same number of times, one
//! question after the other as a plain client does, and each syncs a file before it
//! answers. Then the same through a proxy that delays each direction by 10 ms and
//! counts round trips, that of the TCP handshake included.
//!
//! `SYNC_RUNS` changes the number of runs of each kind.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use glowplug::lsn::Lsn;
use glowplug::pgwire::{ConnectConfig, Connection, CopyBoth};
use glowplug::safekeeper::{SyncConfig, Synced, SyncedHow, sync};
use glowplug::spec::SafekeeperSet;
use glowplug::wire::safekeeper::{
    AcceptorMessage, AppendRequest, Elected, Membership, ProposerGreeting, ProposerMessage,
    ProtocolVersion, TermHistory, TermLsn, VoteRequest,
};
use tokio_util::sync::CancellationToken;

use crate::LIMIT;
use crate::quorum::{Quorum, key};
use crate::stage::delay::{DelayedPeers, ONE_WAY};
use crate::stage::number;
use crate::stage::round_trips::Servers;
use crate::stage::table::{Samples, Table, cell, verdict};
use crate::wal::Log;

/// Where the timeline begins.
pub(crate) const START: Lsn = Lsn(0x0151_1AE0);

/// Most WAL in one message, as in Neon's walproposer (`MAX_SEND_SIZE`).
const CHUNK: usize = 128 * 1024;

/// A way to the commit LSN: round trips of a plain client and of this one, and how long
/// it may take with the delay, in milliseconds.
struct Way {
    name: &'static str,
    how: SyncedHow,
    plain: u32,
    round_trips: u32,
    limit: f64,
}

/// The full one first: it leaves three equal safekeepers that have elected somebody.
const WAYS: &[Way] = &[
    Way {
        name: "full election",
        how: SyncedHow::Full,
        plain: 7,
        round_trips: 5,
        limit: 115.0,
    },
    Way {
        name: "ends after the votes",
        how: SyncedHow::Votes,
        plain: 5,
        round_trips: 3,
        limit: 75.0,
    },
    Way {
        name: "pre-check alone",
        how: SyncedHow::PreCheck,
        plain: 3,
        round_trips: 2,
        limit: f64::INFINITY,
    },
];

/// An older proposer that has given all safekeepers the same WAL and told nobody.
pub(crate) struct Writer {
    term: u64,
    pub(crate) end: Lsn,
    history: TermHistory,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            term: 0,
            end: START,
            history: TermHistory::default(),
        }
    }
}

impl Writer {
    /// Takes note of a term that began at the end of the log.
    pub(crate) fn begin(&mut self, term: u64) {
        self.term = term;
        let lsn = self.end;
        self.history.0.push(TermLsn { term, lsn });
    }

    /// Appends one record everywhere, in a term of its own.
    async fn write(&mut self, quorum: &Quorum, term: u64) {
        self.begin(term);
        let mut log = Log::new(self.end, Vec::new());
        log.append(1, 1, 64);
        for endpoint in &quorum.endpoints {
            self.push(endpoint, &log.bytes).await;
        }
        self.end = log.end();
    }

    /// Gives a safekeeper WAL behind what it has.
    pub(crate) async fn push(&self, endpoint: &str, wal: &[u8]) {
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
        ];
        for message in &messages {
            send(&mut stream, message).await;
        }
        let mut at = self.end;
        for chunk in wal.chunks(CHUNK) {
            let append = ProposerMessage::AppendRequest(AppendRequest {
                generation: 0,
                term: self.term,
                begin_lsn: at,
                commit_lsn: Lsn::INVALID,
                truncate_lsn: Lsn::INVALID,
                wal: Bytes::copy_from_slice(chunk),
            });
            at = Lsn(at.0 + chunk.len() as u64);
            send(&mut stream, &append).await;
            while flushed(&mut stream).await < at {}
        }
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

/// How a sync with these safekeepers is told.
pub(crate) fn config(endpoints: &[String], always_elect: bool) -> SyncConfig {
    SyncConfig {
        tenant_id: key().tenant_id,
        timeline_id: key().timeline_id,
        safekeepers: SafekeeperSet {
            generation: None,
            endpoints: endpoints.to_vec(),
        },
        access: glowplug::access::Access::default(),
        pg_version: 150_000,
        system_id: 0,
        always_elect,
        connect_timeout: LIMIT,
        deadline: LIMIT,
    }
}

async fn sync_with(endpoints: &[String], way: &Way) -> (Synced, f64) {
    let config = config(endpoints, way.how != SyncedHow::PreCheck);
    let started = Instant::now();
    let synced = sync(&config, &CancellationToken::new()).await.unwrap();
    (synced, milliseconds(started.elapsed()))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// What was measured of one way.
#[derive(Default)]
struct Measured {
    plain: Samples,
    direct: Samples,
    delayed: Samples,
    round_trips: Samples,
}

/// A quorum, and what is needed to bring it into the state that a way begins with.
struct Scene {
    quorum: Quorum,
    writer: Writer,
    term: u64,
}

impl Scene {
    /// How long a sync took that went this way.
    async fn run(&mut self, endpoints: &[String], way: &Way) -> f64 {
        self.level().await;
        if way.how == SyncedHow::Full {
            self.writer.write(&self.quorum, self.term).await;
        }
        let (synced, took) = sync_with(endpoints, way).await;
        assert_eq!((synced.how, synced.commit_lsn), (way.how, self.writer.end));
        self.follow(&synced);
        took
    }

    /// A sync ends when a majority has it all: lets the third catch up.
    async fn level(&mut self) {
        let votes = &WAYS[1];
        let endpoints = self.quorum.endpoints.clone();
        loop {
            let (synced, _) = sync_with(&endpoints, votes).await;
            self.follow(&synced);
            if synced.how == votes.how {
                return;
            }
        }
    }

    fn follow(&mut self, synced: &Synced) {
        let Some(won) = synced.term else { return };
        self.term = won + 1;
        if synced.how == SyncedHow::Full {
            self.writer.begin(won);
        }
    }
}

async fn measure(scene: &mut Scene, way: &Way) -> Measured {
    let mut measured = Measured::default();
    let endpoints = scene.quorum.endpoints.clone();
    let servers = Servers::start(endpoints.len());
    let runs = number("SYNC_RUNS", 50);
    for _ in 0..runs {
        let plain = servers.ask(way.plain).await;
        measured.plain.push(milliseconds(plain));
        measured.direct.push(scene.run(&endpoints, way).await);
    }
    for _ in 0..runs.div_ceil(5) {
        let peers = DelayedPeers::start(&endpoints).await;
        measured
            .delayed
            .push(scene.run(&peers.endpoints, way).await);
        measured.round_trips.push(f64::from(peers.round_trips()));
    }
    measured
}

pub(crate) async fn run() {
    let mut scene = Scene {
        quorum: Quorum::start_durable(3).await,
        writer: Writer::default(),
        term: 1,
    };
    let mut found = Vec::new();
    for way in WAYS {
        found.push((way, measure(&mut scene, way).await));
    }
    print(&found);
}

fn print(found: &[(&Way, Measured)]) {
    let mut table = Table::new([
        "",
        "plain p50 ms",
        "p50 ms",
        "p90 ms",
        "ratio",
        "round trips",
        "at most",
        "met",
        "delayed p50 ms",
        "below",
        "met",
    ]);
    for (way, measured) in found {
        let ratio = measured.direct.median() / measured.plain.median();
        let (round_trips, delayed) = (measured.round_trips.max(), measured.delayed.median());
        let limit = way.limit;
        table.row([
            way.name.to_owned(),
            cell(measured.plain.median(), 2),
            cell(measured.direct.median(), 2),
            cell(measured.direct.percentile(90), 2),
            cell(ratio, 2),
            cell(round_trips, 0),
            way.round_trips.to_string(),
            verdict(round_trips <= f64::from(way.round_trips)),
            cell(delayed, 1),
            cell(limit, 0),
            verdict(delayed < limit),
        ]);
    }
    let delay = ONE_WAY.as_millis();
    table.print(&format!(
        "Safekeeper sync, against a plain client; through a proxy that delays by {delay} ms"
    ));
}
