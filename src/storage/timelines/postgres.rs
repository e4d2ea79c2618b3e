//! Runs PostgreSQL's programs on data directories of the storage.
//!
//! They refuse to run as root, and then run as an unprivileged user, who may not be
//! able to reach the storage's directory: their work is done in a scratch directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::Error;
use crate::process::{Command, RunAs, Spawner};
use crate::storage::files;

/// The superuser of every timeline, as on a real pageserver.
const SUPERUSER: &str = "cloud_admin";

/// How long initdb may take.
const INITDB_LIMIT: Duration = Duration::from_mins(2);

/// Where PostgreSQL's programs are, and who runs them.
#[derive(Debug, Clone)]
pub(super) struct PostgresTools {
    pub(super) spawner: Spawner,
    pub(super) bin_dir: PathBuf,
    pub(super) run_as: Option<RunAs>,
}

impl PostgresTools {
    /// Makes a data directory.
    pub(super) async fn initdb(&self, data: &Path) -> Result<(), Error> {
        let command = self
            .command("initdb")
            .arg("-D")
            .arg(data)
            .args(["-U", SUPERUSER])
            .args(["--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--auth=trust", "--no-instructions", "--no-sync"]);
        let output = self.spawner.run(command, INITDB_LIMIT).await;
        let output = output.map_err(Error::Initdb)?;
        output.require_success().map_err(Error::Initdb)?;
        Ok(())
    }

    pub(super) fn command(&self, program: &str) -> Command {
        Command::new(self.bin_dir.join(program)).run_as(self.run_as.clone())
    }

    /// Gives a tree to whoever runs the programs.
    pub(super) fn hand_over(&self, tree: &Path) -> Result<(), files::Error> {
        match &self.run_as {
            Some(run_as) => files::give_tree(tree, run_as),
            None => Ok(()),
        }
    }

    /// A directory that the programs can work in, on the way to `target` if they can
    /// reach that.
    pub(super) fn scratch(&self, target: &Path) -> Result<Scratch, files::Error> {
        let reachable = |run_as: &RunAs| files::reachable(target, run_as);
        let dir = if self.run_as.as_ref().is_none_or(reachable) {
            target.join("scratch")
        } else {
            let random: u64 = rand::random();
            std::env::temp_dir().join(format!("glowplug-storage-{random:016x}"))
        };
        files::remove_dir(&dir)?;
        files::create_for(&dir, self.run_as.as_ref())?;
        Ok(Scratch(dir))
    }
}

/// A directory that goes away when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = files::remove_dir(&self.0) {
            warn!(
                error = crate::error::chain(&error),
                "a scratch directory stays"
            );
        }
    }
}
