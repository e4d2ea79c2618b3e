//! What is in a backup, in the order of a pageserver's
//! (`pageserver/src/basebackup.rs` of Neon).
//!
//! `global/pg_control` and WAL come last on purpose: postgres does not start on an
//! archive that was cut before them.
//!
//! Functions block: call them where blocking is allowed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Backup, Kind, wal_segment};
use crate::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use crate::storage::archive::{GzipWriter, Sink, TarWriter};
use crate::storage::files::{self, Error};
use crate::wire::control_file::State;
use crate::wire::wal_page::header_size;

/// Directories of every basebackup, some of which PostgreSQL wants to be there.
const DIRECTORIES: &[&str] = &[
    "global",
    "pg_wal/archive_status",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_twophase",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "base",
    "base/1",
    "pg_replslot",
    "pg_tblspc",
    "pg_stat",
    "pg_stat_tmp",
    "pg_xact",
    "pg_logical",
    "pg_logical/snapshots",
    "pg_logical/mappings",
];

/// Status logs of transactions.
const SLRUS: &[&str] = &["pg_xact", "pg_multixact/members", "pg_multixact/offsets"];

/// Writes a whole backup.
pub(super) fn write(backup: &Backup, out: &mut impl Sink) -> Result<(), Error> {
    let sent = match (backup.kind, backup.gzip) {
        (Kind::Full, true) => full_gzip(backup, out),
        (Kind::Full, false) => full_plain(backup, out),
        (Kind::Basebackup, true) => basebackup_gzip(backup, out),
        (Kind::Basebackup, false) => basebackup(backup, TarWriter::new(&mut *out, now())).map(drop),
    };
    sent?;
    out.flush().map_err(writing)
}

fn writing(source: io::Error) -> Error {
    files::failed("send", Path::new("the backup"))(source)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The base's files were compressed when it was made; what differs from backup to
/// backup follows as another section of the same gzip member.
fn full_gzip(backup: &Backup, out: &mut impl Sink) -> Result<(), Error> {
    let (compressed, section) = backup.base.compressed()?;
    let mut gzip = GzipWriter::new(out).map_err(writing)?;
    gzip.append(compressed, section).map_err(writing)?;
    let ended = full_end(backup, TarWriter::new(gzip, now()))?;
    ended.into_inner().finish().map(drop).map_err(writing)
}

fn full_plain(backup: &Backup, out: &mut impl Sink) -> Result<(), Error> {
    io::copy(&mut backup.base.uncompressed()?, out).map_err(writing)?;
    full_end(backup, TarWriter::new(out, now())).map(drop)
}

/// What a full backup has beside the base's files.
fn full_end<W: Sink>(backup: &Backup, mut tar: TarWriter<W>) -> Result<TarWriter<W>, Error> {
    signal_files(backup, &mut tar)?;
    let control = backup.base.control_file()?;
    let file = tar.file("global/pg_control", control.as_bytes());
    file.map_err(writing)?;
    let end = wal_end(backup.lsn);
    for number in backup.base.redo_lsn().segment()..=Lsn(end.0 - 1).segment() {
        let path = backup.timeline.segment_path(number);
        let file = File::open(&path).map_err(files::failed("open", &path))?;
        let keep = end.bytes_since(Lsn(number * WAL_SEGMENT_SIZE));
        let name = segment_name(number);
        let written = tar.file_from(&name, WAL_SEGMENT_SIZE, file.take(keep));
        written.map_err(writing)?;
    }
    tar.end_marker().map_err(writing)?;
    Ok(tar)
}

/// The end of the records before `lsn`: a page that only has a header is left out.
fn wal_end(lsn: Lsn) -> Lsn {
    let offset = lsn.0 % WAL_PAGE_SIZE;
    if offset <= header_size(lsn) as u64 {
        Lsn(lsn.0 - offset)
    } else {
        lsn
    }
}

fn segment_name(number: u64) -> String {
    format!("pg_wal/{}", crate::lsn::segment_file_name(1, number))
}

/// Tells Neon's postgres what its first record follows.
fn signal_files(backup: &Backup, tar: &mut TarWriter<impl Sink>) -> Result<(), Error> {
    let text = match backup.prev_lsn {
        Some(lsn) => format!("PREV LSN: {lsn}"),
        None => "PREV LSN: invalid".to_owned(),
    };
    for name in ["neon.signal", "zenith.signal"] {
        tar.file(name, text.as_bytes()).map_err(writing)?;
    }
    Ok(())
}

fn basebackup_gzip(backup: &Backup, out: &mut impl Sink) -> Result<(), Error> {
    let gzip = GzipWriter::new(out).map_err(writing)?;
    let ended = basebackup(backup, TarWriter::new(gzip, now()))?;
    ended.into_inner().finish().map(drop).map_err(writing)
}

/// Made of the base's files: status logs, like all else, are as of the base.
fn basebackup<W: Sink>(backup: &Backup, mut tar: TarWriter<W>) -> Result<TarWriter<W>, Error> {
    let data = backup.base.data_dir();
    for directory in DIRECTORIES {
        tar.directory(directory).map_err(writing)?;
    }
    if data.join("pg_wal/summaries").is_dir() {
        tar.directory("pg_wal/summaries").map_err(writing)?;
    }
    copy(&mut tar, &data, "pg_hba.conf")?;
    for empty in ["pg_ident.conf", "postgresql.auto.conf"] {
        tar.file(empty, b"").map_err(writing)?;
    }
    for slru in SLRUS {
        copy_all(&mut tar, &data, slru)?;
    }
    copy(&mut tar, &data, "PG_VERSION")?;
    copy(&mut tar, &data, "global/pg_filenode.map")?;
    for database in files::list(&data.join("base"))? {
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let inside = format!("base/{name}");
        tar.directory(&inside).map_err(writing)?;
        copy(&mut tar, &data, &format!("{inside}/PG_VERSION"))?;
        copy(&mut tar, &data, &format!("{inside}/pg_filenode.map"))?;
        unlogged(&mut tar, &data, &inside)?;
    }
    signal_files(backup, &mut tar)?;
    control_file(backup, &mut tar)?;
    let lsn = backup.lsn.align_up().skip_page_header();
    let (major, system_id) = (backup.timeline.pg_major(), backup.timeline.system_id());
    let segment = wal_segment::beginning(lsn, major, system_id);
    let name = segment_name(lsn.segment());
    let written = tar.file_from(&name, WAL_SEGMENT_SIZE, &segment[..]);
    written.map_err(writing)?;
    tar.end_marker().map_err(writing)?;
    Ok(tar)
}

/// Init forks, which are also what their relations start from.
fn unlogged(tar: &mut TarWriter<impl Sink>, data: &Path, inside: &str) -> Result<(), Error> {
    for path in files::list(&data.join(inside))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(main) = name.strip_suffix("_init") {
            let content = fs::read(&path).map_err(files::failed("read", &path))?;
            for name in [&*name, main] {
                let written = tar.file(&format!("{inside}/{name}"), &content);
                written.map_err(writing)?;
            }
        }
    }
    Ok(())
}

/// The control file of a cluster that was shut down at the backup's LSN, without a
/// checkpoint record.
fn control_file(backup: &Backup, tar: &mut TarWriter<impl Sink>) -> Result<(), Error> {
    let mut control = backup.base.control_file()?;
    control.set_state(State::ShutDown);
    control.set_checkpoint(Lsn::INVALID);
    control.set_redo(backup.lsn.align_up().skip_page_header());
    let written = tar.file("global/pg_control", control.as_bytes());
    written.map_err(writing)
}

fn copy_all(tar: &mut TarWriter<impl Sink>, data: &Path, inside: &str) -> Result<(), Error> {
    for path in files::list(&data.join(inside))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() {
            copy(tar, data, &format!("{inside}/{name}"))?;
        }
    }
    Ok(())
}

fn copy(tar: &mut TarWriter<impl Sink>, data: &Path, name: &str) -> Result<(), Error> {
    let path = data.join(name);
    let file = File::open(&path).map_err(files::failed("open", &path))?;
    let size = file.metadata().map_err(files::failed("read", &path))?.len();
    tar.file_from(name, size, file).map_err(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_ends_before_a_page_that_has_only_a_header() {
        assert_eq!(wal_end(Lsn(0x151_2000)), Lsn(0x151_2000));
        assert_eq!(wal_end(Lsn(0x151_2018)), Lsn(0x151_2000));
        assert_eq!(wal_end(Lsn(0x151_2020)), Lsn(0x151_2020));
        assert_eq!(wal_end(Lsn(0x200_0028)), Lsn(0x200_0000));
    }
}
