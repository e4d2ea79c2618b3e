//! The Helm chart: it lints, renders what is checked in, refuses bad values, and a real API
//! server takes what it renders.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{self, ApiServer};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/glowplug");

fn values() -> PathBuf {
    Path::new(CHART).join("ci/two-computes-values.yaml")
}

/// Runs a program of the tools: its stdout, or its stderr when it fails.
async fn run(mut command: Command, stdin: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let (written, output) = tokio::join!(
        async move { input.write_all(stdin.as_bytes()).await },
        child.wait_with_output()
    );
    let output = output.unwrap();
    if output.status.success() {
        written.unwrap();
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        let text = [output.stdout, output.stderr].concat();
        Err(String::from_utf8_lossy(&text).into_owned())
    }
}

fn tool(name: &str) -> Command {
    // Building the tools, when they are missing, blocks; nothing else runs meanwhile.
    harness::command(&harness::tools().join(name)).into()
}

async fn helm(arguments: &[&str]) -> Result<String, String> {
    let mut command = tool("helm");
    command.args(arguments);
    run(command, "").await
}

async fn helm_on(server: &ApiServer, arguments: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = tool("helm");
    command
        .args(arguments)
        .arg("--kubeconfig")
        .arg(server.kubeconfig("admin"));
    for kind in ["CACHE", "CONFIG", "DATA"] {
        command.env(format!("HELM_{kind}_HOME"), home.path());
    }
    run(command, "").await
}

async fn rendered() -> String {
    let values = values();
    let arguments = ["template", "pg", CHART, "--namespace", "shop", "--values"];
    helm(&[&arguments[..], &[values.to_str().unwrap()]].concat())
        .await
        .unwrap()
}

#[tokio::test]
async fn the_chart_lints_strictly_with_default_and_with_many_values() {
    let values = values();
    for arguments in [vec![], vec!["--values", values.to_str().unwrap()]] {
        let all = [&["lint", "--strict", CHART][..], &arguments].concat();
        helm(&all).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Set `GLOWPLUG_BLESS=1` to write the file anew.
#[tokio::test]
async fn the_chart_renders_what_is_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/golden/chart.yaml");
    let now = rendered().await;
    if std::env::var_os("GLOWPLUG_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(
        now == checked_in,
        "the chart renders otherwise than {}: look at the difference, then bless it",
        path.display()
    );
}

/// Helm reads only what is in the chart's own folder, so the rules and dashboards stand there
/// a second time. Set `GLOWPLUG_BLESS=1` to copy them anew.
#[test]
fn the_chart_ships_the_rules_and_dashboards_of_deploy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (from, to) in [
        ("deploy/prometheus/rules", "files/rules"),
        ("deploy/grafana", "files/dashboards"),
    ] {
        let (from, to) = (root.join(from), Path::new(CHART).join(to));
        if std::env::var_os("GLOWPLUG_BLESS").is_some() {
            for (name, text) in texts(&from) {
                std::fs::write(to.join(name), text).unwrap();
            }
        }
        assert!(
            texts(&from) == texts(&to),
            "run `make generate`: {} is not what {} holds",
            to.display(),
            from.display()
        );
    }
}

fn texts(folder: &Path) -> BTreeMap<OsString, String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name(), text)
        })
        .collect()
}

#[tokio::test]
async fn monitors_and_rules_have_only_fields_that_the_prometheus_operator_knows() {
    let kinds = run(tool("check-monitors"), &rendered().await)
        .await
        .unwrap();
    let mut kinds: Vec<&str> = kinds.lines().collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["PodMonitor", "PrometheusRule", "ServiceMonitor"]);
}

#[tokio::test]
async fn bad_values_are_refused_with_their_path() {
    let compute = "computes[0].name=a,computes[0].spec.tenantId=9ef87a5bf0d92544f6fafeeb3239695c,\
                   computes[0].spec.timelineId=de200bd42b49cc1814412c7e592dd6e9";
    for (values, path) in [
        ("image.tagg=x", "image"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:short", "digest"),
        ("computeDefaults.replicas=2", "replicas"),
        ("computeDefaults.volumes.pgdata=much", "pgdata"),
        (
            "computeDefaults.terminationGracePeriodSeconds=1",
            "terminationGracePeriodSeconds",
        ),
        ("metrics.podMonitor.interval=soon", "interval"),
        ("metrics.prometheusRule.runbookUrl=ftp://x", "runbookUrl"),
        ("computes[0].name=Upper", "name"),
        ("computes[0].name=a", "spec"),
        (
            &format!("{compute},computes[0].spec.tenantId=short"),
            "tenantId",
        ),
        (&format!("{compute},computes[0].replica=1"), "computes"),
    ] {
        let error = helm(&["template", CHART, "--set", values])
            .await
            .expect_err(values);
        assert!(
            error.contains("don't meet the specifications of the schema") && error.contains(path),
            "{values}: {error}"
        );
    }
    helm(&["template", CHART, "--set", compute]).await.unwrap();
}

#[tokio::test]
async fn a_release_brings_computes_and_its_end_takes_them_but_not_their_definition() {
    let server = harness::shared().await;
    let namespace = server.namespace("chart").await;
    let values = values();
    let release = ["pg", CHART, "--namespace", &namespace.name];
    let no_monitors = [
        "--set",
        "metrics.podMonitor.enabled=false,metrics.serviceMonitor.enabled=false,\
         metrics.prometheusRule.enabled=false,crds.upgrade=false",
        "--values",
        values.to_str().unwrap(),
    ];
    let install = [&["install"][..], &release, &no_monitors].concat();
    let notes = helm_on(server, &install).await.unwrap();
    assert!(notes.contains("postgresql://main."), "{notes}");

    let spec = namespace.get("computespec/main").await;
    assert_eq!(spec["spec"]["roles"][0]["name"], "app");
    let deployment = namespace.get("deployment/compute-main").await;
    assert_eq!(deployment["spec"]["replicas"], 1);
    let suspended = namespace.get("deployment/compute-history").await;
    assert_eq!(suspended["spec"]["replicas"], 0, "0 overrides the default");

    let change = ["--set", "computes[0].replicas=0"];
    let upgrade = [&["upgrade"][..], &release, &no_monitors, &change].concat();
    helm_on(server, &upgrade).await.unwrap();
    let deployment = namespace.get("deployment/compute-main").await;
    assert_eq!(deployment["spec"]["replicas"], 0);

    let uninstall = ["uninstall", "pg", "--namespace", &namespace.name];
    helm_on(server, &uninstall).await.unwrap();
    for kind in [
        "computespecs",
        "services",
        "roles",
        "serviceaccounts",
        "networkpolicies",
    ] {
        let left = namespace.kubectl(&["get", kind, "-o", "name"]).await;
        let ours: Vec<&str> = left.lines().filter(|name| name.contains("main")).collect();
        assert_eq!(ours, Vec::<&str>::new(), "{kind}");
    }
    let definition = namespace.get("crd/computespecs.glowplug.dev").await;
    assert_ne!(definition, Value::Null);
}

#[tokio::test]
async fn the_rights_of_the_upgrade_suffice_to_apply_the_definition() {
    let server = harness::shared().await;
    let namespace = server.namespace("crd-upgrade").await;
    let hooks = helm(&[
        "template",
        "upgrading",
        CHART,
        "--namespace",
        &namespace.name,
        "--show-only",
        "templates/crd-upgrade.yaml",
    ])
    .await
    .unwrap();
    namespace.apply(&hooks).await;
    let account = "upgrading-glowplug-crd-upgrade";
    let token = namespace.kubectl(&["create", "token", account]).await;
    let kubeconfig = server.write_kubeconfig(&namespace.name, token.trim());

    let mut command = Command::from(harness::command(Path::new(env!("CARGO_BIN_EXE_glowplug"))));
    command
        .args(["crd", "--apply"])
        .env("KUBECONFIG", kubeconfig);
    run(command, "").await.unwrap();
    let definition = server
        .kubectl(
            &[
                "get",
                "crd/computespecs.glowplug.dev",
                "-o",
                "json",
                "--show-managed-fields",
            ],
            "",
        )
        .await;
    let definition: Value = serde_json::from_str(&definition).unwrap();
    let fields = definition["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        fields
            .iter()
            .any(|entry| entry["manager"] == "glowplug-crd"),
        "{fields:?}"
    );
}
