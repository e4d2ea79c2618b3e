//! Keeps the last accepted document, so that a compute can start without its source.
//!
//! The copy holds the Secrets that the document refers to, in the clear: without the
//! API server nobody could ask for them. The file has mode 0600 in a directory with
//! mode 0700, is replaced by a rename, and carries a checksum: half a copy, or a
//! damaged one, is none.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Error;
use super::secret_set::Reference;
use crate::secret::Secret;

/// Name of the file in its directory.
const FILE: &str = "last-good-spec.json";

/// An accepted document.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct GoodCopy {
    /// The source that it came from; a copy from another is not used.
    pub(super) origin: String,
    /// Its generation.
    pub(super) generation: i64,
    /// The document.
    pub(super) text: String,
    /// The secrets that it uses.
    pub(super) secrets: BTreeMap<Reference, Secret>,
}

/// The form in the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    sha256: String,
    copy: StoredCopy,
}

#[derive(Serialize, Deserialize)]
struct StoredCopy {
    origin: String,
    generation: i64,
    text: String,
    secrets: BTreeMap<String, BTreeMap<String, String>>,
}

impl StoredCopy {
    fn checksum(&self) -> Result<String, serde_json::Error> {
        Ok(hex::encode(Sha256::digest(serde_json::to_vec(self)?)))
    }
}

impl From<&GoodCopy> for StoredCopy {
    fn from(copy: &GoodCopy) -> Self {
        let mut secrets = BTreeMap::<String, BTreeMap<_, _>>::new();
        for ((name, key), secret) in &copy.secrets {
            let keys = secrets.entry(name.clone()).or_default();
            keys.insert(key.clone(), secret.reveal().to_owned());
        }
        Self {
            origin: copy.origin.clone(),
            generation: copy.generation,
            text: copy.text.clone(),
            secrets,
        }
    }
}

impl From<StoredCopy> for GoodCopy {
    fn from(stored: StoredCopy) -> Self {
        let secrets = stored.secrets.into_iter().flat_map(|(name, keys)| {
            keys.into_iter()
                .map(move |(key, secret)| ((name.clone(), key), Secret::new(secret)))
        });
        Self {
            origin: stored.origin,
            generation: stored.generation,
            text: stored.text,
            secrets: secrets.collect(),
        }
    }
}

/// The file that holds the copy.
#[derive(Debug, Clone)]
pub(super) struct LastGood {
    path: PathBuf,
}

impl LastGood {
    /// In this directory, which is made when it is missing.
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join(FILE),
        }
    }

    /// The copy of a source, if there is a whole one.
    pub(super) async fn load(&self, origin: &str) -> Result<Option<GoodCopy>, Error> {
        let path = self.path.clone();
        let copy = blocking(move || load(&path))
            .await
            .map_err(|source| Error::ReadLastGood {
                path: self.path.clone(),
                source,
            })?;
        Ok(copy.filter(|copy| copy.origin == origin))
    }

    /// Replaces the copy.
    pub(super) async fn save(&self, copy: &GoodCopy) -> Result<(), Error> {
        let (path, stored) = (self.path.clone(), StoredCopy::from(copy));
        blocking(move || save(&path, stored))
            .await
            .map_err(|source| Error::WriteLastGood {
                path: self.path.clone(),
                source,
            })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

fn load(path: &Path) -> io::Result<Option<GoodCopy>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Its own error could quote a secret.
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
    let stored: Stored = serde_json::from_slice(&text).map_err(|_| damaged())?;
    if stored.copy.checksum()? != stored.sha256 {
        return Err(damaged());
    }
    Ok(Some(stored.copy.into()))
}

fn save(path: &Path, copy: StoredCopy) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let stored = Stored {
        sha256: copy.checksum()?,
        copy,
    };
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    // A file left behind by others keeps its mode when it is opened.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(&serde_json::to_vec(&stored)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy() -> GoodCopy {
        GoodCopy {
            origin: "computespec shop/main".to_owned(),
            generation: 7,
            text: "spec: {}".to_owned(),
            secrets: BTreeMap::from([(
                ("app".to_owned(), "password".to_owned()),
                Secret::new("hunter2"),
            )]),
        }
    }

    #[tokio::test]
    async fn a_copy_comes_back_whole_and_only_to_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = LastGood::in_directory(&dir.path().join("made"));
        assert!(
            last_good
                .load("computespec shop/main")
                .await
                .unwrap()
                .is_none()
        );
        last_good.save(&copy()).await.unwrap();
        let loaded = last_good.load("computespec shop/main").await.unwrap();
        assert!(loaded == Some(copy()));
        assert!(
            last_good
                .load("computespec shop/other")
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = LastGood::in_directory(dir.path());
        fs::write(last_good.path.with_extension("json.new"), "left behind").unwrap();
        last_good.save(&copy()).await.unwrap();
        let mode = fs::metadata(&last_good.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_damaged_copy_is_none_and_its_text_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = LastGood::in_directory(dir.path());
        last_good.save(&copy()).await.unwrap();
        let text = fs::read_to_string(&last_good.path).unwrap();
        for damaged in [
            text.replace("hunter2", "hunter3"),
            text[..text.len() / 2].to_owned(),
        ] {
            fs::write(&last_good.path, damaged).unwrap();
            let Err(error) = last_good.load("computespec shop/main").await else {
                panic!("it is damaged");
            };
            assert!(!crate::error::chain(&error).contains("hunter"));
        }
    }
}
