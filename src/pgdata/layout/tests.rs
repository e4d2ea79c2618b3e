//! What a directory holds once it is finished.

use std::os::unix::fs::PermissionsExt;

use tempfile::{TempDir, tempdir};

use super::*;
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::secret::Secret;
use crate::spec::{NeonFields, PostgresSpec, RemovedObjects, SafekeeperSet, ShardMap};

fn spec(flavor: Flavor, mode: ComputeMode) -> ComputeSpec {
    ComputeSpec {
        tenant_id: TenantId([1; 16]),
        timeline_id: TimelineId([2; 16]),
        mode,
        postgres: PostgresSpec {
            version: None,
            flavor,
            port: 5432,
            settings: Vec::new(),
            verbatim_conf: None,
        },
        safekeepers: SafekeeperSet::default(),
        pageservers: ShardMap::default(),
        storage_controller: None,
        storage_token: Some(Secret::new("a:b")),
        storage_tls: crate::spec::StorageTls::default(),
        roles: Vec::new(),
        databases: Vec::new(),
        delta_operations: Vec::new(),
        removed_objects: RemovedObjects::Keep,
        skip_catalog_updates: false,
        neon: NeonFields::default(),
    }
}

fn facts() -> ConfFacts {
    ConfFacts {
        trust_loopback: false,
        internal_http_port: 3081,
        privileged_role: "neon_superuser".to_owned(),
        strict_overcommit: false,
        socket_dir: "/tmp".to_owned(),
        listen_addresses: "*".to_owned(),
        safekeeper_token: true,
    }
}

fn finished(
    flavor: Flavor,
    mode: ComputeMode,
    files: &[(&str, &str)],
) -> (TempDir, Result<(), Error>) {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("pg_dynshmem")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let result = finish(dir.path(), &spec(flavor, mode), &facts(), None);
    (dir, result)
}

fn read(dir: &TempDir, name: &str) -> Option<String> {
    fs::read_to_string(dir.path().join(name)).ok()
}

#[test]
fn the_signal_of_an_old_pageserver_gets_its_new_name() {
    let files = [(ZENITH_SIGNAL, "PREV LSN: 0/8")];
    let (dir, result) = finished(Flavor::Neon, ComputeMode::Primary, &files);
    result.unwrap();
    assert_eq!(read(&dir, NEON_SIGNAL).as_deref(), Some("PREV LSN: 0/8"));
}

#[test]
fn a_primary_that_could_not_write_is_refused_before_postgres_starts() {
    let files = [(NEON_SIGNAL, READ_ONLY)];
    let (_dir, result) = finished(Flavor::Neon, ComputeMode::Primary, &files);
    assert!(matches!(result, Err(Error::ReadOnlyBackup { .. })));
    let (_dir, result) = finished(Flavor::Neon, ComputeMode::Static(Lsn(8)), &files);
    result.unwrap();
}

#[test]
fn whoever_only_reads_is_a_standby() {
    for (mode, standby) in [
        (ComputeMode::Primary, false),
        (ComputeMode::Replica, true),
        (ComputeMode::Static(Lsn(8)), true),
    ] {
        for flavor in [Flavor::Neon, Flavor::Vanilla] {
            let (dir, result) = finished(flavor, mode, &[]);
            result.unwrap();
            assert_eq!(read(&dir, "standby.signal").is_some(), standby);
        }
    }
}

#[test]
fn shared_memory_of_neons_postgres_is_in_memory() {
    let (dir, result) = finished(Flavor::Neon, ComputeMode::Primary, &[]);
    result.unwrap();
    let link = fs::read_link(dir.path().join("pg_dynshmem")).unwrap();
    assert_eq!(link, Path::new("/dev/shm/"));
}

#[test]
fn access_rules_of_a_vanilla_backup_are_replaced() {
    let files = [("pg_hba.conf", "host all all 0.0.0.0/0 trust\n")];
    let (dir, result) = finished(Flavor::Vanilla, ComputeMode::Primary, &files);
    result.unwrap();
    assert_eq!(read(&dir, "pg_hba.conf"), Some(hba::vanilla(false)));
    assert_eq!(read(&dir, PASSWORD_FILE), None);
}

#[test]
fn a_replicas_token_is_in_a_private_file() {
    let (dir, result) = finished(Flavor::Vanilla, ComputeMode::Replica, &[]);
    result.unwrap();
    assert_eq!(
        read(&dir, PASSWORD_FILE).as_deref(),
        Some("*:*:*:*:a\\:b\n")
    );
    let mode = fs::metadata(dir.path().join(PASSWORD_FILE)).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_override_ends_as_an_empty_file() {
    let dir = tempdir().unwrap();
    set_temp_override(dir.path(), true, None).unwrap();
    assert_eq!(
        read(&dir, TEMP_OVERRIDE_FILE).as_deref(),
        Some("neon.max_cluster_size=-1")
    );
    set_temp_override(dir.path(), false, None).unwrap();
    assert_eq!(read(&dir, TEMP_OVERRIDE_FILE).as_deref(), Some(""));
}
