//! Writes the status, as YAML, into a file: what the `.status` of a resource would
//! hold, for those who run a compute without Kubernetes.
//!
//! The file is replaced by a rename, so a reader never sees half of it. It holds no
//! secret and anyone may read it (mode 0644).

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::sink::{Sink, WriteError};
use crate::api::status::ComputeSpecStatus;

/// The status file of one compute.
pub struct FileSink {
    path: PathBuf,
}

impl FileSink {
    /// Writes to this path; its directory must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl fmt::Display for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.path.display())
    }
}

impl Sink for FileSink {
    async fn open(&mut self) -> Result<ComputeSpecStatus, WriteError> {
        let text = tokio::fs::read_to_string(&self.path)
            .await
            .unwrap_or_default();
        // Missing, or written by another version: nothing to carry over.
        Ok(serde_saphyr::from_str(&text).unwrap_or_default())
    }

    async fn write(&mut self, status: &ComputeSpecStatus) -> Result<(), WriteError> {
        let text = serde_saphyr::to_string(status).map_err(|source| WriteError::Render {
            object: self.to_string(),
            source: Box::new(source),
        })?;
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || replace(&path, &text))
            .await
            .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
            .map_err(|source| WriteError::File {
                path: self.path.clone(),
                source,
            })
    }
}

/// Blocking. Not synced to disk: after a crash of the machine the compute is another.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, text)?;
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ComputeState;

    #[tokio::test]
    async fn a_status_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = FileSink::new(dir.path().join("status.yaml"));
        assert_eq!(sink.open().await.unwrap(), ComputeSpecStatus::default());
        let status = ComputeSpecStatus {
            state: Some(ComputeState::Running),
            restart_required: vec!["off".into(), "0/16B9188".into()],
            ..ComputeSpecStatus::default()
        };
        sink.write(&status).await.unwrap();
        assert_eq!(sink.open().await.unwrap(), status);
        let mode = fs::metadata(dir.path().join("status.yaml"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let mut sink = FileSink::new("/nonexistent/status.yaml");
        let error = sink.write(&ComputeSpecStatus::default()).await.unwrap_err();
        let text = crate::error::chain(&error);
        assert!(
            text.contains("/nonexistent/status.yaml") && text.contains("No such file"),
            "{text}"
        );
    }
}
