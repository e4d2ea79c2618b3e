//! The text against what compute_ctl wrote for the same spec, and as it reads.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::pgwire::TlsMode;
use crate::spec::{
    ComputeMode, NeonFields, PostgresSpec, RemovedObjects, SafekeeperSet, Setting, ShardLocation,
    ShardMap, StorageTls, TlsRoots, neon_json,
};

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

fn spec(flavor: Flavor) -> ComputeSpec {
    ComputeSpec {
        tenant_id: "0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f"
            .parse::<TenantId>()
            .unwrap(),
        timeline_id: "9a8b7c6d5e4f30211203f4e5d6c7b8a9"
            .parse::<TimelineId>()
            .unwrap(),
        mode: ComputeMode::Primary,
        postgres: PostgresSpec {
            version: None,
            flavor,
            port: 55433,
            settings: Vec::new(),
            verbatim_conf: None,
        },
        safekeepers: SafekeeperSet {
            generation: None,
            endpoints: ["sk-1:5454", "sk-2:5454", "sk-3:5454"]
                .map(str::to_owned)
                .to_vec(),
        },
        pageservers: ShardMap {
            shards: vec![ShardLocation {
                index: ShardIndex::UNSHARDED,
                node_id: None,
                libpq: Some("postgres://no_user@ps-1:6400".to_owned()),
                grpc: None,
                http: None,
            }],
            ..ShardMap::default()
        },
        storage_controller: None,
        storage_token: None,
        storage_tls: crate::spec::StorageTls::default(),
        roles: Vec::new(),
        databases: Vec::new(),
        delta_operations: Vec::new(),
        removed_objects: RemovedObjects::Keep,
        skip_catalog_updates: false,
        neon: NeonFields::default(),
    }
}

fn setting(name: &str, value: &str) -> Setting {
    Setting {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        is_string: false,
    }
}

fn text(name: &str, value: &str) -> Setting {
    Setting {
        is_string: true,
        ..setting(name, value)
    }
}

/// What postgres reads: the last value of each setting, quotes as written.
fn effective(conf: &str) -> BTreeMap<String, String> {
    let lines = conf
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// A setting whose value differs from upstream's: its name, ours, theirs.
type Difference = (&'static str, Option<&'static str>, Option<&'static str>);

/// Compares with the file that compute_ctl wrote for the same input.
fn check(case: &str, expected: &[Difference]) {
    let folder = std::path::Path::new("tests/fixtures/compute_ctl/specs").join(case);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let spec = neon_json::parse(config["spec"].to_string().as_bytes()).unwrap();
    let ours = effective(&render_postgresql_conf(&spec, &facts()));
    let theirs = std::fs::read_to_string(folder.join("postgresql.conf")).unwrap();
    let theirs = effective(&theirs);
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let value = |side: &BTreeMap<String, String>, name| side.get(name).cloned();
    let found: Vec<_> = names
        .into_iter()
        .map(|name| (name.clone(), value(&ours, name), value(&theirs, name)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .collect();
    let text = |value: Option<&str>| value.map(str::to_owned);
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, ours, theirs)| (text(Some(name)).unwrap(), text(*ours), text(*theirs)))
        .collect();
    assert_eq!(found, expected, "{case}");
}

#[test]
fn effective_settings_are_those_of_compute_ctl() {
    for case in [
        "01-primary-minimal",
        "02-settings-quoting",
        "03-static",
        "04-replica",
        "05-sharded-generation",
        "06-legacy-connstring",
        "07-legacy-settings",
        "08-audit-base",
        "09-audit-extended",
        "10-audit-full",
        "12-odd-names",
        "13-delta-operations",
        "15-extensions",
        "16-skip-catalog",
        "19-companions",
    ] {
        check(case, &[]);
    }
}

/// Upstream lets the setting win over the field, although it syncs the safekeepers
/// that the field names. Here the field wins.
#[test]
fn a_setting_cannot_contradict_the_field_it_belongs_to() {
    check(
        "17-conf-text-and-settings",
        &[(
            "neon.safekeepers",
            Some("'sk-1:5454,sk-2:5454,sk-3:5454'"),
            Some("'from-the-settings:1'"),
        )],
    );
}

/// The recorded file is that after the start, when compute_ctl had dropped the
/// subscriptions and appended `false`.
#[test]
fn subscribers_stay_off_until_subscriptions_are_dropped() {
    check(
        "14-drop-subscriptions",
        &[(
            "neon.disable_logical_replication_subscribers",
            Some("true"),
            Some("false"),
        )],
    );
}

/// The port and the role come from the command line there.
#[test]
fn what_the_command_line_says_is_not_in_the_spec() {
    check(
        "20-lakebase",
        &[
            (
                "neon.privileged_role_name",
                Some("'neon_superuser'"),
                Some("'my_superuser'"),
            ),
            ("port", Some("5432"), Some("55433")),
        ],
    );
}

#[test]
fn a_list_of_addresses_with_a_hole_is_not_written() {
    let mut spec = spec(Flavor::Neon);
    let hole = ShardLocation {
        libpq: None,
        ..spec.pageservers.shards[0].clone()
    };
    spec.pageservers.shards.push(hole);
    let conf = effective(&render_postgresql_conf(&spec, &facts()));
    assert_eq!(conf.get("neon.pageserver_connstring"), None);
}

#[test]
fn the_stripe_size_comes_before_the_addresses() {
    let mut spec = spec(Flavor::Neon);
    spec.pageservers.stripe_size = Some(2048);
    let conf = render_postgresql_conf(&spec, &facts());
    let position = |name: &str| conf.find(name).unwrap();
    assert!(position("neon.stripe_size") < position("neon.pageserver_connstring"));
}

#[test]
fn strict_overcommit_moves_shared_memory_into_files() {
    let facts = ConfFacts {
        strict_overcommit: true,
        ..facts()
    };
    for flavor in [Flavor::Neon, Flavor::Vanilla] {
        let conf = effective(&render_postgresql_conf(&spec(flavor), &facts));
        assert_eq!(conf["dynamic_shared_memory_type"], "mmap");
    }
}

#[test]
fn no_spec_can_override_what_glowplug_owns() {
    for flavor in [Flavor::Neon, Flavor::Vanilla] {
        let plain = spec(flavor);
        let mut hostile = plain.clone();
        for owned in crate::spec::owned_settings(flavor) {
            for value in ["on", "off", "0", "x"] {
                if !owned.allows(Some(value)) {
                    hostile.postgres.settings.push(text(owned.name, value));
                    let name = owned.name.to_uppercase();
                    hostile.postgres.settings.push(setting(&name, value));
                }
            }
        }
        let render = |spec: &ComputeSpec| effective(&render_postgresql_conf(spec, &facts()));
        assert_eq!(render(&hostile), render(&plain));

        let settings = std::mem::take(&mut hostile.postgres.settings);
        let lines = settings.iter().map(|setting| {
            let value = setting.value.clone().unwrap_or_default();
            format!("\t{} '{value}' # by hand\n", setting.name)
        });
        hostile.postgres.verbatim_conf = Some(lines.collect());
        assert_eq!(render(&hostile), render(&plain));
    }
}

#[test]
fn a_spec_may_raise_what_the_relay_only_needs_at_least() {
    let mut spec = spec(Flavor::Vanilla);
    spec.postgres.settings = vec![
        text("wal_level", "logical"),
        setting("max_wal_senders", "20"),
        setting("full_page_writes", "on"),
    ];
    let conf = effective(&render_postgresql_conf(&spec, &facts()));
    assert_eq!(conf["wal_level"], "'logical'");
    assert_eq!(conf["max_wal_senders"], "20");
    assert_eq!(conf["full_page_writes"], "on");
}

#[test]
fn a_text_may_say_what_a_setting_may() {
    let mut spec = spec(Flavor::Vanilla);
    spec.postgres.verbatim_conf =
        Some("wal_level = logical\nlisten_addresses = '*'\njit = off".to_owned());
    let conf = render_postgresql_conf(&spec, &facts());
    let conf = effective(&conf);
    assert_eq!(conf["wal_level"], "logical");
    assert_eq!(conf["listen_addresses"], "'*'");
    assert_eq!(conf["jit"], "off");
}

#[test]
fn the_text_of_a_vanilla_primary_reads_well() {
    let mut spec = spec(Flavor::Vanilla);
    spec.postgres.verbatim_conf = Some("jit = off\nport = 1".to_owned());
    spec.postgres.settings = vec![setting("max_connections", "200"), text("x.y", "it's")];
    insta::assert_snapshot!(render_postgresql_conf(&spec, &facts()));
}

#[test]
fn the_text_of_a_vanilla_replica_reads_well() {
    let mut spec = spec(Flavor::Vanilla);
    spec.mode = ComputeMode::Replica;
    spec.safekeepers.endpoints = vec!["sk-1:5454".to_owned(), "[fd00::2]:5455".to_owned()];
    let facts = ConfFacts {
        safekeeper_token: true,
        ..facts()
    };
    insta::assert_snapshot!(render_postgresql_conf(&spec, &facts));
}

#[test]
fn neons_postgres_is_told_the_same_of_tls_as_glowplug_does() {
    let lines = |tls: StorageTls, address: &str| {
        let mut spec = spec(Flavor::Neon);
        spec.storage_tls = tls;
        spec.pageservers.shards[0].libpq = Some(address.to_owned());
        let conf = effective(&render_postgresql_conf(&spec, &facts()));
        let value = |name: &str| conf.get(name).cloned();
        (
            value("neon.pageserver_connstring").unwrap(),
            value("neon.safekeeper_conninfo_options"),
        )
    };
    let url = "postgres://no_user@ps-1:6400";
    let (connstring, options) = lines(StorageTls::default(), url);
    assert_eq!(
        (connstring.as_str(), options),
        ("'postgres://no_user@ps-1:6400'", None)
    );

    let pem = StorageTls {
        mode: None,
        roots: Some(TlsRoots::Pem("certificates".to_owned())),
    };
    let mut of_pem = spec(Flavor::Neon);
    of_pem.storage_tls = pem.clone();
    let (file, content) = storage_tls::authorities_file(&of_pem).unwrap();
    assert_eq!(content, "certificates");
    let (connstring, options) = lines(pem.clone(), url);
    assert_eq!(
        connstring,
        format!("'{url}?sslmode=verify-full&sslrootcert={file}'")
    );
    assert_eq!(
        options.unwrap(),
        format!("'sslmode=verify-full sslrootcert={file}'")
    );
    // What an address says itself stays.
    let own = "host=ps-1 sslmode=require";
    assert_eq!(lines(pem, own).0, format!("'{own}'"));

    let by_mode = |mode| StorageTls {
        mode: Some(mode),
        roots: None,
    };
    assert_eq!(
        lines(by_mode(TlsMode::Require), "host=ps-1").0,
        "'host=ps-1 sslmode=require'"
    );
    assert_eq!(
        lines(by_mode(TlsMode::VerifyFull), "host=ps-1").0,
        "'host=ps-1 sslmode=verify-full sslrootcert=/etc/ssl/certs/ca-certificates.crt'"
    );
}

#[test]
fn a_generation_of_safekeepers_stands_before_their_list() {
    let mut spec = spec(Flavor::Neon);
    spec.safekeepers.generation = Some(3);
    spec.safekeepers.endpoints = vec!["sk-2:5454".to_owned(), "sk-4:5454".to_owned()];
    let conf = effective(&render_postgresql_conf(&spec, &facts()));
    assert_eq!(conf["neon.safekeepers"], "'g#3:sk-2:5454,sk-4:5454'");
}

#[test]
fn the_text_of_a_neon_primary_reads_well() {
    let mut spec = spec(Flavor::Neon);
    spec.postgres.settings = vec![text("shared_preload_libraries", "neon")];
    insta::assert_snapshot!(render_postgresql_conf(&spec, &facts()));
}
