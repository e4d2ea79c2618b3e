//! The store with WAL that PostgreSQL 15.20 wrote, over restarts and damage.

use std::fs;
use std::io::Read;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::read::GzDecoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::id::{TenantId, TimelineId};
use crate::wire::safekeeper::{Membership, TermHistory, TermLsn};

const START: Lsn = Lsn(0x151_1AE0);
/// Ends of records.
const EARLY: Lsn = Lsn(0x151_2358);
const LATER: Lsn = Lsn(0x15A_6568);
/// Behind an `XLOG_SWITCH` record, and behind its segment.
const SWITCH: Lsn = Lsn(0x16A_8918);
const SECOND_SEGMENT: Lsn = Lsn(0x200_0000);

static WAL: LazyLock<Bytes> = LazyLock::new(|| {
    let zipped = include_bytes!("../../../tests/fixtures/safekeeper/pg15-wal-0-1511AE0.bin.gz");
    let mut wal = Vec::new();
    GzDecoder::new(&zipped[..]).read_to_end(&mut wal).unwrap();
    wal.into()
});

fn wal(from: Lsn, to: Lsn) -> Bytes {
    WAL.slice((from.0 - START.0) as usize..(to.0 - START.0) as usize)
}

fn control(commit_lsn: Lsn) -> ControlState {
    let server = ServerInfo {
        pg_version: 150_020,
        system_id: 7,
        wal_segment_size: 16 * 1024 * 1024,
    };
    let (tenant, timeline) = (TenantId([1; 16]), TimelineId([2; 16]));
    let mut control =
        ControlState::explicit(tenant, timeline, Membership::default(), server, START).unwrap();
    control.commit_lsn = commit_lsn;
    control
}

/// A directory that goes away with its store.
struct Disk {
    temporary: TempDir,
    store: WalStore,
}

impl Disk {
    fn new() -> Self {
        let temporary = TempDir::new().unwrap();
        let dir = temporary.path().join("tenant/timeline");
        let mut store = WalStore::create(&dir, &control(START), false).unwrap();
        store
            .perform(&Effect::InitializeWal { start: START })
            .unwrap();
        store.perform(&Effect::TruncateWal { end: START }).unwrap();
        Self { temporary, store }
    }

    fn with_wal(end: Lsn) -> Self {
        let mut disk = Self::new();
        disk.write(START, end);
        disk.store.perform(&Effect::SyncWal).unwrap();
        disk
    }

    fn dir(&self) -> PathBuf {
        self.temporary.path().join("tenant/timeline")
    }

    fn write(&mut self, from: Lsn, to: Lsn) {
        let wal = wal(from, to);
        self.store
            .perform(&Effect::WriteWal { at: from, wal })
            .unwrap();
    }

    fn commit(&mut self, commit_lsn: Lsn) {
        let control = Box::new(control(commit_lsn));
        self.store.perform(&Effect::Persist(control)).unwrap();
    }

    fn reopen(&mut self) -> Result<Lsn, Error> {
        let opened = WalStore::open(&self.dir(), false)?;
        self.store = opened.store;
        Ok(opened.flush_lsn)
    }

    fn read(&self, from: Lsn, to: Lsn) -> Vec<u8> {
        let mut reader = self.store.reader();
        let mut read = Vec::new();
        while read.len() < (to.0 - from.0) as usize {
            let at = Lsn(from.0 + read.len() as u64);
            let chunk = reader.read(at, (to.0 - at.0) as usize).unwrap();
            assert!(!chunk.is_empty(), "nothing at {at}");
            read.extend_from_slice(&chunk);
        }
        read
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "safekeeper.control")
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_restart_finds_the_end_by_decoding() {
    for (written, end) in [
        (EARLY, EARLY),
        (Lsn(EARLY.0 + 100), EARLY),
        (SWITCH, SECOND_SEGMENT),
        (Lsn(0x200_8000), Lsn(0x200_7FA8)),
    ] {
        let mut disk = Disk::with_wal(written);
        let found = disk.reopen().unwrap();
        assert_eq!(found, end);
        disk.commit(found);
        assert_eq!(disk.reopen().unwrap(), found, "from the end itself");
    }
}

#[test]
fn what_was_written_is_read_back_also_over_the_end_of_a_segment() {
    let end = Lsn(0x200_8000);
    let mut disk = Disk::new();
    let mut at = START;
    while at < end {
        let next = Lsn((at.0 + 100_000).min(end.0));
        disk.write(at, next);
        at = next;
    }
    assert_eq!(disk.read(START, end), wal(START, end));
    assert_eq!(
        disk.files(),
        [
            "000000010000000000000001",
            "000000010000000000000002.partial"
        ]
    );
    disk.reopen().unwrap();
    assert_eq!(disk.read(START, end), wal(START, end));
}

#[test]
fn truncation_removes_later_segments_and_leaves_zeros() {
    for reopened in [false, true] {
        let mut disk = Disk::with_wal(Lsn(0x200_8000));
        if reopened {
            disk.reopen().unwrap();
        }
        disk.store
            .perform(&Effect::TruncateWal { end: EARLY })
            .unwrap();
        assert_eq!(disk.files(), ["000000010000000000000001.partial"]);
        assert_eq!(disk.read(START, EARLY), wal(START, EARLY));
        let rest = disk.read(EARLY, SECOND_SEGMENT);
        assert!(rest.iter().all(|byte| *byte == 0));
        assert_eq!(disk.reopen().unwrap(), EARLY);
        disk.write(EARLY, LATER);
        assert_eq!(disk.reopen().unwrap(), LATER);
        assert_eq!(disk.read(START, LATER), wal(START, LATER));
    }
}

#[test]
fn truncation_at_the_start_of_a_segment_keeps_the_one_before() {
    let mut disk = Disk::with_wal(Lsn(0x200_8000));
    disk.store
        .perform(&Effect::TruncateWal {
            end: SECOND_SEGMENT,
        })
        .unwrap();
    assert_eq!(disk.files(), ["000000010000000000000001"]);
    assert_eq!(disk.reopen().unwrap(), SECOND_SEGMENT);
}

#[test]
fn a_segment_cut_by_a_switch_reads_as_zeros_to_its_end() {
    let mut disk = Disk::with_wal(SWITCH);
    disk.store
        .perform(&Effect::TruncateWal {
            end: SECOND_SEGMENT,
        })
        .unwrap();
    disk.write(SECOND_SEGMENT, Lsn(0x200_8000));
    assert_eq!(
        disk.files(),
        [
            "000000010000000000000001.partial",
            "000000010000000000000002.partial"
        ]
    );
    assert_eq!(
        disk.read(START, Lsn(0x200_8000)),
        wal(START, Lsn(0x200_8000))
    );
    disk.commit(LATER);
    assert!(disk.reopen().unwrap() > SECOND_SEGMENT);
}

#[test]
fn the_first_segment_reads_as_wal_from_its_beginning() {
    let mut disk = Disk::with_wal(EARLY);
    disk.reopen().unwrap();
    for (at, bytes) in prefix(START, &control(START).server) {
        assert_eq!(disk.read(at, Lsn(at.0 + bytes.len() as u64)), bytes);
    }
}

#[test]
fn unsynced_wal_is_lost_as_a_whole() {
    let mut disk = Disk::with_wal(EARLY);
    disk.write(EARLY, LATER);
    disk.write(LATER, Lsn(0x200_8000));
    disk.store.lose_unsynced().unwrap();
    assert_eq!(disk.reopen().unwrap(), EARLY);
    disk.write(EARLY, LATER);
    disk.store.perform(&Effect::SyncWal).unwrap();
    disk.store.lose_unsynced().unwrap();
    assert_eq!(disk.reopen().unwrap(), LATER);
}

#[test]
fn with_fsync_the_files_are_the_same() {
    let temporary = TempDir::new().unwrap();
    let dir = temporary.path().join("tenant/timeline");
    let mut store = WalStore::create(&dir, &control(START), true).unwrap();
    for effect in [
        Effect::InitializeWal { start: START },
        Effect::TruncateWal { end: START },
        Effect::WriteWal {
            at: START,
            wal: wal(START, LATER),
        },
        Effect::SyncWal,
        Effect::Persist(Box::new(control(EARLY))),
    ] {
        store.perform(&effect).unwrap();
    }
    let opened = WalStore::open(&dir, true).unwrap();
    assert_eq!(opened.flush_lsn, LATER);
    assert_eq!(opened.control.commit_lsn, EARLY);
    let length = fs::metadata(dir.join("000000010000000000000001.partial"))
        .unwrap()
        .len();
    assert_eq!(length, WAL_SEGMENT_SIZE);
}

#[test]
fn the_state_survives_a_restart() {
    let mut disk = Disk::new();
    let mut state = control(START);
    state.term = 9;
    state.term_history = TermHistory(vec![TermLsn {
        term: 9,
        lsn: START,
    }]);
    disk.store
        .perform(&Effect::Persist(Box::new(state.clone())))
        .unwrap();
    let opened = WalStore::open(&disk.dir(), false).unwrap();
    assert_eq!(opened.control, state);
}

#[test]
fn a_missing_committed_segment_is_damage() {
    let mut disk = Disk::with_wal(Lsn(0x200_8000));
    disk.commit(Lsn(0x200_0028));
    fs::remove_file(disk.dir().join("000000010000000000000001")).unwrap();
    let error = disk.reopen().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("000000010000000000000001 is damaged (missing"),
        "{error}"
    );
    assert_eq!(error.retry(), Retry::Never);
}

#[test]
fn a_segment_that_was_cut_off_ends_the_log_there() {
    let mut disk = Disk::with_wal(LATER);
    let path = disk.dir().join("000000010000000000000001.partial");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(EARLY.segment_offset() + 20).unwrap();
    assert_eq!(disk.reopen().unwrap(), EARLY);
    disk.store
        .perform(&Effect::TruncateWal { end: EARLY })
        .unwrap();
    disk.write(EARLY, LATER);
    assert_eq!(disk.reopen().unwrap(), LATER);
}

#[test]
fn a_segment_that_is_too_long_is_damage() {
    let mut disk = Disk::with_wal(EARLY);
    disk.reopen().unwrap();
    let path = disk.dir().join("000000010000000000000001.partial");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(WAL_SEGMENT_SIZE + 1).unwrap();
    let error = disk
        .store
        .perform(&Effect::TruncateWal { end: EARLY })
        .unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }));
}

#[test]
fn foreign_files_are_left_alone() {
    let mut disk = Disk::with_wal(EARLY);
    let path = disk.dir().join("README");
    fs::write(&path, "mine").unwrap();
    disk.store
        .perform(&Effect::TruncateWal { end: START })
        .unwrap();
    disk.reopen().unwrap();
    assert!(path.exists());
}

#[test]
fn a_timeline_that_was_made_halfway_is_recognized_and_made_anew() {
    let temporary = TempDir::new().unwrap();
    let half = temporary.path().join("tenant/timeline.making");
    fs::create_dir_all(&half).unwrap();
    assert!(WalStore::is_unfinished(&half));
    let dir = temporary.path().join("tenant/timeline");
    assert!(WalStore::open(&dir, false).is_err());
    WalStore::create(&dir, &control(START), false).unwrap();
    assert!(!half.exists());
    assert_eq!(WalStore::open(&dir, false).unwrap().flush_lsn, START);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_wal_never_panics_and_never_reads_as_more(at in any::<prop::sample::Index>(), byte: u8) {
        let mut disk = Disk::with_wal(EARLY);
        let path = disk.dir().join("000000010000000000000001.partial");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let offset = START.segment_offset() + at.index((EARLY.0 - START.0) as usize) as u64;
        file.write_all_at(&[byte], offset).unwrap();
        prop_assert!(disk.reopen().unwrap() <= EARLY);
    }
}
