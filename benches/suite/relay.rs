//! Commits through the WAL relay onto three safekeepers that make everything durable,
//! against the same postgres with `pg_receivewal --synchronous` into one local
//! directory: pgbench's transactions per second and commit latencies.
//!
//! The relay is that of a real `glowplug compute`. Both sides have the same settings
//! and lie on the same disk; rounds take turns. `RELAY_SECONDS` (30), `RELAY_CLIENTS`
//! (a list: 1,8,64), `RELAY_SCALE` (10) and `RELAY_ROUNDS` (1) change the usual run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::postgres::programs::newest as bin_dir;
use crate::postgres::{Postgres, SUPERUSER};
use crate::stage::compute::{Compute, program};
use crate::stage::storage::Stage;
use crate::stage::table::{Samples, Table, cell, verdict};
use crate::stage::{number, process};

/// Most memory of the compute, in MB.
const MEMORY: f64 = 32.0;

/// Settings of both.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("max_connections", "100"),
    ("max_wal_size", "4GB"),
    ("autovacuum", "off"),
];

/// What a compute's configuration has by itself, for the yardstick.
const AS_COMPUTE: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("wal_keep_size", "64MB"),
    ("synchronous_standby_names", "walproposer"),
];

fn clients() -> Vec<u32> {
    let text = std::env::var("RELAY_CLIENTS").unwrap_or_else(|_| "1,8,64".to_owned());
    text.split(',')
        .map(|count| count.trim().parse().unwrap())
        .collect()
}

/// How to reach one of the two servers.
struct Server {
    socket: PathBuf,
    port: u16,
}

impl Server {
    fn pgbench(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(bin_dir().join("pgbench"));
        command.arg("-h").arg(&self.socket).args(["-U", SUPERUSER]);
        command.arg("-p").arg(self.port.to_string());
        let output = command.args(arguments).arg("postgres").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{errors}");
        text
    }

    fn fill(&self) {
        let scale = number("RELAY_SCALE", 10).to_string();
        self.pgbench(&["-i", "-q", "-s", &scale]);
    }

    fn measure(&self, clients: u32, into: &mut Measured) {
        let seconds = number("RELAY_SECONDS", 30).to_string();
        let (clients, threads) = (clients.to_string(), clients.min(2).to_string());
        let logs = TempDir::with_prefix("glowplug-pgbench").unwrap();
        let prefix = logs.path().join("log").display().to_string();
        let text = self.pgbench(&[
            "-n",
            "-c",
            &clients,
            "-j",
            &threads,
            "-T",
            &seconds,
            "-l",
            "--log-prefix",
            &prefix,
        ]);
        let line = text
            .lines()
            .find(|line| line.starts_with("tps = "))
            .unwrap();
        let tps = line.split_whitespace().find_map(|word| word.parse().ok());
        into.tps.push(tps.unwrap());
        let latencies = latencies(logs.path());
        into.p50.push(latencies.median());
        into.p99.push(latencies.percentile(99));
    }
}

/// Milliseconds of each transaction: the third column of pgbench's logs.
fn latencies(directory: &Path) -> Samples {
    let logs = fs::read_dir(directory).unwrap();
    let texts = logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap());
    let texts: Vec<String> = texts.collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let microseconds = lines.filter_map(|line| line.split_whitespace().nth(2)?.parse().ok());
    microseconds.map(|time: f64| time / 1000.0).collect()
}

#[derive(Default)]
struct Measured {
    tps: Samples,
    p50: Samples,
    p99: Samples,
}

/// Ends with the bench.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        process::end(&mut self.0, Signal::SIGTERM);
    }
}

impl Receiver {
    fn start(server: &Server, directory: &Path) -> Self {
        let socket = server.socket.display();
        let dsn = format!("host={socket} user={SUPERUSER} application_name=walproposer");
        let child = Command::new(bin_dir().join("pg_receivewal"))
            .args(["--synchronous", "-d", &dsn, "-D"])
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

/// The yardstick: postgres, and who receives its WAL.
struct Yardstick {
    server: Server,
    _receiver: Receiver,
    _postgres: Postgres,
    _directory: TempDir,
}

impl Yardstick {
    async fn start() -> Self {
        let settings: Vec<_> = SETTINGS.iter().chain(AS_COMPUTE).copied().collect();
        let postgres = Postgres::start_with(&settings).await;
        let server = Server {
            socket: postgres.data().parent().unwrap().to_owned(),
            port: 5432,
        };
        let directory = TempDir::with_prefix("glowplug-receive").unwrap();
        Self {
            _receiver: Receiver::start(&server, directory.path()),
            _postgres: postgres,
            _directory: directory,
            server,
        }
    }
}

/// On the same disk as the yardstick, open to the user that runs postgres.
fn directory() -> TempDir {
    let directory = TempDir::with_prefix("glowplug-relay").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

pub(crate) async fn run() {
    let mut stage = Stage::set_in(directory()).await;
    stage.restore().await;
    let mut compute = Compute::start_with(&stage, "compute", &program(), SETTINGS);
    compute.running().await;
    let pid = compute.pid();
    let relay = Server {
        socket: compute.home.join("s"),
        port: compute.port,
    };
    let yardstick = Yardstick::start().await;
    // The storage needs this thread.
    let measuring = tokio::task::spawn_blocking(move || measure(&relay, &yardstick.server, pid));
    let (found, peak) = measuring.await.unwrap();
    compute.stop();
    stage.stop().await;
    print(&found, peak);
}

type Found = Vec<(u32, Measured, Measured)>;

fn measure(relay: &Server, bare: &Server, pid: u32) -> (Found, u64) {
    relay.fill();
    bare.fill();
    process::forget_peak(pid);
    let mut found = Vec::new();
    for clients in clients() {
        let (mut before, mut after) = (Measured::default(), Measured::default());
        for _ in 0..number("RELAY_ROUNDS", 1) {
            bare.measure(clients, &mut before);
            relay.measure(clients, &mut after);
        }
        found.push((clients, before, after));
    }
    (found, process::memory(pid).peak)
}

fn print(found: &Found, peak: u64) {
    let mut table = Table::new([
        "clients",
        "receivewal tps",
        "relay tps",
        "ratio",
        "met",
        "p50 ms",
        "",
        "p99 ms",
        "",
    ]);
    for (clients, before, after) in found {
        let ratio = after.tps.median() / before.tps.median();
        // No slower with one client, faster with more.
        let met = if *clients == 1 {
            ratio >= 1.0
        } else {
            ratio > 1.0
        };
        table.row([
            clients.to_string(),
            cell(before.tps.median(), 0),
            cell(after.tps.median(), 0),
            cell(ratio, 2),
            verdict(met),
            cell(before.p50.median(), 2),
            cell(after.p50.median(), 2),
            cell(before.p99.median(), 2),
            cell(after.p99.median(), 2),
        ]);
    }
    table.print("Commits through the relay, against pg_receivewal --synchronous");
    let peak = peak as f64 / 1e6;
    println!(
        "\npeak memory of the compute {peak:.1} MB (at most {MEMORY}: {})",
        verdict(peak <= MEMORY)
    );
}
