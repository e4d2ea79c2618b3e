//! What a place for the status must be able to do.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;

use crate::api::failure::{Failure, FailureKind};
use crate::api::status::ComputeSpecStatus;
use crate::error::{Category, Retry};

/// A place where a status is written: an object on the API server, or a file.
///
/// Its `Display` names it for people: `computespec shop/main`.
pub trait Sink: fmt::Display + Send {
    /// Reads what stands there, so that transition times are carried over a restart;
    /// the default when there is none. Called before the first write, and again
    /// when a write failed because the place is not what it was.
    fn open(&mut self) -> impl Future<Output = Result<ComputeSpecStatus, WriteError>> + Send;

    /// Replaces what stands there.
    fn write(
        &mut self,
        status: &ComputeSpecStatus,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// A status that was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused it, or did not answer.
    #[error("{operation} {object}")]
    Api {
        /// `read the status of`, `write the status of`.
        operation: &'static str,
        /// `computespec shop/main`.
        object: String,
        /// Why.
        #[source]
        source: Failure,
    },
    /// The file cannot be written.
    #[error("write the status file {}; its directory must exist and be writable", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The status cannot be put into text.
    #[error("render the status for {object}")]
    Render {
        /// For which object or file.
        object: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl WriteError {
    /// Class of the failure, where the API server is concerned.
    pub fn api_failure(&self) -> Option<FailureKind> {
        match self {
            Self::Api { source, .. } => Some(source.kind),
            Self::File { .. } | Self::Render { .. } => None,
        }
    }
}

impl Category for WriteError {
    fn category(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => source.category(),
            Self::File { .. } => "StatusFileUnwritable",
            Self::Render { .. } => "StatusUnrenderable",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Api { source, .. } => source.retry(),
            Self::File { .. } => Retry::Backoff,
            Self::Render { .. } => Retry::Never,
        }
    }
}
