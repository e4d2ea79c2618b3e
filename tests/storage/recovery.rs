//! Backups of the storage, started on a real PostgreSQL.

use std::fs;
use std::path::Path;
use std::time::Duration;

use glowplug::lsn::Lsn;
use glowplug::pageserver::BackupKind;
use glowplug::pgdata;
use glowplug::spec::ComputeMode;
use glowplug::storage::knobs::BackupFault;
use glowplug::storage::timelines::Timeline;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::node::{ATTACHED, Fixture, LIMIT, Node, SHARD, TENANT, TIMELINE, timelines};
use crate::wal_source::Source;

const OPTIONS: &[&str] = &["fsync=off", "wal_keep_size=1GB"];

/// Writes what the storage's user writes: a configuration of its own.
fn configure(pgdata: &Path) {
    fs::write(pgdata.join("postgresql.conf"), "").unwrap();
}

async fn flushed(client: &Client) -> Lsn {
    let row = client
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

async fn count(client: &Client) -> i64 {
    let row = client
        .query_one("SELECT count(*) FROM numbers", &[])
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_timeline_starts_where_its_base_ends() {
    let fixture = Fixture::new(Vec::new()).await;
    let end = fixture.timeline.end().last_record_lsn;
    for (name, port, gzip) in [("plain", 5001, false), ("zipped", 5002, true)] {
        let pgdata = fixture.full(name, None, gzip).await;
        let prepared = pgdata::prepare_vanilla(&pgdata, None, ComputeMode::Primary).unwrap();
        assert_eq!(prepared.lsn, end);
        assert_eq!(prepared.system_identifier, fixture.timeline.system_id());
        configure(&pgdata);
        let postgres = fixture.bench.start(&pgdata, port, OPTIONS).await;
        let client = postgres.connect().await;
        client
            .batch_execute("CREATE TABLE numbers (n int)")
            .await
            .unwrap();
        postgres.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_there_after_a_fresh_start() {
    let source = Source::start(1).await;
    let away = Source::start(2).await;
    let fixture = Fixture::new(vec![away.address.clone(), source.address.clone()]).await;

    let pgdata = fixture.full("first", None, true).await;
    pgdata::prepare_vanilla(&pgdata, None, ComputeMode::Primary).unwrap();
    configure(&pgdata);
    let postgres = fixture.bench.start(&pgdata, 5001, OPTIONS).await;
    let client = postgres.connect().await;
    let rows = 200_000;
    client
        .batch_execute(&format!(
            "CREATE TABLE numbers (n int); INSERT INTO numbers SELECT generate_series(1, {rows})"
        ))
        .await
        .unwrap();
    let committed = flushed(&client).await;
    client
        .batch_execute(
            "DELETE FROM numbers; SELECT pg_switch_wal(); INSERT INTO numbers VALUES (0)",
        )
        .await
        .unwrap();
    let later = flushed(&client).await;
    source.wal.send_replace(pgdata.join("pg_wal"));
    source.commit.send_replace(committed);
    let waited = fixture.timeline.wait_for(committed, LIMIT).await;
    assert_eq!(waited.unwrap().last_record_lsn, committed);

    let second = fixture.full("second", Some(committed), true).await;
    assert_eq!(
        started_count(&fixture, &second, committed, 5002).await,
        rows
    );

    // What came later is fetched by another life of the storage.
    let Fixture {
        bench,
        timelines: first_life,
        timeline,
        node,
        cancel,
    } = fixture;
    node.pageserver.stop().await;
    cancel.cancel();
    first_life.closed().await;
    let before = timeline.end();
    let cancel = CancellationToken::new();
    source.commit.send_replace(later);
    let second_life = timelines(&bench, vec![source.address.clone()], None, &cancel).await;
    let timeline = second_life.find(TENANT, TIMELINE).unwrap();
    assert!(timeline.end().last_record_lsn >= before.last_record_lsn);
    timeline.wait_for(later, LIMIT).await.unwrap();
    let node = Node::start(&bench, 1, &second_life, &cancel).await;
    let fixture = Fixture {
        bench,
        timelines: second_life,
        timeline,
        node,
        cancel,
    };
    let third = fixture.full("third", Some(later), false).await;
    assert_eq!(started_count(&fixture, &third, later, 5003).await, 1);
    // The past is still there.
    let again = fixture.full("again", Some(committed), true).await;
    assert_eq!(started_count(&fixture, &again, committed, 5004).await, rows);
    postgres.kill().await;
}

async fn started_count(fixture: &Fixture, pgdata: &Path, lsn: Lsn, port: u16) -> i64 {
    let prepared = pgdata::prepare_vanilla(pgdata, Some(lsn), ComputeMode::Primary).unwrap();
    assert_eq!(prepared.lsn, lsn);
    assert!(prepared.replays);
    configure(pgdata);
    let postgres = fixture.bench.start(pgdata, port, OPTIONS).await;
    let counted = count(&postgres.connect().await).await;
    postgres.kill().await;
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basebackup_has_what_postgres_tools_want() {
    let fixture = Fixture::new(Vec::new()).await;
    let end = fixture.timeline.end().last_record_lsn;
    let into = fixture.bench.path("basebackup");
    let kind = BackupKind::Basebackup { replica: true };
    let fetched = fixture.node.fetch(&into, &fixture.bench, None, kind, true);
    let stats = fetched.await.unwrap();
    assert!(stats.bytes_received < 200_000, "{stats:?}");
    let signal = fs::read_to_string(into.join("neon.signal")).unwrap();
    let previous: Lsn = signal.strip_prefix("PREV LSN: ").unwrap().parse().unwrap();
    assert_eq!(previous, fixture.timeline.end().prev_record_lsn);
    let file = fs::read(into.join("global/pg_control")).unwrap();
    let control = glowplug::wire::control_file::ControlFile::parse(&file).unwrap();
    assert_eq!(control.redo(), end);
    assert_eq!(control.checkpoint(), Lsn::INVALID);
    assert_eq!(control.system_identifier(), fixture.timeline.system_id());
    let segment = into.join("pg_wal").join(end.segment_file_name(1));
    assert_eq!(fs::metadata(segment).unwrap().len(), 16 * 1024 * 1024);
    assert!(into.join("base/1/PG_VERSION").exists());
    assert!(!into.join("base/1/1259").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_lsn_that_does_not_come_is_refused_after_the_limit() {
    let fixture = Fixture::new(Vec::new()).await;
    let Fixture {
        bench,
        timelines,
        cancel,
        ..
    } = &fixture;
    let short = Duration::from_millis(500);
    let hasty = Node::start_waiting(short, bench, 2, timelines, cancel).await;
    hasty.locations.set(SHARD, ATTACHED).unwrap();
    let into = bench.path("future");
    let future = Some(Lsn(0x900_0000));
    let fetch = |lsn| {
        let kind = BackupKind::Fullbackup;
        hasty.fetch(&into, bench, lsn, kind, true)
    };
    let refused = fetch(future).await.unwrap_err();
    let text = glowplug::error::chain(&refused);
    assert!(
        text.contains("Timed out while waiting for WAL record at LSN 0/9000000 to arrive"),
        "{text}"
    );
    let refused = fetch(Some(Lsn(0x10))).await.unwrap_err();
    let text = glowplug::error::chain(&refused);
    assert!(
        text.contains("LSN 0/10 is earlier than latest GC cutoff"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_faulty_backup_passes_for_a_whole_one() {
    let Fixture {
        bench, mut node, ..
    } = Fixture::new(Vec::new()).await;
    let into = bench.path("faulty");
    let faults = [
        BackupFault::Refused,
        BackupFault::Truncated,
        BackupFault::Dropped,
        BackupFault::Corrupt,
        BackupFault::ErrorMidway,
        BackupFault::ErrorAtEnd,
        BackupFault::Stall,
    ];
    for fault in faults {
        node.knobs.fail_next_backup(fault);
        // Any other fault is noticed by itself.
        node.stall_limit = match fault {
            BackupFault::Stall => Duration::from_millis(300),
            _ => LIMIT,
        };
        let failed = node.fetch(&into, &bench, None, BackupKind::Fullbackup, true);
        assert!(failed.await.is_err(), "{fault:?}");
    }
    node.stall_limit = LIMIT;
    let whole = node.fetch(&into, &bench, None, BackupKind::Fullbackup, true);
    whole.await.unwrap();
}

/// What a table holds, whatever the order of its rows.
async fn fingerprint(client: &Client) -> String {
    let sql = "SELECT count(*) || ' ' || sum(n) || ' ' || sum(hashtext(t)) FROM texts";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Writes some megabytes with a checkpoint in the middle, and a transaction prepared
/// before it and committed behind it.
async fn write_round(client: &Client, round: usize) {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS texts (n int primary key, t text);
         INSERT INTO texts SELECT i, md5(i::text)
         FROM generate_series({round} * 20000 + 1, ({round} + 1) * 20000) i;
         CREATE TABLE gone_{round} AS SELECT 1"
    );
    client.batch_execute(&sql).await.unwrap();
    let statements = [
        "BEGIN".to_owned(),
        format!("UPDATE texts SET t = upper(t) WHERE n % 7 = {round}"),
        format!("PREPARE TRANSACTION 'p{round}'"),
        "CHECKPOINT".to_owned(),
        format!("COMMIT PREPARED 'p{round}'"),
        format!("DELETE FROM texts WHERE n % 11 = {round}"),
        format!("DROP TABLE gone_{round}"),
    ];
    for sql in statements {
        client.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_base_holds_the_same_and_replays_less() {
    let source = Source::start(1).await;
    let sources = vec![source.address.clone()];
    let fixture = Fixture::compacting(sources, Some(1024 * 1024)).await;
    let first_end = fixture.timeline.oldest_lsn();
    let pgdata = fixture.full("first", None, true).await;
    pgdata::prepare_vanilla(&pgdata, None, ComputeMode::Primary).unwrap();
    configure(&pgdata);
    let options = [OPTIONS, &["max_prepared_transactions=5"]].concat();
    let postgres = fixture.bench.start(&pgdata, 5001, &options).await;
    let client = postgres.connect().await;
    source.wal.send_replace(pgdata.join("pg_wal"));
    let mut states = Vec::new();
    for round in 0..3 {
        write_round(&client, round).await;
        let lsn = flushed(&client).await;
        states.push((lsn, fingerprint(&client).await));
        let before = fixture.timeline.end().last_record_lsn;
        source.commit.send_replace(lsn);
        let made = fixture.timeline.base_from(Lsn(before.0 + 1));
        let base = tokio::time::timeout(LIMIT, made).await.unwrap();
        assert!(base.end_lsn() < lsn);
        assert!(base.redo_lsn() > first_end);
    }
    postgres.kill().await;

    for (port, (lsn, state)) in (5002..).zip(&states) {
        let pgdata = fixture.full(&format!("at-{port}"), Some(*lsn), true).await;
        let prepared = pgdata::prepare_vanilla(&pgdata, Some(*lsn), ComputeMode::Primary);
        let prepared = prepared.unwrap();
        assert_eq!((prepared.lsn, prepared.replays), (*lsn, true));
        configure(&pgdata);
        let postgres = fixture.bench.start(&pgdata, port, &options).await;
        assert_eq!(fingerprint(&postgres.connect().await).await, *state);
        postgres.kill().await;
    }

    // The oldest and the newest are left, in the next life, too.
    let end_for = |timeline: &Timeline, lsn| timeline.base_for(lsn).unwrap().end_lsn();
    let newest = end_for(&fixture.timeline, states[2].0);
    fixture.cancel.cancel();
    fixture.timelines.closed().await;
    let again = timelines(&fixture.bench, Vec::new(), None, &CancellationToken::new()).await;
    let again = again.find(TENANT, TIMELINE).unwrap();
    assert_eq!(end_for(&again, states[2].0), newest);
    assert_eq!(end_for(&again, states[1].0), first_end);
    assert_eq!(again.end().last_record_lsn, states[2].0);
}
