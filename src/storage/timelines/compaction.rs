//! Makes a newer base of an older one, so that a start has little WAL to replay.
//!
//! PostgreSQL does it: as a standby on a copy of the base it replays WAL up to the
//! last checkpoint record, and shuts down there. That shutdown is a restartpoint
//! (`CreateRestartPoint` in PostgreSQL's `src/backend/access/transam/xlog.c`): all
//! pages are written, `pg_control` names the checkpoint, and no WAL is added. What is
//! left is what a crash right behind that checkpoint might have left, so replaying
//! from there goes the same way. A clean shutdown as a primary would not do: it adds
//! a record that the log does not have.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::postgres::{PostgresTools, Scratch};
use super::wal_files::LogEnd;
use super::{Base, Error, Timeline};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::lsn::Lsn;
use crate::storage::files::{self, blocking};
use crate::wire::control_file::State;

/// How long replaying may take.
const REPLAY_LIMIT: Duration = Duration::from_mins(10);

const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_CAP: Duration = Duration::from_mins(10);

/// Compacts a timeline, whenever its newest base is this many bytes of WAL behind.
pub(super) struct Compactor {
    pub(super) timeline: Arc<Timeline>,
    pub(super) tools: PostgresTools,
    pub(super) after: u64,
    pub(super) cancel: CancellationToken,
}

impl Compactor {
    /// Compacts until cancelled.
    pub(super) async fn run(self) {
        let cancel = self.cancel.clone();
        cancel.run_until_cancelled(self.keep_compact()).await;
    }

    async fn keep_compact(self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        let mut end = self.timeline.end.subscribe();
        loop {
            let due = |end: &LogEnd| self.is_due(end);
            let Ok(end) = end.wait_for(due).await.map(|end| *end) else {
                return;
            };
            let started = Instant::now();
            match self.compact(end.checkpoint.start).await {
                Ok(base) => {
                    let lsn = base.end_lsn();
                    info!(%lsn, elapsed = ?started.elapsed(), "made a newer base");
                    backoff.reset();
                }
                Err(error) => {
                    let error = chain(&error);
                    warn!(error, "cannot make a newer base: starts will take longer");
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
            }
        }
    }

    fn is_due(&self, end: &LogEnd) -> bool {
        let base = self.timeline.newest_base();
        end.checkpoint.next.bytes_since(base.end_lsn()) >= self.after
    }

    /// Makes a base at the checkpoint record that starts at `checkpoint`.
    async fn compact(&self, checkpoint: Lsn) -> Result<Arc<Base>, Error> {
        let (timeline, tools) = (self.timeline.clone(), self.tools.clone());
        let scratch = blocking(move || prepare(&timeline, &tools, checkpoint)).await?;
        let postgres = self.tools.command("postgres").arg("-D").arg(scratch.data());
        let ended = self.tools.spawner.run(postgres, REPLAY_LIMIT).await;
        let ended = ended.map_err(Error::Replay)?;
        ended.require_success().map_err(Error::Replay)?;
        let timeline = self.timeline.clone();
        blocking(move || adopt(&timeline, &scratch, checkpoint)).await
    }
}

/// Lays out a standby that ends at the checkpoint record.
fn prepare(
    timeline: &Timeline,
    tools: &PostgresTools,
    checkpoint: Lsn,
) -> Result<Scratch, files::Error> {
    let scratch = tools.scratch(timeline.dir())?;
    let data = scratch.data();
    let base = timeline.newest_base();
    base.unpack(&data)?;
    for number in base.redo_lsn().segment()..=(Lsn(checkpoint.0 + RECORD_ROOM)).segment() {
        let from = timeline.segment_path(number);
        let name = from.file_name().unwrap_or_default();
        if from.exists() {
            let copied = fs::copy(&from, data.join("pg_wal").join(name));
            copied.map_err(files::failed("copy", &from))?;
        }
    }
    write(&data, "postgresql.conf", &conf(checkpoint))?;
    write(&data, "standby.signal", "")?;
    tools.hand_over(&data)?;
    Ok(scratch)
}

/// More than a checkpoint record and page headers in it take.
const RECORD_ROOM: u64 = 1024;

fn write(data: &Path, name: &str, text: &str) -> Result<(), files::Error> {
    let path = data.join(name);
    fs::write(&path, text).map_err(files::failed("write", &path))
}

/// Settings of a standby that nobody connects to. What a primary may have prepared
/// must find room. The base is synced later, as one file.
fn conf(checkpoint: Lsn) -> String {
    format!(
        "listen_addresses = ''\n\
         unix_socket_directories = '.'\n\
         hot_standby = off\n\
         recovery_target_lsn = '{checkpoint}'\n\
         recovery_target_inclusive = on\n\
         recovery_target_action = shutdown\n\
         max_prepared_transactions = 1000\n\
         max_connections = 10\n\
         shared_buffers = 64MB\n\
         fsync = off\n\
         logging_collector = off\n"
    )
}

/// Makes a base of the standby's directory, if it ended where it should.
fn adopt(timeline: &Timeline, scratch: &Scratch, checkpoint: Lsn) -> Result<Arc<Base>, Error> {
    let data = scratch.data();
    let control = super::base::control_file(&data)?;
    if control.state() != State::ShutDownInRecovery || control.checkpoint() != checkpoint {
        return Err(Error::ReplayEnd {
            wanted: checkpoint,
            found: control.checkpoint(),
        });
    }
    for name in ["postgresql.conf", "standby.signal"] {
        let path = data.join(name);
        fs::remove_file(&path).map_err(files::failed("remove", &path))?;
    }
    Ok(timeline.add_base(&data)?)
}
