//! Alerts, runbooks, dashboard and documentation fit together, and Prometheus' own tool
//! finds that each alert fires when it should.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a file that cannot be read fails the test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Families of other programs that rules and panels may use.
const FOREIGN: &[&str] = &["pageserver_misrouted_pagestream_requests_total"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|found| found == extension));
    found.sort();
    found
}

fn names(folder: &str, extension: &str) -> Vec<String> {
    let stems = files(folder, extension);
    let stems = stems.iter().map(|path| path.file_stem().unwrap());
    stems
        .map(|stem| stem.to_str().unwrap().to_owned())
        .collect()
}

/// The families that docs/observability.md lists.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/observability.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// The families that a PromQL expression selects.
fn selected(expression: &str) -> Vec<String> {
    let mut quoted = false;
    let unquoted = expression.split('"').filter(|_| {
        quoted = !quoted;
        quoted
    });
    let words =
        unquoted.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let prefixes = [
        "glowplug_",
        "compute_",
        "pg_cctl_",
        "pageserver_",
        "process_",
    ];
    words
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .map(|word| {
            let parts = ["_bucket", "_sum", "_count"];
            let base = parts.iter().find_map(|part| word.strip_suffix(part));
            base.filter(|base| documented().contains(*base))
                .unwrap_or(word)
                .to_owned()
        })
        .collect()
}

fn unknown<'a>(expressions: impl Iterator<Item = &'a str>) -> Vec<String> {
    let known = documented();
    expressions
        .flat_map(selected)
        .filter(|family| !known.contains(family) && !FOREIGN.contains(&family.as_str()))
        .collect()
}

fn rule(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).unwrap();
    let document: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    document["groups"][0]["rules"][0].clone()
}

#[test]
fn each_alert_has_a_runbook_and_a_unit_test() {
    let alerts = names("deploy/prometheus/rules", "yaml");
    assert!(alerts.len() >= 10, "{alerts:?}");
    assert_eq!(alerts, names("deploy/prometheus/tests", "yaml"));
    assert_eq!(alerts, names("docs/runbooks", "md"));
    let page = fs::read_to_string(root().join("docs/observability.md")).unwrap();
    for (alert, path) in alerts.iter().zip(files("deploy/prometheus/rules", "yaml")) {
        let rule = rule(&path);
        assert_eq!(rule["alert"], **alert);
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(
            url.ends_with(&format!("/docs/runbooks/{alert}.md")),
            "{url}"
        );
        assert!(page.contains(&format!("(runbooks/{alert}.md)")), "{alert}");
    }
}

#[test]
fn alerts_and_panels_use_metrics_that_exist() {
    let rules: Vec<_> = files("deploy/prometheus/rules", "yaml");
    let rules: Vec<_> = rules.iter().map(|path| rule(path)).collect();
    let expressions = rules.iter().map(|rule| rule["expr"].as_str().unwrap());
    assert_eq!(unknown(expressions), Vec::<String>::new());

    let text = fs::read_to_string(root().join("deploy/grafana/compute.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let targets: Vec<_> = targets.flatten().collect();
    let expressions: Vec<_> = targets
        .iter()
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(expressions.len() > 15);
    assert_eq!(unknown(expressions.into_iter()), Vec::<String>::new());
}

/// What Grafana's importer insists on: ids that are there once, panels that fit the
/// grid, a data source to be asked for.
#[test]
fn the_dashboard_can_be_imported() {
    let text = fs::read_to_string(root().join("deploy/grafana/compute.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(36));
    assert!(dashboard["uid"].as_str().unwrap().len() <= 40);
    assert!(!dashboard["title"].as_str().unwrap().is_empty());
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["id"]);
        let place = &panel["gridPos"];
        let (x, w) = (place["x"].as_u64().unwrap(), place["w"].as_u64().unwrap());
        assert!(x + w <= 24 && place["h"].as_u64() > Some(0), "{panel}");
        if panel["type"] != "row" {
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{}",
                panel["title"]
            );
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "one short-lived program, in a test without a runtime"
)]
fn prometheus_finds_that_alerts_fire_when_they_should() {
    let promtool = |arguments: &[&str], files: Vec<PathBuf>| {
        let output = std::process::Command::new("promtool")
            .args(arguments)
            .args(files)
            .output()
            .expect("promtool is installed: run deploy/setup.sh");
        let text = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&text)
        );
    };
    promtool(
        &["check", "rules"],
        files("deploy/prometheus/rules", "yaml"),
    );
    promtool(&["test", "rules"], files("deploy/prometheus/tests", "yaml"));
}

#[test]
fn the_prometheus_rule_holds_all_alerts() {
    let mut expected = String::from(
        "# All of rules/ as one resource of the Prometheus operator. `make generate` writes it.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: glowplug\nspec:\n  groups:\n",
    );
    for path in files("deploy/prometheus/rules", "yaml") {
        let text = fs::read_to_string(path).unwrap();
        let groups = text.lines().filter(|line| !line.starts_with(['#', 'g']));
        for line in groups {
            expected.push_str("  ");
            expected.push_str(line);
            expected.push('\n');
        }
    }
    let path = root().join("deploy/prometheus/prometheus-rule.yaml");
    if std::env::var_os("GLOWPLUG_BLESS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "run `make generate`");
    let _: serde_json::Value = serde_saphyr::from_str(&found).unwrap();
}
