//! A postgres, three safekeepers, and a relay between them.

#![allow(dead_code, reason = "tests and benches use different parts of this")]

#[path = "../loopback/mod.rs"]
mod loopback;

use std::fs;
use std::time::Duration;

use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::{Lsn, WAL_SEGMENT_SIZE, segment_file_name};
use glowplug::pgwire::{ConnectConfig, Host};
use glowplug::safekeeper::relay::Error;
use glowplug::safekeeper::{
    RelayCommand, RelayConfig, RelayStatus, SyncConfig, Synced, relay, sync,
};
use glowplug::spec::SafekeeperSet;
use glowplug::storage::safekeeper::{Safekeeper, SafekeeperConfig, TimelineKey};
use glowplug::storage::wal_store::WalReader;
use glowplug::wire::control_file::ControlFile;
use glowplug::wire::wal_record::RecordDecoder;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::LIMIT;
use crate::postgres::{Postgres, SUPERUSER};

pub(crate) fn key() -> TimelineKey {
    TimelineKey {
        tenant_id: TenantId([7; 16]),
        timeline_id: TimelineId([8; 16]),
    }
}

/// Safekeepers that are up (`Ok`) or down.
pub(crate) struct Quorum {
    nodes: Vec<Result<Safekeeper, SafekeeperConfig>>,
    pub(crate) endpoints: Vec<String>,
    _directory: TempDir,
}

impl Quorum {
    pub(crate) async fn start(count: u64) -> Self {
        Self::start_with(count, false).await
    }

    /// With WAL made durable, as in production.
    pub(crate) async fn start_durable(count: u64) -> Self {
        Self::start_with(count, true).await
    }

    async fn start_with(count: u64, fsync: bool) -> Self {
        let directory = TempDir::with_prefix("glowplug-relay").unwrap();
        let mut nodes = Vec::new();
        for id in 1..=count {
            let any = loopback::any_port();
            let config = SafekeeperConfig {
                listen: any,
                http_listen: any,
                fsync,
                ..SafekeeperConfig::new(id, directory.path().join(id.to_string()))
            };
            let started = Safekeeper::start(config, &CancellationToken::new()).await;
            nodes.push(started.unwrap());
        }
        Self {
            endpoints: nodes
                .iter()
                .map(|node| node.pg_addr().to_string())
                .collect(),
            nodes: nodes.into_iter().map(Ok).collect(),
            _directory: directory,
        }
    }

    pub(crate) fn node(&self, index: usize) -> &Safekeeper {
        self.nodes[index].as_ref().unwrap()
    }

    /// Takes one down, as a crash of its machine would.
    pub(crate) async fn crash(&mut self, index: usize) {
        let node = self.nodes.remove(index).unwrap();
        let config = node.crash().await;
        self.nodes.insert(index, Err(config));
    }

    pub(crate) async fn restart(&mut self, index: usize) {
        let config = self.nodes.remove(index).unwrap_err();
        let node = Safekeeper::start(config, &CancellationToken::new()).await;
        self.nodes.insert(index, Ok(node.unwrap()));
    }

    pub(crate) fn set(&self, indices: &[usize]) -> SafekeeperSet {
        SafekeeperSet {
            generation: None,
            endpoints: indices
                .iter()
                .map(|index| self.endpoints[*index].clone())
                .collect(),
        }
    }

    /// A sync as the next compute does it.
    pub(crate) async fn sync(&self) -> Synced {
        self.sync_as(true).await
    }

    pub(crate) async fn sync_as(&self, always_elect: bool) -> Synced {
        let config = SyncConfig {
            tenant_id: key().tenant_id,
            timeline_id: key().timeline_id,
            safekeepers: self.set(&[0, 1, 2]),
            access: glowplug::access::Access::default(),
            pg_version: 150_000,
            system_id: 0,
            always_elect,
            connect_timeout: Duration::from_secs(10),
            deadline: LIMIT,
        };
        sync(&config, &CancellationToken::new()).await.unwrap()
    }

    /// Waits until one has flushed everything up to `lsn`.
    pub(crate) async fn await_flush(&self, index: usize, lsn: Lsn) {
        let flushed = async {
            // The timeline may not be there yet, and nobody tells.
            let mut status = loop {
                match self.node(index).watch_timeline(key()).await {
                    Some(status) => break status,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            let reached = status.wait_for(|status| status.flush_lsn >= lsn).await;
            reached.map(drop).unwrap();
        };
        timeout(LIMIT, flushed).await.expect("it catches up");
    }

    /// The WAL of one, from `from` up to `until`.
    pub(crate) fn wal(&self, index: usize, from: Lsn, until: Lsn) -> Vec<u8> {
        let dir = self.node(index).config().dir.join(key().to_string());
        let mut reader = WalReader::new(&dir);
        let mut wal = Vec::new();
        while from.0 + (wal.len() as u64) < until.0 {
            let at = Lsn(from.0 + wal.len() as u64);
            let chunk = reader.read(at, until.bytes_since(at) as usize).unwrap();
            assert!(!chunk.is_empty(), "no WAL at {at}");
            wal.extend_from_slice(&chunk);
        }
        wal
    }
}

/// A postgres whose commits wait for a relay.
pub(crate) async fn postgres() -> (Postgres, Lsn) {
    postgres_with(&[]).await
}

pub(crate) async fn postgres_with(settings: &[(&str, &str)]) -> (Postgres, Lsn) {
    let mut all = vec![
        ("synchronous_standby_names", "walproposer"),
        ("autovacuum", "off"),
        ("wal_keep_size", "64MB"),
    ];
    all.extend_from_slice(settings);
    let postgres = Postgres::start_with(&all).await;
    let start_lsn = first_record(&postgres);
    (postgres, start_lsn)
}

/// Where a cluster that was made and never used begins to write: behind the
/// checkpoint of its making. By now it may have written; the first checkpoint of its
/// log is still there.
fn first_record(postgres: &Postgres) -> Lsn {
    let template = crate::postgres::template(&crate::postgres::programs::newest());
    let control = fs::read(template.join("global/pg_control")).unwrap();
    let checkpoint = ControlFile::parse(&control).unwrap().checkpoint();
    let segment = fs::read(wal_file(postgres, checkpoint)).unwrap();
    let mut input = &segment[checkpoint.segment_offset() as usize..];
    let mut decoder = RecordDecoder::new(checkpoint, 15).unwrap();
    decoder.next(&mut input).unwrap().unwrap().next
}

/// The last checkpoint that a postgres has taken.
pub(crate) fn last_checkpoint(postgres: &Postgres) -> Lsn {
    let control = fs::read(postgres.data().join("global/pg_control")).unwrap();
    ControlFile::parse(&control).unwrap().checkpoint()
}

fn wal_file(postgres: &Postgres, lsn: Lsn) -> std::path::PathBuf {
    postgres
        .data()
        .join("pg_wal")
        .join(lsn.segment_file_name(1))
}

/// The WAL that postgres has on disk, from `from` up to `until`.
pub(crate) fn local_wal(postgres: &Postgres, from: Lsn, until: Lsn) -> Vec<u8> {
    let mut wal = Vec::new();
    for segment in from.segment()..=until.segment() {
        let file = postgres
            .data()
            .join("pg_wal")
            .join(segment_file_name(1, segment));
        let bytes = fs::read(file).unwrap_or_default();
        let start = segment * WAL_SEGMENT_SIZE;
        let first = from.0.saturating_sub(start) as usize;
        let last = (until.0 - start).min(WAL_SEGMENT_SIZE) as usize;
        wal.extend_from_slice(bytes.get(first..last).unwrap_or_default());
    }
    wal
}

/// A running relay.
pub(crate) struct Relay {
    task: JoinHandle<Result<(), Error>>,
    pub(crate) commands: mpsc::Sender<RelayCommand>,
    pub(crate) status: watch::Receiver<RelayStatus>,
    cancel: CancellationToken,
}

impl Relay {
    pub(crate) fn start(postgres: &Postgres, start_lsn: Lsn, safekeepers: SafekeeperSet) -> Self {
        let directory = postgres.data().parent().unwrap().to_owned();
        let mut local = ConnectConfig::tcp("", 5432, SUPERUSER);
        local.host = Host::Unix(directory);
        let config = RelayConfig {
            tenant_id: key().tenant_id,
            timeline_id: key().timeline_id,
            safekeepers,
            access: glowplug::access::Access::default(),
            pg_version: 150_000,
            system_id: 0,
            start_lsn,
            local,
            local_accepts: watch::channel(true).1,
            connect_timeout: Duration::from_secs(10),
            window_limit: 1 << 20,
        };
        let (commands, receiver) = mpsc::channel(1);
        let (sender, status) = watch::channel(RelayStatus::default());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(relay(config, receiver, sender, cancel.clone()));
        Self {
            task,
            commands,
            status,
            cancel,
        }
    }

    pub(crate) async fn await_status(
        &mut self,
        holds: impl FnMut(&RelayStatus) -> bool,
    ) -> RelayStatus {
        let status = timeout(LIMIT, self.status.wait_for(holds)).await;
        status.expect("the relay gets there").unwrap().clone()
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// How it ended.
    pub(crate) async fn ended(self) -> Error {
        let ended = timeout(LIMIT, self.task).await.expect("the relay ends");
        ended.unwrap().expect_err("an end that nobody asked for")
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        let ended = timeout(LIMIT, self.task).await.expect("the relay ends");
        ended.unwrap().unwrap();
    }
}
