//! Keeps timelines: a base directory and the committed WAL that followed it.
//!
//! Pageservers of one storage share them, as real ones share object storage: a
//! shard that moves to another pageserver finds its data there. Each timeline has
//! one task that fetches WAL from the safekeepers.
//!
//! # On disk
//!
//! `TENANT/TIMELINE/bases/END/` (see [`Base`]) and `TENANT/TIMELINE/wal/SEGMENT`. The
//! safekeepers start empty; the first compute continues the log at the end of the
//! first base, initdb's last checkpoint record.
//!
//! # Guarantees
//! 1. A timeline that can be found is complete: it is made under another name.
//! 2. `last_record_lsn` only grows, and everything below it can be read.

mod base;
mod compaction;
mod ingest;
mod postgres;
mod timeline;
mod wal_files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span};

pub use base::Base;
pub use ingest::{ReceiverStatus, WalSource};
pub use timeline::{Timeline, WaitTimeout};
pub use wal_files::LogEnd;

use crate::access::Access;
use crate::error::{Category, Retry};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::process::{self, RunAs, Spawner};
use crate::storage::files::{self, blocking};
use crate::wire::wal_record;
use postgres::PostgresTools;

/// What can go wrong with timelines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files could not be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// No data directory could be made.
    #[error("cannot make a data directory with initdb")]
    Initdb(#[source] process::Error),
    /// The programs at hand are of another version.
    #[error("{} has PostgreSQL {found}, not {wanted}", bin_dir.display())]
    Version {
        /// Where the programs are.
        bin_dir: PathBuf,
        /// Their major version.
        found: u32,
        /// The one asked for.
        wanted: u32,
    },
    /// WAL could not be replayed.
    #[error("cannot replay WAL on a base")]
    Replay(#[source] process::Error),
    /// Replaying ended elsewhere.
    #[error("replaying WAL ended with the checkpoint at {found}, not {wanted}")]
    ReplayEnd {
        /// The checkpoint that was to be reached.
        wanted: Lsn,
        /// The one that was.
        found: Lsn,
    },
    /// The timeline exists with another version.
    #[error("timeline already exists with different parameters")]
    Conflict,
    /// Somebody else is making the timeline just now.
    #[error("timeline {0} is being made: ask again")]
    InProgress(TimelineId),
    /// A safekeeper sent WAL that does not continue the log.
    #[error("WAL from {at} on was sent where {position} was asked for")]
    NotContiguous {
        /// End of the log.
        position: Lsn,
        /// Start of what came.
        at: Lsn,
    },
    /// A safekeeper sent something that is no WAL.
    #[error("what was received is not WAL")]
    NotWal(#[source] wal_record::Error),
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Files(source) => source.category(),
            Self::Initdb(source) | Self::Replay(source) => source.category(),
            Self::ReplayEnd { .. } => "ReplayFailed",
            Self::Version { .. } => "WrongVersion",
            Self::Conflict | Self::InProgress(_) => "Conflict",
            Self::NotContiguous { .. } | Self::NotWal(_) => "ProtocolViolation",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Files(source) => source.retry(),
            Self::Initdb(source) | Self::Replay(source) => source.retry(),
            Self::Version { .. } | Self::Conflict => Retry::Never,
            Self::InProgress(_)
            | Self::ReplayEnd { .. }
            | Self::NotContiguous { .. }
            | Self::NotWal(_) => Retry::Backoff,
        }
    }
}

/// What timelines need.
#[derive(Debug, Clone)]
pub struct TimelinesConfig {
    /// Where they are kept.
    pub dir: PathBuf,
    /// Where initdb and postgres are.
    pub pg_bin_dir: PathBuf,
    /// Who runs them; `None` for who we are.
    pub run_as: Option<RunAs>,
    /// The safekeepers.
    pub sources: Vec<WalSource>,
    /// How they are reached.
    pub access: Access,
    /// A newer base is made when the newest is so many bytes of WAL behind; `None`
    /// for never.
    pub compact_after: Option<u64>,
}

/// A default for [`TimelinesConfig::compact_after`]: replaying so much takes less than
/// half a second.
pub const COMPACT_AFTER: u64 = 64 * 1024 * 1024;

type Key = (TenantId, TimelineId);

/// The timelines of a storage. Cheap to clone.
#[derive(Clone)]
pub struct Timelines {
    shared: Arc<Shared>,
}

struct Shared {
    config: TimelinesConfig,
    tools: PostgresTools,
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// `None` while a timeline is being made.
    known: Mutex<BTreeMap<Key, Option<Arc<Timeline>>>>,
}

impl Timelines {
    /// Opens what is on disk, and goes on fetching WAL.
    ///
    /// # Errors
    ///
    /// [`Error::Files`].
    pub async fn open(
        config: TimelinesConfig,
        spawner: &Spawner,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        let tools = PostgresTools {
            spawner: spawner.clone(),
            bin_dir: config.pg_bin_dir.clone(),
            run_as: config.run_as.clone(),
        };
        let dir = config.dir.clone();
        let found = blocking(move || find_all(&dir)).await?;
        let shared = Shared {
            config,
            tools,
            cancel,
            tasks: TaskTracker::new(),
            known: Mutex::default(),
        };
        let timelines = Self {
            shared: Arc::new(shared),
        };
        for (key, dir) in found {
            let timeline = timelines.load(key, dir).await?;
            timelines.known().insert(key, Some(timeline));
        }
        Ok(timelines)
    }

    /// A timeline, if it is there.
    pub fn find(&self, tenant_id: TenantId, timeline_id: TimelineId) -> Option<Arc<Timeline>> {
        self.known().get(&(tenant_id, timeline_id)).cloned()?
    }

    /// All timelines.
    pub fn all(&self) -> Vec<Arc<Timeline>> {
        self.known().values().flatten().cloned().collect()
    }

    /// Makes a timeline with an empty database cluster of this major version, or of
    /// the programs at hand; does nothing if there is one.
    ///
    /// # Errors
    ///
    /// All of [`Error`] but those of received WAL.
    pub async fn create(
        &self,
        tenant_id: TenantId,
        timeline_id: TimelineId,
        pg_major: Option<u32>,
    ) -> Result<Arc<Timeline>, Error> {
        let key = (tenant_id, timeline_id);
        if let Some(known) = self.reserve(key)? {
            return if pg_major.is_none_or(|wanted| wanted == known.pg_major()) {
                Ok(known)
            } else {
                Err(Error::Conflict)
            };
        }
        // Given back if this fails or is cancelled.
        let reservation = Reservation {
            timelines: self,
            key,
        };
        let dir = self.dir(key);
        self.make(&dir, pg_major).await?;
        let timeline = self.load(key, dir).await?;
        info!(%tenant_id, %timeline_id, lsn = %timeline.end().last_record_lsn, "made a timeline");
        self.known().insert(key, Some(timeline.clone()));
        drop(reservation);
        Ok(timeline)
    }

    /// Waits until the tasks that fetch WAL have ended; cancel them first.
    pub async fn closed(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Marks a timeline as being made, unless it is there.
    fn reserve(&self, key: Key) -> Result<Option<Arc<Timeline>>, Error> {
        let mut known = self.known();
        match known.get(&key) {
            Some(Some(timeline)) => Ok(Some(timeline.clone())),
            Some(None) => Err(Error::InProgress(key.1)),
            None => {
                known.insert(key, None);
                Ok(None)
            }
        }
    }

    async fn make(&self, dir: &Path, pg_major: Option<u32>) -> Result<(), Error> {
        let tools = &self.shared.tools;
        let making = files::making(dir);
        let scratch = {
            let (tools, making) = (tools.clone(), making.clone());
            blocking(move || {
                files::remove_dir(&making)?;
                files::create_dir(&making)?;
                tools.scratch(&making)
            })
            .await?
        };
        tools.initdb(&scratch.data()).await?;
        let bin_dir = tools.bin_dir.clone();
        let dir = dir.to_owned();
        blocking(move || {
            let data = scratch.data();
            let found = base::pg_major(&data)?;
            if let Some(wanted) = pg_major
                && wanted != found
            {
                return Err(Error::Version {
                    bin_dir,
                    found,
                    wanted,
                });
            }
            let wal = making.join(timeline::WAL);
            base::copy_wal(&data, &wal)?;
            Base::make(&making.join(timeline::BASES), &data, &wal)?;
            drop(scratch);
            Ok(files::complete(&dir)?)
        })
        .await
    }

    async fn load(&self, key: Key, dir: PathBuf) -> Result<Arc<Timeline>, Error> {
        let (timeline, files) = blocking(move || Timeline::open(key, &dir)).await?;
        let timeline = Arc::new(timeline);
        let receiver = ingest::Receiver {
            timeline: timeline.clone(),
            files,
            sources: self.shared.config.sources.clone(),
            access: self.shared.config.access.clone(),
            cancel: self.shared.cancel.clone(),
        };
        self.shared.tasks.spawn(receiver.run());
        if let Some(after) = self.shared.config.compact_after {
            let compactor = compaction::Compactor {
                timeline: timeline.clone(),
                tools: self.shared.tools.clone(),
                after,
                cancel: self.shared.cancel.clone(),
            };
            let (tenant_id, timeline_id) = key;
            let span = info_span!("compact", %tenant_id, %timeline_id);
            self.shared.tasks.spawn(compactor.run().instrument(span));
        }
        Ok(timeline)
    }

    fn dir(&self, (tenant_id, timeline_id): Key) -> PathBuf {
        let dir = self.shared.config.dir.join(tenant_id.to_string());
        dir.join(timeline_id.to_string())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Option<Arc<Timeline>>>> {
        // The map is whole between any two statements.
        let known = self.shared.known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A timeline that is being made.
struct Reservation<'a> {
    timelines: &'a Timelines,
    key: Key,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut known = self.timelines.known();
        if matches!(known.get(&self.key), Some(None)) {
            known.remove(&self.key);
        }
    }
}

/// The timelines on disk. What was never completed is removed.
fn find_all(dir: &Path) -> Result<Vec<(Key, PathBuf)>, Error> {
    let mut found = Vec::new();
    for tenant in files::list(dir)? {
        let Some(tenant_id) = parsed::<TenantId>(&tenant) else {
            continue;
        };
        for timeline in files::list(&tenant)? {
            if files::is_unfinished(&timeline) {
                files::remove_dir(&timeline)?;
            } else if let Some(timeline_id) = parsed::<TimelineId>(&timeline) {
                found.push(((tenant_id, timeline_id), timeline));
            }
        }
    }
    Ok(found)
}

fn parsed<T: std::str::FromStr>(path: &Path) -> Option<T> {
    path.file_name()?.to_str()?.parse().ok()
}
