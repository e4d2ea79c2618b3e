//! Backups prepared for their first start, on a real PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers outside of test functions belong to tests"
)]

#[allow(dead_code, reason = "other test programs use it, too")]
mod cluster;
mod versions;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use cluster::{Bench, Postgres};
use glowplug::error::chain;
use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use glowplug::pgdata::{self, ConfFacts, control_file::ControlFile};
use glowplug::spec::{
    ComputeMode, ComputeSpec, Flavor, NeonFields, PostgresSpec, RemovedObjects, SafekeeperSet,
    ShardMap,
};
use glowplug::wire::wal_page::{LONG_HEADER_SIZE, PageHeader, page_magic};
use tokio_postgres::Client;

fn spec(mode: ComputeMode) -> ComputeSpec {
    ComputeSpec {
        tenant_id: TenantId([1; 16]),
        timeline_id: TimelineId([2; 16]),
        mode,
        postgres: PostgresSpec {
            version: None,
            flavor: Flavor::Vanilla,
            port: 5432,
            settings: Vec::new(),
            verbatim_conf: None,
        },
        safekeepers: SafekeeperSet::default(),
        pageservers: ShardMap::default(),
        storage_controller: None,
        storage_token: None,
        storage_tls: glowplug::spec::StorageTls::default(),
        roles: Vec::new(),
        databases: Vec::new(),
        delta_operations: Vec::new(),
        removed_objects: RemovedObjects::Keep,
        skip_catalog_updates: false,
        neon: NeonFields::default(),
    }
}

fn facts(bench: &Bench) -> ConfFacts {
    ConfFacts {
        trust_loopback: false,
        internal_http_port: 3081,
        privileged_role: "neon_superuser".to_owned(),
        strict_overcommit: false,
        socket_dir: bench.socket_dir(),
        listen_addresses: String::new(),
        safekeeper_token: false,
    }
}

fn configure(bench: &Bench, pgdata: &Path, mode: ComputeMode) {
    let (facts, spec) = (facts(bench), spec(mode));
    pgdata::write_conf(pgdata, &spec, &facts, bench.owner.as_ref()).unwrap();
    pgdata::finish(pgdata, &spec, &facts, bench.owner.as_ref()).unwrap();
}

async fn lsn(client: &Client, expression: &str) -> Lsn {
    let row = client
        .query_one(&format!("SELECT ({expression})::text"), &[])
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

async fn numbers(client: &Client) -> i64 {
    let row = client
        .query_one("SELECT count(*) FROM numbers", &[])
        .await
        .unwrap();
    row.get(0)
}

/// Where the server's WAL went on when it was started: its first checkpoint begins
/// there.
async fn start_lsn(postgres: &Postgres) -> Lsn {
    lsn(
        &postgres.connect().await,
        "SELECT redo_lsn FROM pg_control_checkpoint()",
    )
    .await
}

/// A base, and WAL behind it: rows up to an LSN, then more that are not to be seen.
struct History {
    base: std::path::PathBuf,
    wal: std::path::PathBuf,
    /// Behind 1000 rows.
    lsn: Lsn,
}

async fn history(bench: &Bench) -> History {
    let base = bench.initdb("base").await;
    let live = bench.copy(&base, "live").await;
    configure(bench, &live, ComputeMode::Primary);
    let postgres = bench
        .start(
            &live,
            1,
            &["synchronous_standby_names=", "wal_keep_size=1GB"],
        )
        .await;
    let client = postgres.connect().await;
    client
        .batch_execute(
            "CREATE TABLE numbers AS SELECT generate_series(1, 2000) AS n;
             UPDATE numbers SET n = n + 1;
             CHECKPOINT;
             DELETE FROM numbers WHERE n > 1001;
             CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 30000);",
        )
        .await
        .unwrap();
    let at = lsn(&client, "SELECT pg_current_wal_flush_lsn()").await;
    client
        .batch_execute("INSERT INTO numbers SELECT generate_series(1, 7); SELECT pg_switch_wal();")
        .await
        .unwrap();
    postgres.kill().await;
    assert!(at.segment() > 1, "the history spans segments");
    History {
        base,
        wal: live.join("pg_wal"),
        lsn: at,
    }
}

/// The base, and its WAL up to the LSN, as a complete backup brings them.
async fn unpacked(bench: &Bench, history: &History) -> std::path::PathBuf {
    let pgdata = bench.copy(&history.base, "fresh").await;
    let mut segments: Vec<_> = fs::read_dir(&history.wal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    segments.sort();
    for segment in segments {
        let to = pgdata.join("pg_wal").join(segment.file_name().unwrap());
        fs::copy(&segment, &to).unwrap();
        let owner = bench.owner.as_ref();
        std::os::unix::fs::chown(&to, owner.map(|o| o.uid), owner.map(|o| o.gid)).unwrap();
    }
    pgdata
}

async fn goes_on_exactly_at_the_lsn(bench: &Bench) {
    let history = history(bench).await;
    let pgdata = unpacked(bench, &history).await;
    let prepared =
        pgdata::prepare_vanilla(&pgdata, Some(history.lsn), ComputeMode::Primary).unwrap();
    assert!(prepared.replays);
    assert_eq!(prepared.lsn, history.lsn);
    configure(bench, &pgdata, ComputeMode::Primary);

    let postgres = bench
        .start(&pgdata, 2, &["synchronous_standby_names="])
        .await;
    let client = postgres.connect().await;
    assert!(postgres.log.contains("redo done"), "{}", postgres.log);
    assert_eq!(numbers(&client).await, 1000);
    assert_eq!(start_lsn(&postgres).await, history.lsn.skip_page_header());
    let tli = client
        .query_one("SELECT timeline_id FROM pg_control_checkpoint()", &[])
        .await;
    assert_eq!(tli.unwrap().get::<_, i32>(0), 1);
    client
        .batch_execute("INSERT INTO numbers VALUES (0)")
        .await
        .unwrap();
    postgres.stop().await;
}

#[tokio::test]
async fn a_static_compute_serves_its_lsn_and_takes_no_writes() {
    let bench = Bench::new();
    let history = history(&bench).await;
    let pgdata = unpacked(&bench, &history).await;
    let mode = ComputeMode::Static(history.lsn);
    pgdata::prepare_vanilla(&pgdata, Some(history.lsn), mode).unwrap();
    configure(&bench, &pgdata, mode);

    let postgres = bench.start(&pgdata, 2, &[]).await;
    let client = postgres.connect().await;
    assert_eq!(numbers(&client).await, 1000);
    assert_eq!(
        lsn(&client, "SELECT pg_last_wal_replay_lsn()").await,
        history.lsn
    );
    let refused = client.batch_execute("INSERT INTO numbers VALUES (0)").await;
    let refused = chain(&refused.unwrap_err());
    assert!(refused.contains("read-only transaction"), "{refused}");
    postgres.stop().await;
}

#[tokio::test]
async fn without_an_lsn_everything_that_is_there_is_replayed() {
    let bench = Bench::new();
    let history = history(&bench).await;
    let pgdata = unpacked(&bench, &history).await;
    let prepared = pgdata::prepare_vanilla(&pgdata, None, ComputeMode::Primary).unwrap();
    assert!(prepared.lsn > history.lsn);
    configure(&bench, &pgdata, ComputeMode::Primary);

    let postgres = bench
        .start(&pgdata, 2, &["synchronous_standby_names="])
        .await;
    assert_eq!(numbers(&postgres.connect().await).await, 1007);
    assert_eq!(start_lsn(&postgres).await, prepared.lsn.skip_page_header());
    postgres.stop().await;
}

#[tokio::test]
async fn a_base_without_wal_starts_without_replaying() {
    let bench = Bench::new();
    let pgdata = bench.initdb("base").await;
    let prepared = pgdata::prepare_vanilla(&pgdata, None, ComputeMode::Primary).unwrap();
    assert!(!prepared.replays);
    let again = pgdata::prepare_vanilla(&pgdata, Some(prepared.lsn), ComputeMode::Primary);
    assert_eq!(again.unwrap(), prepared);
    configure(&bench, &pgdata, ComputeMode::Primary);

    let postgres = bench
        .start(&pgdata, 2, &["synchronous_standby_names="])
        .await;
    assert!(postgres.log.contains("was shut down"), "{}", postgres.log);
    let client = postgres.connect().await;
    let first = lsn(&client, "SELECT pg_current_wal_insert_lsn()").await;
    assert_eq!(first, prepared.lsn);
    postgres.stop().await;
}

#[tokio::test]
async fn wal_that_does_not_reach_the_lsn_is_refused() {
    let bench = Bench::new();
    let history = history(&bench).await;
    let pgdata = bench.copy(&history.base, "fresh").await;
    let error = pgdata::prepare_vanilla(&pgdata, Some(history.lsn), ComputeMode::Primary);
    let error = error.unwrap_err();
    assert!(matches!(error, pgdata::Error::MissingWal { .. }), "{error}");
    let error = pgdata::prepare_vanilla(&pgdata, Some(Lsn(8)), ComputeMode::Primary);
    let error = error.unwrap_err();
    assert!(matches!(error, pgdata::Error::BaseTooNew { .. }), "{error}");
}

/// Turns a cluster that was shut down into what a Neon pageserver's `fullbackup`
/// brings: no WAL but page headers, no checkpoint (`pageserver/src/basebackup.rs`).
fn as_pageserver_backup(pgdata: &Path) -> Lsn {
    let path = pgdata.join("global/pg_control");
    let mut bytes = fs::read(&path).unwrap();
    let control = ControlFile::parse(&bytes).unwrap();
    let at = Lsn(control.checkpoint().0 + 120);
    bytes[32..40].fill(0);
    bytes[40..48].copy_from_slice(&at.0.to_le_bytes());
    let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    let crc_at = if version < 1800 { 288 } else { 292 };
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();

    let major = pgdata::read_pg_version(pgdata).unwrap();
    let page = Lsn(at.0 / WAL_PAGE_SIZE * WAL_PAGE_SIZE);
    let header = |address: Lsn, length: usize| PageHeader {
        magic: page_magic(major).unwrap(),
        info: 1,
        tli: 1,
        address,
        remaining_len: length as u32,
    };
    let first = Lsn(at.segment() * WAL_SEGMENT_SIZE);
    let mut long = Vec::new();
    let fake = at.segment_offset() as usize - LONG_HEADER_SIZE;
    header(first, fake).encode_long(control.system_identifier(), &mut long);
    let mut short = Vec::new();
    header(page, (at.0 - page.0) as usize - 24).encode(&mut short);

    let segment = pgdata.join("pg_wal").join(at.segment_file_name(1));
    let file = fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.set_len(0).unwrap();
    file.set_len(WAL_SEGMENT_SIZE).unwrap();
    file.write_all_at(&long, 0).unwrap();
    file.write_all_at(&short, page.segment_offset()).unwrap();
    fs::write(
        pgdata.join("neon.signal"),
        format!("PREV LSN: {}", control.checkpoint()),
    )
    .unwrap();
    at
}

async fn gets_the_checkpoint_it_lacks(bench: &Bench) {
    let pgdata = bench.initdb("base").await;
    let at = as_pageserver_backup(&pgdata);
    if pgdata::read_pg_version(&pgdata).unwrap() < 16 {
        let refused = pgdata::prepare_vanilla(&pgdata, Some(at), ComputeMode::Primary);
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, pgdata::Error::IncompatibleWal { .. }),
            "{refused}"
        );
    }
    let prepared = pgdata::prepare_vanilla(&pgdata, Some(at), ComputeMode::Static(at)).unwrap();
    assert_eq!((prepared.lsn, prepared.replays), (at, false));

    // Without a standby's signal file, to see where it would write.
    let postgres = bench.start(&pgdata, 2, &[]).await;
    assert!(postgres.log.contains("was shut down"), "{}", postgres.log);
    let client = postgres.connect().await;
    let next = lsn(&client, "SELECT pg_current_wal_insert_lsn()").await;
    assert_eq!(next, Lsn(at.0 + 120).skip_page_header());
    client
        .batch_execute("CREATE TABLE t (); CHECKPOINT")
        .await
        .unwrap();
    postgres.stop().await;
}

/// Only root can mount; that a link's target is emptied and kept, which goes the
/// same way, the unit tests show for everybody.
#[tokio::test]
async fn a_mount_point_is_emptied_and_stays() {
    let bench = Bench::new();
    let pgdata = bench.path("volume");
    fs::create_dir(&pgdata).unwrap();
    let Some(_mounted) = bench.mount(&pgdata).await else {
        return;
    };
    for _ in 0..2 {
        fs::create_dir_all(pgdata.join("pg_wal/archive_status")).unwrap();
        pgdata::directory::recreate(&pgdata, bench.owner.as_ref()).unwrap();
        assert!(!pgdata.join("pg_wal").exists());
        let directory = fs::metadata(&pgdata).unwrap();
        assert_eq!(directory.permissions().mode() & 0o777, 0o700);
        assert_eq!(
            Some(directory.uid()),
            bench.owner.as_ref().map(|owner| owner.uid)
        );
        assert_ne!(directory.dev(), fs::metadata(bench.path("")).unwrap().dev());
    }
}
