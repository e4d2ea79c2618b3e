//! What changes need.

use super::*;
use crate::pgwire::TlsMode;
use crate::secret::Secret;
use crate::spec::{ComputeMode, DeltaOperation, no_secrets, parse_document};

const BASE: &str = include_str!("../../../examples/compute.yaml");

fn base() -> ComputeSpec {
    parse_document(BASE, &no_secrets).unwrap().spec.unwrap()
}

/// The work of a change to the base, which is of flavor Vanilla.
fn work(change: impl FnOnce(&mut ComputeSpec)) -> Work {
    let mut new = base();
    change(&mut new);
    between(&base(), &new).unwrap()
}

fn setting(name: &str, value: &str) -> Setting {
    Setting {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        is_string: true,
    }
}

#[test]
fn the_same_needs_nothing() {
    assert!(work(|_| {}).is_nothing());
    assert_eq!(work(|_| {}).to_string(), "nothing to do\n");
}

#[test]
fn a_compute_keeps_its_identity() {
    let mut new = base();
    new.tenant_id.0[0] ^= 1;
    new.timeline_id.0[0] ^= 1;
    let errors = between(&base(), &new).unwrap_err();
    assert_eq!(errors.reason(), Reason::ImmutableFieldChanged);
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["spec.tenantId", "spec.timelineId"]);
}

#[test]
fn a_major_version_may_be_named_but_not_changed() {
    let with = |version| {
        let mut spec = base();
        spec.postgres.version = version;
        spec
    };
    assert!(between(&with(None), &with(Some(15))).is_ok());
    assert!(between(&with(Some(15)), &with(None)).is_ok());
    let errors = between(&with(Some(15)), &with(Some(16))).unwrap_err();
    assert_eq!(errors.reason(), Reason::ImmutableFieldChanged);
}

#[test]
fn a_setting_reloads_and_says_if_that_is_not_enough() {
    let reload = work(|spec| spec.postgres.settings.push(setting("work_mem", "8MB")));
    assert!(reload.reload && reload.restart.is_empty(), "{reload:?}");
    let restart = work(|spec| {
        spec.postgres
            .settings
            .push(setting("Max_Connections", "60"));
        spec.postgres.verbatim_conf = Some("wal_buffers = 1MB\nport = 1\n".to_owned());
    });
    assert_eq!(restart.restart, ["max_connections", "wal_buffers"]);
    // The last one wins, so this changes nothing that postgres would notice.
    let shadowed = work(|spec| {
        spec.postgres
            .settings
            .insert(0, setting("max_connections", "9"));
    });
    assert!(shadowed.restart.is_empty(), "{shadowed:?}");
}

#[test]
fn a_flavor_of_its_own_wal_reloads_where_the_other_tells_the_relay() {
    let change = |spec: &mut ComputeSpec| {
        spec.safekeepers.generation = Some(2);
        spec.storage_token = Some(Secret::new("rotated"));
    };
    let vanilla = work(change);
    assert!(vanilla.safekeepers && !vanilla.reload && vanilla.restart.is_empty());

    let mut old = base();
    old.postgres.flavor = Flavor::Neon;
    let mut new = old.clone();
    change(&mut new);
    let neon = between(&old, &new).unwrap();
    assert!(neon.safekeepers && neon.reload);
    assert_eq!(neon.restart, ["storage.tokenSecretRef"]);

    let mut encrypted = old.clone();
    encrypted.storage_tls.mode = Some(TlsMode::Require);
    let neon = between(&old, &encrypted).unwrap();
    assert!(neon.reload);
    assert_eq!(neon.restart, ["storage.tls"]);
}

#[test]
fn a_plan_names_each_kind_of_work() {
    let work = work(|spec| {
        spec.mode = ComputeMode::Replica;
        spec.postgres
            .settings
            .push(setting("shared_buffers", "1GB"));
        spec.safekeepers.endpoints.push("sk-9:5454".to_owned());
        let gone = DeltaOperation::DeleteRole("gone".to_owned());
        spec.delta_operations.push(gone);
        spec.neon.autoprewarm = true;
    });
    insta::assert_snapshot!(work, @r"
    changed: mode, postgres.settings, storage.safekeepers, deltaOperations, localFileCache.autoprewarm
    now: reload postgresql.conf
    now: change over to the new safekeepers
    now: compare roles and databases
    after a restart of postgres: mode, shared_buffers
    at the next start: localFileCache.autoprewarm
    ");
}

#[test]
fn each_name_of_the_table_is_a_field_of_the_resource() {
    let crd = serde_json::to_value(crate::spec::crd()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    for field in FIELDS {
        let path = field.name.replace('.', "/properties/");
        let pointer = format!("{spec}/properties/{path}");
        assert!(crd.pointer(&pointer).is_some(), "{}", field.name);
    }
}
