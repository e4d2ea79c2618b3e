//! The log of a compute and of its postgres, as machines read it.

use glowplug::process::Signal;
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::stage::{Compute, LIMIT, Stage, TENANT, TIMELINE, free_port};

impl Compute<'_> {
    /// The events so far; each line must be one.
    fn events(&self) -> Vec<Value> {
        let log = self.whole_log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }

    /// Waits for an event.
    async fn has_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let give_up = std::time::Instant::now() + LIMIT;
        loop {
            if let Some(event) = self.events().into_iter().find(|event| wanted(event)) {
                return event;
            }
            assert!(
                std::time::Instant::now() < give_up,
                "never logged: {what}\n{}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

async fn connect(compute: &Compute<'_>, user: &str, database: &str) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(compute.home.join("s")).port(compute.port);
    config
        .user(user)
        .dbname(database)
        .application_name("shop-web");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_one_stream_of_events_with_fields() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.log_format = "json";
    compute.start().await;
    compute.running().await;

    let app = connect(&compute, "app", "shop").await;
    app.batch_execute("SELECT 1 /\n  0").await.unwrap_err();
    let error = compute
        .has_event("the division", |event| event["sqlstate"] == "22012")
        .await;
    for (field, value) in [
        ("target", "postgres"),
        ("level", "WARN"),
        ("severity", "ERROR"),
        ("message", "division by zero"),
        ("database", "shop"),
        ("user", "app"),
        ("application", "shop-web"),
        ("backend_type", "client backend"),
        ("statement", "SELECT 1 /\n  0"),
        ("compute_id", "test"),
        ("tenant_id", TENANT),
        ("timeline_id", TIMELINE),
        ("state", "running"),
    ] {
        assert_eq!(error[field], value, "{field} of {error}");
    }
    assert!(error["pid"].as_u64() > Some(1), "{error}");

    // Bytes that are no UTF-8 come through as far as they can.
    let superuser = compute.connect().await;
    superuser
        .batch_execute(
            "CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        .await
        .unwrap();
    let raw = connect(&compute, "cloud_admin", "raw").await;
    let raise = "DO $$ BEGIN RAISE LOG 'before % after', chr(255); END $$";
    raw.batch_execute(raise).await.unwrap();
    compute
        .has_event("the broken character", |event| {
            event["message"] == "before \u{fffd} after"
        })
        .await;

    // What a spec's own prefix would be is not touched by ours.
    let level = |event: &Value| event["level"] == "DEBUG" && event["message"] == "answered";
    assert!(!compute.events().iter().any(level));
    compute.signal(Signal::USR1).await;
    let changed = |filter: &'static str| {
        move |event: &Value| {
            event["filter"]
                .as_str()
                .is_some_and(|set| set.contains(filter))
        }
    };
    compute.has_event("more", changed("debug")).await;
    compute.request("external", "GET /status", "").await;
    compute.has_event("a request", level).await;
    compute.signal(Signal::USR2).await;
    compute
        .has_event("less", |event| event["filter"] == "info")
        .await;
    compute.kill().await;
}
