//! Keeps the committed WAL of a timeline in segment files, and knows where its
//! records end.
//!
//! Only committed WAL comes here: it is never cut or overwritten with anything else,
//! and it can be fetched again from the safekeepers. So nothing is synced; a start
//! decodes what is there, and what does not decode is fetched again.
//!
//! All functions block: call them where blocking is allowed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE, segment_file_name};
use crate::storage::files;
use crate::wire::wal_record::{RMGR_XLOG, RecordDecoder, RecordSpan};

/// PostgreSQL's timeline number, always 1 on Neon's storage.
const TLI: u32 = 1;

/// How much is read at once when the end is looked for, in bytes.
const SCAN_SIZE: usize = 256 * 1024;

/// What is known of the end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Behind the last whole record, where the next one may start.
    pub last_record_lsn: Lsn,
    /// Start of the last whole record.
    pub prev_record_lsn: Lsn,
    /// The last checkpoint record that was seen.
    pub checkpoint: RecordSpan,
}

impl LogEnd {
    fn advance(&mut self, record: RecordSpan) {
        self.last_record_lsn = record.next;
        self.prev_record_lsn = record.start;
        if is_checkpoint(&record) {
            self.checkpoint = record;
        }
    }
}

/// `XLOG_CHECKPOINT_SHUTDOWN` (0x00) or `XLOG_CHECKPOINT_ONLINE` (0x10).
pub(super) fn is_checkpoint(record: &RecordSpan) -> bool {
    record.rmid == RMGR_XLOG && matches!(record.info & 0xF0, 0x00 | 0x10)
}

/// Path of the segment with this number.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_file_name(TLI, number))
}

/// The WAL of a timeline, open for appending.
#[derive(Debug)]
pub(super) struct WalFiles {
    dir: PathBuf,
    major: u32,
    decoder: RecordDecoder,
    open: Option<(u64, PathBuf, File)>,
    end: LogEnd,
}

impl WalFiles {
    /// Opens a log and finds its end. `checkpoint` is the start of a checkpoint
    /// record in it.
    pub(super) fn open(dir: &Path, checkpoint: Lsn, major: u32) -> Result<Self, files::Error> {
        let mut scan = Scan::new(dir, checkpoint, major)?;
        let first = scan.next()?.filter(is_checkpoint);
        let checkpoint = first.ok_or_else(|| {
            let problem = format!("no checkpoint record at {checkpoint}");
            files::damaged(&segment_path(dir, checkpoint.segment()), problem)
        })?;
        let mut end = LogEnd {
            last_record_lsn: checkpoint.next,
            prev_record_lsn: checkpoint.start,
            checkpoint,
        };
        while let Some(record) = scan.next()? {
            end.advance(record);
        }
        Ok(Self {
            dir: dir.to_owned(),
            major,
            decoder: decoder(dir, end.last_record_lsn, major)?,
            open: None,
            end,
        })
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> LogEnd {
        self.end
    }

    /// Forgets a record that was received in part: the next piece starts at the end
    /// of the last whole one.
    pub(super) fn restart(&mut self) -> Result<(), files::Error> {
        self.decoder = decoder(&self.dir, self.end.last_record_lsn, self.major)?;
        Ok(())
    }

    /// Appends a piece that starts at `at`. What the log has already is skipped.
    ///
    /// # Errors
    ///
    /// [`Error::NotContiguous`], [`Error::NotWal`]; [`WalFiles::restart`] makes the
    /// log usable again.
    pub(super) fn append(&mut self, at: Lsn, wal: &[u8]) -> Result<(), Error> {
        let position = self.decoder.position();
        if at > position {
            return Err(Error::NotContiguous { position, at });
        }
        let known = position.bytes_since(at).min(wal.len() as u64) as usize;
        let wal = &wal[known..];
        self.write(position, wal)?;
        let mut input = wal;
        while let Some(record) = self.decoder.next(&mut input).map_err(Error::NotWal)? {
            self.end.advance(record);
        }
        Ok(())
    }

    fn write(&mut self, mut at: Lsn, mut wal: &[u8]) -> Result<(), files::Error> {
        while !wal.is_empty() {
            let left = WAL_SEGMENT_SIZE - at.segment_offset();
            let (piece, rest) = wal.split_at(wal.len().min(left as usize));
            let (path, file) = self.segment(at.segment())?;
            let written = file.write_all_at(piece, at.segment_offset());
            written.map_err(files::failed("write", path))?;
            at.0 += piece.len() as u64;
            wal = rest;
        }
        Ok(())
    }

    fn segment(&mut self, number: u64) -> Result<(&Path, &File), files::Error> {
        let open = match self.open.take() {
            Some(open) if open.0 == number => open,
            _ => {
                let path = segment_path(&self.dir, number);
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(false);
                let file = options.open(&path).map_err(files::failed("open", &path))?;
                file.set_len(WAL_SEGMENT_SIZE)
                    .map_err(files::failed("extend", &path))?;
                (number, path, file)
            }
        };
        let (_, path, file) = self.open.insert(open);
        Ok((path, file))
    }
}

/// The record that starts at `start`.
pub(super) fn record_at(
    dir: &Path,
    start: Lsn,
    major: u32,
) -> Result<Option<RecordSpan>, files::Error> {
    Scan::new(dir, start, major)?.next()
}

fn decoder(dir: &Path, start: Lsn, major: u32) -> Result<RecordDecoder, files::Error> {
    RecordDecoder::new(start, major).map_err(|error| files::damaged(dir, error))
}

/// Reads records until something is none.
struct Scan<'a> {
    dir: &'a Path,
    decoder: RecordDecoder,
    open: Option<(u64, PathBuf, File)>,
    chunk: Vec<u8>,
    used: usize,
}

impl<'a> Scan<'a> {
    fn new(dir: &'a Path, start: Lsn, major: u32) -> Result<Self, files::Error> {
        Ok(Self {
            dir,
            decoder: decoder(dir, start, major)?,
            open: None,
            chunk: Vec::new(),
            used: 0,
        })
    }

    fn next(&mut self) -> Result<Option<RecordSpan>, files::Error> {
        loop {
            let mut input = self.chunk.get(self.used..).unwrap_or_default();
            let Ok(record) = self.decoder.next(&mut input) else {
                return Ok(None);
            };
            self.used = self.chunk.len() - input.len();
            if record.is_some() {
                return Ok(record);
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads on; `false` at the end of the files.
    fn fill(&mut self) -> Result<bool, files::Error> {
        let position = self.decoder.position();
        let number = position.segment();
        if self.open.as_ref().is_none_or(|(open, ..)| *open != number) {
            let path = segment_path(self.dir, number);
            match File::open(&path) {
                Ok(file) => self.open = Some((number, path, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(files::failed("open", &path)(error)),
            }
        }
        let Some((_, path, file)) = &self.open else {
            return Ok(false);
        };
        let left = WAL_SEGMENT_SIZE - position.segment_offset();
        self.chunk.resize(SCAN_SIZE.min(left as usize), 0);
        let read = file
            .read_at(&mut self.chunk, position.segment_offset())
            .map_err(files::failed("read", path))?;
        self.chunk.truncate(read);
        self.used = 0;
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const START: Lsn = Lsn(0x151_1AE0);
    /// Bytes of the recording that reach behind its checkpoint.
    const KNOWN: usize = 620_000;

    fn recorded() -> Vec<u8> {
        let zipped = include_bytes!("../../../tests/fixtures/safekeeper/pg15-wal-0-1511AE0.bin.gz");
        let mut wal = Vec::new();
        GzDecoder::new(&zipped[..]).read_to_end(&mut wal).unwrap();
        wal
    }

    /// A log that starts with the recorded WAL's first checkpoint record.
    fn log(wal: &[u8]) -> (TempDir, Lsn) {
        let dir = TempDir::new().unwrap();
        let mut file = vec![0; WAL_SEGMENT_SIZE as usize];
        let offset = START.segment_offset() as usize;
        let end = file.len().min(offset + wal.len());
        file[offset..end].copy_from_slice(&wal[..end - offset]);
        fs::write(segment_path(dir.path(), START.segment()), file).unwrap();
        let mut scan = Scan::new(dir.path(), START, 15).unwrap();
        loop {
            let record = scan
                .next()
                .unwrap()
                .expect("the recording has a checkpoint");
            if is_checkpoint(&record) {
                return (dir, record.start);
            }
        }
    }

    #[test]
    fn a_restart_finds_the_same_end() {
        let wal = recorded();
        let (dir, checkpoint) = log(&wal[..KNOWN]);
        let mut files = WalFiles::open(dir.path(), checkpoint, 15).unwrap();
        let before = files.end();
        files.append(START, &wal).unwrap();
        let end = files.end();
        assert!(end.last_record_lsn > before.last_record_lsn);
        let again = WalFiles::open(dir.path(), checkpoint, 15).unwrap();
        assert_eq!(again.end(), end);
    }

    #[test]
    fn a_gap_is_refused() {
        let wal = recorded();
        let (dir, checkpoint) = log(&wal[..KNOWN]);
        let mut files = WalFiles::open(dir.path(), checkpoint, 15).unwrap();
        let position = files.end().last_record_lsn;
        let refused = files.append(Lsn(position.0 + 1), &[0; 8]);
        assert!(matches!(refused, Err(Error::NotContiguous { .. })));
    }

    #[test]
    fn what_is_not_wal_is_refused_and_the_log_goes_on() {
        let wal = recorded();
        let (dir, checkpoint) = log(&wal[..KNOWN]);
        let mut files = WalFiles::open(dir.path(), checkpoint, 15).unwrap();
        let end = files.end();
        let refused = files.append(end.last_record_lsn, &[7; 8192]);
        assert!(matches!(refused, Err(Error::NotWal(_))));
        assert_eq!(files.end(), end);
        files.restart().unwrap();
        files.append(START, &wal).unwrap();
        assert!(files.end().last_record_lsn > end.last_record_lsn);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn pieces_of_any_size_give_the_same_log(sizes in prop::collection::vec(1_usize..90_000, 1..30)) {
            let wal = recorded();
            let (dir, checkpoint) = log(&wal[..KNOWN]);
            let mut files = WalFiles::open(dir.path(), checkpoint, 15).unwrap();
            let mut at = files.end().last_record_lsn;
            for size in sizes.iter().cycle() {
                let from = at.bytes_since(START) as usize;
                let piece = &wal[from..wal.len().min(from + size)];
                if piece.is_empty() {
                    break;
                }
                files.append(at, piece).unwrap();
                at.0 += piece.len() as u64;
            }
            let whole = {
                let (dir, checkpoint) = log(&wal[..KNOWN]);
                let mut files = WalFiles::open(dir.path(), checkpoint, 15).unwrap();
                files.append(START, &wal).unwrap();
                files.end()
            };
            prop_assert_eq!(files.end(), whole);
        }
    }
}
