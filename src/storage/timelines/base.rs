//! A cold, complete data directory at one position of a timeline: what every backup
//! starts from.
//!
//! A base is a directory of its own, which never changes:
//!
//! | name | what it is |
//! |---|---|
//! | `files.tar.deflate` | its files as the first section of a compressed backup |
//! | `pg_control` | its control file |
//! | `base.json` | where it begins and ends, written last |
//! | `data/` | the same files once more, to look up single pages |
//!
//! The first three are made durable. The directory is not: syncing a thousand files
//! takes seconds, and no backup is made of it.
//!
//! # Guarantees
//! 1. Replaying the timeline's WAL from `redo_lsn` on, up to `end_lsn` or further,
//!    gives the timeline as it was there. Below `end_lsn` a base is of no use.
//! 2. A base that can be seen is complete.
//!
//! All functions block: call them where blocking is allowed.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::read::DeflateDecoder;
use serde::{Deserialize, Serialize};

use super::wal_files::{is_checkpoint, record_at, segment_path};
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE};
use crate::storage::archive::{Section, SectionWriter, Sink, TarWriter};
use crate::storage::files::{self, Error};
use crate::wire::control_file::{ControlFile, State};

const DATA: &str = "data";
const ARCHIVE: &str = "files.tar.deflate";
const FACTS: &str = "base.json";
const CONTROL_FILE: &str = "global/pg_control";
const CONTROL_COPY: &str = "pg_control";

/// Files of a data directory that no backup has: settings belong to whoever starts
/// it, `pg_control` comes last and from elsewhere, the others are left-overs.
const LEFT_OUT: &[&str] = &[
    "postgresql.conf",
    "postmaster.opts",
    "postmaster.pid",
    "standby.signal",
    "current_logfiles",
    CONTROL_FILE,
];

/// Directories whose files are made anew at each start (`excludeDirContents` of
/// PostgreSQL's `src/backend/backup/basebackup.c`), and that of WAL.
const EMPTIED: &[&str] = &[
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];

/// What is known of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BaseFacts {
    pub(super) pg_major: u32,
    pub(super) system_id: u64,
    /// Where replaying starts.
    pub(super) redo_lsn: Lsn,
    /// Start of the checkpoint record that it was made at.
    pub(super) checkpoint_lsn: Lsn,
    /// Behind that record.
    pub(super) end_lsn: Lsn,
    /// Of `files.tar.deflate`.
    archive: Section,
}

/// A base on disk.
#[derive(Debug)]
pub struct Base {
    dir: PathBuf,
    pub(super) facts: BaseFacts,
}

impl Base {
    /// Makes a base of a data directory that was shut down cleanly, which is moved,
    /// and of the WAL in `wal_dir`. Returns once it is complete and durable.
    pub(super) fn make(bases: &Path, data: &Path, wal_dir: &Path) -> Result<Self, Error> {
        let control = control_file(data)?;
        if !matches!(control.state(), State::ShutDown | State::ShutDownInRecovery) {
            let problem = format!("it is in state {:?}", control.state());
            return Err(files::damaged(data, problem));
        }
        let pg_major = pg_major(data)?;
        let checkpoint_lsn = control.checkpoint();
        let record = record_at(wal_dir, checkpoint_lsn, pg_major)?.filter(is_checkpoint);
        let record = record.ok_or_else(|| {
            let problem = format!("no checkpoint record at {checkpoint_lsn}");
            files::damaged(&segment_path(wal_dir, checkpoint_lsn.segment()), problem)
        })?;
        let dir = bases.join(format!("{:016X}", record.next.0));
        let making = files::making(&dir);
        files::remove_dir(&making)?;
        files::create_dir(&making)?;
        remove_wal(data)?;
        files::move_tree(data, &making.join(DATA))?;
        files::replace(&making.join(CONTROL_COPY), control.as_bytes())?;
        let facts = BaseFacts {
            pg_major,
            system_id: control.system_identifier(),
            redo_lsn: control.redo(),
            checkpoint_lsn,
            end_lsn: record.next,
            archive: archive(&making)?,
        };
        let document = serde_json::to_vec_pretty(&facts).map_err(std::io::Error::from);
        let path = making.join(FACTS);
        let document = document.map_err(files::failed("write", &path))?;
        files::replace(&path, &document)?;
        files::complete(&dir)?;
        Ok(Self { dir, facts })
    }

    /// Opens a base.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FACTS);
        let document = fs::read(&path).map_err(files::failed("read", &path))?;
        let facts = serde_json::from_slice(&document);
        Ok(Self {
            dir: dir.to_owned(),
            facts: facts.map_err(|error| files::damaged(&path, error))?,
        })
    }

    /// Lays its files out as a data directory, which must not exist.
    pub(super) fn unpack(&self, data: &Path) -> Result<(), Error> {
        files::create_dir(data)?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(data, private).map_err(files::failed("make", data))?;
        let mut archive = tar::Archive::new(self.uncompressed()?);
        archive.set_preserve_permissions(true);
        archive
            .unpack(data)
            .map_err(files::failed("unpack", data))?;
        files::replace(&data.join(CONTROL_FILE), self.control_file()?.as_bytes())
    }

    /// Removes the base.
    pub(super) fn remove(&self) -> Result<(), Error> {
        files::remove_dir(&self.dir)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    /// Where replaying starts.
    pub fn redo_lsn(&self) -> Lsn {
        self.facts.redo_lsn
    }

    /// Start of the checkpoint record that the base was made at.
    pub fn checkpoint_lsn(&self) -> Lsn {
        self.facts.checkpoint_lsn
    }

    /// The first position that can be had from this base.
    pub fn end_lsn(&self) -> Lsn {
        self.facts.end_lsn
    }

    /// Its control file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn control_file(&self) -> Result<ControlFile, Error> {
        read_control_file(&self.dir.join(CONTROL_COPY))
    }

    /// Its files, but for the control file, as the beginning of a tar archive,
    /// compressed: a section of a gzip member.
    pub(in crate::storage) fn compressed(&self) -> Result<(impl Read + use<>, Section), Error> {
        let path = self.dir.join(ARCHIVE);
        let file = File::open(&path).map_err(files::failed("open", &path))?;
        Ok((file, self.facts.archive))
    }

    /// The same, uncompressed.
    pub(in crate::storage) fn uncompressed(&self) -> Result<impl Read + use<>, Error> {
        Ok(DeflateDecoder::new(self.compressed()?.0).take(self.facts.archive.length))
    }
}

pub(super) fn control_file(data: &Path) -> Result<ControlFile, Error> {
    read_control_file(&data.join(CONTROL_FILE))
}

fn read_control_file(path: &Path) -> Result<ControlFile, Error> {
    let bytes = fs::read(path).map_err(files::failed("read", path))?;
    ControlFile::parse(&bytes).map_err(|error| files::damaged(path, error))
}

/// The major version of the postgres that made a data directory.
pub(super) fn pg_major(data: &Path) -> Result<u32, Error> {
    let path = data.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(files::failed("read", &path))?;
    let number = text.trim().parse();
    number.map_err(|_| files::damaged(&path, format!("it says '{}'", text.trim())))
}

/// Copies the segments of a data directory's WAL that a base at its last checkpoint
/// needs, zeros behind the checkpoint.
pub(super) fn copy_wal(data: &Path, to: &Path) -> Result<(), Error> {
    let control = control_file(data)?;
    let wal = data.join("pg_wal");
    let record = record_at(&wal, control.checkpoint(), pg_major(data)?)?;
    let end = record.map_or(control.checkpoint(), |record| record.next);
    files::create_dir(to)?;
    for number in control.redo().segment()..=Lsn(end.0 - 1).segment() {
        let (from, to) = (segment_path(&wal, number), segment_path(to, number));
        let mut segment = fs::read(&from).map_err(files::failed("read", &from))?;
        let keep = end.bytes_since(Lsn(number * WAL_SEGMENT_SIZE)) as usize;
        segment.truncate(keep);
        segment.resize(WAL_SEGMENT_SIZE as usize, 0);
        files::replace(&to, &segment)?;
    }
    Ok(())
}

fn remove_wal(data: &Path) -> Result<(), Error> {
    for path in files::list(&data.join("pg_wal"))? {
        if path.is_file() {
            fs::remove_file(&path).map_err(files::failed("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes the compressed archive of a base.
fn archive(dir: &Path) -> Result<Section, Error> {
    let path = dir.join(ARCHIVE);
    let file = File::create(&path).map_err(files::failed("make", &path))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut tar = TarWriter::new(SectionWriter::new(file), now.unwrap_or_default().as_secs());
    append(&mut tar, &dir.join(DATA), "")?;
    let ended = tar.into_inner().end();
    let (file, section) = ended.map_err(files::failed("write", &path))?;
    file.sync_all().map_err(files::failed("sync", &path))?;
    Ok(section)
}

/// Appends what is in the directory `inside` of a data directory.
fn append(tar: &mut TarWriter<impl Sink>, data: &Path, inside: &str) -> Result<(), Error> {
    for path in files::list(&data.join(inside))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = match inside {
            "" => name.into_owned(),
            inside => format!("{inside}/{name}"),
        };
        if path.is_dir() {
            let written = tar.directory(&name);
            written.map_err(files::failed("archive", &path))?;
            append(tar, data, &name)?;
        } else if !LEFT_OUT.contains(&name.as_str()) && !EMPTIED.contains(&inside) {
            append_file(tar, &path, &name)?;
        }
    }
    Ok(())
}

fn append_file(tar: &mut TarWriter<impl Sink>, path: &Path, name: &str) -> Result<(), Error> {
    let file = File::open(path).map_err(files::failed("open", path))?;
    let size = file.metadata().map_err(files::failed("read", path))?.len();
    let written = tar.file_from(name, size, BufReader::new(file));
    written.map_err(files::failed("archive", path))
}
