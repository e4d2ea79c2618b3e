//! Trouble of a compute that follows a ComputeSpec: conditions and Events name it, the
//! last good spec stays in force, and mending it is enough.

use glowplug::process::{Exit, Signal};
use serde_json::{Value, json};

use crate::harness::{self, ApiServer, Namespace};
use crate::kubernetes::until;
use crate::stage::{Compute, Stage, free_port};

/// What each condition says, one on a line.
const CONDITIONS: &[&str] = &[
    "get",
    "compute/main",
    "-o",
    "jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason}: {.message}{\"\\n\"}{end}",
];
/// The state, and the generation that was looked at.
const STATE: &[&str] = &[
    "get",
    "compute/main",
    "-o",
    "jsonpath={.status.state} {.status.observedGeneration}",
];
/// Reason and note of each Event.
const EVENTS: &[&str] = &[
    "get",
    "events.events.k8s.io",
    "-o",
    "jsonpath={range .items[*]}{.reason}: {.note}{\"\\n\"}{end}",
];

fn follow(compute: &mut Compute<'_>, server: &ApiServer, namespace: &Namespace<'_>) {
    compute.source = vec!["--resource".to_owned(), format!("{}/main", namespace.name)];
    compute.kubeconfig = Some(server.kubeconfig("admin"));
}

fn secret(name: &str, key: &str, value: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "stringData": {key: value},
    })
    .to_string()
}

fn in_namespace(mut spec: Value, namespace: &Namespace<'_>) -> Value {
    spec["metadata"]["namespace"] = json!(namespace.name);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_spec_is_told_with_the_path_of_its_field_and_the_last_good_one_stays() {
    let server = harness::shared().await;
    let namespace = server.namespace("e2e-refused").await;
    let stage = Stage::set().await;
    let mut spec = in_namespace(stage.spec(free_port()), &namespace);
    namespace.apply(&spec.to_string()).await;
    let mut compute = stage.compute("a", &spec);
    follow(&mut compute, server, &namespace);
    compute.start().await;
    until(&namespace, STATE, |text| text == "Running 1").await;
    let client = compute.connect().await;

    let password = json!({"secretKeyRef": {"name": "late", "key": "password"}});
    spec["spec"]["roles"] = json!([{"name": "app"}, {"name": "late", "password": password}]);
    namespace.apply(&spec.to_string()).await;
    let path = "spec.roles[1].password.secretKeyRef";
    let refused =
        |text: &str| text.contains("SpecAccepted=False/SecretNotFound") && text.contains(path);
    until(&namespace, CONDITIONS, refused).await;
    until(&namespace, EVENTS, |text| {
        let mut lines = text.lines();
        lines.any(|line| line.starts_with("SpecRejected: ")) && text.contains(path)
    })
    .await;
    until(&namespace, STATE, |text| text == "Running 2").await;
    client.query_one("SELECT 1", &[]).await.unwrap();

    // What was missing is made; nobody touches the spec again.
    namespace
        .apply(&secret("late", "password", "hunter2"))
        .await;
    until(&namespace, CONDITIONS, |text| {
        text.contains("SpecAccepted=True/Valid") && text.contains("Ready=True")
    })
    .await;
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname = 'late'";
    until_counted(&client, sql, 1).await;
    compute.kill().await;
}

async fn until_counted(client: &tokio_postgres::Client, sql: &str, wanted: i64) {
    let counted = async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::stage::LIMIT, counted)
        .await
        .expect("the catalog matches at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_storage_token_is_told_and_the_right_one_starts_the_compute() {
    let server = harness::shared().await;
    let namespace = server.namespace("e2e-token").await;
    let stage = Stage::set_with_token("the-right-one").await;
    let mut spec = in_namespace(stage.spec(free_port()), &namespace);
    spec["spec"]["storage"]["tokenSecretRef"] = json!({"name": "storage", "key": "token"});
    let token = |token| secret("storage", "token", token);
    namespace.apply(&token("marker-of-a-wrong-one")).await;
    namespace.apply(&spec.to_string()).await;
    let mut compute = stage.compute("a", &spec);
    follow(&mut compute, server, &namespace);
    // It stays until somebody mends it.
    compute.arguments = ["--failed-linger", "600"].map(str::to_owned).into();
    compute.start().await;
    until(&namespace, CONDITIONS, |text| {
        text.contains("SafekeepersSynced=False/AuthFailed")
            && text.contains("Ready=False/StorageUnavailable")
    })
    .await;
    until(&namespace, EVENTS, |text| {
        text.contains("SafekeeperSyncFailed: ")
    })
    .await;

    namespace.apply(&token("the-right-one")).await;
    until(&namespace, STATE, |text| text.starts_with("Running")).await;
    let described = namespace.kubectl(&["describe", "compute", "main"]).await;
    assert!(!described.contains("marker-of-a-wrong-one"), "{described}");
    compute.kill().await;
}

/// Requests so far that wrote the status of a ComputeSpec.
async fn status_writes(server: &ApiServer) -> f64 {
    let metrics = server.kubectl(&["get", "--raw", "/metrics"], "").await;
    let is_write = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"computespecs\"")
            && line.contains("subresource=\"status\"")
            && !line.contains("verb=\"GET\"")
    };
    let lines = metrics.lines().filter(is_write);
    let counts = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    counts.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_a_compute_goes_on_and_another_starts_from_the_last_good_spec() {
    // It is taken away: a server of our own.
    let server = ApiServer::start().await;
    let namespace = server.namespace("e2e-away").await;
    let stage = Stage::set().await;
    let spec = in_namespace(stage.spec(free_port()), &namespace);
    namespace.apply(&spec.to_string()).await;
    let mut compute = stage.compute("a", &spec);
    follow(&mut compute, &server, &namespace);
    let last_good = compute.home.join("last-good").display().to_string();
    compute.arguments = vec!["--last-good-dir".to_owned(), last_good];
    compute.start().await;
    until(&namespace, STATE, |text| text == "Running 1").await;
    let writes = status_writes(&server).await;
    assert!(writes >= 1.0, "the status of a running compute was written");
    assert!(writes <= 8.0, "a start made {writes} writes of the status");

    server.stop();
    let client = compute.connect().await;
    client
        .batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .await
        .unwrap();
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));

    compute.start().await;
    compute.running().await;
    compute.logs("starting from the last good copy").await;
    let client = compute.connect().await;
    let row = client.query_one("SELECT count(*) FROM kept", &[]).await;
    assert_eq!(row.unwrap().get::<_, i64>(0), 1);

    // What was written last is the state of the compute before this one.
    server.start_again().await;
    let postmaster = std::fs::read_to_string(compute.pgdata().join("postmaster.pid")).unwrap();
    let postmaster = postmaster.lines().next().unwrap().to_owned();
    let wanted = format!("Running {postmaster}");
    let pid = &[
        "get",
        "compute/main",
        "-o",
        "jsonpath={.status.state} {.status.postgres.pid}",
    ];
    until(&namespace, pid, |text| text == wanted).await;
    compute.kill().await;
}
