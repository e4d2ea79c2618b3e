//! Commits through the WAL relay, against the same postgres with
//! `pg_receivewal --synchronous` into one local directory: transactions per second
//! of pgbench, and their ratio.
//!
//! `RELAY_SECONDS`, `RELAY_CLIENTS` (a list) and `RELAY_SCALE` change the usual run.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench that cannot run fails, and shares what it starts with the tests"
)]

#[path = "../tests/relay/bench.rs"]
mod bench;
#[path = "../tests/postgres/mod.rs"]
mod postgres;

use std::os::unix::fs::chown;
use std::process::{Child, Command, Stdio};

use bench::{Quorum, Relay, postgres_with};
use glowplug::safekeeper::RelayPhase;
use postgres::programs::newest as bin_dir;
use postgres::{Postgres, SUPERUSER};

/// How long the parts shared with the tests wait for anything.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(2);

fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

fn clients() -> Vec<u32> {
    let text = std::env::var("RELAY_CLIENTS").unwrap_or_else(|_| "1,8".to_owned());
    text.split(',')
        .map(|count| count.parse().unwrap())
        .collect()
}

/// Settings of a compute: its durability is the safekeepers'.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("max_connections", "100"),
    ("max_wal_size", "4GB"),
];

fn pgbench(postgres: &Postgres, arguments: &[&str]) -> String {
    let socket = postgres.data().parent().unwrap().to_owned();
    let mut command = Command::new(bin_dir().join("pgbench"));
    command.arg("-h").arg(socket).args(["-U", SUPERUSER]);
    let output = command.args(arguments).arg("postgres").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Transactions per second and mean latency in milliseconds.
fn measure(postgres: &Postgres, clients: u32) -> (f64, f64) {
    let seconds = number("RELAY_SECONDS", 10).to_string();
    let (clients, threads) = (clients.to_string(), clients.min(2).to_string());
    let text = pgbench(
        postgres,
        &["-n", "-c", &clients, "-j", &threads, "-T", &seconds],
    );
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let mut words = line.split_whitespace();
        words.find_map(|word| word.parse().ok()).unwrap()
    };
    (value("tps = "), value("latency average = "))
}

fn fill(postgres: &Postgres) {
    pgbench(
        postgres,
        &["-i", "-q", "-s", &number("RELAY_SCALE", 10).to_string()],
    );
}

struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_receiver(postgres: &Postgres, directory: &std::path::Path) -> Receiver {
    let socket = postgres.data().parent().unwrap().display().to_string();
    let dsn = format!("host={socket} user={SUPERUSER} application_name=walproposer");
    let child = Command::new(bin_dir().join("pg_receivewal"))
        .args(["--synchronous", "-d", &dsn, "-D"])
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Receiver(child.unwrap())
}

async fn with_relay(clients: &[u32]) -> Vec<(f64, f64)> {
    let quorum = Quorum::start_durable(3).await;
    let (postgres, start_lsn) = postgres_with(SETTINGS).await;
    let mut relay = Relay::start(&postgres, start_lsn, quorum.set(&[0, 1, 2]));
    relay
        .await_status(|status| status.phase == RelayPhase::Streaming)
        .await;
    let postgres = tokio::task::spawn_blocking(move || {
        fill(&postgres);
        postgres
    });
    let mut postgres = postgres.await.unwrap();
    let mut results = Vec::new();
    for count in clients.iter().copied() {
        let measured = tokio::task::spawn_blocking(move || {
            let result = measure(&postgres, count);
            (postgres, result)
        });
        let result;
        (postgres, result) = measured.await.unwrap();
        results.push(result);
    }
    drop(postgres);
    relay.stop().await;
    results
}

async fn with_receiver(clients: &[u32]) -> Vec<(f64, f64)> {
    let (postgres, _) = postgres_with(SETTINGS).await;
    let directory = tempfile::TempDir::new().unwrap();
    chown(directory.path(), Some(0), Some(0)).unwrap_or(());
    let _receiver = start_receiver(&postgres, directory.path());
    fill(&postgres);
    clients
        .iter()
        .map(|count| measure(&postgres, *count))
        .collect()
}

fn main() {
    // Under `cargo test` a bench is only built.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let clients = clients();
    let receiver = runtime.block_on(with_receiver(&clients));
    let relay = runtime.block_on(with_relay(&clients));
    println!("clients  pg_receivewal  relay    ratio   latency (ms)");
    for ((count, (yardstick, before)), (tps, after)) in clients.iter().zip(receiver).zip(relay) {
        let ratio = tps / yardstick;
        println!(
            "{count:>7}  {yardstick:>13.0}  {tps:>5.0}  {ratio:>7.2}   {before:.2} / {after:.2}"
        );
    }
}
