//! Serves a safekeeper of the development storage: the proposer's protocol, WAL
//! readers and status, over the timelines in one directory.
//!
//! What is promised is decided by [`acceptor`](super::acceptor) and kept by
//! [`wal_store`](super::wal_store); here are sockets and tasks. The wire behaviour
//! is that of Neon's safekeeper (`safekeeper/src/handler.rs`, `receive_wal.rs`,
//! `send_wal.rs`), without remote storage, eviction and the broker.
//!
//! # Guarantees
//! 1. Everything promised survives [`Safekeeper::stop`], [`Safekeeper::crash`] and a
//!    new start on the same directory.
//! 2. Memory is bounded per timeline and per connection, and so is their number.
//! 3. When it has stopped, none of its tasks runs any more.

mod command;
mod connection;
mod faults;
mod http;
mod http_status;
mod metrics;
mod push;
mod registry;
mod replication;
mod streams;
mod timeline;

pub use faults::Faults;
pub use timeline::TimelineStatus;

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

use crate::error::{Category, Retry, chain};
use crate::id::{TenantId, TimelineId};
use crate::secret::Secret;
use crate::storage::pgwire_server::ServerConfig;
use faults::FaultView;
use registry::Registry;
use timeline::Surroundings;

/// Connections served at the same time; further ones are closed.
const MAX_CONNECTIONS: usize = 512;

/// How to run a safekeeper.
#[derive(Debug, Clone)]
pub struct SafekeeperConfig {
    /// Its id: unique in the storage, not 0.
    pub id: u64,
    /// Where its files are. A directory serves one id for ever.
    pub dir: PathBuf,
    /// Where proposers and readers connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the HTTP API listens; port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// The token that clients must give; `None` trusts everybody.
    pub token: Option<Secret>,
    /// The certificate to show to proposers and readers, who must then use TLS
    /// (`--enable-tls-wal-service-api`).
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether WAL is made durable for the case that the machine crashes. Off, it
    /// survives a crash of the process only.
    pub fsync: bool,
    /// How often the commit LSN is persisted while nothing else asks for it
    /// (`--control-file-save-interval`).
    pub checkpoint_interval: Duration,
}

impl SafekeeperConfig {
    /// A safekeeper on free ports of the loopback interface, with `fsync`, that
    /// trusts everybody.
    pub fn new(id: u64, dir: impl Into<PathBuf>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            id,
            dir: dir.into(),
            listen: any,
            http_listen: any,
            token: None,
            tls: None,
            fsync: true,
            checkpoint_interval: Duration::from_mins(5),
        }
    }
}

/// Why a safekeeper does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("safekeeper {id} cannot listen on {address}")]
    Listen {
        /// Its id.
        id: u64,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its directory cannot be used.
    #[error("safekeeper {id} cannot use {}", dir.display())]
    Directory {
        /// Its id.
        id: u64,
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process, or another part of this one, serves the directory.
    #[error("{} is in use by a running safekeeper: stop that one first", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to another safekeeper, whose promises must not be kept
    /// under this id.
    #[error("{} belongs to safekeeper '{found}', not {id}: give each id a directory of its own", dir.display())]
    OtherNode {
        /// The id wanted.
        id: u64,
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "AddressUnavailable",
            Self::Directory { .. } => "DiskFailed",
            Self::OtherNode { .. } | Self::InUse { .. } => "DirectoryTaken",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Listen { .. } | Self::Directory { .. } | Self::InUse { .. } => Retry::Backoff,
            Self::OtherNode { .. } => Retry::Never,
        }
    }
}

/// A timeline of a tenant; prints as `tenant/timeline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineKey {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
}

impl TimelineKey {
    fn dir(&self, root: &Path) -> PathBuf {
        root.join(self.to_string())
    }
}

impl fmt::Display for TimelineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant_id, self.timeline_id)
    }
}

/// What all connections share.
#[derive(Debug, Clone)]
struct Node {
    id: u64,
    registry: Registry,
    faults: FaultView,
    cancel: CancellationToken,
}

/// A running safekeeper. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Safekeeper {
    config: SafekeeperConfig,
    registry: Registry,
    faults: watch::Sender<Faults>,
    crashed: Arc<AtomicBool>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Safekeeper {
    /// Opens the directory, listens, and serves until `cancel` is cancelled or
    /// [`Safekeeper::stop`] is called.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A damaged timeline is no error here: it is logged, and
    /// whoever asks for it is told.
    pub async fn start(
        mut config: SafekeeperConfig,
        cancel: &CancellationToken,
    ) -> Result<Self, Error> {
        let lock = claim_directory(&config).await?;
        let (pg_listener, pg_addr) = listen(config.id, config.listen).await?;
        let (http_listener, http_addr) = listen(config.id, config.http_listen).await?;
        config.listen = pg_addr;
        config.http_listen = http_addr;

        let cancel = cancel.child_token();
        let tasks = TaskTracker::new();
        let crashed = Arc::new(AtomicBool::new(false));
        let (faults, view) = watch::channel(Faults::default());
        let surroundings = Surroundings {
            node_id: config.id,
            faults: FaultView::new(view.clone()),
            checkpoint_interval: config.checkpoint_interval,
            crashed: Arc::clone(&crashed),
            lock: Arc::new(lock),
        };
        let span = info_span!("safekeeper", safekeeper = config.id);
        let registry = Registry::start(
            config.dir.clone(),
            config.fsync,
            surroundings,
            tasks.clone(),
            cancel.clone(),
        )
        .instrument(span.clone())
        .await;
        let node = Node {
            id: config.id,
            registry: registry.clone(),
            faults: FaultView::new(view),
            cancel: cancel.clone(),
        };
        let server = ServerConfig {
            token: config.token.clone(),
            tls: config.tls.clone(),
            ..ServerConfig::default()
        };
        let accept = accept_connections(pg_listener, node.clone(), server, tasks.clone());
        tasks.spawn(accept.instrument(span.clone()));
        let serve = http::serve(http_listener, node, config.token.clone());
        tasks.spawn(serve.instrument(span));
        info!(safekeeper = config.id, %pg_addr, %http_addr, "safekeeper started");
        Ok(Self {
            config,
            registry,
            faults,
            crashed,
            tasks,
            cancel,
        })
    }

    /// How it runs; the addresses are those that it got. Starting again with it
    /// continues the same safekeeper at the same addresses.
    pub fn config(&self) -> &SafekeeperConfig {
        &self.config
    }

    /// Where proposers and readers connect.
    pub fn pg_addr(&self) -> SocketAddr {
        self.config.listen
    }

    /// Where the HTTP API listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.config.http_listen
    }

    /// The state of a timeline; `None` if it does not exist.
    pub async fn timeline(&self, key: TimelineKey) -> Option<TimelineStatus> {
        let timeline = self.registry.find(key).await.ok()?;
        Some(timeline.status())
    }

    /// The state of a timeline as it changes; `None` if it does not exist. The
    /// sender goes when the safekeeper stops.
    pub async fn watch_timeline(
        &self,
        key: TimelineKey,
    ) -> Option<watch::Receiver<TimelineStatus>> {
        let timeline = self.registry.find(key).await.ok()?;
        Some(timeline.watch())
    }

    /// Changes the faults in force.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// Stops serving, and waits until all tasks have ended.
    pub async fn stop(self) -> SafekeeperConfig {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.config.clone()
    }

    /// Stops as a crash of the machine would: what no sync has covered is lost.
    pub async fn crash(self) -> SafekeeperConfig {
        self.crashed.store(true, Ordering::Release);
        self.stop().await
    }
}

impl Drop for Safekeeper {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn listen(id: u64, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen {
        id,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Makes the directory this safekeeper's, or finds that it is already. The lock
/// keeps everybody else out as long as it is held.
async fn claim_directory(config: &SafekeeperConfig) -> Result<File, Error> {
    let (id, dir) = (config.id, config.dir.clone());
    let claimed = tokio::task::spawn_blocking(move || claim(id, dir)).await;
    claimed.unwrap_or_else(|_| {
        Err(Error::Directory {
            id,
            dir: config.dir.clone(),
            source: std::io::Error::other("interrupted"),
        })
    })
}

fn claim(id: u64, dir: PathBuf) -> Result<File, Error> {
    let failed = |source| Error::Directory {
        id,
        dir: dir.clone(),
        source,
    };
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(dir.join("safekeeper.id")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::InUse { dir }),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let mut found = String::new();
    file.read_to_string(&mut found).map_err(failed)?;
    match found.trim() {
        "" => writeln!(file, "{id}").map_err(failed)?,
        found if found == id.to_string() => {}
        found => {
            let found = found.to_owned();
            return Err(Error::OtherNode { id, dir, found });
        }
    }
    Ok(file)
}

async fn accept_connections(
    listener: TcpListener,
    node: Node,
    server: ServerConfig,
    tasks: TaskTracker,
) {
    let cancel = node.cancel.clone();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly too many open files: some will be closed.
                warn!("cannot accept a connection: {}", chain(&error));
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = tokio::time::sleep(Duration::from_millis(100)) => continue,
                }
            }
        };
        if connections.len() >= MAX_CONNECTIONS {
            warn!(%peer, "connection closed: {MAX_CONNECTIONS} are open already");
            continue;
        }
        let (node, server, cancel) = (node.clone(), server.clone(), cancel.clone());
        let serve = async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = connection::serve(stream, node, &server) => {}
            }
        };
        let span = info_span!("connection", %peer);
        tasks.spawn(connections.track_future(serve.instrument(span)));
    }
}
