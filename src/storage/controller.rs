//! The development storage controller: decides which pageserver has which shard, and
//! says so.
//!
//! Routes and bodies: `storage_controller/src/http.rs` and
//! `libs/pageserver_api/src/controller_api.rs` of Neon. Nodes do not come and go
//! here, nothing is balanced, and nobody is notified: a compute asks.
//!
//! # Guarantees
//! 1. A shard is on one pageserver, or for an instant on two while it moves: the new
//!    one has it before the old one loses it.
//! 2. Placements survive a restart.

mod http;
mod owner;
mod placement;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use url::Url;

pub use placement::Placement;

use crate::error::{Category, Retry};
use crate::id::{ShardIndex, TenantId, TenantShardId};
use crate::secret::Secret;
use crate::spec::{PageserverProtocol, ShardLocation, ShardMap};
use crate::storage::files::{self, blocking};
use crate::storage::http_listener;
use crate::storage::pageserver::{Locations, StaleGeneration};
use crate::storage::timelines::Timelines;
use owner::{Change, Owner};
use placement::Placements;

/// Pages in a stripe of a tenant that does not name another size.
pub const DEFAULT_STRIPE_SIZE: u32 = 2048;

/// A pageserver, as the controller knows it.
#[derive(Debug, Clone)]
pub struct PageserverNode {
    /// Its node id.
    pub id: u64,
    /// Address of its page service.
    pub pg_addr: SocketAddr,
    /// Address of its management API.
    pub http_addr: SocketAddr,
    /// Address of its page service on gRPC.
    pub grpc_addr: SocketAddr,
    /// What it is told.
    pub locations: Arc<Locations>,
}

/// A safekeeper, as the controller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafekeeperNode {
    /// Its node id.
    pub id: u64,
    /// Its host.
    pub host: String,
}

/// What a controller is started with.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where it keeps its placements.
    pub dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The token that clients must have; `None` trusts everybody.
    pub token: Option<Secret>,
    /// The pageservers; shards are put on the first.
    pub pageservers: Vec<PageserverNode>,
    /// The safekeepers: all of them have every timeline.
    pub safekeepers: Vec<SafekeeperNode>,
}

/// Why the controller does not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("the storage controller cannot listen on {address}: is something else running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Placements or locations cannot be kept.
    #[error("the storage controller cannot keep its placements")]
    Files(#[from] files::Error),
    /// There is no such tenant.
    #[error("No shards for this tenant ID found")]
    NoTenant(TenantId),
    /// There is no such shard.
    #[error("Tenant shard {0} not found")]
    NoShard(TenantShardId),
    /// There is no such pageserver.
    #[error("Node {0} not found")]
    NoNode(u64),
    /// A pageserver was told something newer by somebody else.
    #[error("pageserver {id} refuses a location")]
    Refused {
        /// Its node id.
        id: u64,
        /// Why.
        #[source]
        source: StaleGeneration,
    },
    /// It has been stopped.
    #[error("the storage controller has been stopped")]
    Stopped,
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "AddressUnavailable",
            Self::Files(source) => source.category(),
            Self::NoTenant(_) | Self::NoShard(_) | Self::NoNode(_) => "NotFound",
            Self::Refused { .. } => "Conflict",
            Self::Stopped => "ShuttingDown",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Listen { .. } => Retry::Backoff,
            Self::Files(source) => source.retry(),
            _ => Retry::Never,
        }
    }
}

/// What requests and the handle share.
struct Shared {
    token: Option<Secret>,
    pageservers: Vec<PageserverNode>,
    safekeepers: Vec<SafekeeperNode>,
    timelines: Timelines,
    changes: mpsc::Sender<Change>,
    placements: watch::Receiver<Arc<Placements>>,
}

/// A running storage controller.
pub struct Controller {
    shared: Arc<Shared>,
    addr: SocketAddr,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Controller {
    /// Starts serving. Ends with `cancel`, or by [`Controller::stop`].
    ///
    /// # Errors
    ///
    /// [`Error::Listen`], [`Error::Files`].
    pub async fn start(
        config: ControllerConfig,
        timelines: Timelines,
        cancel: &CancellationToken,
    ) -> Result<Self, Error> {
        let dir = config.dir;
        let placements = blocking(move || Placements::open(&dir)).await?;
        let address = config.listen;
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let (owner, desk) = Owner::new(placements, config.pageservers.clone());
        let shared = Arc::new(Shared {
            token: config.token,
            pageservers: config.pageservers,
            safekeepers: config.safekeepers,
            timelines,
            changes: desk.changes,
            placements: desk.placements,
        });
        let (tasks, cancel) = (TaskTracker::new(), cancel.child_token());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(owner.run()));
        let router = http::router(shared.clone());
        tasks.spawn(http_listener::serve(
            listener,
            router,
            tasks.clone(),
            cancel.clone(),
        ));
        info!(%addr, "storage controller is up");
        Ok(Self {
            shared,
            addr,
            tasks,
            cancel,
        })
    }

    /// Address of its API.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Puts a tenant of `count` shards (0: unsharded) on the first pageserver; does
    /// nothing if the tenant is known.
    ///
    /// # Errors
    ///
    /// [`Error::Files`], [`Error::Refused`].
    pub async fn create_tenant(
        &self,
        tenant_id: TenantId,
        count: u8,
        stripe_size: u32,
    ) -> Result<Placement, Error> {
        self.shared
            .create_tenant(tenant_id, count, stripe_size)
            .await
    }

    /// Moves a shard to another pageserver.
    ///
    /// # Errors
    ///
    /// [`Error::NoShard`], [`Error::NoNode`], [`Error::Files`], [`Error::Refused`].
    pub async fn migrate(&self, shard: TenantShardId, to: u64) -> Result<(), Error> {
        self.shared.migrate(shard, to).await
    }

    /// Where the shards of a tenant are; `None` if it is unknown.
    pub fn shard_map(&self, tenant_id: TenantId) -> Option<ShardMap> {
        let placement = self.shared.placement(tenant_id)?;
        Some(self.shared.shard_map(&placement))
    }

    /// Where the shard of a new, unsharded tenant is.
    pub(super) fn default_shard_map(&self) -> ShardMap {
        let first = self.shared.pageservers.first();
        let nodes = first.map(|node| node.id).into_iter().collect();
        self.shared
            .shard_map(&Placement::new(0, DEFAULT_STRIPE_SIZE, nodes))
    }

    /// Stops serving, at once, and waits until it has.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn node(&self, id: u64) -> Result<&PageserverNode, Error> {
        let node = self.pageservers.iter().find(|node| node.id == id);
        node.ok_or(Error::NoNode(id))
    }

    fn placement(&self, tenant_id: TenantId) -> Option<Placement> {
        self.placements.borrow().find(tenant_id).cloned()
    }

    async fn create_tenant(
        &self,
        tenant_id: TenantId,
        count: u8,
        stripe_size: u32,
    ) -> Result<Placement, Error> {
        self.change(|reply| Change::CreateTenant {
            tenant_id,
            count,
            stripe_size,
            reply,
        })
        .await
    }

    async fn migrate(&self, shard: TenantShardId, to: u64) -> Result<(), Error> {
        self.change(|reply| Change::Migrate { shard, to, reply })
            .await
    }

    async fn change<T>(
        &self,
        change: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Change,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let asked = self.changes.send(change(reply)).await;
        asked.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    fn shard_map(&self, placement: &Placement) -> ShardMap {
        let location = |(index, id): (ShardIndex, u64)| {
            let node = self.node(id).ok();
            let url = |scheme, addr| format!("{scheme}://{addr}");
            ShardLocation {
                index,
                node_id: Some(id),
                libpq: node.map(|node| url("postgresql", format!("no_user@{}", node.pg_addr))),
                grpc: node.map(|node| url("grpc", format!("no_user@{}", node.grpc_addr))),
                http: node.map(|node| url("http", node.http_addr.to_string())),
            }
        };
        ShardMap {
            stripe_size: (placement.count > 0).then_some(placement.stripe_size),
            prefer_protocol: PageserverProtocol::Libpq,
            shards: placement.indices().map(location).collect(),
        }
    }
}

/// The URL of an HTTP address.
pub(super) fn http_url(addr: SocketAddr) -> Url {
    let mut url = Url::parse("http://localhost").unwrap_or_else(|_| unreachable!());
    let _ = url.set_ip_host(addr.ip());
    let _ = url.set_port(Some(addr.port()));
    url
}
