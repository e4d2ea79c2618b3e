//! The files in `pg_wal`: whole segments up to an LSN, nothing behind it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::lsn::{Lsn, WAL_SEGMENT_SIZE, segment_file_name};
use crate::pgdata::{Error, io_error};
use crate::wire::wal_record::RecordDecoder;

fn directory(pgdata: &Path) -> PathBuf {
    pgdata.join("pg_wal")
}

/// Ensures that all segments from `redo` on are there, and that nothing lies behind
/// `end`: later segments are removed, the rest of the last is zeros. Postgres takes
/// zeros for the end of the log, and wants segments in full length.
pub(super) fn cut(pgdata: &Path, redo: Lsn, end: Lsn, tli: u32) -> Result<(), Error> {
    let last = Lsn(end.0.saturating_sub(1)).segment();
    for segment in redo.segment()..=last {
        let name = segment_file_name(tli, segment);
        let path = directory(pgdata).join(&name);
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::MissingWal {
                    lsn: end,
                    segment: name,
                });
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let needed = end.0.min((segment + 1) * WAL_SEGMENT_SIZE) - segment * WAL_SEGMENT_SIZE;
        if length < needed {
            return Err(Error::MissingWal {
                lsn: end,
                segment: name,
            });
        }
        if segment == last && needed < WAL_SEGMENT_SIZE {
            zero_behind(&path, needed)?;
        }
    }
    remove_behind(pgdata, &segment_file_name(tli, last))
}

/// Where the log ends: behind the last whole record, reading from the record at
/// `start` on.
pub(super) fn end(pgdata: &Path, start: Lsn, tli: u32, pg_major: u32) -> Result<Lsn, Error> {
    let unknown = |_| Error::Version {
        path: pgdata.join("PG_VERSION"),
        text: pg_major.to_string(),
    };
    let mut decoder = RecordDecoder::new(start, pg_major).map_err(unknown)?;
    let mut end = start;
    loop {
        let position = decoder.position();
        let path = directory(pgdata).join(position.segment_file_name(tli));
        let segment = match fs::read(&path) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(end),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let mut rest = segment
            .get(position.segment_offset() as usize..)
            .unwrap_or_default();
        let is_short = (segment.len() as u64) < WAL_SEGMENT_SIZE;
        loop {
            match decoder.next(&mut rest) {
                Ok(Some(record)) => end = record.next,
                Ok(None) => break,
                // Zeros, or what was there before: no record starts here.
                Err(_) => return Ok(end),
            }
        }
        if is_short {
            return Ok(end);
        }
    }
}

/// As a hole, which costs neither time nor memory.
fn zero_behind(path: &Path, length: u64) -> Result<(), Error> {
    let zero = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.set_len(WAL_SEGMENT_SIZE)
    };
    zero().map_err(io_error("cut", path))
}

fn remove_behind(pgdata: &Path, last: &str) -> Result<(), Error> {
    let directory = directory(pgdata);
    let entries = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(io_error("list", &directory))? {
        let name = entry.file_name();
        let is_behind = name.to_str().is_some_and(|name| {
            // Also `.partial` and the like.
            let stem = name.get(..last.len()).unwrap_or_default();
            let is_segment = !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_hexdigit());
            is_segment && stem > last
        });
        if is_behind {
            let path = entry.path();
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Writes into the segment that holds `at`, making it if it is not there.
pub(super) fn write(pgdata: &Path, tli: u32, at: Lsn, bytes: &[u8]) -> Result<(), Error> {
    let path = directory(pgdata).join(at.segment_file_name(tli));
    let write = || {
        let owner = fs::metadata(pgdata)?;
        let exists = path.exists();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600);
        let file = file.open(&path)?;
        if !exists {
            if (owner.uid(), owner.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            file.set_len(WAL_SEGMENT_SIZE)?;
        }
        file.write_all_at(bytes, at.segment_offset())
    };
    write().map_err(io_error("write", &path))
}

#[cfg(test)]
mod tests {
    use tempfile::{TempDir, tempdir};

    use super::*;

    const SEGMENT: usize = WAL_SEGMENT_SIZE as usize;

    fn wal(segments: &[(u64, usize)]) -> TempDir {
        let pgdata = tempdir().unwrap();
        fs::create_dir_all(directory(pgdata.path()).join("archive_status")).unwrap();
        for (segment, length) in segments {
            let path = directory(pgdata.path()).join(segment_file_name(1, *segment));
            fs::write(path, vec![1; *length]).unwrap();
        }
        pgdata
    }

    fn segment(pgdata: &TempDir, number: u64) -> Option<Vec<u8>> {
        fs::read(directory(pgdata.path()).join(segment_file_name(1, number))).ok()
    }

    #[test]
    fn nothing_lies_behind_the_end() {
        let pgdata = wal(&[(1, SEGMENT), (2, SEGMENT), (3, SEGMENT)]);
        let partial = directory(pgdata.path()).join("000000010000000000000004.partial");
        fs::write(&partial, "x").unwrap();
        let end = Lsn(2 * WAL_SEGMENT_SIZE + 1000);
        cut(pgdata.path(), Lsn(WAL_SEGMENT_SIZE + 40), end, 1).unwrap();
        let last = segment(&pgdata, 2).unwrap();
        assert_eq!(last.len(), SEGMENT);
        assert!(last[..1000].iter().all(|byte| *byte == 1));
        assert!(last[1000..].iter().all(|byte| *byte == 0));
        assert_eq!(segment(&pgdata, 1), Some(vec![1; SEGMENT]));
        assert_eq!(segment(&pgdata, 3), None);
        assert!(!partial.exists());
        assert!(directory(pgdata.path()).join("archive_status").exists());
    }

    #[test]
    fn a_short_last_segment_is_filled_up() {
        let pgdata = wal(&[(1, 5000)]);
        let end = Lsn(WAL_SEGMENT_SIZE + 5000);
        cut(pgdata.path(), Lsn(WAL_SEGMENT_SIZE + 40), end, 1).unwrap();
        assert_eq!(segment(&pgdata, 1).unwrap().len(), SEGMENT);
    }

    #[test]
    fn an_end_on_a_segment_boundary_needs_no_further_segment() {
        let pgdata = wal(&[(1, SEGMENT)]);
        let end = Lsn(2 * WAL_SEGMENT_SIZE);
        cut(pgdata.path(), Lsn(WAL_SEGMENT_SIZE + 40), end, 1).unwrap();
        assert_eq!(segment(&pgdata, 1), Some(vec![1; SEGMENT]));
    }

    #[test]
    fn a_gap_or_a_short_segment_is_an_error() {
        let redo = Lsn(WAL_SEGMENT_SIZE + 40);
        for segments in [
            &[(1, SEGMENT), (3, SEGMENT)][..],
            &[(1, SEGMENT), (2, SEGMENT), (3, 100)],
            &[(1, 9000), (2, SEGMENT), (3, SEGMENT)],
        ] {
            let pgdata = wal(segments);
            let end = Lsn(3 * WAL_SEGMENT_SIZE + 1000);
            let error = cut(pgdata.path(), redo, end, 1).unwrap_err();
            assert!(matches!(error, Error::MissingWal { .. }), "{error:?}");
        }
    }
}
