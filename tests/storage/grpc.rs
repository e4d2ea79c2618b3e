//! The page service on gRPC: backups whole, cut, stalled and refused, leases, and TLS
//! before it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use glowplug::access::Access;
use glowplug::error::{Category, Retry, chain};
use glowplug::id::{ShardIndex, TimelineId};
use glowplug::lsn::Lsn;
use glowplug::pageserver::{
    self, BackupKind, BasebackupRequest, BasebackupStats, Error, Lease, LeaseRequest, lease_lsn,
};
use glowplug::pgdata;
use glowplug::secret::Secret;
use glowplug::spec::{ComputeMode, PageserverProtocol, ShardLocation, StorageTls, TlsRoots};
use glowplug::storage::knobs::BackupFault;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::authority::Authority;
use crate::cluster::Bench;
use crate::node::{ACCESS, ATTACHED, Fixture, LIMIT, Node, SHARD, TENANT, TIMELINE};

const PRIMARY: BackupKind = BackupKind::Basebackup { replica: false };

/// A call, as most tests make it.
fn request<'a>(
    node: &Node,
    location: &'a ShardLocation,
    access: &'a Access,
    kind: BackupKind,
) -> BasebackupRequest<'a> {
    BasebackupRequest {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        lsn: None,
        kind,
        compute_mode: ComputeMode::Primary,
        gzip: true,
        location,
        protocol: PageserverProtocol::Grpc,
        access,
        connect_limit: LIMIT,
        answer_limit: LIMIT,
        stall_limit: node.stall_limit,
    }
}

async fn fetch(
    bench: &Bench,
    into: &Path,
    request: &BasebackupRequest<'_>,
) -> Result<BasebackupStats, Error> {
    let owner = bench.owner.as_ref();
    pgdata::directory::recreate(into, owner).unwrap();
    let progress = watch::Sender::default();
    let cancel = CancellationToken::new();
    pageserver::fetch_basebackup(request, into, owner, &progress, &cancel).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_whole_however_it_is_compressed() {
    let fixture = Fixture::new(Vec::new()).await;
    let (bench, node) = (&fixture.bench, &fixture.node);
    let location = node.location();
    let into = bench.path("grpc");
    for (kind, sign) in [
        (PRIMARY, "neon.signal"),
        (BackupKind::Fullbackup, "base/1/1259"),
    ] {
        let mut sizes = Vec::new();
        for gzip in [true, false] {
            let mut request = request(node, &location, &ACCESS, kind);
            request.gzip = gzip;
            let stats = fetch(bench, &into, &request).await.unwrap();
            assert!(into.join("global/pg_control").exists(), "{kind:?}");
            assert!(into.join(sign).exists(), "{kind:?}");
            sizes.push((stats.files, stats.bytes_unpacked));
        }
        assert_eq!(sizes[0], sizes[1], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_whole_is_an_error() {
    let fixture = Fixture::new(Vec::new()).await;
    let (bench, node) = (&fixture.bench, &fixture.node);
    let location = node.location();
    let into = bench.path("grpc");
    for kind in [PRIMARY, BackupKind::Fullbackup] {
        for (fault, category) in [
            (BackupFault::Truncated, "Truncated"),
            (BackupFault::ErrorMidway, "Interrupted"),
            (BackupFault::ErrorAtEnd, "Interrupted"),
            (BackupFault::Stall, "Timeout"),
            (BackupFault::Refused, "ServerError"),
        ] {
            node.knobs.fail_next_backup(fault);
            let mut request = request(node, &location, &ACCESS, kind);
            if fault == BackupFault::Stall {
                request.stall_limit = Duration::from_millis(300);
            }
            let error = fetch(bench, &into, &request).await.unwrap_err();
            assert_eq!(
                error.category(),
                category,
                "{kind:?} {fault:?}: {}",
                chain(&error)
            );
            assert_eq!(error.retry(), Retry::Backoff, "{kind:?} {fault:?}");
        }
        let request = request(node, &location, &ACCESS, kind);
        fetch(bench, &into, &request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let fixture = Fixture::new(Vec::new()).await;
    let (bench, node) = (&fixture.bench, &fixture.node);
    let elsewhere = Node::start(bench, 2, &fixture.timelines, &fixture.cancel).await;
    let into = bench.path("grpc");
    let here = node.location();
    let mut wrong_shard = here.clone();
    wrong_shard.index = ShardIndex {
        number: 1,
        count: 4,
    };
    let there = elsewhere.location();
    let ask = async |location: &ShardLocation, change: fn(&mut BasebackupRequest<'_>)| {
        let mut request = request(node, location, &ACCESS, PRIMARY);
        change(&mut request);
        let error = fetch(bench, &into, &request).await.unwrap_err();
        (error.category(), error.retry(), chain(&error))
    };
    let (category, retry, text) = ask(&there, |_| {}).await;
    assert_eq!((category, retry), ("Misrouted", Retry::Backoff), "{text}");
    assert!(
        text.contains(&format!("Tenant {TENANT} not found")),
        "{text}"
    );
    let (category, retry, text) = ask(&here, |request| {
        request.timeline_id = TimelineId([0xCC; 16]);
    })
    .await;
    assert_eq!(
        (category, retry),
        ("TimelineNotFound", Retry::Never),
        "{text}"
    );
    let (category, retry, text) = ask(&here, |request| {
        request.lsn = Some(Lsn(16));
    })
    .await;
    assert_eq!((category, retry), ("LsnCollected", Retry::Never), "{text}");
    let (_, _, text) = ask(&wrong_shard, |_| {}).await;
    assert!(
        text.contains("request only valid on shard zero (requested shard 0104)"),
        "{text}"
    );

    // An unsharded index finds the shard 0 of a tenant that counts as sharded.
    elsewhere.locations.set(SHARD_OF_ONE, ATTACHED).unwrap();
    let request = request(node, &there, &ACCESS, PRIMARY);
    fetch(bench, &into, &request).await.unwrap();
}

const SHARD_OF_ONE: glowplug::id::TenantShardId = glowplug::id::TenantShardId {
    tenant_id: TENANT,
    shard: ShardIndex {
        number: 0,
        count: 1,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_of_one_shard() {
    let fixture = Fixture::new(Vec::new()).await;
    let node = &fixture.node;
    let lease = async |index: ShardIndex, lsn: Lsn| {
        let mut location = node.location();
        location.index = index;
        let request = LeaseRequest {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            lsn,
            location: &location,
            protocol: PageserverProtocol::Grpc,
            access: &ACCESS,
            deadline: LIMIT,
        };
        lease_lsn(&request).await
    };
    let (now, ahead) = (SystemTime::now(), Lsn(0x999_9999));
    let granted = lease(SHARD.shard, ahead).await.unwrap();
    assert!(
        matches!(granted, Lease::Granted { valid_until } if valid_until > now),
        "{granted:?}"
    );
    let refused = lease(SHARD.shard, Lsn(0x10)).await.unwrap();
    assert_eq!(refused, Lease::Refused);
    let error = lease(SHARD_OF_ONE.shard, ahead).await.unwrap_err();
    assert_eq!(error.category(), "Misrouted", "{}", chain(&error));
}

/// Serves TLS before a gRPC server.
async fn terminator(authority: &Authority, server: SocketAddr) -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = authority.server();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut client) = acceptor.accept(stream).await else {
                continue;
            };
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                // Ends with either side.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, AbortOnDropHandle::new(task))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_serves_tls_is_trusted_as_the_spec_says() {
    let fixture = Fixture::new(Vec::new()).await;
    let (bench, node) = (&fixture.bench, &fixture.node);
    let (ours, other) = (Authority::new(), Authority::new());
    let (port, _task) = terminator(&ours, node.pageserver.grpc_addr()).await;
    let mut location = node.location();
    location.grpc = Some(format!("grpcs://localhost:{port}"));
    let into = bench.path("grpc");
    for (authority, expected) in [(&ours, None), (&other, Some("TlsFailed"))] {
        let access = Access::with_token(Some(Secret::new("unused")));
        access.trust.use_tls(&StorageTls {
            mode: None,
            roots: Some(TlsRoots::Pem(authority.pem())),
        });
        let request = request(node, &location, &access, PRIMARY);
        let fetched = fetch(bench, &into, &request).await;
        assert_eq!(fetched.err().map(|error| error.category()), expected);
    }
}
