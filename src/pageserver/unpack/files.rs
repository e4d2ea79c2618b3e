//! Makes directories and files below one root: private to their owner, with as few
//! system calls as possible.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use super::Failure;
use crate::pageserver::archive::is_zero;

/// Postgres wants its files like this, whatever the archive says.
const FILE_MODE: u32 = 0o600;
/// Postgres refuses a data directory that others can enter.
const DIRECTORY_MODE: u32 = 0o700;

/// Files at the top that do not belong to the data: the configuration is glowplug's,
/// and may be there already; a stale pid file keeps postgres from starting.
const LEFT_OUT: &[&str] = &["postgresql.conf", "postmaster.pid", "postmaster.opts"];

/// Below this size, a run of zeros is cheaper to write than to leave out, in bytes.
const SMALLEST_HOLE: usize = 32 * 1024;

pub(super) struct Files {
    root: PathBuf,
    owner: Option<(u32, u32)>,
    /// Directories known to exist.
    directories: HashSet<PathBuf>,
    open: Option<Open>,
}

/// The file that is being written.
struct Open {
    path: PathBuf,
    /// `None` for a file that is left out.
    file: Option<File>,
    size: u64,
    position: u64,
    /// The file ends in a hole.
    hole_at_end: bool,
}

impl Files {
    pub(super) fn new(root: PathBuf, owner: Option<(u32, u32)>) -> Self {
        Self {
            directories: HashSet::from([root.clone()]),
            root,
            owner,
            open: None,
        }
    }

    /// Makes a directory, and those above it.
    pub(super) fn directory(&mut self, path: &str) -> Result<(), Failure> {
        let path = self.root.join(path);
        self.ensure(&path).map_err(write_error(&path))
    }

    /// Starts a file.
    pub(super) fn create(&mut self, path: &str, size: u64) -> Result<(), Failure> {
        let left_out = LEFT_OUT.contains(&path);
        let path = self.root.join(path);
        let file = if left_out {
            None
        } else {
            Some(self.open(&path).map_err(write_error(&path))?)
        };
        self.open = Some(Open {
            path,
            file,
            size,
            position: 0,
            hole_at_end: false,
        });
        Ok(())
    }

    fn open(&mut self, path: &Path) -> io::Result<File> {
        if let Some(parent) = path.parent() {
            self.ensure(parent)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)?;
        if let Some((uid, gid)) = self.owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file)
    }

    /// Writes the next bytes of the file.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match &mut self.open {
            Some(open) => open.write(data).map_err(write_error(&open.path)),
            None => Ok(()),
        }
    }

    /// Completes the file.
    pub(super) fn close(&mut self) -> Result<(), Failure> {
        match self.open.take() {
            Some(open) => open.finish().map_err(write_error(&open.path)),
            None => Ok(()),
        }
    }

    fn ensure(&mut self, path: &Path) -> io::Result<()> {
        if self.directories.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.ensure(parent)?;
        }
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            created => {
                created?;
                if let Some((uid, gid)) = self.owner {
                    chown(path, Some(uid), Some(gid))?;
                }
            }
        }
        self.directories.insert(path.to_owned());
        Ok(())
    }
}

impl Open {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        // The last WAL segment is mostly zeros: a hole costs neither time nor memory.
        self.hole_at_end = data.len() >= SMALLEST_HOLE && is_zero(data);
        if !self.hole_at_end {
            file.write_all_at(data, self.position)?;
        }
        self.position += data.len() as u64;
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if self.hole_at_end => file.set_len(self.size),
            _ => Ok(()),
        }
    }
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::Write { path, source }
}
