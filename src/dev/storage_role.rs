//! `glowplug storage`: the development storage without a compute.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::display::line;
use super::postgres_programs;
use super::run::say;
use crate::compute::ending::Ending;
use crate::compute::signals;
use crate::process::{RunAs, Spawner};
use crate::storage::{self, Storage, StorageConfig};

/// What `glowplug storage` was told.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// Address to listen on.
    pub listen: IpAddr,
    /// Number of safekeepers.
    pub safekeepers: usize,
    /// `TENANT/TIMELINE` of timelines to make if they do not exist.
    pub timelines: Vec<String>,
    /// Folder of the postgres programs.
    pub pg_bin_dir: Option<PathBuf>,
}

/// Runs storage until a signal asks to stop.
pub async fn storage_alone(settings: StorageSettings) -> anyhow::Result<Ending> {
    let spawner = Spawner::start()?;
    let (mut stop, _signals) = signals::listen().context("cannot listen to signals")?;
    let cancel = CancellationToken::new();
    let config = StorageConfig {
        state_dir: settings.state_dir,
        pg_bin_dir: postgres_programs::find(settings.pg_bin_dir)?,
        safekeepers: settings.safekeepers,
        listen: settings.listen,
        run_as: RunAs::for_postgres(),
        token: None,
    };
    let storage = storage::start(config, &spawner, cancel.clone()).await?;
    for text in &settings.timelines {
        let ids = text
            .split_once('/')
            .context("write --timeline as TENANT/TIMELINE")?;
        storage
            .create_timeline(ids.0.parse()?, ids.1.parse()?)
            .await?;
        say(&line("timeline", text, None));
    }
    for text in addresses(&storage) {
        say(&text);
    }
    stop.recv().await;
    storage.shutdown().await;
    Ok(Ending::Stopped)
}

/// One line for each kind of node.
pub(super) fn addresses(storage: &Storage) -> [String; 3] {
    let pageservers: Vec<_> = storage
        .shard_map()
        .shards
        .into_iter()
        .filter_map(|shard| shard.libpq)
        .collect();
    [
        line(
            "safekeepers",
            &storage.safekeeper_endpoints().join(" "),
            None,
        ),
        line("pageserver", &pageservers.join(" "), None),
        line("controller", storage.controller_url().as_str(), None),
    ]
}
