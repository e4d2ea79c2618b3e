//! Files and directories: made whole under another name, copied, moved, made durable.
//!
//! Functions block, but for [`blocking`]: call them through that.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{Category, Retry};
use crate::process::RunAs;

/// What can go wrong with files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{} is damaged ({problem}): remove the storage's directory to start anew", path.display())]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Work on files was broken off by the end of the program, or panicked.
    #[error("work on files was broken off")]
    BrokenOff,
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Io { .. } => "DiskFailed",
            Self::Damaged { .. } => "FileDamaged",
            Self::BrokenOff => "ShuttingDown",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Io { .. } => Retry::Backoff,
            Self::Damaged { .. } | Self::BrokenOff => Retry::Never,
        }
    }
}

/// Runs work on files where it may block.
pub(super) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::BrokenOff)?
}

/// Extension of what is not complete yet.
const MAKING: &str = "making";

/// Adds what was done to which file.
pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}

/// Says that a file is not what was written.
pub(super) fn damaged(path: &Path, problem: impl Display) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// The name under which `path` is made.
pub(super) fn making(path: &Path) -> PathBuf {
    path.with_extension(MAKING)
}

/// Whether this is something that was never completed.
pub(super) fn is_unfinished(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == MAKING)
}

/// Gives what was made its name, durably: from now on it is there, and whole.
pub(super) fn complete(path: &Path) -> Result<(), Error> {
    let making = making(path);
    fs::rename(&making, path).map_err(failed("rename", &making))?;
    path.parent().map_or(Ok(()), sync)
}

/// Replaces a small file as a whole.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let making = making(path);
    let mut file = File::create(&making).map_err(failed("make", &making))?;
    file.write_all(content).map_err(failed("write", &making))?;
    file.sync_all().map_err(failed("sync", &making))?;
    complete(path)
}

/// Makes a file, or the names in a directory, durable.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(failed("sync", path))
}

/// Makes a directory and those above it; it may exist.
pub(super) fn create_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(failed("make", path))
}

/// Removes a tree; it need not exist.
pub(super) fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The entries of a directory, sorted by name; none if it does not exist.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", dir))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths
        .collect::<Result<_, _>>()
        .map_err(failed("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// Gives a new directory for a tool that runs as `owner`.
pub(super) fn create_for(dir: &Path, owner: Option<&RunAs>) -> Result<(), Error> {
    create_dir(dir)?;
    give(dir, owner)
}

fn give(path: &Path, owner: Option<&RunAs>) -> Result<(), Error> {
    let Some(RunAs { uid, gid, .. }) = owner else {
        return Ok(());
    };
    chown(path, Some(*uid), Some(*gid)).map_err(failed("hand over", path))
}

/// Hands a tree over to a user.
pub(super) fn give_tree(path: &Path, owner: &RunAs) -> Result<(), Error> {
    give(path, Some(owner))?;
    if path.is_dir() {
        for inner in list(path)? {
            give_tree(&inner, owner)?;
        }
    }
    Ok(())
}

/// Copies a tree of files and directories, for `owner` if there is one.
pub(super) fn copy_tree(from: &Path, to: &Path, owner: Option<&RunAs>) -> Result<(), Error> {
    create_for(to, owner)?;
    let permissions = fs::metadata(from).map_err(failed("read", from))?;
    fs::set_permissions(to, permissions.permissions()).map_err(failed("make", to))?;
    for source in list(from)? {
        let target = to.join(source.file_name().unwrap_or_default());
        if source.is_dir() {
            copy_tree(&source, &target, owner)?;
        } else {
            fs::copy(&source, &target).map_err(failed("copy", &source))?;
            give(&target, owner)?;
        }
    }
    Ok(())
}

/// Moves a tree, also to another file system.
pub(super) fn move_tree(from: &Path, to: &Path) -> Result<(), Error> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    copy_tree(from, to, None)?;
    remove_dir(from)
}

/// Whether a tool that runs as `run_as` can reach `dir`: every directory on the way
/// must let it pass.
pub(super) fn reachable(dir: &Path, run_as: &RunAs) -> bool {
    let passes = |dir: &Path| {
        fs::metadata(dir).is_ok_and(|found| {
            let shift = if found.uid() == run_as.uid {
                6
            } else if found.gid() == run_as.gid {
                3
            } else {
                0
            };
            found.mode() >> shift & 1 == 1
        })
    };
    dir.ancestors()
        .all(|dir| dir.as_os_str().is_empty() || passes(dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_directory_on_the_way_makes_a_place_unreachable() {
        let temporary = tempfile::TempDir::new().unwrap();
        let inner = temporary.path().join("a/b");
        create_dir(&inner).unwrap();
        let stranger = RunAs {
            user: "stranger".to_owned(),
            uid: 4_000_000,
            gid: 4_000_000,
        };
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(temporary.path(), 0o755);
        assert!(reachable(&inner, &stranger));
        mode(temporary.path(), 0o700);
        assert!(!reachable(&inner, &stranger));
    }

    #[test]
    fn a_tree_is_copied_with_its_modes() {
        let temporary = tempfile::TempDir::new().unwrap();
        let (from, to) = (temporary.path().join("from"), temporary.path().join("to"));
        create_dir(&from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "x").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o700)).unwrap();
        copy_tree(&from, &to, None).unwrap();
        assert_eq!(fs::read(to.join("sub/file")).unwrap(), b"x");
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o700);
    }
}
