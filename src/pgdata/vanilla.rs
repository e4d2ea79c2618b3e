//! Makes an unpacked complete backup start in unmodified PostgreSQL, exactly at its
//! LSN.
//!
//! Two kinds of storage send two kinds of backup:
//!
//! - A base that was shut down cleanly, with the WAL since then. Its control file is
//!   told that the cluster was running, and postgres replays the WAL by plain crash
//!   recovery: no backup label, no new PostgreSQL timeline. What lies behind the LSN
//!   is cut off first: only WAL that a quorum of safekeepers has may be replayed.
//! - A Neon pageserver's `fullbackup`: pages as of the LSN, no WAL, and a control
//!   file that points at no checkpoint. It gets the one checkpoint record that
//!   is missing.

mod checkpoint_record;
mod wal_files;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Error, io_error, read_pg_version};
use crate::lsn::Lsn;
use crate::spec::ComputeMode;
use crate::wire::control_file::{ControlFile, State};
use crate::wire::wal_page::page_magic;

/// Oldest version whose WAL a Neon pageserver understands without Neon's patches: up
/// to 15, Neon's postgres adds a field to heap records, which the pageserver's
/// decoder expects (`libs/wal_decoder`).
const OLDEST_FOR_PAGESERVER: u32 = 16;

/// A directory that postgres can start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Where WAL goes on: what a primary writes starts here.
    pub lsn: Lsn,
    /// Identifies the cluster, in the WAL and to safekeepers.
    pub system_identifier: u64,
    /// Major version of PostgreSQL.
    pub pg_major: u32,
    /// Whether postgres will replay WAL.
    pub replays: bool,
}

/// Prepares an unpacked complete backup for its first start, at the LSN it was asked
/// for. Without one, that of a replica, it starts at the end of the last whole record
/// that it brings. Blocks.
///
/// # Errors
///
/// [`Error::MissingWal`] and [`Error::BaseTooNew`] if the backup does not reach the
/// LSN. [`Error::IncompatibleWal`] for a Primary of PostgreSQL 15 or older on a Neon
/// pageserver. [`Error::Version`], [`Error::ControlFile`], [`Error::Io`],
/// [`Error::DiskFull`].
pub fn prepare_vanilla(
    pgdata: &Path,
    lsn: Option<Lsn>,
    mode: ComputeMode,
) -> Result<Prepared, Error> {
    let pg_major = read_pg_version(pgdata)?;
    let mut control = read_control_file(pgdata)?;
    let lsn = lsn.filter(|lsn| lsn.is_valid());
    let from_pageserver = !control.checkpoint().is_valid();
    let (lsn, replays) = if from_pageserver {
        if mode == ComputeMode::Primary && pg_major < OLDEST_FOR_PAGESERVER {
            return Err(Error::IncompatibleWal { major: pg_major });
        }
        (seed_checkpoint(pgdata, &mut control, pg_major)?, false)
    } else {
        let lsn = match lsn {
            Some(lsn) => lsn,
            None => wal_files::end(pgdata, control.checkpoint(), control.tli(), pg_major)?,
        };
        (lsn, replay_to(pgdata, &mut control, lsn)?)
    };
    Ok(Prepared {
        lsn,
        system_identifier: control.system_identifier(),
        pg_major,
        replays,
    })
}

/// Cuts the WAL at the LSN and has it replayed, unless there is none: whether there is.
fn replay_to(pgdata: &Path, control: &mut ControlFile, lsn: Lsn) -> Result<bool, Error> {
    let checkpoint_end = checkpoint_record::end_of(control.checkpoint());
    if lsn < checkpoint_end {
        return Err(Error::BaseTooNew {
            redo: control.redo(),
            lsn,
        });
    }
    wal_files::cut(pgdata, control.redo(), lsn, control.tli())?;
    let was_shut_down = control.state() == State::ShutDown;
    let replays = !was_shut_down || lsn.skip_page_header() > checkpoint_end.skip_page_header();
    if replays {
        control.set_state(State::InProduction);
        write_control_file(pgdata, control)?;
    }
    Ok(replays)
}

/// Gives a pageserver's backup its checkpoint record. Its LSN is in the control file.
fn seed_checkpoint(pgdata: &Path, control: &mut ControlFile, pg_major: u32) -> Result<Lsn, Error> {
    let at = control.redo();
    let path = pgdata.join("PG_VERSION");
    let magic = page_magic(pg_major).ok_or_else(|| Error::Version {
        path,
        text: pg_major.to_string(),
    })?;
    let signal = pgdata.join("neon.signal");
    let signal = fs::read_to_string(&signal).unwrap_or_default();
    let record = checkpoint_record::encode(previous_record(&signal), control.checkpoint_copy());
    let cluster = checkpoint_record::Cluster {
        magic,
        tli: control.tli(),
        system_identifier: control.system_identifier(),
    };
    for (position, bytes) in checkpoint_record::place(at, &record, &cluster) {
        wal_files::write(pgdata, control.tli(), position, &bytes)?;
    }
    control.set_checkpoint(at);
    control.set_state(State::ShutDown);
    write_control_file(pgdata, control)?;
    Ok(at)
}

/// The LSN in a `neon.signal`; 0/0 where none is known, as at the start of a branch.
fn previous_record(signal: &str) -> Lsn {
    let text = signal.strip_prefix("PREV LSN:").map(str::trim);
    text.and_then(|text| text.parse().ok())
        .unwrap_or(Lsn::INVALID)
}

fn read_control_file(pgdata: &Path) -> Result<ControlFile, Error> {
    let path = pgdata.join("global/pg_control");
    let bytes = fs::read(&path).map_err(io_error("read", &path))?;
    ControlFile::parse(&bytes).map_err(|source| Error::ControlFile { path, source })
}

/// In place: the file keeps its owner and mode.
fn write_control_file(pgdata: &Path, control: &ControlFile) -> Result<(), Error> {
    let path = pgdata.join("global/pg_control");
    let opened = OpenOptions::new().write(true).open(&path);
    let written = opened.and_then(|file: File| file.write_all_at(control.as_bytes(), 0));
    written.map_err(io_error("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_predecessor_stands_in_the_signal_file() {
        assert_eq!(previous_record("PREV LSN: 0/1511A88"), Lsn(0x151_1A88));
        assert_eq!(previous_record("PREV LSN: none"), Lsn::INVALID);
        assert_eq!(previous_record(""), Lsn::INVALID);
    }
}
