//! A compute starts, follows its spec, and stops in order.

use glowplug::lsn::Lsn;
use glowplug::process::{Exit, Signal};
use serde_json::json;

use crate::stage::{Stage, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_is_reconciled_while_it_runs() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;
    let exists = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0);
    assert!(exists("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'shop')").await);

    spec["spec"]["roles"] = json!([{"name": "app"}, {"name": "later"}]);
    spec["spec"]["databases"] =
        json!([{"name": "shop", "owner": "app"}, {"name": "other", "owner": "later"}]);
    spec["spec"]["postgres"]["settings"] = json!([{"name": "work_mem", "value": "9MB"}]);
    compute.write_spec(&spec.to_string());
    compute
        .says(&["state: Running", "observedGeneration: 2"])
        .await;
    assert!(exists("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'other')").await);
    assert!(exists("SELECT setting = '9216' FROM pg_settings WHERE name = 'work_mem'").await);

    spec["spec"]["roles"] = json!([{"name": "app"}]);
    spec["spec"]["databases"] = json!([{"name": "shop", "owner": "app"}]);
    spec["spec"]["postgres"]["settings"] = json!([{"name": "max_connections", "value": "33"}]);
    compute.write_spec(&spec.to_string());
    compute
        .says(&[
            "state: Running",
            "observedGeneration: 3",
            "reason: RestartRequired",
        ])
        .await;
    compute.says(&["- max_connections"]).await;
    assert!(exists("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = 'other')").await);
    assert!(exists("SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'later')").await);

    let row = client
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap();
    let flushed: Lsn = row.get::<_, &str>(0).parse().unwrap();
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));
    compute.says(&["state: Terminated", "lastShutdown:"]).await;
    let status = compute.status();
    let last = status
        .split("lastShutdown:")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let last: Lsn = last.trim_matches([' ', '"', '\'']).parse().unwrap();
    assert!(
        last > flushed,
        "the shutdown checkpoint behind {flushed} is not in {last}"
    );
}

/// Had postgres read the configuration of a replica, commits would no longer wait for the
/// safekeepers.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_mode_waits_for_a_restart_and_all_else_does_not() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;

    spec["spec"]["mode"] = json!("Replica");
    spec["spec"]["roles"] = json!([{"name": "app"}, {"name": "later"}]);
    spec["spec"]["postgres"]["settings"] = json!([{"name": "work_mem", "value": "9MB"}]);
    compute.write_spec(&spec.to_string());
    compute
        .says(&["observedGeneration: 2", "reason: RestartRequired", "- mode"])
        .await;
    compute.says(&["state: Running"]).await;
    let row = client
        .query_one(
            "SELECT current_setting('synchronous_standby_names'), current_setting('work_mem'), \
             EXISTS (SELECT FROM pg_roles WHERE rolname = 'later')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "walproposer");
    assert_eq!(row.get::<_, &str>(1), "9MB");
    assert!(row.get::<_, bool>(2));

    spec["spec"]["mode"] = json!("Primary");
    compute.write_spec(&spec.to_string());
    compute
        .says(&[
            "observedGeneration: 3",
            "state: Running",
            "reason: Reloaded",
        ])
        .await;
    assert!(!compute.status().contains("RestartRequired"));
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_setting_and_an_invalid_spec_leave_the_last_good_one_in_force() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    spec["spec"]["postgres"]["settings"] = json!([{"name": "work_mem", "value": "9MB"}]);
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;

    let good = spec.clone();
    spec["spec"]["postgres"]["settings"] = json!([{"name": "work_mem", "value": "nonsense"}]);
    compute.write_spec(&spec.to_string());
    compute
        .says(&["state: Running", "reason: InvalidSetting", "work_mem"])
        .await;
    let row = client
        .query_one("SELECT current_setting('work_mem')", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "9MB");

    compute.write_spec("kind: [");
    compute.says(&["reason: ValidationFailed"]).await;
    client.query_one("SELECT 1", &[]).await.unwrap();

    compute.write_spec(&good.to_string());
    compute
        .says(&["reason: Valid", "reason: ComputeRunning"])
        .await;
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_postgres_is_started_again_from_a_fresh_basebackup() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;
    client
        .batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .await
        .unwrap();
    let pid_file = std::fs::read_to_string(compute.pgdata().join("postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();
    let victim = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
    compute.says(&["state: Running", "restarts: 1"]).await;
    let client = compute.connect().await;
    let row = client
        .query_one("SELECT count(*) FROM kept", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    compute.kill().await;
}
