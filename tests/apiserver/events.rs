//! Events that the publisher leaves on the API server.

use glowplug::report::events::{self, Publisher, RegardingKind};
use glowplug::report::{Event, EventKind};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::harness;
use crate::manifest::compute_spec;

fn warning(reason: &'static str, note: &str) -> Event {
    Event {
        kind: EventKind::Warning,
        reason,
        note: note.to_owned(),
    }
}

#[tokio::test]
async fn events_are_seen_by_describe_and_repetitions_are_counted() {
    let namespace = harness::shared().await.namespace("events").await;
    namespace.apply(&compute_spec("main")).await;
    let rules = "
- {apiGroups: [glowplug.dev], resources: [computespecs], resourceNames: [main], verbs: [get]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}";
    let publisher = Publisher {
        client: namespace.restricted_client("compute", rules).await,
        kind: RegardingKind::ComputeSpec,
        namespace: namespace.name.clone(),
        name: "main".to_owned(),
        pod: None,
        instance: "main-0".to_owned(),
    };
    let (sender, receiver) = mpsc::channel(16);
    let task = tokio::spawn(events::run(
        Some(publisher),
        receiver,
        CancellationToken::new(),
    ));
    let rejected = warning(
        "SpecRejected",
        "spec.mode: unknown mode Prmary; use Primary, Replica or Static",
    );
    for event in [
        &rejected,
        &rejected,
        &warning("PostgresExited", &"ä".repeat(2000)),
        &rejected,
    ] {
        sender.send(event.clone()).await.unwrap();
    }
    drop(sender);
    task.await.unwrap();

    let all = namespace
        .kubectl(&["get", "events.events.k8s.io", "-o", "json"])
        .await;
    let all: Value = serde_json::from_str(&all).unwrap();
    let mut counts: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                event["reason"].as_str().unwrap(),
                event["series"]["count"].as_i64(),
            )
        })
        .collect();
    counts.sort_unstable();
    assert_eq!(
        counts,
        [("PostgresExited", None), ("SpecRejected", Some(3))]
    );
    let description = namespace.kubectl(&["describe", "compute/main"]).await;
    assert!(description.contains("unknown mode Prmary"), "{description}");
}
