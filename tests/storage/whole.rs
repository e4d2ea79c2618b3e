//! The whole storage with computes: the safekeepers' consensus, the pageserver, the
//! controller, and PostgreSQL.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::LazyLock;

use glowplug::access::Access;
use glowplug::error::Category;
use glowplug::id::{ShardIndex, TenantShardId};
use glowplug::lsn::Lsn;
use glowplug::pageserver::{self, BackupKind, BasebackupRequest};
use glowplug::pgdata;
use glowplug::pgwire::{ConnectConfig, Host};
use glowplug::safekeeper::{RelayConfig, RelayStatus, SyncConfig, relay, sync};
use glowplug::secret::Secret;
use glowplug::spec::{ComputeMode, PageserverProtocol, ShardLocation};
use glowplug::storage::safekeeper::TimelineKey;
use glowplug::storage::{self, Storage, StorageConfig, StorageOptions};
use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Bench, Postgres};
use crate::loopback::own_address;
use crate::node::{LIMIT, SHARD, TENANT, TIMELINE, pg_major};

const OPTIONS: &[&str] = &["fsync=off", "synchronous_standby_names=walproposer"];

/// What the nodes of these tests ask for.
fn token() -> Secret {
    Secret::new("right")
}

/// Access with this token.
fn access(token: Option<&str>) -> Access {
    Access::with_token(token.map(Secret::new))
}

static ACCESS: LazyLock<Access> = LazyLock::new(|| access(Some("right")));

async fn start(bench: &Bench, listen: Ipv4Addr) -> Storage {
    let config = StorageConfig {
        state_dir: bench.path("storage"),
        pg_bin_dir: cluster::programs::newest(),
        safekeepers: 3,
        listen: listen.into(),
        run_as: bench.owner.clone(),
        token: Some(token()),
    };
    let options = StorageOptions {
        pageservers: 2,
        wait_lsn_timeout: LIMIT,
        fsync: false,
        compact_after: None,
        tls: None,
    };
    let cancel = CancellationToken::new();
    storage::start_with(config, options, bench.spawner(), cancel)
        .await
        .unwrap()
}

/// A compute: a postgres that was started from the storage, and its relay.
struct Compute {
    postgres: Postgres,
    client: Client,
    cancel: CancellationToken,
    relay: tokio::task::JoinHandle<()>,
    commands: mpsc::Sender<glowplug::safekeeper::RelayCommand>,
}

impl Compute {
    async fn start(bench: &Bench, storage: &Storage, port: u16) -> Self {
        let config = SyncConfig {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            safekeepers: storage.safekeeper_set(),
            access: ACCESS.clone(),
            pg_version: pg_major() * 10_000,
            system_id: 0,
            always_elect: true,
            connect_timeout: LIMIT,
            deadline: LIMIT,
        };
        let synced = sync(&config, &CancellationToken::new()).await.unwrap();
        let lsn = synced.commit_lsn.is_valid().then_some(synced.commit_lsn);
        let pgdata = fetch(bench, storage, lsn, port).await;
        let prepared = pgdata::prepare_vanilla(&pgdata, lsn, ComputeMode::Primary).unwrap();
        std::fs::write(pgdata.join("postgresql.conf"), "").unwrap();
        let postgres = bench.start(&pgdata, port, OPTIONS).await;
        let cancel = CancellationToken::new();
        let (commands, receiver) = mpsc::channel(1);
        let (status, _) = watch::channel(RelayStatus::default());
        let mut local = ConnectConfig::tcp("", port, "cloud_admin");
        local.host = Host::Unix(bench.socket_dir().into());
        let relaying = relay(
            RelayConfig {
                tenant_id: TENANT,
                timeline_id: TIMELINE,
                safekeepers: storage.safekeeper_set(),
                access: ACCESS.clone(),
                pg_version: pg_major() * 10_000,
                system_id: prepared.system_identifier,
                start_lsn: prepared.lsn,
                local,
                local_accepts: watch::channel(true).1,
                connect_timeout: LIMIT,
                window_limit: 64 * 1024 * 1024,
            },
            receiver,
            status,
            cancel.clone(),
        );
        let relay = tokio::spawn(async move { relaying.await.unwrap() });
        let client = postgres.connect().await;
        Self {
            postgres,
            client,
            cancel,
            relay,
            commands,
        }
    }

    /// Ends as a crash would.
    async fn kill(self) {
        self.postgres.kill().await;
        self.cancel.cancel();
        self.relay.await.unwrap();
        drop(self.commands);
    }

    async fn execute(&self, sql: &str) {
        let done = tokio::time::timeout(LIMIT, self.client.batch_execute(sql)).await;
        done.expect("a commit waits for ever").unwrap();
    }

    async fn sum(&self) -> i64 {
        let sql = "SELECT coalesce(sum(n), 0)::bigint FROM numbers";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

fn request<'a>(
    location: &'a ShardLocation,
    lsn: Option<Lsn>,
    access: &'a Access,
) -> BasebackupRequest<'a> {
    BasebackupRequest {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        lsn,
        kind: BackupKind::Fullbackup,
        compute_mode: ComputeMode::Primary,
        gzip: true,
        location,
        protocol: PageserverProtocol::Libpq,
        access,
        connect_limit: LIMIT,
        answer_limit: LIMIT,
        stall_limit: LIMIT,
    }
}

async fn fetch(bench: &Bench, storage: &Storage, lsn: Option<Lsn>, port: u16) -> PathBuf {
    let into = bench.path(&format!("compute-{port}"));
    let shards = storage.shard_map_of(TENANT).unwrap();
    let request = request(&shards.shards[0], lsn, &ACCESS);
    pgdata::directory::recreate(&into, bench.owner.as_ref()).unwrap();
    let progress = watch::Sender::default();
    let (owner, cancel) = (bench.owner.as_ref(), CancellationToken::new());
    let fetched = pageserver::fetch_basebackup(&request, &into, owner, &progress, &cancel);
    fetched.await.unwrap();
    into
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost() {
    let bench = Bench::new();
    let address = own_address();
    let mut storage = start(&bench, address).await;
    storage.create_timeline(TENANT, TIMELINE).await.unwrap();

    let first = Compute::start(&bench, &storage, 5001).await;
    first
        .execute("CREATE TABLE numbers (n int); INSERT INTO numbers VALUES (1)")
        .await;
    storage.stop_safekeeper(1).await.unwrap();
    first.execute("INSERT INTO numbers VALUES (2)").await;
    first.kill().await;

    // The safekeeper that was away has a log that ends early; the pageserver moved.
    storage.start_safekeeper(1).await.unwrap();
    storage.stop_safekeeper(2).await.unwrap();
    storage.move_shard(SHARD, 2).await.unwrap();
    let second = Compute::start(&bench, &storage, 5002).await;
    assert_eq!(second.sum().await, 3);
    second.execute("INSERT INTO numbers VALUES (4)").await;
    second.kill().await;

    // Another life of the whole storage, at the same addresses.
    let (endpoints, shards) = (storage.safekeeper_endpoints(), storage.shard_map_of(TENANT));
    storage.shutdown().await;
    let storage = start(&bench, address).await;
    assert_eq!(storage.safekeeper_endpoints(), endpoints);
    assert_eq!(storage.shard_map_of(TENANT), shards);
    let third = Compute::start(&bench, &storage, 5003).await;
    assert_eq!(third.sum().await, 7);
    third.kill().await;
    let key = TimelineKey {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
    };
    let status = storage.safekeeper(3).unwrap().timeline(key).await.unwrap();
    let timeline = storage.timeline(TENANT, TIMELINE).unwrap();
    assert_eq!(status.control.timeline_start_lsn, timeline.oldest_lsn());
    storage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_says_where_shards_are() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench::new();
    let storage = start(&bench, own_address()).await;
    storage.create_tenant(TENANT, 2).await.unwrap();
    let http = reqwest::Client::new();
    let url = storage.controller_url();
    let locate = || pageserver::locate(&http, &url, TENANT, &ACCESS.token);
    let nodes = |map: &glowplug::spec::ShardMap| -> Vec<_> {
        map.shards.iter().map(|shard| shard.node_id).collect()
    };
    let before = locate().await.unwrap();
    assert_eq!(before.stripe_size, Some(2048));
    assert_eq!(nodes(&before), [Some(1), Some(1)]);
    let second = TenantShardId {
        tenant_id: TENANT,
        shard: ShardIndex {
            number: 1,
            count: 2,
        },
    };
    storage.move_shard(second, 2).await.unwrap();
    let after = locate().await.unwrap();
    assert_eq!(nodes(&after), [Some(1), Some(2)]);
    assert_eq!(
        storage.shard_map_of(TENANT).map(|map| nodes(&map)),
        Some(nodes(&after))
    );
    storage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_asks_for_the_token() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench::new();
    let storage = start(&bench, own_address()).await;
    storage.create_timeline(TENANT, TIMELINE).await.unwrap();
    let shards = storage.shard_map();
    let location = &shards.shards[0];
    let (http, url) = (reqwest::Client::new(), storage.controller_url());
    for (token, expected) in [
        (Some("right"), Ok(())),
        (Some("wrong"), Err("AuthFailed")),
        (None, Err("AuthFailed")),
    ] {
        let access = access(token);
        let connected = pageserver::connect(&request(location, None, &access)).await;
        let outcome = connected.map(drop).map_err(|error| error.category());
        assert_eq!(outcome, expected);
        let located = pageserver::locate(&http, &url, TENANT, &access.token).await;
        let outcome = located.map(drop).map_err(|error| error.category());
        assert_eq!(outcome, expected);
    }
    storage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_pageserver_is_gone_and_comes_back_where_it_was() {
    let bench = Bench::new();
    let mut storage = start(&bench, own_address()).await;
    storage.create_timeline(TENANT, TIMELINE).await.unwrap();
    let shards = storage.shard_map();
    let request = request(&shards.shards[0], None, &ACCESS);
    let before = pageserver::connect(&request).await.unwrap();
    storage.stop_pageserver(1).await.unwrap();
    let gone = pageserver::connect(&request).await.map(drop).unwrap_err();
    assert_eq!(gone.category(), "Unreachable");
    storage.start_pageserver(1).await.unwrap();
    let into = bench.path("after");
    let progress = watch::Sender::default();
    let cancel = CancellationToken::new();
    pgdata::directory::recreate(&into, bench.owner.as_ref()).unwrap();
    let owner = bench.owner.as_ref();
    let old = before
        .fetch(&request, &into, owner, &progress, &cancel)
        .await;
    assert!(old.is_err(), "a connection outlived its pageserver");
    pgdata::directory::recreate(&into, owner).unwrap();
    let fetched = pageserver::fetch_basebackup(&request, &into, owner, &progress, &cancel);
    fetched.await.unwrap();
    storage.shutdown().await;
}
