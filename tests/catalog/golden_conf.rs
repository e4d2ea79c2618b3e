//! Compares configurations with those that the real `compute_ctl` wrote for the same specs,
//! as a real PostgreSQL reads either: each setting with its last value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use glowplug::pgdata::{ConfFacts, render_postgresql_conf};
use glowplug::spec::{Flavor, owned_settings, without_owned};
use tokio_postgres::Client;

use super::postgres::Postgres;

/// What postgres makes of a configuration.
async fn read_by_postgres(
    postgres: &Postgres,
    client: &Client,
    conf: &str,
) -> BTreeMap<String, String> {
    std::fs::write(postgres.data().join("postgresql.conf"), conf).unwrap();
    let read = "SELECT lower(name), setting, error FROM pg_file_settings ORDER BY seqno";
    let mut settings = BTreeMap::new();
    for row in client.query(read, &[]).await.unwrap() {
        let (name, value): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        if let Some(name) = name {
            settings.insert(name, value.unwrap_or_default());
            continue;
        }
        // Of a setting that the file before this one had, or of a file that cannot be read.
        let error: String = row.get(2);
        assert!(error.contains("without restarting"), "{error}:\n{conf}");
    }
    settings
}

fn facts() -> ConfFacts {
    ConfFacts {
        trust_loopback: false,
        internal_http_port: 3081,
        privileged_role: "neon_superuser".to_owned(),
        strict_overcommit: false,
        socket_dir: "/run/glowplug".to_owned(),
        listen_addresses: "*".to_owned(),
        safekeeper_token: false,
    }
}

/// Cases whose spec is refused, so that there is no file: docs/compatibility.md has why.
const REFUSED: &[&str] = &[
    "18-some-shard-without-libpq",
    "f1-setting-null-value",
    "f2-setting-newline",
];

/// What differs on purpose: case, setting, our value, upstream's.
type Difference = (
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
);

const DIFFERENT: &[Difference] = &[
    // Not there yet.
    ("11-tls", "ssl", None, Some("on")),
    ("11-tls", "ssl_cert_file", None, Some("server.crt")),
    ("11-tls", "ssl_key_file", None, Some("server.key")),
    // The recorded file is that after the start, with a line appended.
    (
        "14-drop-subscriptions",
        "neon.disable_logical_replication_subscribers",
        Some("true"),
        Some("false"),
    ),
    // The field wins over the setting.
    (
        "17-conf-text-and-settings",
        "neon.safekeepers",
        Some("sk-1:5454,sk-2:5454,sk-3:5454"),
        Some("from-the-settings:1"),
    ),
    // From the command line there.
    (
        "20-lakebase",
        "neon.privileged_role_name",
        Some("neon_superuser"),
        Some("my_superuser"),
    ),
    ("20-lakebase", "port", Some("5432"), Some("55433")),
    // Libraries are compared by their whole name.
    (
        "f5-audit-substring",
        "shared_preload_libraries",
        Some("neon,pgauditlogtofile,pgaudit"),
        Some("neon,pgauditlogtofile"),
    ),
];

/// Folders with a recorded spec and file, and their names.
fn cases(folder: &Path, found: &mut Vec<(String, String, String)>) {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    if let (Some(config), Some(conf)) = (read("config.json"), read("postgresql.conf")) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        found.push((name.to_owned(), config, conf));
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            cases(&path, found);
        }
    }
}

#[tokio::test]
async fn postgres_reads_what_it_would_of_compute_ctl() {
    let postgres = Postgres::start().await;
    let client = postgres.connect("postgres").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compute_ctl/specs");
    let mut refused = BTreeSet::new();
    let mut different = BTreeSet::new();
    let mut found = Vec::new();
    cases(&folder, &mut found);
    assert!(found.len() > 20, "{} cases", found.len());
    for (name, config, theirs) in found {
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let spec = config["spec"].to_string();
        let Ok(spec) = glowplug::spec::neon_json::parse(spec.as_bytes()) else {
            refused.insert(name);
            continue;
        };
        let ours = render_postgresql_conf(&spec, &facts());
        let ours = read_by_postgres(&postgres, &client, &ours).await;
        let theirs = read_by_postgres(&postgres, &client, &theirs).await;
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for setting in names {
            let values = (ours.get(setting).cloned(), theirs.get(setting).cloned());
            if values.0 != values.1 {
                different.insert((name.clone(), setting.clone(), values.0, values.1));
            }
        }
    }
    let text = |value: Option<&str>| value.map(str::to_owned);
    let expected: BTreeSet<_> = DIFFERENT
        .iter()
        .map(|(case, name, ours, theirs)| {
            (
                (*case).to_owned(),
                (*name).to_owned(),
                text(*ours),
                text(*theirs),
            )
        })
        .collect();
    assert_eq!(different, expected);
    assert_eq!(
        refused.iter().map(String::as_str).collect::<Vec<_>>(),
        REFUSED
    );
}

/// What is taken out of a text is what postgres would have taken from it.
#[tokio::test]
async fn no_way_of_writing_an_owned_setting_gets_past() {
    let postgres = Postgres::start().await;
    let client = postgres.connect("postgres").await;
    for flavor in [Flavor::Neon, Flavor::Vanilla] {
        let mut text = String::new();
        for owned in owned_settings(flavor).filter(|owned| !owned.name.starts_with("include")) {
            let upper = owned.name.to_uppercase();
            for way in [
                "{} = 77",
                "\t{}\t77 # x",
                "{}='77'",
                "  {}77 = 1",
                "{}\r= 77\r",
                "{} '7''7'",
            ] {
                // The fourth is another name, and stays.
                text.push_str(&way.replace("{}", &upper));
                text.push('\n');
            }
        }
        let left = read_by_postgres(&postgres, &client, &without_owned(&text, flavor)).await;
        for owned in owned_settings(flavor) {
            // A number that suffices is the user's to choose.
            let expected = owned.allows(Some("77")).then_some("77");
            let found = left.get(owned.name).map(String::as_str);
            assert_eq!(found, expected, "{}", owned.name);
        }
        assert!(!left.is_empty());
    }
}
