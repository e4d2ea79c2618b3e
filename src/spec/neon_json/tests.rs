//! Neon's JSON, as recorded and as made up.

#![expect(clippy::needless_pass_by_value, reason = "cases are written in place")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::spec::{AuditLevel, ComputeMode, DeltaOperation, Flavor, PRIVILEGED_ROLE};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compute_ctl/specs")
}

/// Every recorded configuration, by the name of its folder.
fn configurations() -> Vec<(String, Vec<u8>)> {
    fn walk(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.ends_with("config.json") {
                let name = folder.strip_prefix(recorded()).unwrap();
                found.push((name.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&recorded(), &mut found);
    found.sort();
    assert!(found.len() > 25, "{} recordings", found.len());
    found
}

fn recording(name: &str) -> Resolved {
    let path = recorded().join(name).join("config.json");
    let config: ComputeConfig = read(&std::fs::read(path).unwrap()).unwrap();
    resolve(&config.spec.unwrap(), "spec").unwrap()
}

/// The smallest specification of a Primary, with `fields` on top.
fn minimal(fields: Value) -> Value {
    let mut spec = json!({
        "format_version": 1.0, "suspend_timeout_seconds": -1,
        "tenant_id": "0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f",
        "timeline_id": "9a8b7c6d5e4f30211203f4e5d6c7b8a9",
        "pageserver_connstring": "postgres://no_user@ps-1:6400",
        "safekeeper_connstrings": ["sk-1:5454"],
        "cluster": {"roles": [], "databases": []},
    });
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

/// The same without some fields.
fn without(mut spec: Value, fields: &[&str]) -> Value {
    for field in fields {
        spec.as_object_mut().unwrap().remove(*field);
    }
    spec
}

fn resolved(spec: &Value) -> Result<Resolved, Errors> {
    resolve(&read::<Spec>(spec.to_string().as_bytes())?, "")
}

fn accepted(spec: &Value) -> ComputeSpec {
    match resolved(spec) {
        Ok(resolved) => resolved.spec,
        Err(errors) => panic!("{errors}\n{spec}"),
    }
}

fn refused(spec: &Value) -> String {
    match resolved(spec) {
        Ok(resolved) => panic!("accepted: {resolved:?}"),
        Err(errors) => errors.to_string(),
    }
}

fn with_settings(settings: &[(&str, Value, &str)]) -> Value {
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value, vartype)| json!({"name": name, "value": value, "vartype": vartype}))
        .collect();
    json!({"roles": [], "databases": [], "settings": settings})
}

#[test]
fn recordings_are_read_as_upstream_reads_them() {
    // Upstream reads these three as well, and then postgres does not start, or looks for
    // its pages on the local disk.
    let worse = [
        (
            "18-some-shard-without-libpq",
            "shards.0102: has no libpq_url",
        ),
        (
            "f1-setting-null-value",
            "settings[3].value: work_mem has no value",
        ),
        (
            "f2-setting-newline",
            "settings[3].value: the value of my.text holds a line break",
        ),
    ];
    for (name, config) in configurations() {
        let config: ComputeConfig = read(&config).unwrap();
        let result = resolve(&config.spec.unwrap(), "spec");
        match worse.iter().find(|(worse, _)| *worse == name) {
            Some((_, expected)) => {
                let errors = result.unwrap_err().to_string();
                assert!(errors.contains(expected), "{name}: {errors}");
            }
            None => assert!(result.is_ok(), "{name}: {}", result.unwrap_err()),
        }
    }
}

#[test]
fn every_field_of_a_recording_is_written_again() {
    fn contains(whole: &Value, part: &Value) -> bool {
        match (whole, part) {
            (Value::Object(whole), Value::Object(part)) => part
                .iter()
                .all(|(name, value)| whole.get(name).is_some_and(|whole| contains(whole, value))),
            (Value::Array(whole), Value::Array(part)) => {
                whole.len() == part.len()
                    && whole
                        .iter()
                        .zip(part)
                        .all(|(whole, part)| contains(whole, part))
            }
            (Value::Number(whole), Value::Number(part)) => whole.as_f64() == part.as_f64(),
            _ => whole == part,
        }
    }
    for (name, text) in configurations() {
        let config: ComputeConfig = read(&text).unwrap();
        let written = serde_json::to_value(&config).unwrap();
        let recorded: Value = serde_json::from_slice(&text).unwrap();
        assert!(contains(&written, &recorded), "{name}: {written:#}");
    }
}

#[test]
fn a_recording_survives_the_internal_form() {
    for (name, config) in configurations() {
        let config: ComputeConfig = read(&config).unwrap();
        if let Ok(resolved) = resolve(&config.spec.unwrap(), "spec") {
            let again = parse(to_json(&resolved.spec).as_bytes());
            assert_eq!(again, Ok(resolved.spec), "{name}");
        }
    }
}

#[test]
fn what_is_absent_has_upstreams_default() {
    let spec = accepted(&minimal(json!({})));
    assert_eq!(spec.mode, ComputeMode::Primary);
    assert_eq!(spec.postgres.flavor, Flavor::Neon);
    assert_eq!(spec.postgres.port, 5432);
    assert_eq!(spec.neon.audit_log_level, AuditLevel::Disabled);
    assert_eq!(spec.neon.reconfigure_concurrency, None);
    assert!(!spec.skip_catalog_updates && !spec.neon.autoprewarm);
    assert_eq!(spec.removed_objects, crate::spec::RemovedObjects::Keep);
}

#[test]
fn null_counts_as_absent_only_where_upstream_says_so() {
    for field in [
        "operation_uuid",
        "delta_operations",
        "pageserver_connection_info",
        "storage_auth_token",
        "remote_extensions",
        "pgbouncer_settings",
        "local_proxy_config",
        "offload_lfc_interval_seconds",
        "databricks_settings",
        "safekeepers_generation",
    ] {
        let null = accepted(&minimal(json!({field: null})));
        assert_eq!(null, accepted(&minimal(json!({}))), "{field}");
    }
    for field in [
        "features",
        "skip_pg_catalog_updates",
        "safekeeper_connstrings",
        "mode",
        "reconfigure_concurrency",
        "drop_subscriptions_before_start",
        "audit_log_level",
        "autoprewarm",
        "format_version",
        "suspend_timeout_seconds",
        "cluster",
    ] {
        let errors = refused(&minimal(json!({field: null})));
        assert!(errors.starts_with(field), "{errors}");
    }
}

#[test]
fn what_upstream_requires_is_required() {
    for field in ["format_version", "suspend_timeout_seconds", "cluster"] {
        let errors = refused(&without(minimal(json!({})), &[field]));
        assert!(
            errors.contains(&format!("missing field `{field}`")),
            "{errors}"
        );
    }
    for field in ["tenant_id", "timeline_id"] {
        let errors = refused(&without(minimal(json!({})), &[field]));
        assert!(
            errors.starts_with(&format!("{field}: is missing")),
            "{errors}"
        );
    }
    let errors = refused(&without(minimal(json!({})), &["pageserver_connstring"]));
    assert!(
        errors.starts_with("pageserver_connection_info: is missing"),
        "{errors}"
    );
}

#[test]
fn unknown_words_are_tolerated_where_upstream_does() {
    let spec = accepted(&minimal(json!({
        "timestamp": "2026-01-01T00:00:00Z",
        "features": ["tls_experimental", "some_future_flag"],
        "format_version": 1,
    })));
    assert_eq!(spec.neon.features, ["tls_experimental", "some_future_flag"]);
    for (field, value) in [
        ("mode", json!("Secondary")),
        ("mode", json!({"Static": 23_637_336})),
        ("audit_log_level", json!("Everything")),
        ("format_version", json!("1.0")),
        ("offload_lfc_interval_seconds", json!(0)),
        ("tenant_id", json!("0d5f3f2c")),
    ] {
        let errors = refused(&minimal(json!({field: value})));
        assert!(errors.starts_with(field), "{errors}");
    }
}

#[test]
fn a_static_lsn_has_one_spelling_on_output() {
    let spec = accepted(&minimal(json!({"mode": {"Static": "0/169ad58"}})));
    assert!(to_json(&spec).contains(r#""Static": "0/169AD58""#));
    let errors = refused(&minimal(json!({"mode": {"Static": "0/0"}})));
    assert!(
        errors.starts_with("mode.Static: 0/0 is no position"),
        "{errors}"
    );
}

#[test]
fn deprecated_levels_mean_their_successors() {
    for (word, level) in [
        ("Log", AuditLevel::Base),
        ("Base", AuditLevel::Base),
        ("Hipaa", AuditLevel::Extended),
        ("Extended", AuditLevel::Extended),
        ("Full", AuditLevel::Full),
    ] {
        let spec = accepted(&minimal(json!({"audit_log_level": word})));
        assert_eq!(spec.neon.audit_log_level, level, "{word}");
    }
}

#[test]
fn older_specs_keep_locations_in_the_settings() {
    let spec = recording("07-legacy-settings").spec;
    assert_eq!(
        spec.tenant_id.to_string(),
        "0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f"
    );
    assert_eq!(
        spec.safekeepers.endpoints,
        ["sk-1:5454", "sk-2:5454", "sk-3:5454"]
    );
    let shard = &spec.pageservers.shards[0];
    assert_eq!(shard.libpq.as_deref(), Some("host=ps-1 port=6400"));
    assert_eq!(spec.postgres.port, 55433);
    let names: Vec<_> = spec
        .postgres
        .settings
        .iter()
        .map(|setting| &setting.name)
        .collect();
    assert_eq!(names, ["fsync", "max_connections"]);
}

#[test]
fn connection_strings_of_several_shards_need_a_stripe_size() {
    let spec = recording("06-legacy-connstring").spec;
    assert_eq!(spec.pageservers.stripe_size, Some(32768));
    let indexes: Vec<_> = spec
        .pageservers
        .shards
        .iter()
        .map(|shard| shard.index.to_string())
        .collect();
    assert_eq!(indexes, ["0002", "0102"]);

    let two = json!({"pageserver_connstring": "postgres://a,postgres://b"});
    let errors = refused(&minimal(two));
    assert!(
        errors.contains("lists 2 shards without a stripe size"),
        "{errors}"
    );
    let one = json!({"pageserver_connstring": "postgres://a,", "shard_stripe_size": 2048});
    let spec = accepted(&minimal(one));
    assert_eq!(spec.pageservers.stripe_size, None);
    assert_eq!(spec.pageservers.shards.len(), 1);
}

#[test]
fn every_shard_must_be_there() {
    let info = |shards: Value| {
        json!({"pageserver_connection_info": {
            "shard_count": 2, "stripe_size": 2048, "shards": shards,
        }})
    };
    let shard = json!({"pageservers": [{"id": 1, "libpq_url": "postgres://a", "grpc_url": null}]});
    let both = minimal(info(json!({"0002": shard, "0102": shard})));
    assert_eq!(accepted(&both).pageservers.shards.len(), 2);
    for (shards, expected) in [
        (json!({"0002": shard}), "shard 0102 is missing"),
        (
            json!({"0002": shard, "0102": {"pageservers": []}}),
            "shards.0102.pageservers: is empty",
        ),
        (
            json!({"0002": shard, "1-2": shard}),
            "'1-2' is not a shard index",
        ),
    ] {
        let errors = refused(&minimal(info(shards)));
        assert!(errors.contains(expected), "{errors}");
    }
    let unsharded = json!({"pageserver_connection_info": {
        "shard_count": 0, "stripe_size": null, "shards": {"0001": shard},
    }});
    assert!(refused(&minimal(unsharded)).contains("shard 0000 is missing"));
}

#[test]
fn the_preferred_transport_needs_its_addresses() {
    let info = |libpq: Value, grpc: Value, flavor: &str| {
        let server = json!({"id": 1, "libpq_url": libpq, "grpc_url": grpc});
        minimal(json!({
            "glowplug": {"flavor": flavor},
            "pageserver_connection_info": {
                "shard_count": 0, "stripe_size": null, "prefer_protocol": "grpc",
                "shards": {"0000": {"pageservers": [server]}},
            },
        }))
    };
    let (libpq, grpc) = (json!("postgres://ps:6400"), json!("grpc://ps:51051"));
    accepted(&info(libpq.clone(), grpc.clone(), "Neon"));
    accepted(&info(Value::Null, grpc.clone(), "Vanilla"));
    assert!(refused(&info(Value::Null, grpc, "Neon")).contains("has no libpq_url"));
    assert!(refused(&info(libpq.clone(), Value::Null, "Neon")).contains("has no grpc_url"));
    let errors = refused(&info(libpq, json!("http://ps"), "Neon"));
    assert!(errors.contains("its grpc address is malformed"), "{errors}");
}

#[test]
fn a_primary_needs_safekeepers_that_differ() {
    let empty = json!({"safekeeper_connstrings": []});
    let errors = refused(&minimal(empty.clone()));
    assert!(
        errors.starts_with("safekeeper_connstrings: is empty"),
        "{errors}"
    );
    let twice = json!({"safekeeper_connstrings": ["a:1", "b:1", "a:1"]});
    let errors = refused(&minimal(twice.clone()));
    assert!(errors.contains("[2]: 'a:1' stands there twice"), "{errors}");
    for fields in [empty, twice] {
        let mut replica = minimal(fields);
        replica["mode"] = json!("Replica");
        accepted(&replica);
    }
}

#[test]
fn a_field_wins_over_a_setting_with_a_note() {
    let resolved = recording("17-conf-text-and-settings");
    assert_eq!(resolved.spec.safekeepers.endpoints[0], "sk-1:5454");
    assert_eq!(resolved.spec.postgres.port, 55433);
    assert_eq!(
        resolved.notes,
        ["spec.cluster.settings[1] is ignored, as spec.safekeeper_connstrings says otherwise"]
    );
}

#[test]
fn a_control_plane_that_leans_on_the_settings_is_understood() {
    // molnett/neon-operator: URLs for safekeepers, ids in the settings only.
    let string = |text: &str| json!(text);
    let mut spec = without(
        minimal(json!({
            "safekeeper_connstrings": ["postgresql://postgres:@sk-1:5454", "postgresql://postgres:@sk-2:5454"],
        })),
        &["tenant_id", "timeline_id"],
    );
    spec["cluster"] = with_settings(&[
        ("neon.safekeepers", string("sk-1:5454,sk-2:5454"), "string"),
        (
            "neon.tenant_id",
            string("0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f"),
            "string",
        ),
        (
            "neon.timeline_id",
            string("9a8b7c6d5e4f30211203f4e5d6c7b8a9"),
            "string",
        ),
    ]);
    let resolved = resolved(&spec).unwrap();
    assert_eq!(
        resolved.spec.safekeepers.endpoints,
        ["sk-1:5454", "sk-2:5454"]
    );
    assert_eq!(
        resolved.notes,
        [
            "safekeeper_connstrings[0] is read as sk-1:5454: write host:port",
            "safekeeper_connstrings[1] is read as sk-2:5454: write host:port",
        ]
    );
}

#[test]
fn settings_that_glowplug_owns_are_dropped_with_a_note() {
    let spec = minimal(json!({"cluster": with_settings(&[
        ("neon.compute_mode", json!("replica"), "string"),
        ("hot_standby", json!("on"), "bool"),
        ("work_mem", json!("8MB"), "integer"),
    ])}));
    let resolved = resolved(&spec).unwrap();
    let names: Vec<_> = resolved
        .spec
        .postgres
        .settings
        .iter()
        .map(|setting| &setting.name)
        .collect();
    assert_eq!(names, ["hot_standby", "work_mem"]);
    assert_eq!(resolved.notes.len(), 1);
    assert!(resolved.notes[0].starts_with("cluster.settings[0]: neon.compute_mode is ignored; "));
}

#[test]
fn settings_that_break_the_file_are_refused() {
    for (name, value, expected) in [
        (
            "work_mem",
            Value::Null,
            "cluster.settings[0].value: work_mem has no value",
        ),
        (
            "a.b",
            json!("x\ny"),
            "cluster.settings[0].value: the value of a.b holds a line break",
        ),
        (
            "work mem",
            json!("1"),
            "cluster.settings[0].name: is no setting's name",
        ),
        (
            "include 'x'\n",
            json!("1"),
            "cluster.settings[0].name: is no setting's name",
        ),
        (
            "port",
            json!("99999"),
            "cluster.settings[0].value: is not a TCP port",
        ),
        ("neon.stripe_size", json!("x"), "is not a number of pages"),
    ] {
        let mut spec = minimal(json!({"cluster": with_settings(&[
            (name, value, "string"),
            ("neon.pageserver_connstring", json!("host=a,host=b"), "string"),
        ])}));
        if name == "neon.stripe_size" {
            spec = without(spec, &["pageserver_connstring"]);
        }
        let errors = refused(&spec);
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn roles_are_privileged_unless_a_jwt_opens_them() {
    let spec = recording("12-odd-names").spec;
    let role = |name: &str| spec.roles.iter().find(|role| role.name == name).unwrap();
    assert_eq!(role("simple").member_of, [PRIVILEGED_ROLE]);
    assert!(role("authenticated").member_of.is_empty());
    assert_eq!(role("with_options").options.len(), 2);
    assert_eq!(role("no password").password, None);
}

#[test]
fn a_role_that_stands_twice_is_noted() {
    let resolved = recording("f3-duplicate-role");
    assert_eq!(
        resolved.notes,
        [
            "spec.cluster.roles[1].name: 'twice' stands there twice, first at \
          spec.cluster.roles[0].name; the first one counts"
        ]
    );
}

#[test]
fn names_that_postgres_refuses_are_refused() {
    for name in ["pg_mine", "public", "none", "", &"x".repeat(64)] {
        let cluster = json!({"roles": [{"name": name}], "databases": []});
        let errors = refused(&minimal(json!({"cluster": cluster})));
        assert!(errors.starts_with("cluster.roles[0].name: "), "{errors}");
    }
}

#[test]
fn delta_operations_are_known_or_noted() {
    let resolved = recording("13-delta-operations");
    assert_eq!(resolved.spec.delta_operations.len(), 7);
    assert_eq!(
        resolved.spec.delta_operations[3],
        DeltaOperation::RenameDatabase {
            from: "old_name".to_owned(),
            to: "renamed".to_owned(),
        }
    );
    assert_eq!(
        resolved.notes,
        ["spec.delta_operations[7].action: 'unknown_action' is unknown and ignored"]
    );
    let rename = json!({"delta_operations": [{"action": "rename_db", "name": "a"}]});
    let errors = refused(&minimal(rename));
    assert!(
        errors.starts_with("delta_operations[0].new_name: is missing"),
        "{errors}"
    );
}

#[test]
fn no_concurrency_means_one_at_a_time() {
    let spec = accepted(&minimal(json!({"reconfigure_concurrency": 0})));
    assert_eq!(spec.neon.reconfigure_concurrency, Some(1));
}

#[test]
fn the_order_of_pgbouncer_settings_is_kept() {
    let text = minimal(json!({})).to_string();
    let settings = r#"{"pgbouncer_settings": {"z": "1", "a": "2", "m": "3"}, "#;
    let spec = parse(text.replacen('{', settings, 1).as_bytes()).unwrap();
    let keys: Vec<_> = spec
        .neon
        .pgbouncer_settings
        .iter()
        .flatten()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, ["z", "a", "m"]);
    let written = to_json(&spec);
    assert!(written.find("\"z\"").unwrap() < written.find("\"a\"").unwrap());
}

#[test]
fn envelopes_require_what_upstream_requires() {
    let control = json!({"jwks": {"keys": []}});
    let spec = minimal(json!({}));
    let text = |value: &Value| value.to_string().into_bytes();

    let config = json!({"compute_ctl_config": control, "format_version": "1.0"});
    assert_eq!(read::<ComputeConfig>(&text(&config)).unwrap().spec, None);
    let config = json!({"spec": spec});
    let errors = read::<ComputeConfig>(&text(&config))
        .unwrap_err()
        .to_string();
    assert!(
        errors.contains("missing field `compute_ctl_config`"),
        "{errors}"
    );

    let request = json!({"spec": null, "compute_ctl_config": control});
    assert!(read::<ConfigurationRequest>(&text(&request)).is_err());
    let request = json!({"spec": spec, "compute_ctl_config": control});
    assert!(read::<ConfigurationRequest>(&text(&request)).is_ok());

    let response = json!({"status": "detached", "compute_ctl_config": control});
    assert!(read::<ControlPlaneConfigResponse>(&text(&response)).is_err());
    let response = json!({"status": "empty", "compute_ctl_config": control});
    assert!(read::<ControlPlaneConfigResponse>(&text(&response)).is_ok());

    let promote = json!({"spec": spec, "wal_flush_lsn": "0/16B9188"});
    assert!(read::<PromoteConfig>(&text(&promote)).is_ok());

    let tls = json!({"jwks": {"keys": []}, "tls": {"key_path": "/k", "cert_path": "/c"}});
    let config = json!({"compute_ctl_config": tls});
    let control = read::<ComputeConfig>(&text(&config))
        .unwrap()
        .compute_ctl_config;
    assert_eq!(control.tls.unwrap().cert_path, "/c");
}

#[test]
fn errors_carry_the_path_and_never_a_secret() {
    let spec = minimal(json!({"storage_auth_token": {"hunter2": 1}}));
    let errors = refused(&spec);
    assert_eq!(errors, "storage_auth_token: is not text; correct the field");
    let roles =
        json!({"roles": [{"name": "a", "encrypted_password": ["hunter2"]}], "databases": []});
    let errors = refused(&minimal(json!({"cluster": roles})));
    assert!(
        errors.starts_with("cluster.roles[0].encrypted_password"),
        "{errors}"
    );
    assert!(!errors.contains("hunter2"), "{errors}");
    let trailing = format!("{}{{}}", minimal(json!({})));
    let errors = parse(trailing.as_bytes()).unwrap_err().to_string();
    assert!(errors.starts_with("trailing characters"), "{errors}");
}
