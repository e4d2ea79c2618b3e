//! Writes what a backup does not bring: configuration, access rules, signal files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown, symlink};
use std::path::Path;

use super::conf::storage_tls::authorities_file;
use super::conf::{PASSWORD_FILE, TEMP_OVERRIDE};
use super::{ConfFacts, Error, hba, io_error, render_postgresql_conf};
use crate::process::RunAs;
use crate::spec::{ComputeMode, ComputeSpec, Flavor};

pub use super::conf::TEMP_OVERRIDE_FILE;

const FILE_MODE: u32 = 0o600;
/// Holds whether this directory may be written from, and is what Neon's postgres
/// starts by.
const NEON_SIGNAL: &str = "neon.signal";
/// Its name before it was renamed: old pageservers send only this one.
const ZENITH_SIGNAL: &str = "zenith.signal";
/// In [`NEON_SIGNAL`] of a backup that can only be read: nobody knows which record
/// precedes its LSN (`pageserver/src/basebackup.rs`).
const READ_ONLY: &str = "PREV LSN: invalid";

/// Writes postgresql.conf and what it refers to, replacing the old one in one step:
/// postgres may be reading it. Blocks.
///
/// # Errors
///
/// [`Error::Io`], [`Error::DiskFull`].
pub fn write_conf(
    pgdata: &Path,
    spec: &ComputeSpec,
    facts: &ConfFacts,
    owner: Option<&RunAs>,
) -> Result<(), Error> {
    if let Some((name, text)) = authorities_file(spec) {
        replace(&pgdata.join(name), text.as_bytes(), owner)?;
    }
    let text = render_postgresql_conf(spec, facts);
    replace(&pgdata.join("postgresql.conf"), text.as_bytes(), owner)
}

/// Puts settings in force for the time of a catalog change, or takes them back, with
/// postgres' next reload. Blocks.
///
/// # Errors
///
/// [`Error::Io`], [`Error::DiskFull`].
pub fn set_temp_override(
    pgdata: &Path,
    in_force: bool,
    owner: Option<&RunAs>,
) -> Result<(), Error> {
    let text = if in_force { TEMP_OVERRIDE } else { "" };
    replace(&pgdata.join(TEMP_OVERRIDE_FILE), text.as_bytes(), owner)
}

/// Completes an unpacked backup: access rules, signal files, and what else postgres
/// wants to find before it starts. Blocks.
///
/// # Errors
///
/// [`Error::ReadOnlyBackup`] for a Primary on Neon's postgres that could not be
/// written to, which postgres would say only after its start. [`Error::Io`],
/// [`Error::DiskFull`].
pub fn finish(
    pgdata: &Path,
    spec: &ComputeSpec,
    facts: &ConfFacts,
    owner: Option<&RunAs>,
) -> Result<(), Error> {
    match spec.postgres.flavor {
        Flavor::Neon => finish_neon(pgdata, spec.mode, owner)?,
        Flavor::Vanilla => finish_vanilla(pgdata, spec, facts, owner)?,
    }
    if facts.strict_overcommit || spec.postgres.flavor == Flavor::Neon {
        link_shared_memory(pgdata)?;
    }
    if spec.mode != ComputeMode::Primary {
        replace(&pgdata.join("standby.signal"), b"", owner)?;
    }
    Ok(())
}

fn finish_neon(pgdata: &Path, mode: ComputeMode, owner: Option<&RunAs>) -> Result<(), Error> {
    let signal = pgdata.join(NEON_SIGNAL);
    let mut text = read_if_exists(&signal)?;
    if text.is_none() {
        text = read_if_exists(&pgdata.join(ZENITH_SIGNAL))?;
        if let Some(text) = &text {
            replace(&signal, text.as_bytes(), owner)?;
        }
    }
    if mode == ComputeMode::Primary
        && let Some(signal) = text.filter(|text| text.trim() == READ_ONLY)
    {
        return Err(Error::ReadOnlyBackup { signal });
    }
    let path = pgdata.join("pg_hba.conf");
    let existing = read_if_exists(&path)?.unwrap_or_default();
    match hba::with_password_line(&existing) {
        Some(text) => replace(&path, text.as_bytes(), owner),
        None => Ok(()),
    }
}

fn finish_vanilla(
    pgdata: &Path,
    spec: &ComputeSpec,
    facts: &ConfFacts,
    owner: Option<&RunAs>,
) -> Result<(), Error> {
    replace(
        &pgdata.join("pg_hba.conf"),
        hba::vanilla(facts.trust_loopback).as_bytes(),
        owner,
    )?;
    replace(&pgdata.join("pg_ident.conf"), b"", owner)?;
    if let (ComputeMode::Replica, Some(token)) = (spec.mode, &spec.storage_token) {
        // host:port:database:user:password, with : and \ escaped.
        let token = token.reveal().replace('\\', "\\\\").replace(':', "\\:");
        let line = format!("*:*:*:*:{token}\n");
        replace(&pgdata.join(PASSWORD_FILE), line.as_bytes(), owner)?;
    }
    Ok(())
}

/// `dynamic_shared_memory_type = mmap` keeps its files in `pg_dynshmem`: they belong
/// into memory.
fn link_shared_memory(pgdata: &Path) -> Result<(), Error> {
    let path = pgdata.join("pg_dynshmem");
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &path)(error));
        }
        _ => {}
    }
    symlink("/dev/shm/", &path).map_err(io_error("link", &path))
}

fn read_if_exists(path: &Path) -> Result<Option<String>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes a file under another name and renames it, so that no reader sees half of it.
fn replace(path: &Path, content: &[u8], owner: Option<&RunAs>) -> Result<(), Error> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(unfinished)?;
        if let Some(owner) = owner {
            fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        file.write_all(content)?;
        fs::rename(unfinished, path)
    };
    write().map_err(io_error("write", path))
}

#[cfg(test)]
mod tests;
