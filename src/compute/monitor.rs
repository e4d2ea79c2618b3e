//! Watches the running postgres through a connection of its own: whether it answers,
//! when it was last active, and who waits for storage.
//!
//! It looks once a second. Unlike upstream's monitor (`compute_tools/src/monitor.rs`)
//! it gives every step a deadline, so that a postgres that accepts connections and
//! never answers counts as down, and it watches a restarted postgres as it watched the
//! first one.

mod query;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::activity::Activity;
use super::facts::{Fact, Seen};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::report::DiskFacts;
use query::Queries;

/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Pause between two looks at the counters of Neon's extension, which sum over all
/// backends.
const COUNTERS_PERIOD: Duration = Duration::from_secs(15);
/// Limit of connecting, and of one look.
const LIMIT: Duration = Duration::from_secs(5);
/// A broken connection is made again after this long at first, and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// As upstream's monitor calls itself, so that log pipelines know it.
const APPLICATION_NAME: &str = "compute_ctl:compute_monitor";

/// What to watch, and what was known of it before.
pub(super) struct MonitorConfig {
    /// How to connect as the superuser.
    pub(super) connect: Config,
    /// Its data directory.
    pub(super) pgdata: PathBuf,
    /// When a postgres before this one was last active.
    pub(super) last_active_at: Option<Timestamp>,
    /// Whether the sums over all databases count: upstream's feature
    /// `activity_monitor_experimental`.
    pub(super) count_opened: bool,
}

/// A running monitor. Dropping it ends it.
pub(super) struct Monitor {
    _task: AbortOnDropHandle<()>,
}

impl Monitor {
    /// Begins to watch; what it sees goes to `facts`.
    pub(super) fn start(config: MonitorConfig, facts: mpsc::Sender<Fact>) -> Self {
        let watch = run(config, facts).instrument(info_span!("monitor"));
        Self {
            _task: AbortOnDropHandle::new(tokio::spawn(watch)),
        }
    }
}

/// Why a look did not come about.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the monitor cannot connect to postgres")]
    Connect(#[source] tokio_postgres::Error),
    #[error("postgres refuses a query of the monitor")]
    Query(#[source] tokio_postgres::Error),
    #[error("postgres does not answer the monitor within {LIMIT:?}")]
    Silent,
    #[error("nobody listens to the monitor any more")]
    Unheard,
}

async fn run(config: MonitorConfig, facts: mpsc::Sender<Fact>) {
    let mut activity = Activity::since(config.last_active_at);
    let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
    let mut last_up = Instant::now();
    loop {
        let error = match watch(&config, &mut activity, &facts, &mut last_up, &mut backoff).await {
            Err(Error::Unheard) | Ok(()) => return,
            Err(error) => error,
        };
        let downtime = last_up.elapsed();
        if backoff.attempts() == 0 {
            warn!(?downtime, "{}", chain(&error));
        } else {
            debug!(?downtime, "{}", chain(&error));
        }
        if facts.send(Fact::Unanswered { last_up }).await.is_err() {
            return;
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// Connects and looks until something fails.
async fn watch(
    config: &MonitorConfig,
    activity: &mut Activity,
    facts: &mpsc::Sender<Fact>,
    last_up: &mut Instant,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let mut connect = config.connect.clone();
    connect
        .application_name(APPLICATION_NAME)
        .options(query::SESSION);
    let (client, connection) = within(connect.connect(NoTls))
        .await?
        .map_err(Error::Connect)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its end shows in the next query.
        let _ = connection.await;
    }));
    let mut queries = within(Queries::prepare(&client, config.count_opened))
        .await?
        .map_err(Error::Query)?;
    let mut told: Option<Seen> = None;
    let (mut counters, mut disk) = (None, None);
    let mut counted_at: Option<Instant> = None;
    loop {
        let (look, mut waits) = within(queries.look(&client)).await?.map_err(Error::Query)?;
        let now = Instant::now();
        if counted_at.is_none_or(|at| now.duration_since(at) >= COUNTERS_PERIOD) {
            counters = within(queries.neon_counters(&client)).await?;
            disk = disk_of(config.pgdata.clone()).await;
            counted_at = Some(now);
        }
        waits.neon = counters;
        if backoff.attempts() > 0 {
            info!(downtime = ?last_up.elapsed(), "postgres answers again");
            backoff.reset();
        }
        *last_up = now;
        let seen = Seen {
            at: now,
            last_active_at: activity.observe(&look),
            sessions: look.sessions,
            waits,
            disk,
        };
        // An idle postgres wakes nobody.
        if told.as_ref().is_none_or(|told| !told.says_the_same(&seen)) {
            told = Some(seen.clone());
            let sent = facts.send(Fact::Seen(Box::new(seen))).await;
            sent.map_err(|_| Error::Unheard)?;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// How full the file system of a path is; `None` if it does not say, or hangs.
async fn disk_of(path: PathBuf) -> Option<DiskFacts> {
    let asked = tokio::task::spawn_blocking(move || statvfs(&path).ok());
    let found = timeout(LIMIT, asked).await.ok()?.ok()??;
    let bytes = |blocks| found.fragment_size() * blocks;
    Some(DiskFacts {
        size_bytes: bytes(found.blocks()),
        available_bytes: bytes(found.blocks_available()),
    })
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    timeout(LIMIT, work).await.map_err(|_| Error::Silent)
}
