//! Makes the data directory anew, and knows a finished one from a half-made one.
//!
//! The mark of a finished directory is a file that is written last and removed
//! first, so that no crash in between leaves a directory that looks finished.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, io_error};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::process::RunAs;

/// Postgres refuses a directory that others can enter.
const MODE: u32 = 0o700;

/// Stands in a directory that was begun; postgres ignores it.
const INCOMPLETE: &str = ".glowplug-incomplete";
/// Stands in a directory that is finished.
const COMPLETE: &str = ".glowplug-complete";

/// What a mounted file system may have at its root.
const LOST_AND_FOUND: &str = "lost+found";

/// Names of which a data directory has at least one, even a half-made one.
const TELLTALE: &[&str] = &[
    INCOMPLETE,
    COMPLETE,
    "PG_VERSION",
    "postgresql.conf",
    "pg_wal",
    "global",
];

/// What a finished directory was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its timeline.
    pub timeline_id: TimelineId,
    /// The backup's LSN.
    pub lsn: Lsn,
}

/// Makes an empty directory with mode 0700, marked as incomplete. An existing one is
/// emptied, not removed: it may be a mount point, or a link to the real one. Blocks.
///
/// # Errors
///
/// [`Error::NotADataDirectory`] if there is something else: a wrong path must not
/// cost anyone's files. [`Error::Io`], [`Error::DiskFull`].
pub fn recreate(path: &Path, owner: Option<&RunAs>) -> Result<(), Error> {
    match fs::read_dir(path) {
        Ok(entries) => {
            let entries: io::Result<Vec<_>> = entries.collect();
            empty(path, &entries.map_err(io_error("list", path))?)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                // Not private: whoever runs postgres must get through.
                fs::create_dir_all(parent).map_err(io_error("create", parent))?;
            }
            let made = DirBuilder::new().mode(MODE).create(path);
            made.map_err(io_error("create", path))?;
        }
        Err(error) => return Err(io_error("list", path)(error)),
    }
    if let Some(owner) = owner {
        let owned = chown(path, Some(owner.uid), Some(owner.gid));
        owned.map_err(io_error("change the owner of", path))?;
    }
    let restricted = fs::set_permissions(path, Permissions::from_mode(MODE));
    restricted.map_err(io_error("restrict", path))?;
    let mark = path.join(INCOMPLETE);
    fs::write(&mark, "").map_err(io_error("write", &mark))
}

/// Makes a directory that only its owner can enter, or restricts an existing one.
/// Blocks.
///
/// # Errors
///
/// [`Error::Io`], [`Error::DiskFull`].
pub fn make_private(path: &Path, owner: Option<&RunAs>) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(io_error("create", path))?;
    if let Some(owner) = owner {
        let owned = chown(path, Some(owner.uid), Some(owner.gid));
        owned.map_err(io_error("change the owner of", path))?;
    }
    let restricted = fs::set_permissions(path, Permissions::from_mode(MODE));
    restricted.map_err(io_error("restrict", path))
}

fn empty(path: &Path, entries: &[fs::DirEntry]) -> Result<(), Error> {
    let names: Vec<_> = entries.iter().map(fs::DirEntry::file_name).collect();
    let foreign = names.iter().any(|name| name != LOST_AND_FOUND)
        && !TELLTALE
            .iter()
            .any(|telltale| names.iter().any(|name| name == telltale));
    if foreign {
        return Err(Error::NotADataDirectory {
            path: path.to_owned(),
        });
    }
    // From here on it is not finished, whatever happens next.
    let complete = path.join(COMPLETE);
    if complete.exists() {
        fs::rename(&complete, path.join(INCOMPLETE)).map_err(io_error("rename", &complete))?;
    }
    for (entry, name) in entries.iter().zip(&names) {
        if name == LOST_AND_FOUND || name == COMPLETE || name == INCOMPLETE {
            continue;
        }
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(io_error("remove", &path))?;
    }
    Ok(())
}

/// Marks the directory as finished. To be called when nothing is left to do but to
/// start postgres. Blocks.
///
/// # Errors
///
/// [`Error::Io`], [`Error::DiskFull`].
pub fn mark_complete(path: &Path, origin: &Origin) -> Result<(), Error> {
    let (incomplete, complete) = (path.join(INCOMPLETE), path.join(COMPLETE));
    let text = serde_json::to_vec(origin).unwrap_or_default();
    fs::write(&incomplete, text).map_err(io_error("write", &incomplete))?;
    fs::rename(&incomplete, &complete).map_err(io_error("rename", &incomplete))
}

/// What the directory was made from; `None` if it is not there or was not finished.
/// Blocks.
pub fn completed_from(path: &Path) -> Option<Origin> {
    if path.join(INCOMPLETE).exists() {
        return None;
    }
    serde_json::from_slice(&fs::read(path.join(COMPLETE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::tempdir;

    use super::*;

    const ORIGIN: Origin = Origin {
        tenant_id: TenantId([1; 16]),
        timeline_id: TimelineId([2; 16]),
        lsn: Lsn(0x169_AD58),
    };

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_directory_is_private_and_not_finished() {
        let parent = tempdir().unwrap();
        let pgdata = parent.path().join("a/b/pgdata");
        recreate(&pgdata, None).unwrap();
        assert_eq!(mode(&pgdata), 0o700);
        assert_eq!(completed_from(&pgdata), None);
        mark_complete(&pgdata, &ORIGIN).unwrap();
        assert_eq!(completed_from(&pgdata), Some(ORIGIN));
        assert_eq!(names(&pgdata), [COMPLETE]);
    }

    #[test]
    fn making_it_anew_leaves_nothing_of_the_old_one() {
        let parent = tempdir().unwrap();
        let pgdata = parent.path().join("pgdata");
        recreate(&pgdata, None).unwrap();
        fs::create_dir_all(pgdata.join("pg_wal/archive_status")).unwrap();
        fs::write(pgdata.join("PG_VERSION"), "15").unwrap();
        symlink("/nowhere", pgdata.join("pg_dynshmem")).unwrap();
        fs::set_permissions(&pgdata, Permissions::from_mode(0o755)).unwrap();
        mark_complete(&pgdata, &ORIGIN).unwrap();

        recreate(&pgdata, None).unwrap();
        assert_eq!(names(&pgdata), [INCOMPLETE]);
        assert_eq!(mode(&pgdata), 0o700);
        assert_eq!(completed_from(&pgdata), None);
    }

    #[test]
    fn a_link_to_the_directory_stays_one() {
        let parent = tempdir().unwrap();
        let (real, link) = (parent.path().join("volume"), parent.path().join("pgdata"));
        fs::create_dir_all(real.join("lost+found")).unwrap();
        fs::write(real.join("PG_VERSION"), "15").unwrap();
        symlink(&real, &link).unwrap();
        recreate(&link, None).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&real), [INCOMPLETE, "lost+found"]);
    }

    #[test]
    fn other_peoples_files_are_not_touched() {
        let parent = tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "x").unwrap();
        let error = recreate(parent.path(), None).unwrap_err();
        assert!(
            matches!(error, Error::NotADataDirectory { .. }),
            "{error:?}"
        );
        assert_eq!(names(parent.path()), ["thesis.tex"]);
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let parent = tempdir().unwrap();
        let file = parent.path().join("pgdata");
        fs::write(&file, "x").unwrap();
        let error = recreate(&file, None).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }
}
