//! The monitor sees who is active, and whether postgres answers.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::stage::{Compute, Stage, free_port};

const LAST: &str = "glowplug_last_activity_timestamp_seconds";
const SESSIONS: &str = "glowplug_postgres_sessions";

/// A client that is not the superuser, in a time zone far away.
async fn client(compute: &Compute<'_>) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(compute.home.join("s")).port(compute.port);
    config
        .user("app")
        .dbname("shop")
        .options("-c timezone=Pacific/Kiritimati");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_and_downtime_are_seen() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    spec["spec"]["postgres"]["settings"] = json!([
        {"name": "max_prepared_transactions", "value": "4"},
        {"name": "timezone", "value": "America/Lima"},
        {"name": "autovacuum", "value": "off"},
    ]);
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;

    // The superuser's own sessions are no activity.
    let superuser = compute.connect().await;
    compute
        .metric_becomes(SESSIONS, "active", |count| count == 0.0)
        .await;

    let app = client(&compute).await;
    app.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let idle = compute.metric_becomes(SESSIONS, "idle", |count| count > 0.0);
    idle.await;
    // Just now, by the clock and not by a time zone.
    let last = compute.metric_becomes(LAST, "", |at| at > 0.0).await;
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((now - 3600.0..=now + 3600.0).contains(&last), "{last}");
    compute.says(&["lastActiveAt"]).await;
    let status = compute.request("external", "GET /status", "").await;
    assert!(status.contains("\"last_active\":\"20"), "{status}");

    app.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'")
        .await
        .unwrap();
    drop(app);
    let prepared = compute.metric_becomes(SESSIONS, "prepared", |count| count > 0.0);
    prepared.await;
    let before = compute.metric(LAST, "").await.unwrap();
    compute.metric_becomes(LAST, "", |at| at > before).await;

    // What Neon's extension would have there.
    superuser
        .batch_execute(
            "CREATE SCHEMA neon; \
             CREATE VIEW neon.neon_perf_counters (metric, bucket_le, value) AS VALUES \
                 ('compute_getpage_max_inflight_stuck_time_ms', NULL::float8, 61500::float8), \
                 ('getpage_wait_seconds_bucket', 10, 7); \
             CREATE FUNCTION neon.backpressure_throttling_time() RETURNS int8 \
                 LANGUAGE sql AS 'SELECT 2000000::int8'",
        )
        .await
        .unwrap();

    // A backend that is stopped accepted its connection, and never answers.
    let row = superuser
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'compute_ctl:compute_monitor'",
            &[],
        )
        .await
        .unwrap();
    let monitor = Pid::from_raw(row.get(0));
    kill(monitor, Signal::SIGSTOP).unwrap();
    let current = "compute_pg_current_downtime_ms";
    compute.metric_becomes(current, "", |ms| ms > 0.0).await;
    kill(monitor, Signal::SIGCONT).unwrap();
    compute.metric_becomes(current, "", |ms| ms == 0.0).await;
    let total = compute.metric("compute_pg_downtime_ms_total", "").await;
    assert!(total > Some(0.0), "{total:?}");
    // A new connection reads the counters at once.
    let stuck = "compute_getpage_max_inflight_stuck_time_ms";
    compute.metric_becomes(stuck, "", |ms| ms > 61_499.0).await;
    let throttled = "compute_backpressure_throttling_seconds_total";
    assert_eq!(compute.metric(throttled, "").await, Some(2.0));
    compute.kill().await;
}
