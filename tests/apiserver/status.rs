//! What the status writers leave on the API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use glowplug::api::status::ComputeState;
use glowplug::report::config_map::ConfigMapSink;
use glowplug::report::resource::ResourceSink;
use glowplug::report::sink::Sink;
use glowplug::report::status_writer::{self, Options};
use glowplug::report::write_policy::Limits;
use glowplug::report::{PostgresPhase, Snapshot, StepFacts};
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{self, Namespace};
use crate::manifest::{POD_RULES, compute_spec};

/// A writer, and the snapshots that it follows.
struct Writer {
    snapshots: watch::Sender<Arc<Snapshot>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(sink: impl Sink + 'static) -> Self {
        let first = Arc::new(Snapshot::new("compute-main", Timestamp::now()));
        let (snapshots, receiver) = watch::channel(first);
        let cancel = CancellationToken::new();
        let options = Options {
            limits: Limits::API_SERVER,
            pod_name: Some("main-0".into()),
            metrics: None,
        };
        let task = tokio::spawn(status_writer::run(sink, options, receiver, cancel.clone()));
        Self {
            snapshots,
            cancel,
            task,
        }
    }

    fn set(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    fn run(&self) {
        self.set(|snapshot| {
            snapshot.state = ComputeState::Running;
            snapshot.postgres.phase = PostgresPhase::Accepting;
            snapshot.safekeepers = StepFacts::Done("Synced");
            snapshot.observed_generation = Some(1);
            snapshot.durations.total = Some(Duration::from_millis(200));
        });
    }

    async fn end(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

/// Waits until the object's JSON satisfies `accept`.
async fn eventually(
    namespace: &Namespace<'_>,
    object: &str,
    accept: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let found = namespace.get(object).await;
        if accept(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{object} stays {found:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().unwrap();
    all.iter()
        .find(|condition| condition["type"] == type_)
        .unwrap()
}

fn resource(client: &Client, namespace: &Namespace<'_>) -> ResourceSink {
    ResourceSink::new(client.clone(), &namespace.name, "main")
}

#[tokio::test]
async fn a_pod_with_the_documented_rules_can_report_and_people_can_wait_for_it() {
    let namespace = harness::shared().await.namespace("status").await;
    namespace.apply(&compute_spec("main")).await;
    let client = namespace.restricted_client("compute", POD_RULES).await;
    let writer = Writer::start(resource(&client, &namespace));
    writer.run();
    namespace
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            "compute/main",
        ])
        .await;
    let object = namespace.get("compute/main").await;
    assert_eq!(object["status"]["state"], "Running");
    assert_eq!(object["status"]["podName"], "main-0");
    assert_eq!(object["status"]["computeId"], "compute-main");
    assert_eq!(condition(&object, "SafekeepersSynced")["reason"], "Synced");
    let table = namespace.kubectl(&["get", "compute"]).await;
    assert!(table.contains("main"), "{table}");
    writer.end().await;
}

#[tokio::test]
async fn fields_of_other_managers_are_left_alone() {
    let namespace = harness::shared().await.namespace("managers").await;
    namespace.apply(&compute_spec("main")).await;
    let theirs = "{apiVersion: glowplug.dev/v1alpha1, kind: ComputeSpec, metadata: {name: main}, status: {conditions: \
                  [{type: Suspended, status: \"False\", reason: Active, message: \"\", lastTransitionTime: \"2026-01-01T00:00:00Z\"}]}}";
    let apply = [
        "apply",
        "--server-side",
        "--subresource=status",
        "--field-manager=operator",
        "-f",
        "-",
    ];
    let in_namespace = [&["-n", namespace.name.as_str()], &apply[..]].concat();
    namespace.server.kubectl(&in_namespace, theirs).await;
    let writer = Writer::start(resource(&namespace.client, &namespace));
    writer.run();
    let object = eventually(&namespace, "compute/main", |o| {
        o["status"]["state"] == "Running"
    })
    .await;
    assert_eq!(condition(&object, "Suspended")["reason"], "Active");
    assert_eq!(condition(&object, "Ready")["status"], "True");
    writer.end().await;
}

#[tokio::test]
async fn transition_times_survive_a_restart_of_the_compute() {
    let namespace = harness::shared().await.namespace("times").await;
    namespace.apply(&compute_spec("main")).await;
    let writer = Writer::start(resource(&namespace.client, &namespace));
    writer.run();
    let before = eventually(&namespace, "compute/main", |o| {
        o["status"]["state"] == "Running"
    })
    .await;
    writer.end().await;
    // The times have a resolution of one second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let writer = Writer::start(resource(&namespace.client, &namespace));
    writer.set(|snapshot| snapshot.postgres.restarts = 1);
    writer.run();
    let after = eventually(&namespace, "compute/main", |o| {
        o["status"]["postgres"]["restarts"] == 1
    })
    .await;
    assert_eq!(condition(&before, "Ready"), condition(&after, "Ready"));
    writer.end().await;
}

#[tokio::test]
async fn a_recreated_object_gets_the_newest_status() {
    let namespace = harness::shared().await.namespace("recreated").await;
    namespace.apply(&compute_spec("main")).await;
    let writer = Writer::start(resource(&namespace.client, &namespace));
    writer.run();
    let first = eventually(&namespace, "compute/main", |o| {
        o["status"]["state"] == "Running"
    })
    .await;
    namespace.kubectl(&["delete", "compute/main"]).await;
    namespace.apply(&compute_spec("main")).await;
    writer.set(|snapshot| snapshot.postgres.restarts = 2);
    let second = eventually(&namespace, "compute/main", |o| {
        o["status"]["postgres"]["restarts"] == 2
    })
    .await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    writer.end().await;
}

#[tokio::test]
async fn nothing_is_created_in_place_of_a_deleted_object() {
    let namespace = harness::shared().await.namespace("deleted").await;
    let writer = Writer::start(resource(&namespace.client, &namespace));
    writer.run();
    writer.end().await;
    assert!(namespace.get("compute/main").await.is_null());
}

#[tokio::test]
async fn a_config_map_gets_its_status_in_a_second_one() {
    let namespace = harness::shared().await.namespace("config-map").await;
    namespace
        .kubectl(&[
            "create",
            "configmap",
            "main",
            "--from-literal=compute.yaml={}",
        ])
        .await;
    let rules = "
- {apiGroups: [\"\"], resources: [configmaps], resourceNames: [main, main-status], verbs: [get, list, watch, patch]}
- {apiGroups: [\"\"], resources: [configmaps], verbs: [create]}";
    let client = namespace.restricted_client("compute", rules).await;
    let writer = Writer::start(ConfigMapSink::new(client, &namespace.name, "main"));
    writer.run();
    let text = |map: &Value| {
        map["data"]["status.yaml"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let map = eventually(&namespace, "configmap/main-status", |map| {
        text(map).contains("state: Running")
    })
    .await;
    let status: glowplug::api::status::ComputeSpecStatus =
        serde_saphyr::from_str(&text(&map)).unwrap();
    assert_eq!(status.state, Some(ComputeState::Running));
    let owner = &map["metadata"]["ownerReferences"][0];
    assert_eq!(
        owner["uid"],
        namespace.get("configmap/main").await["metadata"]["uid"]
    );
    writer.end().await;
}

#[tokio::test]
async fn the_newest_status_is_written_after_the_server_was_away_or_did_not_answer() {
    let server = harness::ApiServer::start().await;
    let namespace = server.namespace("outage").await;
    namespace.apply(&compute_spec("main")).await;
    let writer = Writer::start(resource(&namespace.client, &namespace));
    writer.run();
    eventually(&namespace, "compute/main", |o| {
        o["status"]["state"] == "Running"
    })
    .await;

    server.stop();
    for restarts in 1..=3 {
        writer.set(|snapshot| snapshot.postgres.restarts = restarts);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    server.start_again().await;
    eventually(&namespace, "compute/main", |o| {
        o["status"]["postgres"]["restarts"] == 3
    })
    .await;

    server.pause();
    writer.set(|snapshot| snapshot.postgres.restarts = 4);
    tokio::time::sleep(Duration::from_millis(500)).await;
    writer.set(|snapshot| snapshot.postgres.restarts = 5);
    server.resume();
    eventually(&namespace, "compute/main", |o| {
        o["status"]["postgres"]["restarts"] == 5
    })
    .await;
    writer.end().await;
}
