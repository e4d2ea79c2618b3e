//! Recovery of a safekeeper that lags: one has the log, one has nothing, the third is
//! down, so that the sync must bring the second up to the first. The yardstick sends
//! the same number of bytes from a file over one TCP connection on loopback into
//! another file, which is synced at the end.
//!
//! `RECOVERY_MB` and `RECOVERY_ROUNDS` change the usual 256 MB and 3 rounds.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use glowplug::lsn::Lsn;
use glowplug::safekeeper::SyncedHow;

use crate::quorum::Quorum;
use crate::stage::child;
use crate::stage::number;
use crate::stage::table::{Samples, Table, cell, verdict};
use crate::sync::{Writer, config};
use crate::wal::Log;

/// What must be reached of the yardstick's rate at least, and memory at most, in MB.
const TARGET: f64 = 0.7;
const MEMORY: f64 = 64.0;

/// What the child is called.
pub(crate) const SYNC: &str = "sync";

/// A record that fills a few pages, as a bulk load's do.
const RECORD: usize = 30_000;

/// One round.
async fn recover(bytes: u64, recovered: &mut Samples, memory: &mut Samples) {
    let mut quorum = Quorum::start_durable(3).await;
    let mut writer = Writer::default();
    let log = log(writer.end, bytes);
    writer.begin(1);
    writer.push(&quorum.endpoints[0], &log).await;
    quorum.crash(2).await;
    let endpoints = quorum.endpoints.clone();
    let ended = tokio::task::spawn_blocking(move || {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        child::run(SYNC, &endpoints)
    });
    let ended = ended.await.unwrap();
    let (seconds, lsn) = ended.said.split_once(' ').unwrap();
    let end = Lsn(writer.end.0 + log.len() as u64);
    assert_eq!(lsn.parse(), Ok(end), "all of it is committed");
    recovered.push(seconds.parse().unwrap());
    memory.push(ended.peak_anonymous as f64 / 1e6);
}

fn log(start: Lsn, bytes: u64) -> Vec<u8> {
    let mut log = Log::new(start, Vec::with_capacity(bytes as usize + RECORD * 2));
    let mut serial = 0;
    while (log.bytes.len() as u64) < bytes {
        log.append(1, serial, RECORD);
        serial += 1;
    }
    log.bytes
}

/// The child: syncs, and prints the seconds it took and the commit LSN.
pub(crate) async fn sync(endpoints: &[String]) {
    let config = config(endpoints, true);
    let started = Instant::now();
    let cancel = tokio_util::sync::CancellationToken::new();
    let synced = glowplug::safekeeper::sync(&config, &cancel).await.unwrap();
    let elapsed = started.elapsed().as_secs_f64();
    assert_eq!(synced.how, SyncedHow::Full);
    println!("{elapsed} {}", synced.commit_lsn);
}

/// Sends a file over one connection into another, synced.
fn copy(from: &Path, to: &Path) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut file = File::open(from).unwrap();
            pump(&mut file, &mut stream).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        let mut file = File::create(to).unwrap();
        pump(&mut stream, &mut file).unwrap();
        file.sync_all().unwrap();
    });
    started.elapsed().as_secs_f64()
}

/// As `cat` does it: through memory, 128 KiB at a time.
fn pump(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length])?,
        }
    }
}

pub(crate) async fn run() {
    let bytes = number("RECOVERY_MB", 256) * 1_000_000;
    let directory = tempfile::TempDir::with_prefix("glowplug-copy").unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    fs::write(&from, log(crate::sync::START, bytes)).unwrap();
    let (mut copied, mut recovered) = (Samples::default(), Samples::default());
    let mut memory = Samples::default();
    for _ in 0..number("RECOVERY_ROUNDS", 3) {
        let (from, to) = (from.clone(), to.clone());
        let copying = tokio::task::spawn_blocking(move || copy(&from, &to));
        copied.push(copying.await.unwrap());
        recover(bytes, &mut recovered, &mut memory).await;
    }
    print(bytes, &copied, &recovered, &memory);
}

fn print(bytes: u64, copied: &Samples, recovered: &Samples, memory: &Samples) {
    let rate = |samples: &Samples| bytes as f64 / 1e6 / samples.median();
    let ratio = rate(recovered) / rate(copied);
    let mut table = Table::new(["", "value", "target", "met"]);
    let no = String::new;
    table.row(["copy, MB/s".into(), cell(rate(copied), 0), no(), no()]);
    table.row([
        "recovery, MB/s".into(),
        cell(rate(recovered), 0),
        no(),
        no(),
    ]);
    table.row([
        "ratio".into(),
        cell(ratio, 2),
        format!("≥ {TARGET}"),
        verdict(ratio >= TARGET),
    ]);
    table.row([
        "memory, MB".into(),
        cell(memory.max(), 1),
        format!("≤ {MEMORY}"),
        verdict(memory.max() <= MEMORY),
    ]);
    table.print("Recovery of a safekeeper that lags, against one TCP connection (medians)");
}
