//! Where a shard is, and what a pageserver says when it is not there.

use std::time::{Duration, SystemTime};

use glowplug::error::{Category, chain};
use glowplug::id::ShardIndex;
use glowplug::lsn::Lsn;
use glowplug::pageserver::{
    Lease, LeaseRequest, ProbeOutcome, ProbeRequest, lease_lsn, probe, scrape_misrouted,
};
use glowplug::pgwire::{ConnectConfig, Connection};
use glowplug::spec::PageserverProtocol;
use glowplug::storage::timelines::Timelines;

use crate::node::{ACCESS, ATTACHED, Fixture, LIMIT, Node, SHARD, TENANT, TIMELINE, pg_major};

async fn outcome(node: &Node) -> ProbeOutcome {
    let location = node.location();
    let request = ProbeRequest {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        location: &location,
        stripe_size: None,
        lsn: None,
        access: &ACCESS,
        deadline: LIMIT,
    };
    probe(&request).await.unwrap()
}

async fn misrouted(node: &Node) -> u64 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let address = node.location().http.unwrap();
    scrape_misrouted(&http, &address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_moved_is_missed_and_counted() {
    let fixture = Fixture::new(Vec::new()).await;
    let old = &fixture.node;
    let new = Node::start(&fixture.bench, 2, &fixture.timelines, &fixture.cancel).await;
    assert!(matches!(outcome(old).await, ProbeOutcome::Serving { .. }));
    assert!(matches!(outcome(&new).await, ProbeOutcome::Misrouted));
    assert_eq!((misrouted(old).await, misrouted(&new).await), (0, 1));

    new.locations.set(SHARD, ATTACHED).unwrap();
    old.locations.set(SHARD, None).unwrap();
    assert!(matches!(outcome(old).await, ProbeOutcome::Misrouted));
    assert!(matches!(outcome(&new).await, ProbeOutcome::Serving { .. }));
    assert_eq!((misrouted(old).await, misrouted(&new).await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pageserver_says_nothing_until_it_goes_on() {
    let fixture = Fixture::new(Vec::new()).await;
    fixture.node.knobs.pause();
    let waiting = outcome(&fixture.node);
    let mut waiting = std::pin::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err());
    fixture.node.knobs.resume();
    assert!(matches!(waiting.await, ProbeOutcome::Serving { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_is_made_once() {
    let fixture = Fixture::new(Vec::new()).await;
    let create = |timelines: &Timelines, version| {
        let timelines = timelines.clone();
        async move { timelines.create(TENANT, TIMELINE, Some(version)).await }
    };
    let again = create(&fixture.timelines, pg_major()).await.unwrap();
    assert_eq!(again.system_id(), fixture.timeline.system_id());
    let other = create(&fixture.timelines, pg_major() + 1).await;
    assert_eq!(
        other.unwrap_err().to_string(),
        "timeline already exists with different parameters"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_granted_for_what_is_kept() {
    let fixture = Fixture::new(Vec::new()).await;
    let lease = async |index: ShardIndex, lsn: Lsn| {
        let mut location = fixture.node.location();
        location.index = index;
        let request = LeaseRequest {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            lsn,
            location: &location,
            protocol: PageserverProtocol::Libpq,
            access: &ACCESS,
            deadline: LIMIT,
        };
        lease_lsn(&request).await
    };
    let (now, ahead) = (SystemTime::now(), Lsn(0x999_9999));
    let granted = lease(ShardIndex::UNSHARDED, ahead).await.unwrap();
    assert!(
        matches!(granted, Lease::Granted { valid_until } if valid_until > now),
        "{granted:?}"
    );
    let refused = lease(ShardIndex::UNSHARDED, Lsn(0x10)).await.unwrap();
    assert_eq!(refused, Lease::Refused);
    let of_one = ShardIndex {
        number: 0,
        count: 1,
    };
    let error = lease(of_one, ahead).await.unwrap_err();
    assert_eq!(error.category(), "Misrouted");
    let expected = format!("Not found: Tenant {TENANT} not found");
    assert!(chain(&error).contains(&expected), "{}", chain(&error));
    assert_eq!(misrouted(&fixture.node).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_one_tenant() {
    let fixture = Fixture::new(Vec::new()).await;
    let address = fixture.node.pageserver.pg_addr();
    let config = ConnectConfig::tcp(address.ip().to_string(), address.port(), "no_user");
    let mut connection = Connection::connect(&config).await.unwrap();
    assert_eq!(connection.parameter("glowplug_storage"), Some("on"));
    let first = format!("lease lsn {TENANT} {TIMELINE} 0/9999999");
    connection.simple_query(&first).await.unwrap();
    let other = "basebackup cccccccccccccccccccccccccccccccc b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1";
    let refused = connection.simple_query(other).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("reconnect to switch tenant id")
    );
    assert_eq!(misrouted(&fixture.node).await, 0);
}
