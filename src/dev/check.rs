//! `glowplug dev --check`: the promise of a stateless compute, tried out.
//!
//! The compute runs as a process of its own, so that SIGKILL is a real one. Rows are
//! written until it comes; a fresh start must find every acknowledged one.

mod compute_process;
mod spec_document;
mod writer;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio_postgres::Client;

use self::compute_process::ComputeProcess;
use self::spec_document::SpecDocument;
use super::run::{Room, say};
use crate::compute::ending::Ending;
use crate::spec::ComputeSpec;
use crate::storage::Storage;

/// Rows to acknowledge before the compute is killed.
const ROWS: u64 = 500;
/// How long a change of the spec may take.
const CHANGE_LIMIT: Duration = Duration::from_mins(1);

/// Runs the story, and says what was checked.
pub(super) async fn run(
    room: &Room,
    storage: &Storage,
    wanted: &ComputeSpec,
) -> anyhow::Result<Ending> {
    match story(room, storage, wanted).await {
        Ok(()) => {
            say("check passed: nothing acknowledged was lost");
            Ok(Ending::Stopped)
        }
        Err(error) => {
            say(&format!("check FAILED: {error:#}"));
            Ok(Ending::CheckFailed)
        }
    }
}

fn passed(what: &str, began: Instant) {
    say(&format!(
        "  ok  {what} ({} ms)",
        began.elapsed().as_millis()
    ));
}

async fn story(room: &Room, storage: &Storage, wanted: &ComputeSpec) -> anyhow::Result<()> {
    let port = room.settings.port.unwrap_or(wanted.postgres.port);
    let mut document = SpecDocument::read(&room.file, storage, port).await?;
    let path = room.state_dir.path().join("check.yaml");
    document.write(&path).await?;

    let began = Instant::now();
    let first = ComputeProcess::start(room, &path, port).await?;
    passed("a compute starts from storage alone", began);

    let began = Instant::now();
    let client = first.connect("postgres").await?;
    prepare(&client).await?;
    let marker = room.state_dir.pgdata().join("marker-of-the-first-start");
    tokio::fs::write(&marker, "")
        .await
        .context("cannot mark PGDATA")?;
    let writer = writer::start(first.connect("postgres").await?, ROWS);
    let acknowledged = writer.kill_while_writing(&first).await?;
    passed(
        &format!("{acknowledged} rows acknowledged, then SIGKILL to all of it"),
        began,
    );

    let began = Instant::now();
    let second = ComputeProcess::start(room, &path, port).await?;
    ensure!(!marker.exists(), "PGDATA was not made anew");
    passed("a fresh start, PGDATA made anew", began);

    let began = Instant::now();
    let client = second.connect("postgres").await?;
    let found = rows(&client, acknowledged).await?;
    ensure!(
        found == acknowledged,
        "{acknowledged} rows were acknowledged, {found} are there"
    );
    passed("every acknowledged row is there", began);

    change(&mut document, &path, &client).await?;
    let began = Instant::now();
    let code = second.stop().await?;
    ensure!(
        code == Some(0),
        "the compute ended with {code:?}, not with 0"
    );
    passed("SIGTERM stops it in order", began);
    Ok(())
}

async fn prepare(client: &Client) -> anyhow::Result<()> {
    let sql = "DROP TABLE IF EXISTS glowplug_check; \
               CREATE TABLE glowplug_check (id bigint PRIMARY KEY)";
    client
        .batch_execute(sql)
        .await
        .context("cannot make a table")
}

async fn rows(client: &Client, up_to: u64) -> anyhow::Result<u64> {
    let sql = "SELECT count(*) FROM glowplug_check WHERE id <= $1";
    let row = client
        .query_one(sql, &[&(up_to as i64)])
        .await
        .context("cannot count the rows")?;
    Ok(row.get::<_, i64>(0) as u64)
}

/// A role, a database and a setting come and go while the compute runs.
async fn change(
    document: &mut SpecDocument,
    path: &std::path::Path,
    client: &Client,
) -> anyhow::Result<()> {
    let began = Instant::now();
    document.add(
        "glowplug_check_role",
        "glowplug_check_db",
        ("work_mem", "7MB"),
    );
    document.write(path).await?;
    until(client, ADDED, "the added role, database and setting").await?;
    passed(
        "a role, a database and a setting are added while it runs",
        began,
    );

    let began = Instant::now();
    document.restore();
    document.write(path).await?;
    until(client, REMOVED, "their removal").await?;
    passed("and removed again", began);
    Ok(())
}

const ADDED: &str = "SELECT EXISTS (SELECT FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba \
     WHERE d.datname = 'glowplug_check_db' AND r.rolname = 'glowplug_check_role') \
     AND (SELECT reset_val FROM pg_settings WHERE name = 'work_mem') = '7168'";
const REMOVED: &str = "SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = 'glowplug_check_db') \
     AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'glowplug_check_role') \
     AND (SELECT reset_val FROM pg_settings WHERE name = 'work_mem') <> '7168'";

/// Asks until the answer is yes.
async fn until(client: &Client, question: &str, what: &str) -> anyhow::Result<()> {
    let give_up = Instant::now() + CHANGE_LIMIT;
    loop {
        let row = client
            .query_one(question, &[])
            .await
            .context("cannot ask the catalog")?;
        if row.get::<_, bool>(0) {
            return Ok(());
        }
        ensure!(
            Instant::now() < give_up,
            "{what} did not come about within {CHANGE_LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
