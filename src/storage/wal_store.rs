//! Keeps one timeline of a safekeeper on disk: WAL in segment files, the acceptor's
//! state in a control file.
//!
//! A directory holds `safekeeper.control` and WAL files of 16 MiB named as
//! PostgreSQL names them (`%08X%08X%08X`); one that is not full yet ends in
//! `.partial` and is filled up with zeros (`safekeeper/src/wal_storage.rs` of Neon).
//!
//! # Guarantees
//! 1. What was synced, truncated or persisted survives a crash; what was only
//!    written may be lost, and is then lost from some position on
//!    (`unsynced_wal_is_lost_as_a_whole`).
//! 2. Behind the end of the log there are only zeros, so that a restart finds the
//!    same end (`a_restart_finds_the_end_by_decoding`).
//! 3. The control file is replaced as a whole or not at all.
//! 4. Damaged files are an error that names the file, never a panic and never a
//!    shorter log than was promised.
//!
//! All functions block: call them where blocking is allowed.

mod control_file;
pub use control_file::decode as decode_control_file;
mod files;
mod prefix;
mod reader;

pub use prefix::prefix;
pub use reader::WalReader;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Category, Retry};
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE};
use crate::storage::acceptor::{ControlState, Effect, ServerInfo};
use crate::wire::wal_record::RecordDecoder;

/// What can go wrong on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{} is damaged ({problem}): restore it, or remove the timeline's directory and let the other safekeepers refill it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The process is stopping, or an operation panicked.
    #[error("an operation on the timeline's files was interrupted: open it again")]
    Interrupted,
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Io { .. } => "DiskFailed",
            Self::Damaged { .. } => "FileDamaged",
            Self::Interrupted => "Interrupted",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Io { .. } | Self::Interrupted => Retry::Backoff,
            Self::Damaged { .. } => Retry::Never,
        }
    }
}

/// The files of one timeline. After an error it must be opened anew.
#[derive(Debug)]
pub struct WalStore {
    dir: PathBuf,
    fsync: bool,
    server: ServerInfo,
    open: Option<Segment>,
    /// Lowest position written since the last sync.
    unsynced_from: Option<Lsn>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    file: File,
    /// Offset from which on there are only zeros.
    written: u64,
}

impl Segment {
    fn sync(&self) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(files::failed("sync", &self.path))
    }
}

/// What was found on disk.
#[derive(Debug)]
pub struct Opened {
    /// The files.
    pub store: WalStore,
    /// The acceptor's state.
    pub control: ControlState,
    /// End of the last whole record; 0 if there is no WAL.
    pub flush_lsn: Lsn,
}

impl WalStore {
    /// Makes a new timeline in `dir`, which must not exist. Without `fsync` nothing
    /// is safe from a crash of the machine; of the process it is.
    pub fn create(dir: &Path, control: &ControlState, fsync: bool) -> Result<Self, Error> {
        // Made under another name, so that there is never half a timeline.
        let making = dir.with_extension(MAKING);
        files::remove_dir(&making)?;
        files::create_dir(&making)?;
        control_file::write(&making, control, fsync)?;
        if let Some(root) = dir.parent().and_then(Path::parent)
            && fsync
        {
            files::sync_dir(root)?;
        }
        files::rename(&making, dir, fsync)?;
        Ok(Self::new(dir, control.server, fsync))
    }

    /// Removes the timeline in `dir`, at once: a crash leaves all of it or what
    /// [`WalStore::is_unfinished`] recognizes.
    pub fn remove(dir: &Path) -> Result<(), Error> {
        let removing = dir.with_extension(MAKING);
        files::remove_dir(&removing)?;
        files::rename(dir, &removing, false)?;
        files::remove_dir(&removing)
    }

    /// Whether a directory entry is a timeline that was made or removed halfway.
    pub fn is_unfinished(path: &Path) -> bool {
        path.extension()
            .is_some_and(|extension| extension == MAKING)
    }

    /// Opens the timeline in `dir` and finds the end of its WAL.
    pub fn open(dir: &Path, fsync: bool) -> Result<Opened, Error> {
        let control = control_file::read(dir)?;
        let store = Self::new(dir, control.server, fsync);
        store.check_segments(&control)?;
        let flush_lsn = store.find_end(control.scan_from())?;
        Ok(Opened {
            store,
            control,
            flush_lsn,
        })
    }

    fn new(dir: &Path, server: ServerInfo, fsync: bool) -> Self {
        Self {
            dir: dir.to_owned(),
            fsync,
            server,
            open: None,
            unsynced_from: None,
        }
    }

    /// Reads WAL of this timeline, independently of the writer.
    pub fn reader(&self) -> WalReader {
        WalReader::new(&self.dir)
    }

    /// Performs what the acceptor decided; replies are left to the caller.
    pub fn perform(&mut self, effect: &Effect) -> Result<(), Error> {
        match effect {
            Effect::Persist(control) => {
                self.server = control.server;
                control_file::write(&self.dir, control, self.fsync)
            }
            Effect::InitializeWal { start } => self.initialize(*start),
            Effect::TruncateWal { end } => self.truncate(*end),
            Effect::WriteWal { at, wal } => self.write(*at, wal),
            Effect::SyncWal => self.sync(),
            Effect::Reply(_) => Ok(()),
        }
    }

    /// Undoes what no sync has covered, as a crash of the machine might.
    pub fn lose_unsynced(&mut self) -> Result<(), Error> {
        match self.unsynced_from {
            Some(lsn) => self.truncate(lsn),
            None => Ok(()),
        }
    }

    fn initialize(&mut self, start: Lsn) -> Result<(), Error> {
        for (at, bytes) in prefix(start, &self.server) {
            self.write(at, &bytes)?;
        }
        Ok(())
    }

    fn write(&mut self, mut at: Lsn, mut wal: &[u8]) -> Result<(), Error> {
        let lowest = self.unsynced_from.map_or(at, |lsn| lsn.min(at));
        self.unsynced_from = Some(lowest);
        while !wal.is_empty() {
            let offset = at.segment_offset();
            let left = WAL_SEGMENT_SIZE - offset;
            let (piece, rest) = wal.split_at(wal.len().min(left as usize));
            let segment = self.segment(at.segment())?;
            let written = segment.file.write_all_at(piece, offset);
            written.map_err(files::failed("write", &segment.path))?;
            segment.written = segment.written.max(offset + piece.len() as u64);
            if piece.len() as u64 == left {
                self.finish_segment()?;
            }
            at.0 += piece.len() as u64;
            wal = rest;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        if let Some(segment) = &self.open
            && self.fsync
        {
            segment.sync()?;
        }
        self.unsynced_from = None;
        Ok(())
    }

    /// Ends the log at `end`. Later segments go first, the last of them before all
    /// others: a crash in between leaves a shorter log, never one with a hole.
    fn truncate(&mut self, end: Lsn) -> Result<(), Error> {
        let offset = end.segment_offset();
        let keep = end.segment() + u64::from(offset > 0);
        self.open = self.open.take().filter(|segment| segment.number < keep);
        for (_, path) in files::segments(&self.dir)?.range(keep..).rev() {
            files::remove(path)?;
        }
        if offset > 0 {
            let fsync = self.fsync;
            let segment = self.segment(end.segment())?;
            files::zero(&segment.file, offset..segment.written)
                .map_err(files::failed("write", &segment.path))?;
            segment.written = segment.written.min(offset);
            if fsync {
                segment.sync()?;
            }
        }
        if self.fsync {
            files::sync_dir(&self.dir)?;
        }
        self.unsynced_from = None;
        Ok(())
    }

    /// The segment with this number, open for writing under its unfinished name.
    fn segment(&mut self, number: u64) -> Result<&mut Segment, Error> {
        let open = match self.open.take() {
            Some(segment) if segment.number == number => segment,
            other => {
                if let Some(segment) = other
                    && self.fsync
                {
                    segment.sync()?;
                }
                files::open_segment(&self.dir, number, self.fsync)?
            }
        };
        Ok(self.open.insert(open))
    }

    /// Gives the open segment, which is full, its final name.
    fn finish_segment(&mut self) -> Result<(), Error> {
        let Some(segment) = self.open.take() else {
            return Ok(());
        };
        if self.fsync {
            segment.sync()?;
        }
        let to = files::finished_path(&self.dir, segment.number);
        files::rename(&segment.path, &to, self.fsync)
    }

    /// A committed position lies in a segment that exists: everything else would be
    /// a log shorter than was promised.
    fn check_segments(&self, control: &ControlState) -> Result<(), Error> {
        let (first, end) = (control.local_start_lsn, control.commit_lsn);
        if end <= first {
            return Ok(());
        }
        let present = files::segments(&self.dir)?;
        let wanted = first.segment()..=Lsn(end.0 - 1).segment();
        for number in wanted {
            if !present.contains_key(&number) {
                return Err(Error::Damaged {
                    path: files::finished_path(&self.dir, number),
                    problem: format!("missing, though WAL up to {end} was committed"),
                });
            }
        }
        Ok(())
    }

    /// Decodes from the start of a record on, to the end of the last whole one.
    fn find_end(&self, from: Lsn) -> Result<Lsn, Error> {
        if !from.is_valid() {
            return Ok(from);
        }
        let major = self.server.pg_version / 10_000;
        let decoder = RecordDecoder::new(from, major);
        let mut decoder = decoder.map_err(|error| Error::Damaged {
            path: control_file::path(&self.dir),
            problem: error.to_string(),
        })?;
        let mut reader = self.reader();
        let mut end = from;
        loop {
            let chunk = reader.read(decoder.position(), SCAN_SIZE)?;
            let mut input = &chunk[..];
            if input.is_empty() {
                return Ok(end);
            }
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(record)) => end = record.next,
                    Ok(None) => break,
                    // What is no WAL is behind the end.
                    Err(_) => return Ok(end),
                }
            }
        }
    }
}

/// Extension of a timeline's directory while it is being made or removed.
const MAKING: &str = "making";

/// How much is read at once when the end is looked for, in bytes.
const SCAN_SIZE: usize = 256 * 1024;

#[cfg(test)]
mod tests;
