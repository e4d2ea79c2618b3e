//! A pageserver with one timeline, and its client.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use glowplug::access::Access;
use glowplug::id::{ShardIndex, TenantId, TenantShardId, TimelineId};
use glowplug::lsn::Lsn;
use glowplug::pageserver::{self, BackupKind, BasebackupRequest, BasebackupStats};
use glowplug::pgdata;
use glowplug::spec::{ComputeMode, PageserverProtocol, ShardLocation};
use glowplug::storage::knobs::Knobs;
use glowplug::storage::pageserver::{
    Location, LocationMode, Locations, Pageserver, PageserverConfig,
};
use glowplug::storage::timelines::{Timeline, Timelines, TimelinesConfig, WalSource};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Bench};
use crate::loopback::any_port;

pub(crate) const TENANT: TenantId = TenantId([0xA1; 16]);
pub(crate) const TIMELINE: TimelineId = TimelineId([0xB1; 16]);
/// Without a token.
pub(crate) static ACCESS: LazyLock<Access> = LazyLock::new(Access::default);
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

pub(crate) const SHARD: TenantShardId = TenantShardId {
    tenant_id: TENANT,
    shard: ShardIndex::UNSHARDED,
};

pub(crate) const ATTACHED: Option<Location> = Some(Location {
    mode: LocationMode::Attached { generation: 1 },
    stripe_size: 0,
});

/// Opens the timelines that a bench keeps.
pub(crate) async fn timelines(
    bench: &Bench,
    sources: Vec<WalSource>,
    compact_after: Option<u64>,
    cancel: &CancellationToken,
) -> Timelines {
    let config = TimelinesConfig {
        dir: bench.path("timelines"),
        pg_bin_dir: cluster::programs::newest(),
        run_as: bench.owner.clone(),
        sources,
        access: Access::default(),
        compact_after,
    };
    let opened = Timelines::open(config, bench.spawner(), cancel.clone()).await;
    opened.unwrap()
}

/// The major version of the programs at hand.
pub(crate) fn pg_major() -> u32 {
    let dir = cluster::programs::newest();
    let version = dir.parent().and_then(Path::file_name).unwrap();
    version.to_str().unwrap().parse().unwrap()
}

pub(crate) struct Node {
    pub(crate) pageserver: Pageserver,
    pub(crate) locations: Arc<Locations>,
    pub(crate) knobs: Arc<Knobs>,
    /// How long its clients wait for the next byte.
    pub(crate) stall_limit: Duration,
}

impl Node {
    pub(crate) async fn start(
        bench: &Bench,
        id: u64,
        timelines: &Timelines,
        cancel: &CancellationToken,
    ) -> Self {
        Self::start_waiting(LIMIT, bench, id, timelines, cancel).await
    }

    /// One that waits so long for WAL that is asked for and not there yet.
    pub(crate) async fn start_waiting(
        wait_lsn_timeout: Duration,
        bench: &Bench,
        id: u64,
        timelines: &Timelines,
        cancel: &CancellationToken,
    ) -> Self {
        let any = any_port();
        let config = PageserverConfig {
            id,
            listen: any,
            http_listen: any,
            grpc_listen: any,
            token: None,
            tls: None,
            wait_lsn_timeout,
        };
        let knobs = Arc::new(Knobs::default());
        let dir = bench.path(&format!("pageserver-{id}"));
        let locations = Arc::new(Locations::open(&dir).unwrap());
        let started = Pageserver::start(
            config,
            timelines.clone(),
            locations.clone(),
            knobs.clone(),
            cancel,
        );
        Self {
            pageserver: started.await.unwrap(),
            locations,
            knobs,
            stall_limit: LIMIT,
        }
    }

    pub(crate) fn location(&self) -> ShardLocation {
        ShardLocation {
            index: ShardIndex::UNSHARDED,
            node_id: Some(self.pageserver.id()),
            libpq: Some(format!("postgres://no_user@{}", self.pageserver.pg_addr())),
            grpc: Some(format!("grpc://no_user@{}", self.pageserver.grpc_addr())),
            http: Some(format!("http://{}", self.pageserver.http_addr())),
        }
    }

    pub(crate) async fn fetch(
        &self,
        into: &Path,
        bench: &Bench,
        lsn: Option<Lsn>,
        kind: BackupKind,
        gzip: bool,
    ) -> Result<BasebackupStats, pageserver::Error> {
        let location = self.location();
        let request = BasebackupRequest {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            lsn,
            kind,
            compute_mode: ComputeMode::Primary,
            gzip,
            location: &location,
            protocol: PageserverProtocol::Libpq,
            access: &ACCESS,
            connect_limit: LIMIT,
            answer_limit: LIMIT,
            stall_limit: self.stall_limit,
        };
        pgdata::directory::recreate(into, bench.owner.as_ref()).unwrap();
        let progress = watch::Sender::default();
        let cancel = CancellationToken::new();
        let owner = bench.owner.as_ref();
        pageserver::fetch_basebackup(&request, into, owner, &progress, &cancel).await
    }
}

/// A bench with a pageserver that serves a fresh timeline, without safekeepers.
pub(crate) struct Fixture {
    pub(crate) bench: Bench,
    pub(crate) timelines: Timelines,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) node: Node,
    pub(crate) cancel: CancellationToken,
}

impl Fixture {
    pub(crate) async fn new(sources: Vec<WalSource>) -> Self {
        Self::compacting(sources, None).await
    }

    pub(crate) async fn compacting(sources: Vec<WalSource>, after: Option<u64>) -> Self {
        let bench = Bench::new();
        let cancel = CancellationToken::new();
        let timelines = timelines(&bench, sources, after, &cancel).await;
        let timeline = timelines.create(TENANT, TIMELINE, None).await.unwrap();
        let node = Node::start(&bench, 1, &timelines, &cancel).await;
        node.locations.set(SHARD, ATTACHED).unwrap();
        node.locations.save().unwrap();
        Self {
            bench,
            timelines,
            timeline,
            node,
            cancel,
        }
    }

    pub(crate) async fn full(&self, name: &str, lsn: Option<Lsn>, gzip: bool) -> PathBuf {
        let into = self.bench.path(name);
        let kind = BackupKind::Fullbackup;
        let fetched = self.node.fetch(&into, &self.bench, lsn, kind, gzip).await;
        fetched.unwrap();
        into
    }
}
