//! The text against what compute_ctl wrote for the same spec, and as it reads.

use std::collections::BTreeMap;

use super::*;
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::spec::{
    ComputeMode, NeonFields, PageserverProtocol, PostgresSpec, RemovedObjects, SafekeeperSet,
    Setting, ShardLocation, ShardMap,
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
        pageservers: shards(&[Some("ps-1")]),
        storage_controller: None,
        storage_token: None,
        roles: Vec::new(),
        databases: Vec::new(),
        delta_operations: Vec::new(),
        removed_objects: RemovedObjects::Keep,
        skip_catalog_updates: false,
        neon: NeonFields::default(),
    }
}

fn shards(hosts: &[Option<&str>]) -> ShardMap {
    let count = if hosts.len() == 1 {
        0
    } else {
        hosts.len() as u8
    };
    let shard = |(number, host): (usize, Option<&str>)| ShardLocation {
        index: ShardIndex {
            number: number as u8,
            count,
        },
        node_id: None,
        libpq: host.map(|host| format!("postgres://no_user@{host}:6400")),
        grpc: None,
        http: None,
    };
    ShardMap {
        stripe_size: (count > 0).then_some(2048),
        prefer_protocol: PageserverProtocol::Libpq,
        shards: hosts.iter().copied().enumerate().map(shard).collect(),
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

/// Settings whose values differ from upstream's, ours first.
fn differences(
    spec: &ComputeSpec,
    upstream: &str,
) -> Vec<(String, Option<String>, Option<String>)> {
    let ours = effective(&render_postgresql_conf(spec, &facts()));
    let upstream = effective(upstream);
    let names: std::collections::BTreeSet<_> = ours.keys().chain(upstream.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            (
                name.clone(),
                ours.get(name).cloned(),
                upstream.get(name).cloned(),
            )
        })
        .filter(|(_, ours, upstream)| ours != upstream)
        .collect()
}

macro_rules! upstream {
    ($case:literal) => {
        include_str!(concat!(
            "../../../tests/fixtures/compute_ctl/specs/",
            $case,
            "/postgresql.conf"
        ))
    };
}

#[test]
fn a_minimal_primary_is_configured_as_upstream_does() {
    let spec = spec(Flavor::Neon);
    assert_eq!(differences(&spec, upstream!("01-primary-minimal")), []);
}

#[test]
fn odd_values_are_quoted_as_upstream_does() {
    let mut spec = spec(Flavor::Neon);
    spec.neon.project_id = Some("prj-'1".to_owned());
    spec.neon.branch_id = Some("br\\1".to_owned());
    spec.neon.endpoint_id = Some("ep 1".to_owned());
    spec.postgres.settings = vec![
        setting("port", "55433"),
        setting("fsync", "off"),
        setting("max_connections", "100"),
        text("log_line_prefix", "it's %m \\ [%p] "),
        text("application_name", ""),
        setting("work_mem", "8MB"),
        text("search_path", "\"$user\", public"),
        text("my.unicode", "naïve 🐘"),
        text("my.double", "a\"b"),
        text("my.hash", "a # b"),
        text("my.many", "''\\\\''"),
        setting("autovacuum", "on"),
        setting("port", "55433"),
        setting("bgwriter_lru_multiplier", "2.5"),
        setting("restart_after_crash", "off"),
    ];
    assert_eq!(differences(&spec, upstream!("02-settings-quoting")), []);
}

#[test]
fn a_static_compute_stops_at_its_lsn() {
    let mut spec = spec(Flavor::Neon);
    spec.mode = ComputeMode::Static(Lsn(0x151_1A88));
    spec.safekeepers = SafekeeperSet::default();
    spec.postgres.settings = vec![setting("fsync", "off"), setting("max_connections", "100")];
    assert_eq!(differences(&spec, upstream!("03-static")), []);
}

#[test]
fn a_replica_may_repeat_what_it_is_given() {
    let mut spec = spec(Flavor::Neon);
    spec.mode = ComputeMode::Replica;
    spec.neon.endpoint_id = Some("ep-replica".to_owned());
    spec.postgres.settings = vec![
        setting("fsync", "off"),
        setting("max_connections", "100"),
        setting("hot_standby", "on"),
        setting("recovery_prefetch", "off"),
        text("primary_slot_name", "repl_9a8b7c6d_"),
    ];
    assert_eq!(differences(&spec, upstream!("04-replica")), []);
}

#[test]
fn shards_and_generation_are_written_in_order() {
    let mut spec = spec(Flavor::Neon);
    spec.pageservers = shards(&[Some("ps-1"), Some("ps-2"), Some("ps-1"), Some("ps-2")]);
    spec.safekeepers.generation = Some(7);
    spec.neon.project_id = Some("prj-1".to_owned());
    spec.neon.branch_id = Some("br-1".to_owned());
    spec.neon.endpoint_id = Some("ep-1".to_owned());
    spec.postgres.settings = vec![setting("fsync", "off"), setting("max_connections", "100")];
    assert_eq!(differences(&spec, upstream!("05-sharded-generation")), []);
    let conf = render_postgresql_conf(&spec, &facts());
    let position = |name: &str| conf.find(name).unwrap();
    assert!(position("neon.stripe_size") < position("neon.pageserver_connstring"));
}

#[test]
fn a_shard_without_an_address_leaves_all_out() {
    let mut spec = spec(Flavor::Neon);
    spec.pageservers = shards(&[Some("ps-1"), None]);
    spec.postgres.settings = vec![setting("fsync", "off"), setting("max_connections", "100")];
    assert_eq!(
        differences(&spec, upstream!("18-some-shard-without-libpq")),
        []
    );
}

/// Upstream lets the setting win over the field, although it syncs the safekeepers
/// that the field names. Here the field wins.
#[test]
fn a_setting_cannot_contradict_the_field_it_belongs_to() {
    let mut spec = spec(Flavor::Neon);
    spec.postgres.verbatim_conf = Some(
        "# from the template\nfsync=off\nport=55433\nmax_connections = 50\n\
         neon.safekeepers='from-the-template:1'\n\
         shared_preload_libraries='neon,pg_stat_statements'\nlog_line_prefix = '%m '"
            .to_owned(),
    );
    spec.postgres.settings = vec![
        setting("max_connections", "60"),
        text("neon.safekeepers", "from-the-settings:1"),
    ];
    assert_eq!(
        differences(&spec, upstream!("17-conf-text-and-settings")),
        [(
            "neon.safekeepers".to_owned(),
            Some("'sk-1:5454,sk-2:5454,sk-3:5454'".to_owned()),
            Some("'from-the-settings:1'".to_owned()),
        )]
    );
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
        let render = |spec| effective(&render_postgresql_conf(spec, &facts()));
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
fn the_text_of_a_vanilla_primary_reads_well() {
    let mut spec = spec(Flavor::Vanilla);
    spec.postgres.verbatim_conf = Some("jit = off".to_owned());
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
fn the_text_of_a_neon_primary_reads_well() {
    let mut spec = spec(Flavor::Neon);
    spec.postgres.settings = vec![text("shared_preload_libraries", "neon")];
    insta::assert_snapshot!(render_postgresql_conf(&spec, &facts()));
}
