//! A storage whose nodes take nothing but TLS and ask for a token: everything that a
//! compute does with it, and a token that was rotated.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use glowplug::access::{Access, ReadToken, StorageToken};
use glowplug::error::{Category, chain};
use glowplug::pageserver::{
    self, BackupKind, BasebackupRequest, Lease, LeaseRequest, ProbeOutcome, ProbeRequest,
};
use glowplug::pgdata;
use glowplug::pgwire::TlsMode;
use glowplug::safekeeper::{SyncConfig, sync};
use glowplug::secret::Secret;
use glowplug::spec::{ComputeMode, PageserverProtocol, StorageTls, TlsRoots};
use glowplug::storage::{self, Storage, StorageConfig, StorageOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::cluster::{self, Bench};
use crate::loopback::own_address;
use crate::node::{LIMIT, TENANT, TIMELINE, pg_major};

const RIGHT: &str = "right";

async fn start(bench: &Bench, authority: &Authority) -> Storage {
    let config = StorageConfig {
        state_dir: bench.path("storage"),
        pg_bin_dir: cluster::programs::newest(),
        safekeepers: 3,
        listen: own_address().into(),
        run_as: bench.owner.clone(),
        token: Some(Secret::new(RIGHT)),
    };
    let options = StorageOptions {
        wait_lsn_timeout: LIMIT,
        fsync: false,
        tls: Some(authority.node_tls()),
        ..StorageOptions::default()
    };
    let cancel = CancellationToken::new();
    let started = storage::start_with(config, options, bench.spawner(), cancel).await;
    let storage = started.unwrap();
    storage.create_timeline(TENANT, TIMELINE).await.unwrap();
    storage
}

fn trusting(access: Access, mode: TlsMode, authority: Option<&Authority>) -> Access {
    access.trust.use_tls(&StorageTls {
        mode: Some(mode),
        roots: authority.map(|authority| TlsRoots::Pem(authority.pem())),
    });
    access
}

fn sync_config(storage: &Storage, access: &Access) -> SyncConfig {
    SyncConfig {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        safekeepers: storage.safekeeper_set(),
        access: access.clone(),
        pg_version: pg_major() * 10_000,
        system_id: 0,
        always_elect: false,
        connect_timeout: Duration::from_secs(20),
        deadline: LIMIT,
    }
}

/// Everything that a compute asks of storage. What fails first.
async fn use_storage(bench: &Bench, storage: &Storage, access: &Access) -> Result<(), String> {
    let config = sync_config(storage, access);
    let synced = sync(&config, &CancellationToken::new()).await;
    synced.map_err(|error| format!("sync {}: {}", error.category(), chain(&error)))?;
    let shards = storage.shard_map();
    let location = &shards.shards[0];
    let failed = |error: pageserver::Error| format!("{}: {}", error.category(), chain(&error));
    for protocol in [PageserverProtocol::Libpq, PageserverProtocol::Grpc] {
        let into = bench.path("backup");
        let owner = bench.owner.as_ref();
        pgdata::directory::recreate(&into, owner).unwrap();
        let request = BasebackupRequest {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            lsn: None,
            kind: BackupKind::Fullbackup,
            compute_mode: ComputeMode::Primary,
            gzip: true,
            location,
            protocol,
            access,
            connect_limit: LIMIT,
            answer_limit: LIMIT,
            stall_limit: LIMIT,
        };
        let (progress, cancel) = (watch::Sender::default(), CancellationToken::new());
        pageserver::fetch_basebackup(&request, &into, owner, &progress, &cancel)
            .await
            .map_err(failed)?;
        let request = LeaseRequest {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            lsn: glowplug::lsn::Lsn(0x999_9999),
            location,
            protocol,
            access,
            deadline: LIMIT,
        };
        let lease = pageserver::lease_lsn(&request).await.map_err(failed)?;
        assert!(matches!(lease, Lease::Granted { .. }), "{lease:?}");
    }
    let request = ProbeRequest {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        location,
        stripe_size: None,
        lsn: None,
        access,
        deadline: LIMIT,
    };
    let outcome = pageserver::probe(&request).await.map_err(failed)?;
    assert!(
        matches!(outcome, ProbeOutcome::Serving { .. }),
        "{outcome:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_is_used_over_tls_with_the_token_and_not_otherwise() {
    let bench = Bench::new();
    let (ours, other) = (Authority::new(), Authority::new());
    let storage = start(&bench, &ours).await;
    let with_token = || Access::with_token(Some(Secret::new(RIGHT)));
    for access in [
        with_token(),
        trusting(with_token(), TlsMode::Require, None),
        trusting(with_token(), TlsMode::VerifyCa, Some(&ours)),
    ] {
        use_storage(&bench, &storage, &access).await.unwrap();
    }
    for (access, expected) in [
        (
            trusting(with_token(), TlsMode::Disable, None),
            "must connect with TLS",
        ),
        (
            trusting(with_token(), TlsMode::VerifyCa, Some(&other)),
            "of no trusted authority",
        ),
        (
            trusting(with_token(), TlsMode::VerifyFull, Some(&ours)),
            "for another name",
        ),
        (
            Access::with_token(Some(Secret::new("wrong"))),
            "sync AuthFailed",
        ),
    ] {
        let error = use_storage(&bench, &storage, &access).await.unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    storage.shutdown().await;
}

struct Source {
    token: &'static str,
    reads: AtomicU32,
}

impl ReadToken for Source {
    fn read(&self) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send + '_>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Some(Secret::new(self.token))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_read_again_wherever_it_is_refused() {
    let bench = Bench::new();
    let storage = start(&bench, &Authority::new()).await;
    let source = |token| {
        let reads = AtomicU32::new(0);
        Arc::new(Source { token, reads })
    };
    let old = |source: &Arc<Source>| {
        let access = Access {
            token: StorageToken::from_source(source.clone()),
            ..Access::default()
        };
        access.token.replace(Some(Secret::new("old")));
        access
    };
    let rotated = source(RIGHT);
    let access = old(&rotated);
    use_storage(&bench, &storage, &access).await.unwrap();
    assert_eq!(access.token.current(), Some(Secret::new(RIGHT)));
    assert_eq!(rotated.reads.load(Ordering::Relaxed), 1);

    // By gRPC a token is seen only with a call, and then the call is repeated.
    let shards = storage.shard_map();
    let request = LeaseRequest {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        lsn: glowplug::lsn::Lsn(0x999_9999),
        location: &shards.shards[0],
        protocol: PageserverProtocol::Grpc,
        access: &old(&source(RIGHT)),
        deadline: LIMIT,
    };
    pageserver::lease_lsn(&request).await.unwrap();

    let stale = source("stale");
    let error = use_storage(&bench, &storage, &old(&stale))
        .await
        .unwrap_err();
    assert!(error.starts_with("sync AuthFailed"), "{error}");
    storage.shutdown().await;
}
