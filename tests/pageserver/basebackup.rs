//! Basebackups whole, cut, damaged, hostile, refused, stalled, and without room.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use glowplug::access::Access;
use glowplug::error::{Category, Retry, chain};
use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::Lsn;
use glowplug::pageserver::{
    BackupKind, BasebackupProgress, BasebackupRequest, BasebackupStats, Error, Refusal,
    fetch_basebackup,
};
use glowplug::spec::{ComputeMode, PageserverProtocol, ShardLocation};
use tar::EntryType;
use tempfile::{TempDir, tempdir};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::stand_in::{Act, StandIn, archive, gzip, hostile_archive};

static ACCESS: LazyLock<Access> = LazyLock::new(Access::default);

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(200);

fn request(location: &ShardLocation) -> BasebackupRequest<'_> {
    BasebackupRequest {
        tenant_id: TenantId([0xA1; 16]),
        timeline_id: TimelineId([0xB1; 16]),
        lsn: Some(Lsn(0x0169_AD58)),
        kind: BackupKind::Basebackup { replica: false },
        compute_mode: ComputeMode::Primary,
        gzip: true,
        location,
        protocol: PageserverProtocol::Libpq,
        access: &ACCESS,
        connect_limit: LONG,
        answer_limit: LONG,
        stall_limit: LONG,
    }
}

async fn fetch(
    request: &BasebackupRequest<'_>,
    into: &Path,
) -> Result<(BasebackupStats, BasebackupProgress), Error> {
    let (progress, seen) = watch::channel(BasebackupProgress::default());
    let cancel = CancellationToken::new();
    let stats = fetch_basebackup(request, into, None, &progress, &cancel).await?;
    Ok((stats, *seen.borrow()))
}

/// Fetches what a stand-in sends into a directory of its own.
async fn fetch_from(stand_in: &StandIn) -> (TempDir, Result<BasebackupStats, Error>) {
    let directory = tempdir().unwrap();
    let location = stand_in.location();
    let fetched = fetch(&request(&location), directory.path()).await;
    (directory, fetched.map(|(stats, _)| stats))
}

async fn error_of(script: Vec<Act>) -> Error {
    fetch_from(&StandIn::start(script).await)
        .await
        .1
        .unwrap_err()
}

async fn error_of_stream(data: Vec<u8>) -> Error {
    fetch_from(&StandIn::sending(data).await)
        .await
        .1
        .unwrap_err()
}

/// Something of every kind: empty, small, larger than any buffer, mostly zeros.
fn sample() -> Vec<(&'static str, Vec<u8>)> {
    let noise = |length: u32| (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    let mut segment = vec![0; 16 << 20];
    segment[..8192].fill(1);
    vec![
        ("pg_ident.conf", Vec::new()),
        ("PG_VERSION", b"15".to_vec()),
        ("base/1/1259", noise(3 << 20).collect()),
        ("base/1/1260", vec![0; 100_000]),
        ("pg_wal/000000010000000000000001", segment),
        ("global/pg_control", noise(8192).collect()),
    ]
}

fn whole() -> Vec<u8> {
    let sample = sample();
    let files: Vec<_> = sample
        .iter()
        .map(|(path, data)| (*path, &data[..]))
        .collect();
    archive(&files)
}

#[tokio::test]
async fn a_whole_backup_is_unpacked_private_and_counted() {
    let compressed = gzip(&whole());
    let size = compressed.len() as u64;
    let stand_in = StandIn::sending(compressed).await;
    let directory = tempdir().unwrap();
    let location = stand_in.location();
    let (stats, progress) = fetch(&request(&location), directory.path()).await.unwrap();

    let (tenant, timeline) = ("a1".repeat(16), "b1".repeat(16));
    assert_eq!(
        stand_in.commands(),
        [format!("basebackup {tenant} {timeline} 0/169AD58 --gzip")]
    );
    let sample = sample();
    let unpacked: usize = sample.iter().map(|(_, data)| data.len()).sum();
    assert_eq!(stats.files, sample.len() as u64);
    assert_eq!(stats.bytes_received, size);
    assert_eq!(stats.bytes_unpacked, unpacked as u64);
    assert_eq!(progress.bytes_unpacked, stats.bytes_unpacked);
    for (path, data) in &sample {
        let path = directory.path().join(path);
        assert_eq!(&fs::read(&path).unwrap(), data, "{}", path.display());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    for path in ["base/1", "pg_wal", "pg_wal/archive_status"] {
        let mode = fs::metadata(directory.path().join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
    // Zeros take no room.
    let segment = directory.path().join("pg_wal/000000010000000000000001");
    assert!(fs::metadata(segment).unwrap().blocks() * 512 < 1 << 20);
}

#[tokio::test]
async fn a_complete_backup_is_not_compressed_by_a_real_pageserver() {
    for (parameters, data, suffix) in [
        (&[][..], whole(), ""),
        (&[("glowplug_storage", "on")][..], gzip(&whole()), " --gzip"),
    ] {
        let stand_in = StandIn::start(vec![
            Act::Login(parameters),
            Act::Command,
            Act::CopyOut,
            Act::Data(data, 512),
            Act::Done,
        ])
        .await;
        let location = stand_in.location();
        let request = BasebackupRequest {
            kind: BackupKind::Fullbackup,
            ..request(&location)
        };
        let directory = tempdir().unwrap();
        fetch(&request, directory.path()).await.unwrap();
        let [command] = &stand_in.commands()[..] else {
            panic!("{:?}", stand_in.commands());
        };
        assert!(command.starts_with("fullbackup "), "{command}");
        assert!(
            command.ends_with(&format!("0/169AD58{suffix}")),
            "{command}"
        );
        assert!(directory.path().join("global/pg_control").exists());
    }
}

#[tokio::test]
async fn configuration_and_pid_file_of_a_backup_are_left_out() {
    let files: &[(&str, &[u8])] = &[
        ("postgresql.conf", b"theirs"),
        ("postmaster.pid", b"1"),
        ("pg_hba.conf", b"x"),
    ];
    let stand_in = StandIn::sending(gzip(&archive(files))).await;
    let directory = tempdir().unwrap();
    fs::write(directory.path().join("postgresql.conf"), "ours").unwrap();
    let location = stand_in.location();
    fetch(&request(&location), directory.path()).await.unwrap();
    let conf = fs::read_to_string(directory.path().join("postgresql.conf"));
    assert_eq!(conf.unwrap(), "ours");
    assert!(!directory.path().join("postmaster.pid").exists());
    assert!(directory.path().join("pg_hba.conf").exists());
}

#[tokio::test]
async fn a_cut_archive_is_truncated_however_the_server_ends_it() {
    let tar = whole();
    let compressed = gzip(&tar);
    let end_marker = tar.len() - 1024;
    for data in [
        compressed[..compressed.len() / 2].to_vec(),
        compressed[..compressed.len() - 1].to_vec(),
        gzip(&tar[..tar.len() / 2]),
        gzip(&tar[..end_marker]),
        gzip(&tar[..end_marker + 512]),
        Vec::new(),
    ] {
        let error = error_of_stream(data).await;
        assert!(
            matches!(error, Error::Truncated { .. }),
            "{}",
            chain(&error)
        );
        assert_eq!(error.retry(), Retry::Backoff);
    }
}

#[tokio::test]
async fn nothing_may_follow_the_archive() {
    let tar = whole();
    let mut second_member = gzip(&tar);
    second_member.extend(gzip(b"more"));
    let mut garbage = gzip(&tar);
    garbage.extend(b"garbage");
    let mut behind_tar = tar.clone();
    behind_tar.extend([1; 512]);
    for data in [second_member, garbage, gzip(&behind_tar)] {
        let error = error_of_stream(data).await;
        assert!(matches!(error, Error::Corrupt { .. }), "{}", chain(&error));
    }
}

#[tokio::test]
async fn damage_is_noticed() {
    let mut flipped = gzip(&whole());
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    for data in [whole(), flipped, gzip(b"this is no tar archive")] {
        let error = error_of_stream(data).await;
        let damaged = matches!(error, Error::Corrupt { .. } | Error::Truncated { .. });
        assert!(damaged, "{}", chain(&error));
    }
}

#[tokio::test]
async fn an_error_after_the_last_byte_counts() {
    let compressed = gzip(&whole());
    let half = compressed[..compressed.len() / 2].to_vec();
    for data in [compressed, half] {
        let error = error_of(vec![
            Act::Login(&[]),
            Act::Command,
            Act::CopyOut,
            Act::Data(data, 8192),
            Act::Error("XX000", "reconstruct a page image: early eof"),
        ])
        .await;
        assert!(
            matches!(error, Error::Interrupted { .. }),
            "{}",
            chain(&error)
        );
        assert!(chain(&error).contains("early eof"), "{}", chain(&error));
        assert_eq!(error.retry(), Retry::Backoff);
    }
}

#[tokio::test]
async fn a_whole_archive_without_its_completion_is_not_taken() {
    let error = error_of(vec![
        Act::Login(&[]),
        Act::Command,
        Act::CopyOut,
        Act::Data(gzip(&whole()), 8192),
    ])
    .await;
    assert!(
        matches!(error, Error::Interrupted { .. }),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_refusal_says_whether_another_attempt_may_help() {
    for (code, message, refusal, retry) in [
        ("XX000", "not found", Refusal::NotFound, Retry::Backoff),
        ("57P01", "shutdown", Refusal::GoingAway, Retry::Backoff),
        (
            "XX000",
            "JWT authentication error",
            Refusal::Unauthorized,
            Retry::Never,
        ),
    ] {
        let at_command = vec![Act::Login(&[]), Act::Command, Act::Error(code, message)];
        let at_login = vec![Act::Error(code, message)];
        for script in [at_command, at_login] {
            match error_of(script).await {
                error @ Error::Refused { refusal: found, .. } => {
                    assert_eq!(found, refusal);
                    assert_eq!(error.retry(), retry);
                }
                other => panic!("{}", chain(&other)),
            }
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_asked_for_by_the_protocol_that_tells() {
    let script = |message| vec![Act::Login(&[]), Act::Command, Act::Error("XX000", message)];
    for (detail, refusal, retry) in [
        (
            "Not found: Timeline a/b was not found",
            Refusal::TimelineNotFound,
            Retry::Never,
        ),
        (
            "Not found: Tenant a not found",
            Refusal::NotFound,
            Retry::Backoff,
        ),
        // As glowplug's own storage answers: the first answer stands.
        (
            "no extended queries here",
            Refusal::NotFound,
            Retry::Backoff,
        ),
    ] {
        let scripts = vec![script("not found"), script(detail)];
        let stand_in = StandIn::start_each(scripts).await;
        match fetch_from(&stand_in).await.1.unwrap_err() {
            error @ Error::Refused { refusal: found, .. } => {
                assert_eq!((found, error.retry()), (refusal, retry), "{detail}");
            }
            other => panic!("{}", chain(&other)),
        }
        // The second is a Parse of the same command.
        let commands = stand_in.commands();
        assert_eq!(commands[1].trim_matches('\0'), commands[0]);
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_wherever_it_stops() {
    let half = {
        let compressed = gzip(&whole());
        compressed[..compressed.len() / 2].to_vec()
    };
    let before_login = StandIn::start(vec![Act::Hang]).await;
    let before_answer = StandIn::start(vec![Act::Login(&[]), Act::Command, Act::Hang]).await;
    let in_the_middle = StandIn::start(vec![
        Act::Login(&[]),
        Act::Command,
        Act::CopyOut,
        Act::Data(half, 8192),
        Act::Hang,
    ])
    .await;
    for stand_in in [before_login, before_answer, in_the_middle] {
        let location = stand_in.location();
        let request = BasebackupRequest {
            connect_limit: SHORT,
            answer_limit: SHORT,
            stall_limit: SHORT,
            ..request(&location)
        };
        let directory = tempdir().unwrap();
        let error = fetch(&request, directory.path()).await.unwrap_err();
        assert_eq!(error.category(), "Timeout", "{}", chain(&error));
        assert_eq!(error.retry(), Retry::Backoff);
    }
}

#[tokio::test]
async fn hostile_entries_write_nothing_outside() {
    for (kind, name, link) in [
        (EntryType::Regular, "../outside", ""),
        (EntryType::Regular, "/tmp/glowplug-hostile-entry", ""),
        (EntryType::Directory, "base/../../outside", ""),
        (EntryType::Symlink, "pg_wal", "/tmp"),
        (EntryType::Link, "base/1", "/etc/passwd"),
        (EntryType::Char, "base/1", ""),
        (EntryType::Fifo, "base/1", ""),
    ] {
        let stand_in = StandIn::sending(gzip(&hostile_archive(kind, name, link))).await;
        let parent = tempdir().unwrap();
        let into = parent.path().join("pgdata");
        fs::create_dir(&into).unwrap();
        let location = stand_in.location();
        let error = fetch(&request(&location), &into).await.unwrap_err();
        assert!(matches!(error, Error::Hostile { .. }), "{}", chain(&error));
        assert_eq!(error.retry(), Retry::Never);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    }
    assert!(!Path::new("/tmp/glowplug-hostile-entry").exists());
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_not_blamed_on_the_server() {
    let stand_in = StandIn::sending(gzip(&whole())).await;
    let directory = tempdir().unwrap();
    // A file where a directory has to be.
    fs::write(directory.path().join("global"), "").unwrap();
    let location = stand_in.location();
    let error = fetch(&request(&location), directory.path())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{}", chain(&error));
    assert_eq!(error.retry(), Retry::Never);
}

#[tokio::test]
async fn a_cancelled_fetch_ends_although_the_server_does_not() {
    let stand_in = StandIn::start(vec![
        Act::Login(&[]),
        Act::Command,
        Act::CopyOut,
        Act::Data(gzip(&whole())[..100_000].to_vec(), 8192),
        Act::Hang,
    ])
    .await;
    let directory = tempdir().unwrap();
    let location = stand_in.location();
    let request = request(&location);
    let (progress, mut seen) = watch::channel(BasebackupProgress::default());
    let cancel = CancellationToken::new();
    let fetch = fetch_basebackup(&request, directory.path(), None, &progress, &cancel);
    let cancel_when_begun = async {
        seen.wait_for(|progress| progress.bytes_received > 0)
            .await
            .unwrap();
        cancel.cancel();
    };
    let (fetched, ()) = tokio::join!(fetch, cancel_when_begun);
    assert!(matches!(fetched, Err(Error::Cancelled)));
}

#[tokio::test]
async fn a_missing_or_unknown_transport_needs_no_connection() {
    let location = ShardLocation {
        libpq: None,
        ..StandIn::start(Vec::new()).await.location()
    };
    let directory = tempdir().unwrap();
    let error = fetch(&request(&location), directory.path())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::NoAddress { .. }),
        "{}",
        chain(&error)
    );
    let grpc = BasebackupRequest {
        protocol: PageserverProtocol::Grpc,
        ..request(&location)
    };
    let error = fetch(&grpc, directory.path()).await.unwrap_err();
    assert!(
        matches!(error, Error::NoGrpcAddress { .. }),
        "{}",
        chain(&error)
    );
}

/// Only root can make a file system that is full: elsewhere the error is made by
/// hand, in the unit tests.
#[tokio::test]
async fn a_full_disk_is_told_from_other_failures() {
    let directory = tempdir().unwrap();
    let Some(_mounted) = SmallFileSystem::mount(directory.path()).await else {
        return;
    };
    let stand_in = StandIn::sending(gzip(&whole())).await;
    let location = stand_in.location();
    let error = fetch(&request(&location), directory.path())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{}", chain(&error));
    assert_eq!(error.category(), "DiskFull");
    assert_eq!(error.retry(), Retry::Never);
}

/// A file system of 1 MB in memory, gone when dropped.
struct SmallFileSystem<'a>(&'a Path);

impl<'a> SmallFileSystem<'a> {
    async fn mount(path: &'a Path) -> Option<Self> {
        use glowplug::process::{Command, Spawner};
        let command = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(path);
        let output = Spawner::start().unwrap().run(command, LONG).await.unwrap();
        output.exit.success().then_some(Self(path))
    }
}

impl Drop for SmallFileSystem<'_> {
    #[expect(clippy::disallowed_methods, reason = "no runtime when a test panics")]
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0)
            .status();
        assert!(unmounted.unwrap().success());
    }
}
