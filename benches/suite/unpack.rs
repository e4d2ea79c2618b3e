//! Fetching and unpacking a large basebackup, compressed and plain, against `tar` on
//! the same bytes. Everything is in memory (/dev/shm).
//!
//! A page service sends the archive from memory; a process of its own fetches it and
//! writes the files, as a start-up does. `UNPACK_MB` and `UNPACK_ROUNDS` change the
//! usual 1024 MB and 3 rounds.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use glowplug::access::Access;
use glowplug::id::{ShardIndex, TenantId, TimelineId};
use glowplug::pageserver::{BackupKind, BasebackupProgress, BasebackupRequest, fetch_basebackup};
use glowplug::spec::{ComputeMode, PageserverProtocol, ShardLocation};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::postgres::programs::newest as bin_dir;
use crate::postgres::template;
use crate::stage::child::{self, Ended};
use crate::stage::table::{Samples, Table, cell, verdict};
use crate::stage::{memory_directory, number};

/// What may be taken of `tar`'s time at most, and of memory.
const GZIP_TARGET: f64 = 0.5;
const PLAIN_TARGET: f64 = 1.0;
const MEMORY: f64 = 16.0;

/// What the child is called.
pub(crate) const FETCH: &str = "fetch";

/// Bytes in one message, as a pageserver sends them.
const MESSAGE: usize = 8 * 1024;

const LONG: Duration = Duration::from_mins(10);

/// One form of the archive.
struct Form {
    name: &'static str,
    flag: &'static str,
    gzip: bool,
    target: f64,
    bytes: Arc<Vec<u8>>,
    tar: Samples,
    glowplug: Samples,
    memory: Samples,
}

pub(crate) async fn run() {
    let directory = memory_directory();
    let size = number("UNPACK_MB", 1024) * 1_000_000;
    let plain = archive(size);
    let gzip = compress(&plain);
    let mut forms = [
        form("gzip", "-xzf", true, GZIP_TARGET, gzip),
        form("plain", "-xf", false, PLAIN_TARGET, plain),
    ];
    for form in &forms {
        fs::write(directory.path().join(form.name), &*form.bytes).unwrap();
    }
    let measuring = tokio::task::spawn_blocking(move || {
        for _ in 0..number("UNPACK_ROUNDS", 3) {
            for form in &mut forms {
                measure(form, directory.path());
            }
        }
        forms
    });
    print(&measuring.await.unwrap());
}

fn form(name: &'static str, flag: &'static str, gzip: bool, target: f64, bytes: Vec<u8>) -> Form {
    Form {
        name,
        flag,
        gzip,
        target,
        bytes: Arc::new(bytes),
        tar: Samples::default(),
        glowplug: Samples::default(),
        memory: Samples::default(),
    }
}

fn measure(form: &mut Form, directory: &Path) {
    let into = directory.join("unpacked");
    fs::create_dir(&into).unwrap();
    let started = Instant::now();
    let mut tar = Command::new("tar");
    tar.arg(form.flag).arg(directory.join(form.name));
    assert!(tar.arg("-C").arg(&into).status().unwrap().success());
    form.tar.push(started.elapsed().as_secs_f64());
    fs::remove_dir_all(&into).unwrap();

    fs::create_dir(&into).unwrap();
    let port = serve(Arc::clone(&form.bytes));
    let ended = child::run(
        FETCH,
        &[
            &port.to_string(),
            into.to_str().unwrap(),
            &form.gzip.to_string(),
        ],
    );
    let Ended {
        said,
        peak_anonymous,
        ..
    } = ended;
    form.glowplug.push(said.parse().unwrap());
    form.memory.push(peak_anonymous as f64 / 1e6);
    fs::remove_dir_all(&into).unwrap();
}

/// The child: fetches from a port into a directory, and prints the seconds it took.
pub(crate) async fn fetch(arguments: &[String]) {
    let [port, into, gzip] = arguments else {
        panic!("PORT DIRECTORY GZIP");
    };
    let location = ShardLocation {
        index: ShardIndex::UNSHARDED,
        node_id: Some(1),
        libpq: Some(format!("postgresql://no_user@127.0.0.1:{port}")),
        grpc: None,
        http: None,
    };
    let access = Access::default();
    let request = BasebackupRequest {
        tenant_id: TenantId([1; 16]),
        timeline_id: TimelineId([2; 16]),
        lsn: None,
        kind: BackupKind::Basebackup { replica: false },
        compute_mode: ComputeMode::Primary,
        gzip: gzip == "true",
        location: &location,
        protocol: PageserverProtocol::Libpq,
        access: &access,
        connect_limit: LONG,
        answer_limit: LONG,
        stall_limit: LONG,
    };
    let (progress, _) = watch::channel(BasebackupProgress::default());
    let started = Instant::now();
    let into = PathBuf::from(into);
    let cancel = CancellationToken::new();
    let fetched = fetch_basebackup(&request, &into, None, &progress, &cancel).await;
    fetched.unwrap();
    println!("{}", started.elapsed().as_secs_f64());
}

/// A page service for one connection.
fn serve(archive: Arc<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // A client that gave up has said why.
        let _ = send(stream, &archive);
    });
    port
}

fn send(mut stream: TcpStream, archive: &[u8]) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    skip(&mut stream, u32::from_be_bytes(length))?;
    message(&mut stream, b'R', &[0; 4])?;
    message(&mut stream, b'Z', b"I")?;
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    stream.read_exact(&mut length)?;
    skip(&mut stream, u32::from_be_bytes(length))?;
    let mut out = BufWriter::with_capacity(256 * 1024, stream);
    message(&mut out, b'H', &[0; 3])?;
    for piece in archive.chunks(MESSAGE) {
        message(&mut out, b'd', piece)?;
    }
    message(&mut out, b'c', &[])?;
    message(&mut out, b'C', b"SELECT 1\0")?;
    message(&mut out, b'Z', b"I")?;
    out.flush()
}

fn skip(stream: &mut TcpStream, length: u32) -> io::Result<()> {
    let mut rest = vec![0; length as usize - 4];
    stream.read_exact(&mut rest)
}

fn message(out: &mut impl Write, tag: u8, body: &[u8]) -> io::Result<()> {
    out.write_all(&[tag])?;
    out.write_all(&(body.len() as u32 + 4).to_be_bytes())?;
    out.write_all(body)
}

/// Copies of the files of a fresh cluster's databases, side by side.
fn archive(size: u64) -> Vec<u8> {
    let cluster = template(&bin_dir());
    let database = cluster.join("base/1");
    let files = fs::read_dir(database)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    let mut tar = tar::Builder::new(Vec::with_capacity(size as usize + (32 << 20)));
    for number in 1.. {
        if tar.get_ref().len() as u64 >= size {
            break;
        }
        tar.append_dir(format!("base/{number}"), &cluster).unwrap();
        for path in &files {
            let name = path.file_name().unwrap().to_str().unwrap();
            let mut file = File::open(path).unwrap();
            tar.append_file(format!("base/{number}/{name}"), &mut file)
                .unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// At the fastest level, as a pageserver does.
fn compress(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn print(forms: &[Form]) {
    let mut table = Table::new([
        "archive",
        "MB",
        "tar s",
        "glowplug s",
        "ratio",
        "target",
        "met",
        "memory MB",
        "target",
        "met",
    ]);
    for form in forms {
        let (tar, glowplug) = (form.tar.median(), form.glowplug.median());
        let (ratio, memory) = (glowplug / tar, form.memory.max());
        table.row([
            form.name.to_owned(),
            cell(form.bytes.len() as f64 / 1e6, 0),
            cell(tar, 2),
            cell(glowplug, 2),
            cell(ratio, 2),
            format!("≤ {}", form.target),
            verdict(ratio <= form.target),
            cell(memory, 1),
            format!("≤ {MEMORY}"),
            verdict(memory <= MEMORY),
        ]);
    }
    table.print("Unpacking a basebackup, against tar on the same bytes (medians)");
}
