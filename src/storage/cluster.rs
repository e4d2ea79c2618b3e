//! Runs a whole storage in this process: safekeepers, pageservers and the controller,
//! and lets tests stop, start and disturb each.
//!
//! # On disk
//!
//! Everything is under one directory: `safekeeper-N/`, `pageserver-N/`, `controller/`,
//! `timelines/`, and `ports.json`, so that a storage that is started again is found
//! where it was. A lock keeps a second process out.

mod addresses;
mod error;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;

use crate::access::Access;
use crate::id::{TenantId, TenantShardId, TimelineId};
use crate::pgwire::TlsMode;
use crate::process::{RunAs, Spawner};
use crate::secret::Secret;
use crate::spec::{SafekeeperSet, ShardMap, StorageTls, TlsRoots};
use crate::storage::controller::{
    Controller, ControllerConfig, PageserverNode, SafekeeperNode, http_url,
};
use crate::storage::files::blocking;
use crate::storage::knobs::Knobs;
use crate::storage::pageserver::{Locations, Pageserver, PageserverConfig, WAIT_LSN_TIMEOUT};
use crate::storage::safekeeper::{Safekeeper, SafekeeperConfig};
use crate::storage::timelines::{COMPACT_AFTER, Timeline, Timelines, TimelinesConfig, WalSource};
use addresses::{Lock, NodePorts, Ports, reachable};
pub use error::Error;

/// What a storage is started with.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// Where initdb and postgres are.
    pub pg_bin_dir: PathBuf,
    /// Number of safekeepers.
    pub safekeepers: usize,
    /// Address that all nodes listen on, each at a port of its own.
    pub listen: IpAddr,
    /// Who runs PostgreSQL's programs; `None` for who we are.
    pub run_as: Option<RunAs>,
    /// The token that all nodes ask for; `None` trusts everybody.
    pub token: Option<Secret>,
}

/// What a storage may be told beyond that.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// Number of pageservers. Tenants are put on the first.
    pub pageservers: usize,
    /// How long pageservers wait for WAL that a command asks for.
    pub wait_lsn_timeout: Duration,
    /// Whether safekeepers make WAL durable for the case that the machine crashes.
    pub fsync: bool,
    /// A newer base is made when the newest is so many bytes of WAL behind; `None`
    /// for never.
    pub compact_after: Option<u64>,
    /// Encrypts connections to safekeepers and page services.
    pub tls: Option<NodeTls>,
}

/// What nodes and their clients among them need for TLS.
#[derive(Debug, Clone)]
pub struct NodeTls {
    /// The certificate that the nodes show, and its key.
    pub server: Arc<rustls::ServerConfig>,
    /// Whom the pageservers trust when they read from safekeepers.
    pub roots: TlsRoots,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            pageservers: 1,
            wait_lsn_timeout: WAIT_LSN_TIMEOUT,
            fsync: true,
            compact_after: Some(COMPACT_AFTER),
            tls: None,
        }
    }
}

/// A running storage. Stop it with [`Storage::shutdown`]; dropped, it ends without
/// waiting.
pub struct Storage {
    safekeepers: Vec<SafekeeperSlot>,
    pageservers: Vec<PageserverSlot>,
    controller: Controller,
    timelines: Timelines,
    cancel: CancellationToken,
    _lock: Lock,
}

/// A place for a safekeeper, which may be empty.
struct SafekeeperSlot {
    config: SafekeeperConfig,
    running: Option<Safekeeper>,
}

/// A place for a pageserver, which may be empty.
struct PageserverSlot {
    config: PageserverConfig,
    locations: Arc<Locations>,
    knobs: Arc<Knobs>,
    running: Option<Pageserver>,
}

/// Starts a storage with one pageserver, or goes on with the one in the directory.
///
/// # Errors
///
/// [`Error::InUse`] if another process runs it; what keeps a node from starting.
pub async fn start(
    config: StorageConfig,
    spawner: &Spawner,
    cancel: CancellationToken,
) -> Result<Storage, Error> {
    start_with(config, StorageOptions::default(), spawner, cancel).await
}

/// As [`start`], with more said about it.
///
/// # Errors
///
/// As [`start`].
pub async fn start_with(
    config: StorageConfig,
    options: StorageOptions,
    spawner: &Spawner,
    cancel: CancellationToken,
) -> Result<Storage, Error> {
    let cancel = cancel.child_token();
    // Ends what was started if something later does not start.
    let guard = cancel.clone().drop_guard();
    let dir = config.state_dir.clone();
    let (lock, ports) =
        blocking(move || Ok::<_, Error>((Lock::take(&dir)?, Ports::read(&dir)?))).await?;
    let safekeepers = start_safekeepers(&config, &options, &ports, &cancel).await?;
    let timelines = open_timelines(&config, &options, &safekeepers, spawner, &cancel);
    let timelines = Box::pin(timelines).await?;
    let pageservers = start_pageservers(&config, &options, &ports, &timelines, &cancel).await?;
    let controller = ControllerConfig {
        dir: config.state_dir.join("controller"),
        listen: SocketAddr::new(config.listen, ports.controller),
        token: config.token.clone(),
        pageservers: pageservers.iter().map(PageserverSlot::node).collect(),
        safekeepers: safekeepers.iter().map(SafekeeperSlot::node).collect(),
    };
    let controller = Controller::start(controller, timelines.clone(), &cancel).await?;
    let ports = Ports {
        safekeepers: safekeepers.iter().map(SafekeeperSlot::ports).collect(),
        pageservers: pageservers.iter().map(PageserverSlot::ports).collect(),
        controller: controller.addr().port(),
    };
    let dir = config.state_dir;
    blocking(move || ports.keep(&dir)).await?;
    Ok(Storage {
        safekeepers,
        pageservers,
        controller,
        timelines,
        cancel: guard.disarm(),
        _lock: lock,
    })
}

async fn start_safekeepers(
    config: &StorageConfig,
    options: &StorageOptions,
    ports: &Ports,
    cancel: &CancellationToken,
) -> Result<Vec<SafekeeperSlot>, Error> {
    let mut slots = Vec::new();
    for (id, ports) in numbered(config.safekeepers, &ports.safekeepers) {
        let dir = node_dir(&config.state_dir, "safekeeper", id);
        let node = SafekeeperConfig {
            listen: SocketAddr::new(config.listen, ports.pg),
            http_listen: SocketAddr::new(config.listen, ports.http),
            token: config.token.clone(),
            tls: options.tls.as_ref().map(|tls| tls.server.clone()),
            fsync: options.fsync,
            ..SafekeeperConfig::new(id, dir)
        };
        let running = Safekeeper::start(node, cancel).await?;
        slots.push(SafekeeperSlot {
            config: running.config().clone(),
            running: Some(running),
        });
    }
    Ok(slots)
}

async fn open_timelines(
    config: &StorageConfig,
    options: &StorageOptions,
    safekeepers: &[SafekeeperSlot],
    spawner: &Spawner,
    cancel: &CancellationToken,
) -> Result<Timelines, Error> {
    let access = Access::with_token(config.token.clone());
    if let Some(tls) = &options.tls {
        // The certificate may be for names, and they know each other by address.
        access.trust.use_tls(&StorageTls {
            mode: Some(TlsMode::VerifyCa),
            roots: Some(tls.roots.clone()),
        });
    }
    let config = TimelinesConfig {
        dir: config.state_dir.join("timelines"),
        pg_bin_dir: config.pg_bin_dir.clone(),
        run_as: config.run_as.clone(),
        sources: safekeepers.iter().map(SafekeeperSlot::source).collect(),
        access,
        compact_after: options.compact_after,
    };
    Ok(Timelines::open(config, spawner, cancel.clone()).await?)
}

async fn start_pageservers(
    config: &StorageConfig,
    options: &StorageOptions,
    ports: &Ports,
    timelines: &Timelines,
    cancel: &CancellationToken,
) -> Result<Vec<PageserverSlot>, Error> {
    let mut slots = Vec::new();
    for (id, ports) in numbered(options.pageservers, &ports.pageservers) {
        let dir = node_dir(&config.state_dir, "pageserver", id);
        let mut slot = PageserverSlot {
            config: PageserverConfig {
                id,
                listen: SocketAddr::new(config.listen, ports.pg),
                http_listen: SocketAddr::new(config.listen, ports.http),
                grpc_listen: SocketAddr::new(config.listen, ports.grpc),
                token: config.token.clone(),
                tls: options.tls.as_ref().map(|tls| tls.server.clone()),
                wait_lsn_timeout: options.wait_lsn_timeout,
            },
            locations: Arc::new(blocking(move || Locations::open(&dir)).await?),
            knobs: Arc::default(),
            running: None,
        };
        slot.start(timelines, cancel).await?;
        slots.push(slot);
    }
    Ok(slots)
}

/// Ids from 1, and the ports that each had.
fn numbered(count: usize, ports: &[NodePorts]) -> impl Iterator<Item = (u64, NodePorts)> {
    let ports = ports.iter().copied();
    (1..)
        .zip(ports.chain(std::iter::repeat(NodePorts::default())))
        .take(count)
}

fn node_dir(state_dir: &Path, kind: &str, id: u64) -> PathBuf {
    state_dir.join(format!("{kind}-{id}"))
}

impl Storage {
    /// `host:port` of each safekeeper.
    pub fn safekeeper_endpoints(&self) -> Vec<String> {
        let addresses = self
            .safekeepers
            .iter()
            .map(|slot| reachable(slot.config.listen));
        addresses.map(|address| address.to_string()).collect()
    }

    /// The safekeepers as a spec names them.
    pub fn safekeeper_set(&self) -> SafekeeperSet {
        SafekeeperSet {
            generation: None,
            endpoints: self.safekeeper_endpoints(),
        }
    }

    /// Where the one shard of an unsharded tenant is put.
    pub fn shard_map(&self) -> ShardMap {
        self.controller.default_shard_map()
    }

    /// Where the shards of a tenant are now; `None` if it is unknown.
    pub fn shard_map_of(&self, tenant_id: TenantId) -> Option<ShardMap> {
        self.controller.shard_map(tenant_id)
    }

    /// Where the storage controller is.
    pub fn controller_url(&self) -> Url {
        http_url(reachable(self.controller.addr()))
    }

    /// Makes a timeline with an empty database cluster of the programs' version, and
    /// its tenant, unsharded, if there is none yet.
    ///
    /// # Errors
    ///
    /// [`Error::Timelines`], [`Error::Controller`].
    pub async fn create_timeline(
        &self,
        tenant_id: TenantId,
        timeline_id: TimelineId,
    ) -> Result<Arc<Timeline>, Error> {
        self.create_tenant(tenant_id, 0).await?;
        let created = self.timelines.create(tenant_id, timeline_id, None);
        Ok(Box::pin(created).await?)
    }

    /// Makes a tenant of `shards` shards (0: unsharded) if it is unknown.
    ///
    /// # Errors
    ///
    /// [`Error::Controller`].
    pub async fn create_tenant(&self, tenant_id: TenantId, shards: u8) -> Result<(), Error> {
        let stripe_size = crate::storage::controller::DEFAULT_STRIPE_SIZE;
        let created = self
            .controller
            .create_tenant(tenant_id, shards, stripe_size);
        created.await?;
        Ok(())
    }

    /// A timeline, if it is there.
    pub fn timeline(&self, tenant_id: TenantId, timeline_id: TimelineId) -> Option<Arc<Timeline>> {
        self.timelines.find(tenant_id, timeline_id)
    }

    /// Moves a shard to another pageserver, as the storage controller does.
    ///
    /// # Errors
    ///
    /// [`Error::Controller`].
    pub async fn move_shard(&self, shard: TenantShardId, to: u64) -> Result<(), Error> {
        Ok(self.controller.migrate(shard, to).await?)
    }

    /// A running safekeeper, by its id.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`] if there is none, or it is stopped.
    pub fn safekeeper(&self, id: u64) -> Result<&Safekeeper, Error> {
        let slot = self.safekeepers.iter().find(|slot| slot.config.id == id);
        let running = slot.and_then(|slot| slot.running.as_ref());
        running.ok_or(Error::NoNode {
            kind: "safekeeper",
            id,
        })
    }

    /// The knobs of a pageserver, by its id. They stay over stops.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub fn pageserver_knobs(&self, id: u64) -> Result<&Knobs, Error> {
        let slot = self.pageservers.iter().find(|slot| slot.config.id == id);
        let slot = slot.ok_or(Error::NoNode {
            kind: "pageserver",
            id,
        })?;
        Ok(&slot.knobs)
    }

    /// Stops a safekeeper, if it runs.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub async fn stop_safekeeper(&mut self, id: u64) -> Result<(), Error> {
        if let Some(running) = self.safekeeper_slot(id)?.running.take() {
            running.stop().await;
        }
        Ok(())
    }

    /// Stops a safekeeper as a crash of its machine would, if it runs.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub async fn crash_safekeeper(&mut self, id: u64) -> Result<(), Error> {
        if let Some(running) = self.safekeeper_slot(id)?.running.take() {
            running.crash().await;
        }
        Ok(())
    }

    /// Starts a stopped safekeeper again, at its addresses.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`], [`Error::Safekeeper`].
    pub async fn start_safekeeper(&mut self, id: u64) -> Result<(), Error> {
        let cancel = self.cancel.clone();
        let slot = self.safekeeper_slot(id)?;
        if slot.running.is_none() {
            let started = Safekeeper::start(slot.config.clone(), &cancel);
            slot.running = Some(started.await?);
        }
        Ok(())
    }

    /// Stops a pageserver, if it runs.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`].
    pub async fn stop_pageserver(&mut self, id: u64) -> Result<(), Error> {
        if let Some(running) = self.pageserver_slot(id)?.running.take() {
            running.stop().await;
        }
        Ok(())
    }

    /// Starts a stopped pageserver again, at its addresses.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`], [`Error::Pageserver`].
    pub async fn start_pageserver(&mut self, id: u64) -> Result<(), Error> {
        let (timelines, cancel) = (self.timelines.clone(), self.cancel.clone());
        self.pageserver_slot(id)?.start(&timelines, &cancel).await
    }

    /// Stops all nodes and waits until they have ended.
    pub async fn shutdown(self) {
        self.controller.stop().await;
        for slot in self.pageservers {
            if let Some(running) = slot.running {
                running.stop().await;
            }
        }
        self.cancel.cancel();
        self.timelines.closed().await;
        for slot in self.safekeepers {
            if let Some(running) = slot.running {
                running.stop().await;
            }
        }
    }

    fn safekeeper_slot(&mut self, id: u64) -> Result<&mut SafekeeperSlot, Error> {
        let slot = self
            .safekeepers
            .iter_mut()
            .find(|slot| slot.config.id == id);
        slot.ok_or(Error::NoNode {
            kind: "safekeeper",
            id,
        })
    }

    fn pageserver_slot(&mut self, id: u64) -> Result<&mut PageserverSlot, Error> {
        let slot = self
            .pageservers
            .iter_mut()
            .find(|slot| slot.config.id == id);
        slot.ok_or(Error::NoNode {
            kind: "pageserver",
            id,
        })
    }
}

impl SafekeeperSlot {
    fn source(&self) -> WalSource {
        let address = reachable(self.config.listen);
        WalSource {
            id: self.config.id,
            host: address.ip().to_string(),
            port: address.port(),
        }
    }

    fn node(&self) -> SafekeeperNode {
        SafekeeperNode {
            id: self.config.id,
            host: reachable(self.config.listen).ip().to_string(),
        }
    }

    fn ports(&self) -> NodePorts {
        NodePorts {
            pg: self.config.listen.port(),
            http: self.config.http_listen.port(),
            grpc: 0,
        }
    }
}

impl PageserverSlot {
    /// Starts it, if it is stopped; from then on its addresses are known.
    async fn start(
        &mut self,
        timelines: &Timelines,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        if self.running.is_some() {
            return Ok(());
        }
        let started = Pageserver::start(
            self.config.clone(),
            timelines.clone(),
            self.locations.clone(),
            self.knobs.clone(),
            cancel,
        );
        let running = started.await?;
        self.config.listen = running.pg_addr();
        self.config.http_listen = running.http_addr();
        self.config.grpc_listen = running.grpc_addr();
        self.running = Some(running);
        Ok(())
    }

    fn node(&self) -> PageserverNode {
        PageserverNode {
            id: self.config.id,
            pg_addr: reachable(self.config.listen),
            http_addr: reachable(self.config.http_listen),
            grpc_addr: reachable(self.config.grpc_listen),
            locations: self.locations.clone(),
        }
    }

    fn ports(&self) -> NodePorts {
        NodePorts {
            pg: self.config.listen.port(),
            http: self.config.http_listen.port(),
            grpc: self.config.grpc_listen.port(),
        }
    }
}
