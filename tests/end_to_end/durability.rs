//! Nothing acknowledged is ever lost, and only one compute commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::Client;

use crate::stage::{Stage, free_port};

/// Inserts the next ids as long as the connection holds.
async fn write_rows(client: Client, acknowledged: Arc<AtomicI64>) {
    let table = "CREATE TABLE IF NOT EXISTS kept (id bigint PRIMARY KEY)";
    if client.batch_execute(table).await.is_err() {
        return;
    }
    // A row whose acknowledgement was lost may be there: go on behind it.
    let Ok(row) = client
        .query_one("SELECT coalesce(max(id), 0) FROM kept", &[])
        .await
    else {
        return;
    };
    let mut id: i64 = row.get(0);
    loop {
        id += 1;
        if client
            .execute("INSERT INTO kept VALUES ($1)", &[&id])
            .await
            .is_err()
        {
            return;
        }
        acknowledged.store(id, Ordering::SeqCst);
    }
}

async fn highest(client: &Client) -> (i64, i64) {
    let sql = "SELECT coalesce(max(id), 0), count(*) FROM kept";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_at_random_moments_lose_no_acknowledged_row() {
    let seed: u64 = std::env::var("GLOWPLUG_KILL_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    println!("GLOWPLUG_KILL_SEED={seed} repeats the moments of this run");
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.start().await;
    compute.running().await;
    // How many more follow is a matter of the machine's speed.
    let first = "CREATE TABLE kept (id bigint PRIMARY KEY); INSERT INTO kept VALUES (1)";
    compute.connect().await.batch_execute(first).await.unwrap();
    let acknowledged = Arc::new(AtomicI64::new(1));
    for cycle in 0..50 {
        let moment = Duration::from_millis(random.random_range(0..900));
        let deadline = tokio::time::Instant::now() + moment;
        // Writes begin as soon as postgres lets anyone in, whatever the phase.
        let write = async {
            loop {
                if let Some(client) = compute.try_connect().await {
                    write_rows(client, acknowledged.clone()).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, write).await;
        compute.kill().await;
        let expected = acknowledged.load(Ordering::SeqCst);
        compute.start().await;
        if cycle % 5 == 4 {
            compute.running().await;
            let (found, count) = highest(&compute.connect().await).await;
            assert!(
                found >= expected,
                "cycle {cycle}: row {expected} of {found} is lost"
            );
            assert_eq!(found, count, "cycle {cycle}: rows are missing in between");
        }
    }
    println!(
        "{} rows were acknowledged",
        acknowledged.load(Ordering::SeqCst)
    );
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_computes_on_one_timeline_only_one_commits() {
    let stage = Stage::set().await;
    let mut first = stage.compute("a", &stage.spec(free_port()));
    first.start().await;
    first.running().await;
    let old = first.connect().await;
    old.batch_execute("CREATE TABLE kept (id bigint PRIMARY KEY); INSERT INTO kept VALUES (1)")
        .await
        .unwrap();

    let mut second = stage.compute("b", &stage.spec(free_port()));
    second.start().await;
    second.running().await;
    let new = second.connect().await;
    new.execute("INSERT INTO kept VALUES (2)", &[])
        .await
        .unwrap();

    // Whatever the first one is asked now, it does not acknowledge.
    let late = old.execute("INSERT INTO kept VALUES (3)", &[]).await;
    assert!(late.is_err(), "a fenced compute acknowledged a commit");
    first
        .says(&["state: Failed", "reason: TakeoverDetected"])
        .await;
    assert!(
        first.try_connect().await.is_none(),
        "a fenced compute still serves"
    );

    // It does not fight back: the second goes on to commit.
    new.execute("INSERT INTO kept VALUES (4)", &[])
        .await
        .unwrap();
    assert_eq!(highest(&new).await, (4, 3));
    second.kill().await;
    first.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_during_a_reconfiguration_ends_the_older_compute_too() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    let mut first = stage.compute("a", &spec);
    first.start().await;
    first.running().await;
    // Holds up the catalog's part of the change for as long as this session lives.
    let blocker = first.connect().await;
    let lock = "BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE";
    blocker.batch_execute(lock).await.unwrap();
    spec["spec"]["roles"] = serde_json::json!([{"name": "app"}, {"name": "late"}]);
    first.write_spec(&spec.to_string());
    first.says(&["state: Configuration"]).await;

    let mut second = stage.compute("b", &stage.spec(free_port()));
    second.start().await;
    second.running().await;
    first
        .says(&["state: Failed", "reason: TakeoverDetected"])
        .await;
    first.signal(glowplug::process::Signal::TERM).await;
    assert_eq!(first.ended().await, glowplug::process::Exit::Code(0));
    second.kill().await;
}
