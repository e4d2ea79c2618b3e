//! The development pageserver: says where a shard's data is, and sends backups of it.
//!
//! It speaks a pageserver's protocols, and answers from [`Timelines`]: `fullbackup`
//! is a complete data directory with the WAL that followed it; `basebackup` has the
//! right form, with contents as of the last base; a pagestream answers for what is in
//! a base (see [`relations`]). WAL is not replayed here.
//!
//! # Guarantees
//! 1. A backup that ends regularly is complete: errors come as errors.
//! 2. Requests for a shard that is not here are refused and counted, as soon as it
//!    is gone.
//! 3. Stopped means gone: no connection is served any more.

mod backup;
mod command;
mod connection;
mod grpc;
pub(super) mod http;
mod locations;
mod metrics;
mod node;
mod pagestream;
mod relations;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span};

pub use locations::{Location, LocationMode, Locations, StaleGeneration};

use crate::error::{Category, Retry};
use crate::secret::Secret;
use crate::storage::http_listener;
use crate::storage::knobs::Knobs;
use crate::storage::pgwire_server::ServerConfig;
use crate::storage::timelines::Timelines;
use metrics::Metrics;
use node::Node;

/// By this, clients know that `fullbackup` takes `--gzip`, and holds WAL to replay.
const PARAMETERS: &[(&str, &str)] = &[("glowplug_storage", "on")];

/// Default limit for waiting for WAL (a pageserver's is 300 s).
pub const WAIT_LSN_TIMEOUT: Duration = Duration::from_mins(1);

/// What a pageserver is started with, beside what it shares with others.
#[derive(Debug, Clone)]
pub struct PageserverConfig {
    /// Its node id.
    pub id: u64,
    /// Address of the page service; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of the management API and the metrics.
    pub http_listen: SocketAddr,
    /// Address of the page service on gRPC, which is never encrypted.
    pub grpc_listen: SocketAddr,
    /// The token that clients must have; `None` trusts everybody.
    pub token: Option<Secret>,
    /// The certificate to show to clients of the page service, who must then use TLS
    /// (`enable_tls_page_service_api`).
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How long a command waits for the WAL that it asks for.
    pub wait_lsn_timeout: Duration,
}

/// Why a pageserver does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("pageserver {id} cannot listen on {address}: is something else running there?")]
    Listen {
        /// Its node id.
        id: u64,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "AddressUnavailable",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Listen { .. } => Retry::Backoff,
        }
    }
}

/// A running pageserver.
pub struct Pageserver {
    node: Arc<Node>,
    pg_addr: SocketAddr,
    http_addr: SocketAddr,
    grpc_addr: SocketAddr,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Pageserver {
    /// Starts serving. Ends with `cancel`, or by [`Pageserver::stop`].
    ///
    /// # Errors
    ///
    /// [`Error::Listen`].
    pub async fn start(
        config: PageserverConfig,
        timelines: Timelines,
        locations: Arc<Locations>,
        knobs: Arc<Knobs>,
        cancel: &CancellationToken,
    ) -> Result<Self, Error> {
        let id = config.id;
        let (listener, pg_addr) = listen(id, config.listen).await?;
        let (http_listener, http_addr) = listen(id, config.http_listen).await?;
        let (grpc_listener, grpc_addr) = listen(id, config.grpc_listen).await?;
        let tasks = TaskTracker::new();
        let node = Arc::new(Node {
            id,
            server: ServerConfig {
                token: config.token.clone(),
                tls: config.tls,
                parameters: PARAMETERS,
                ..ServerConfig::default()
            },
            token: config.token,
            wait_lsn_timeout: config.wait_lsn_timeout,
            timelines,
            locations,
            metrics: Metrics::new(),
            knobs,
            tasks: tasks.clone(),
        });
        let pageserver = Self {
            node: node.clone(),
            pg_addr,
            http_addr,
            grpc_addr,
            tasks,
            cancel: cancel.child_token(),
        };
        let tasks = &pageserver.tasks;
        let calls = grpc::router(node.clone());
        let (tracker, cancel) = (tasks.clone(), pageserver.cancel.clone());
        tasks.spawn(http_listener::serve_http2(
            grpc_listener,
            calls,
            tracker,
            cancel,
        ));
        let router = http::router(node);
        let (tracker, cancel) = (tasks.clone(), pageserver.cancel.clone());
        tasks.spawn(http_listener::serve(http_listener, router, tracker, cancel));
        tasks.spawn(pageserver.page_service(listener));
        info!(pageserver = id, %pg_addr, %http_addr, %grpc_addr, "pageserver is up");
        Ok(pageserver)
    }

    fn page_service(&self, listener: TcpListener) -> impl Future<Output = ()> + use<> {
        let (node, tasks, cancel) = (self.node.clone(), self.tasks.clone(), self.cancel.clone());
        async move {
            let accepting = http_listener::accept_all(listener, |stream| {
                let span = info_span!("page_service", pageserver = node.id);
                let served = connection::serve(node.clone(), stream).instrument(span);
                let cancel = cancel.clone();
                tasks.spawn(async move { cancel.run_until_cancelled(served).await });
            });
            cancel.run_until_cancelled(accepting).await;
        }
    }

    /// Its node id.
    pub fn id(&self) -> u64 {
        self.node.id
    }

    /// Address of the page service.
    pub fn pg_addr(&self) -> SocketAddr {
        self.pg_addr
    }

    /// Address of the management API and the metrics.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Address of the page service on gRPC.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Stops serving, at once, and waits until it has.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
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
