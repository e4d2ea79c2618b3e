//! Where a shard is, and what a pageserver says when it is not there.

use std::time::Duration;

use glowplug::pageserver::{ProbeOutcome, ProbeRequest, probe, scrape_misrouted};
use glowplug::storage::timelines::Timelines;

use crate::node::{ATTACHED, Fixture, LIMIT, Node, SHARD, TENANT, TIMELINE, pg_major};

async fn outcome(node: &Node) -> ProbeOutcome {
    let location = node.location();
    let request = ProbeRequest {
        tenant_id: TENANT,
        timeline_id: TIMELINE,
        location: &location,
        stripe_size: None,
        token: None,
        deadline: LIMIT,
    };
    probe(&request).await.unwrap()
}

async fn misrouted(node: &Node) -> u64 {
    let http = reqwest::Client::new();
    let address = node.location().http.unwrap();
    scrape_misrouted(&http, &address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_moved_is_missed_and_counted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
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
