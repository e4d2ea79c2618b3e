//! A compute that follows a ComputeSpec, or a ConfigMap, of a real API server.

use std::time::{Duration, Instant};

use glowplug::process::{Exit, Signal};
use serde_json::{Value, json};

use crate::harness::{self, Namespace};
use crate::stage::{LIMIT, Stage, free_port};

/// Waits until kubectl prints something that `wanted` accepts.
pub(crate) async fn until(
    namespace: &Namespace<'_>,
    arguments: &[&str],
    wanted: impl Fn(&str) -> bool,
) {
    let give_up = Instant::now() + LIMIT;
    loop {
        let text = namespace.kubectl(arguments).await;
        if wanted(&text) {
            return;
        }
        assert!(
            Instant::now() < give_up,
            "kubectl {arguments:?} kept saying:\n{text}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn resource(stage: &Stage, namespace: &str, port: u16) -> Value {
    let mut spec = stage.spec(port);
    spec["metadata"]["namespace"] = json!(namespace);
    spec["spec"]["roles"] =
        json!([{"name": "app", "password": {"secretKeyRef": {"name": "app", "key": "password"}}}]);
    spec
}

const SECRET: &str =
    "apiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData: {password: hunter2-marker}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_computespec_becomes_a_running_postgres_and_its_status_says_so() {
    let server = harness::shared().await;
    let namespace = server.namespace("e2e").await;
    let stage = Stage::set().await;
    let mut spec = resource(&stage, &namespace.name, free_port());
    namespace.apply(SECRET).await;
    namespace.apply(&spec.to_string()).await;

    let mut compute = stage.compute("a", &spec);
    compute.source = vec!["--resource".to_owned(), format!("{}/main", namespace.name)];
    compute.kubeconfig = Some(server.kubeconfig("admin"));
    compute.start().await;
    namespace
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "compute/main",
            "--timeout=120s",
        ])
        .await;
    let status = namespace.get("compute/main").await["status"].clone();
    assert_eq!(status["state"], "Running", "{status:#}");
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["pagestream"]["requestErrors"], 0);
    let table = namespace.kubectl(&["get", "compute"]).await;
    assert!(table.contains("Running"), "{table}");

    // A change is reconciled into the running postgres.
    spec["spec"]["databases"] =
        json!([{"name": "shop", "owner": "app"}, {"name": "other", "owner": "app"}]);
    namespace.apply(&spec.to_string()).await;
    let generation = &[
        "get",
        "compute/main",
        "-o",
        "jsonpath={.status.observedGeneration} {.status.state}",
    ];
    until(&namespace, generation, |text| text == "2 Running").await;
    let client = compute.connect().await;
    let sql = "SELECT count(*) FROM pg_database WHERE datname IN ('shop', 'other')";
    assert_eq!(
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0),
        2
    );

    // Counters of the pageservers arrive in the status.
    let misrouted = &[
        "get",
        "compute/main",
        "-o",
        "jsonpath={.status.pagestream.misroutedRequests}",
    ];
    until(&namespace, misrouted, |text| text == "0").await;

    // People see what happened, and no secret.
    let described = namespace.kubectl(&["describe", "compute", "main"]).await;
    assert!(described.contains("PostgresStarted"), "{described}");
    assert!(!described.contains("hunter2-marker"), "{described}");

    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));
    until(&namespace, generation, |text| text == "2 Terminated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configmap_does_the_same_and_its_status_goes_into_a_second_one() {
    let server = harness::shared().await;
    let namespace = server.namespace("e2e-map").await;
    let stage = Stage::set().await;
    let spec = stage.spec(free_port());
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "main"},
        "data": {"compute.yaml": spec.to_string()},
    });
    namespace.apply(&map.to_string()).await;
    let mut compute = stage.compute("a", &spec);
    compute.source = vec![
        "--config-map".to_owned(),
        format!("{}/main", namespace.name),
    ];
    compute.kubeconfig = Some(server.kubeconfig("admin"));
    compute.start().await;
    compute.running().await;
    let status = &[
        "get",
        "configmap",
        "-o",
        "jsonpath={.items[*].data.status\\.yaml}",
    ];
    until(&namespace, status, |text| text.contains("state: Running")).await;
    compute.kill().await;
}
