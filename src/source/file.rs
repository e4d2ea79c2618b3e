//! A spec in a file, mounted or plain: a resource in YAML or JSON, or Neon's JSON.
//!
//! The file is read again when something changes in its directory, or below the
//! directory of Secrets, and an equal content is not told again.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::directory_watch::{DirectoryWatch, Watched};
use super::intake::{Closed, Document, Intake};
use super::secret_set::{SecretSet, references};
use super::{Options, ReadDocument, secret_directory};
use crate::spec::FieldError;
use crate::spec::revision::SourceEvent;

/// Longest document; Kubernetes' limit for a request.
const MAX_BYTES: u64 = 3 << 20;

/// Follows the file until `cancel` or until nobody listens.
pub async fn run(
    path: PathBuf,
    options: Options,
    events: mpsc::Sender<SourceEvent>,
    cancel: CancellationToken,
) {
    let closed = events.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = closed.closed() => {}
        Err(Closed) = follow(path, options, events) => {}
    }
}

/// Reads the file anew.
pub fn reader(path: PathBuf) -> ReadDocument {
    Box::new(move || {
        let path = path.clone();
        Box::pin(async move { String::from_utf8(read(&path).await.ok()?).ok() })
    })
}

async fn follow(
    path: PathBuf,
    options: Options,
    events: mpsc::Sender<SourceEvent>,
) -> Result<std::convert::Infallible, Closed> {
    let mut intake = Intake::new(format!("file {}", path.display()), &options, events);
    let mut watch = DirectoryWatch::start(watched(&path, &options)).await;
    loop {
        look(&path, &options, &mut intake).await?;
        watch.changed().await;
    }
}

fn watched(path: &Path, options: &Options) -> Vec<Watched> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = Watched {
        path: parent.unwrap_or(Path::new(".")).to_owned(),
        recursive: false,
    };
    let secrets = options.secrets_dir.iter().map(|path| Watched {
        path: path.clone(),
        recursive: true,
    });
    std::iter::once(parent).chain(secrets).collect()
}

async fn look(path: &Path, options: &Options, intake: &mut Intake) -> Result<(), Closed> {
    let bytes = match read(path).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return intake.absent().await,
        Err(error) => {
            return intake
                .unreachable(format!("read {}: {error}", path.display()))
                .await;
        }
    };
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let lossy = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let error = FieldError::new(
                "",
                format!("the file is not UTF-8 text, from byte {at}"),
                "save it as UTF-8",
            );
            return intake.refuse_text(&lossy, error).await;
        }
    };
    let secrets = match &options.secrets_dir {
        Some(directory) => {
            let references = references(intake.resolve(), &text);
            secret_directory::read(directory.clone(), references).await
        }
        None => SecretSet::default(),
    };
    intake
        .offer(
            Document {
                text,
                generation: None,
            },
            &secrets,
        )
        .await
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let size = tokio::fs::metadata(path).await?.len();
    if size > MAX_BYTES {
        let text = format!("it has {size} bytes, and a spec at most {MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    tokio::fs::read(path).await
}

#[cfg(test)]
mod tests;
