//! A development storage in this process, with one timeline that a compute has
//! written and left, and which can be put back into that state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use glowplug::id::{TenantId, TimelineId};
use glowplug::pgwire::{ConnectConfig, Connection};
use glowplug::process::{RunAs, Spawner};
use glowplug::storage::{self, Storage, StorageConfig, StorageOptions};
use glowplug::wire::control_file::{ControlFile, State};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::compute::Compute;
use super::{memory_directory, pg_bin_dir};
use crate::LIMIT;

const TENANT: &str = "9ef87a5bf0d92544f6fafeeb3239695c";
const TIMELINE: &str = "de200bd42b49cc1814412c7e592dd6e9";

/// A place for storage and for the computes on it.
pub(crate) struct Stage {
    pub(crate) directory: TempDir,
    pub(crate) run_as: Option<RunAs>,
    spawner: Spawner,
    storage: Option<Storage>,
}

impl Stage {
    /// Sets up a timeline that has the role and the database of [`Stage::spec`], on
    /// three safekeepers that stand at the same place, and whose base is as new as its log.
    pub(crate) async fn set() -> Self {
        Self::set_in(memory_directory()).await
    }

    /// The same, elsewhere.
    pub(crate) async fn set_in(directory: TempDir) -> Self {
        let mut stage = Self {
            directory,
            run_as: RunAs::for_postgres(),
            spawner: Spawner::start().unwrap(),
            storage: None,
        };
        stage.start(Some(1)).await;
        let (tenant, timeline) = ids();
        let storage = stage.storage();
        let timeline = storage.create_timeline(tenant, timeline).await.unwrap();
        let mut compute = Compute::start(&stage, "first");
        compute.running().await;
        compute.stop();
        // The last that it has written is the checkpoint of its shutdown.
        let based = async {
            loop {
                let end = timeline.end();
                let base = timeline.base_from(end.last_record_lsn).await;
                if base.end_lsn() == timeline.end().last_record_lsn {
                    break;
                }
            }
        };
        tokio::time::timeout(LIMIT, based)
            .await
            .expect("a newer base");
        stage.stop().await;
        make_clean(
            &stage
                .state_dir()
                .join("timelines")
                .join(TENANT)
                .join(TIMELINE),
        );
        copy(&stage.state_dir(), &stage.kept());
        stage
    }

    fn state_dir(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    fn kept(&self) -> PathBuf {
        self.directory.path().join("kept")
    }

    /// Starts the storage from the state that was kept.
    pub(crate) async fn restore(&mut self) {
        self.stop().await;
        fs::remove_dir_all(self.state_dir()).unwrap();
        copy(&self.kept(), &self.state_dir());
        self.start(None).await;
    }

    async fn start(&mut self, compact_after: Option<u64>) {
        let config = StorageConfig {
            state_dir: self.state_dir(),
            pg_bin_dir: pg_bin_dir(),
            safekeepers: 3,
            listen: std::net::Ipv4Addr::LOCALHOST.into(),
            run_as: self.run_as.clone(),
            token: None,
        };
        let options = StorageOptions {
            compact_after,
            ..StorageOptions::default()
        };
        let started =
            storage::start_with(config, options, &self.spawner, CancellationToken::new()).await;
        self.storage = Some(started.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(storage) = self.storage.take() {
            storage.shutdown().await;
        }
    }

    pub(crate) fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("it was started")
    }

    /// A spec for this storage, with one role and its database.
    pub(crate) fn spec(&self, port: u16, settings: &[(&str, &str)]) -> Value {
        let shards = self.storage().shard_map().shards;
        let shards: Vec<_> = shards
            .iter()
            .map(|shard| json!({"number": shard.index.number, "libpq": shard.libpq, "http": shard.http}))
            .collect();
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        json!({
            "apiVersion": "glowplug.dev/v1alpha1",
            "kind": "ComputeSpec",
            "metadata": {"name": "main"},
            "spec": {
                "tenantId": TENANT,
                "timelineId": TIMELINE,
                "mode": "Primary",
                "postgres": {"flavor": "Vanilla", "port": port, "settings": settings},
                "storage": {
                    "safekeepers": {"endpoints": self.storage().safekeeper_endpoints()},
                    "pageservers": {"shards": shards},
                },
                "roles": [{"name": "app"}],
                "databases": [{"name": "shop", "owner": "app"}],
            },
        })
    }

    /// The basebackup that a compute would get now, as its gzip bytes.
    pub(crate) async fn basebackup(&self) -> Vec<u8> {
        let shards = self.storage().shard_map().shards;
        let url: url::Url = shards[0].libpq.as_ref().unwrap().parse().unwrap();
        let config =
            ConnectConfig::tcp(url.host_str().unwrap(), url.port().unwrap(), "cloud_admin");
        let connection = Connection::connect(&config).await.unwrap();
        let command = format!("fullbackup {TENANT} {TIMELINE} --gzip");
        let mut copy = connection.copy_out(&command).await.unwrap();
        let mut archive = Vec::new();
        while let Some(bytes) = copy.next().await.unwrap() {
            archive.extend_from_slice(&bytes);
        }
        archive
    }
}

/// The newest base was made by a standby that was shut down behind the last record.
/// Without unlogged tables that is what a primary's clean shutdown there leaves, too,
/// from which postgres starts without replaying anything.
fn make_clean(timeline: &Path) {
    for base in fs::read_dir(timeline.join("bases")).unwrap() {
        let path = base.unwrap().path().join("pg_control");
        let mut control = ControlFile::parse(&fs::read(&path).unwrap()).unwrap();
        control.set_state(State::ShutDown);
        fs::write(&path, control.as_bytes()).unwrap();
    }
}

fn ids() -> (TenantId, TimelineId) {
    (TENANT.parse().unwrap(), TIMELINE.parse().unwrap())
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}
