//! Reads ranges of WAL while it is being written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Error, files};
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE};

/// Reads WAL of one timeline. Keeps the last segment open: a segment is replaced
/// only by a truncation below it, after which nobody reads it as the same log.
#[derive(Debug)]
pub struct WalReader {
    dir: PathBuf,
    open: Option<(u64, PathBuf, File)>,
}

impl WalReader {
    /// Reads the timeline in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            open: None,
        }
    }

    /// Reads up to `count` bytes from `from` on, never across the end of a segment;
    /// empty if there is no such segment. What was not written yet reads as zeros.
    pub fn read(&mut self, from: Lsn, count: usize) -> Result<Bytes, Error> {
        let left = WAL_SEGMENT_SIZE - from.segment_offset();
        let count = count.min(left as usize);
        let Some((path, file)) = self.segment(from.segment())? else {
            return Ok(Bytes::new());
        };
        let mut buffer = vec![0; count];
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, from.segment_offset() + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(files::failed("read", path)(error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.into())
    }

    fn segment(&mut self, number: u64) -> Result<Option<(&Path, &File)>, Error> {
        if self.open.as_ref().is_none_or(|(open, ..)| *open != number) {
            self.open = self.find(number)?;
        }
        Ok(self
            .open
            .as_ref()
            .map(|(_, path, file)| (path.as_path(), file)))
    }

    fn find(&self, number: u64) -> Result<Option<(u64, PathBuf, File)>, Error> {
        let finished = files::finished_path(&self.dir, number);
        let partial = files::partial_path(&self.dir, number);
        // It may be renamed between the first two tries.
        for path in [&finished, &partial, &finished] {
            match File::open(path) {
                Ok(file) => return Ok(Some((number, path.clone(), file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(files::failed("open", path)(error)),
            }
        }
        Ok(None)
    }
}
