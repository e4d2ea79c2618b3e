//! Every version of PostgreSQL whose WAL safekeepers hold starts fresh, is killed, and
//! starts fresh again with what was acknowledged.

use crate::programs;
use crate::stage::{Stage, free_port};

async fn survives_a_kill(major: u32) {
    let stage = Stage::set_with(programs::of(major)).await;
    let mut spec = stage.spec(free_port());
    spec["spec"]["postgres"]["version"] = major.into();
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;
    let version = client.query_one("SHOW server_version_num", &[]).await;
    let version: u32 = version.unwrap().get::<_, &str>(0).parse().unwrap();
    assert_eq!(version / 10_000, major);
    client
        .batch_execute(
            "CREATE TABLE kept (id int PRIMARY KEY, text text);
             INSERT INTO kept SELECT n, repeat('x', n) FROM generate_series(1, 500) AS n;
             UPDATE kept SET text = 'changed' WHERE id % 2 = 0;
             DELETE FROM kept WHERE id % 5 = 0",
        )
        .await
        .unwrap();
    compute.kill().await;

    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;
    let sql = "SELECT count(*), count(*) FILTER (WHERE text = 'changed') FROM kept";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (400, 200));
    let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'shop')";
    assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_14_starts_fresh_with_what_was_acknowledged() {
    survives_a_kill(14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_15_starts_fresh_with_what_was_acknowledged() {
    survives_a_kill(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_16_starts_fresh_with_what_was_acknowledged() {
    survives_a_kill(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_17_starts_fresh_with_what_was_acknowledged() {
    survives_a_kill(17).await;
}

/// Neon's safekeepers hold WAL of 14 to 17, and break on any other number.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_18_is_refused_before_any_safekeeper_is_asked() {
    let stage = Stage::set_with(programs::of(18)).await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.start().await;
    compute
        .says(&[
            "state: Failed",
            "unknown to safekeepers",
            "PostgreSQL 14 to 17",
        ])
        .await;
    compute.kill().await;
}
