//! A fresh start: from the start of the process `glowplug compute` to Running, against
//! `tar -xzf` of the same archive followed by bare postgres from exec to its first
//! accepted connection.
//!
//! Three equal safekeepers and a pageserver run in this process; the archive is a gzip
//! basebackup of about 40 MB; everything is in memory (/dev/shm); the spec has one role
//! and one database, which are there already. Each round puts the storage back into the
//! same state, and measures the yardstick and the compute in turn.
//!
//! `FRESH_START_ROUNDS` changes the number of rounds.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glowplug::api::status::ComputeSpecStatus;
use glowplug::pgwire::{ConnectConfig, Connection, Host};
use nix::sys::signal::Signal;

use crate::stage::compute::Compute;
use crate::stage::storage::Stage;
use crate::stage::table::{Samples, Table, cell, verdict};
use crate::stage::{free_port, number, pg_bin_dir, process};

/// What may be taken of the yardstick's time at most, and what is aimed at.
const TARGET: f64 = 0.6;
const AIM: f64 = 0.45;

/// Between two looks at something that tells nobody.
const POLL: Duration = Duration::from_micros(500);

/// Everything measured, in milliseconds.
#[derive(Default)]
struct Measured {
    tar: Samples,
    bare: Samples,
    yardstick: Samples,
    running: Samples,
    phases: [(&'static str, Samples); 6],
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `tar -xzf` into memory, then postgres as it comes.
async fn yardstick(stage: &Stage, archive: &Path, measured: &mut Measured) {
    let home = stage.directory.path().join("yardstick");
    let data = home.join("pgdata");
    fs::create_dir_all(&data).unwrap();
    let started = Instant::now();
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(&data);
    assert!(tar.status().unwrap().success());
    let unpacked = started.elapsed();
    hand_over(stage, &home);

    let port = free_port();
    let mut postgres = bare_postgres(stage, &home, port);
    let started = Instant::now();
    let mut child = postgres.spawn().unwrap();
    while !says_ready(&data) {
        assert!(
            child.try_wait().unwrap().is_none(),
            "{}/log",
            home.display()
        );
        tokio::time::sleep(POLL).await;
    }
    let mut config = ConnectConfig::tcp("", port, "cloud_admin");
    config.host = Host::Unix(home.clone());
    config.database = Some("postgres".to_owned());
    let connection = Connection::connect(&config).await.unwrap();
    let accepted = started.elapsed();
    drop(connection);
    process::end(&mut child, Signal::SIGQUIT);
    fs::remove_dir_all(&home).unwrap();
    measured.tar.push(milliseconds(unpacked));
    measured.bare.push(milliseconds(accepted));
    measured.yardstick.push(milliseconds(unpacked + accepted));
}

/// Postgres wants a private directory, and a configuration file.
fn hand_over(stage: &Stage, home: &Path) {
    fs::write(home.join("pgdata/postgresql.conf"), "").unwrap();
    let mut chmod = Command::new("chmod");
    chmod.arg("0700").arg(home.join("pgdata"));
    assert!(chmod.status().unwrap().success());
    if let Some(run_as) = &stage.run_as {
        let owner = format!("{}:{}", run_as.uid, run_as.gid);
        let chown = Command::new("chown")
            .arg("-R")
            .arg(owner)
            .arg(home)
            .status();
        assert!(chown.unwrap().success());
    }
}

fn bare_postgres(stage: &Stage, home: &Path, port: u16) -> Command {
    let mut postgres = Command::new(pg_bin_dir().join("postgres"));
    postgres
        .arg("-D")
        .arg(home.join("pgdata"))
        .arg("-k")
        .arg(home)
        // As the compute's: what is kept in memory need not be synced.
        .args(["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"])
        .arg("-c")
        .arg(format!("port={port}"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(home.join("log")).unwrap());
    if let Some(run_as) = &stage.run_as {
        postgres.uid(run_as.uid).gid(run_as.gid);
    }
    postgres
}

fn says_ready(data: &Path) -> bool {
    fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| text.contains("\nready"))
}

/// From exec to Running.
async fn fresh_start(stage: &Stage, measured: &mut Measured) {
    let mut compute = Compute::start(stage, "compute");
    let started = compute.started;
    let running = compute.running().await;
    measured.running.push(milliseconds(running - started));
    let status = compute.status_with("state: Running").await;
    let status: ComputeSpecStatus = serde_saphyr::from_str(&status).unwrap();
    let phases = status.startup_durations.unwrap_or_default();
    let values = [
        ("process start to spec", phases.wait_for_spec_ms),
        ("safekeeper sync", phases.safekeeper_sync_ms),
        ("basebackup", phases.basebackup_ms),
        ("configure", phases.configure_ms),
        ("postgres", phases.postgres_start_ms),
        ("catalog", phases.catalog_apply_ms),
    ];
    for ((name, value), (shown, samples)) in values.into_iter().zip(&mut measured.phases) {
        *shown = name;
        samples.push(value.map_or(f64::NAN, |value| value as f64));
    }
    keep_slowest(&compute, measured);
    compute.stop();
    fs::remove_dir_all(stage.directory.path().join("compute")).unwrap();
}

/// The log of the slowest start may tell what it waited for.
fn keep_slowest(compute: &Compute, measured: &Measured) {
    let Some(file) = std::env::var_os("FRESH_START_SLOWEST_LOG") else {
        return;
    };
    let last = measured.running.last();
    if last >= measured.running.max() {
        fs::write(file, compute.log_text()).unwrap();
    }
}

pub(crate) async fn run() {
    let mut stage = Stage::set().await;
    let mut measured = Measured::default();
    let archive = stage.directory.path().join("archive.tar.gz");
    for round in 0..number("FRESH_START_ROUNDS", 10) {
        stage.restore().await;
        if round == 0 {
            let bytes = stage.basebackup().await;
            println!("basebackup: {:.1} MB gzip", bytes.len() as f64 / 1e6);
            fs::write(&archive, bytes).unwrap();
        }
        yardstick(&stage, &archive, &mut measured).await;
        fresh_start(&stage, &mut measured).await;
    }
    stage.stop().await;
    print(&measured);
}

fn print(measured: &Measured) {
    let mut table = Table::new(["", "p50 ms", "p90 ms", "max ms"]);
    let mut row = |name: &str, samples: &Samples| {
        let at = |percent| cell(samples.percentile(percent), 0);
        table.row([name.to_owned(), at(50), at(90), at(100)]);
    };
    row("tar -xzf", &measured.tar);
    row("bare postgres", &measured.bare);
    row("yardstick", &measured.yardstick);
    row("process start to Running", &measured.running);
    for (name, samples) in &measured.phases {
        row(&format!("  {name}"), samples);
    }
    table.print("Fresh start, against tar -xzf and bare postgres");
    let ratio = measured.running.median() / measured.yardstick.median();
    println!(
        "\nratio of medians {ratio:.2} (at most {TARGET}: {}; aim {AIM}: {})",
        verdict(ratio <= TARGET),
        verdict(ratio <= AIM)
    );
}
