//! Reads Secrets from a directory laid out as Kubernetes mounts them: a folder for
//! each Secret, a file for each key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::secret_set::{Reference, SecretSet, SecretState};
use crate::secret::Secret;
use crate::spec::SecretError;

/// Longest content of a key; Kubernetes' own limit for a whole Secret.
const MAX_BYTES: u64 = 1 << 20;

/// Reads what a document refers to.
pub(super) async fn read(directory: PathBuf, references: BTreeSet<Reference>) -> SecretSet {
    tokio::task::spawn_blocking(move || read_blocking(&directory, references))
        .await
        .unwrap_or_default()
}

/// The secret of one key. Without a directory no Secret exists. Blocks.
///
/// # Errors
///
/// Which of the Secret and its key is not there, or why it cannot be read.
pub fn secret_in(directory: Option<&Path>, name: &str, key: &str) -> Result<Secret, SecretError> {
    let directory = directory
        .filter(|_| is_plain(name))
        .ok_or(SecretError::NotFound)?;
    match read_secret(&directory.join(name), &BTreeSet::from([key.to_owned()])) {
        SecretState::Present(mut keys) => keys.remove(key).flatten().ok_or(SecretError::KeyMissing),
        SecretState::Missing => Err(SecretError::NotFound),
        SecretState::Unreadable(why) => Err(SecretError::Unreadable(why)),
    }
}

fn read_blocking(directory: &Path, references: BTreeSet<Reference>) -> SecretSet {
    let mut by_name = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, key) in references {
        by_name.entry(name).or_default().insert(key);
    }
    let mut set = SecretSet::default();
    for (name, keys) in by_name {
        let state = if is_plain(&name) {
            read_secret(&directory.join(&name), &keys)
        } else {
            SecretState::Missing
        };
        set.insert(name, state);
    }
    set
}

/// Whether a name stays in its directory.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

fn read_secret(folder: &Path, keys: &BTreeSet<String>) -> SecretState {
    if !folder.is_dir() {
        return SecretState::Missing;
    }
    let mut found = BTreeMap::new();
    for key in keys.iter().filter(|key| is_plain(key)) {
        match read_key(&folder.join(key)) {
            Ok(secret) => {
                found.insert(key.clone(), secret);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return SecretState::Unreadable(format!("{}: {error}", folder.display())),
        }
    }
    SecretState::Present(found)
}

fn read_key(path: &Path) -> io::Result<Option<Secret>> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 1 MiB",
        ));
    }
    Ok(String::from_utf8(fs::read(path)?).ok().map(Secret::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(all: &[(&str, &str)]) -> BTreeSet<Reference> {
        all.iter()
            .map(|(name, key)| ((*name).to_owned(), (*key).to_owned()))
            .collect()
    }

    #[tokio::test]
    async fn a_mounted_secret_is_read_by_name_and_key() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        fs::write(dir.path().join("app/password"), "hunter2").unwrap();
        fs::write(dir.path().join("app/binary"), [0xff]).unwrap();
        let asked = [
            ("app", "password"),
            ("app", "binary"),
            ("app", "none"),
            ("other", "key"),
        ];
        let read = read(dir.path().to_owned(), references(&asked)).await;
        let mut expected = SecretSet::default();
        let keys = [
            ("password".to_owned(), Some(Secret::new("hunter2"))),
            ("binary".to_owned(), None),
        ];
        expected.insert("app", SecretState::Present(keys.into()));
        expected.insert("other", SecretState::Missing);
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn a_reference_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("secrets/app")).unwrap();
        fs::write(dir.path().join("key"), "outside").unwrap();
        let asked = references(&[
            ("..", "key"),
            ("app", "../../key"),
            ("", "key"),
            ("app/..", "key"),
        ]);
        let read = read(dir.path().join("secrets"), asked).await;
        let mut expected = SecretSet::default();
        for name in ["..", "", "app/.."] {
            expected.insert(name, SecretState::Missing);
        }
        expected.insert("app", SecretState::Present(BTreeMap::new()));
        assert_eq!(read, expected);
    }
}
