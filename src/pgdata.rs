//! Makes the data directory that postgres starts from: an empty one, then what the
//! backup brings, then configuration that the spec cannot contradict.
//!
//! # Guarantees
//!
//! 1. A directory that was not finished is recognized as such ([`directory`]).
//! 2. Settings of [`crate::spec::owned_settings`] are what glowplug needs, whatever
//!    the spec says ([`conf`]).
//! 3. A complete backup starts in unmodified postgres exactly at its LSN, or is
//!    refused ([`prepare_vanilla`]).
//!
//! Functions that touch files block: call them through `spawn_blocking`.

pub mod conf;
pub mod directory;
pub mod hba;
mod layout;
mod vanilla;
mod version;

use std::io;
use std::path::{Path, PathBuf};

pub use crate::wire::control_file;
pub use conf::{ConfFacts, render_postgresql_conf};
pub use layout::{TEMP_OVERRIDE_FILE, finish, set_temp_override, write_conf};
pub use vanilla::{Prepared, prepare_vanilla};
pub use version::{parse_pg_version, read_pg_version};

use crate::error::{Category, Retry};
use crate::lsn::Lsn;

/// Why a data directory could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system is full.
    #[error("no space is left for {}: give the data directory's volume more", path.display())]
    DiskFull {
        /// The file or directory that did not fit.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file or directory could not be read, made or removed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is something else where the data directory should be.
    #[error(
        "{} is not empty and no data directory of postgres: empty it, or name another path",
        path.display()
    )]
    NotADataDirectory {
        /// The path.
        path: PathBuf,
    },
    /// The file that says which PostgreSQL the directory belongs to says nothing known.
    #[error("{} says '{text}', which is no PostgreSQL version from 13 up", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// The control file cannot be used.
    #[error("{} cannot be used", path.display())]
    ControlFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: control_file::Error,
    },
    /// WAL between the base and the backup's LSN is not there.
    #[error("the backup at {lsn} lacks WAL segment {segment}, without which it cannot start")]
    MissingWal {
        /// The backup's LSN.
        lsn: Lsn,
        /// Name of the segment.
        segment: String,
    },
    /// The backup begins after the LSN that was asked for.
    #[error("the backup begins at {redo}, after the LSN {lsn} that was asked for")]
    BaseTooNew {
        /// Where replaying its WAL starts.
        redo: Lsn,
        /// What was asked for.
        lsn: Lsn,
    },
    /// WAL of this version means something else to a Neon pageserver.
    #[error(
        "PostgreSQL {major} without Neon's patches cannot write to a Neon pageserver: its WAL \
         differs from Neon's for row updates; use 16 or newer, or Neon's postgres"
    )]
    IncompatibleWal {
        /// Major version.
        major: u32,
    },
    /// A primary was given a backup at an LSN that nothing can be written behind.
    #[error(
        "the backup is of a past LSN (neon.signal says '{signal}'): a Primary starts at the \
         end of its timeline; check that safekeepers and pageserver serve the same one"
    )]
    ReadOnlyBackup {
        /// What the signal file says.
        signal: String,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "DiskFull",
            Self::Io { .. } => "WriteFailed",
            Self::NotADataDirectory { .. } => "NotADataDirectory",
            Self::Version { .. } | Self::ControlFile { .. } => "CorruptBackup",
            Self::MissingWal { .. } | Self::BaseTooNew { .. } => "IncompleteBackup",
            Self::IncompatibleWal { .. } => "IncompatibleWal",
            Self::ReadOnlyBackup { .. } => "ReadOnlyBackup",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            // Another backup may be whole, or of a pageserver that has caught up.
            Self::MissingWal { .. } | Self::BaseTooNew { .. } | Self::ReadOnlyBackup { .. } => {
                Retry::Backoff
            }
            Self::Version { .. } | Self::ControlFile { .. } => Retry::Backoff,
            Self::DiskFull { .. }
            | Self::Io { .. }
            | Self::NotADataDirectory { .. }
            | Self::IncompatibleWal { .. } => Retry::Never,
        }
    }
}

/// Wraps what the system said.
fn io_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { path, source }
            }
            _ => Error::Io {
                operation,
                path,
                source,
            },
        }
    }
}
