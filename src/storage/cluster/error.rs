//! What can keep a storage from running.

use std::path::PathBuf;

use crate::error::{Category, Retry};
use crate::storage::{controller, files, pageserver, safekeeper, timelines};

/// What can keep a storage from running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process runs the storage of this directory.
    #[error("the storage in {} is in use by another process: stop that one, or take another directory", state_dir.display())]
    InUse {
        /// The directory.
        state_dir: PathBuf,
    },
    /// Files of the storage itself.
    #[error("cannot keep the storage's state")]
    Files(#[from] files::Error),
    /// A safekeeper does not start.
    #[error("a safekeeper does not start")]
    Safekeeper(#[from] safekeeper::Error),
    /// Timelines cannot be opened or made.
    #[error("timelines cannot be opened or made")]
    Timelines(#[from] timelines::Error),
    /// A pageserver does not start.
    #[error("a pageserver does not start")]
    Pageserver(#[from] pageserver::Error),
    /// The storage controller does not start, or refuses.
    #[error("the storage controller does not do it")]
    Controller(#[from] controller::Error),
    /// There is no such node, or it is stopped.
    #[error("there is no running {kind} {id}")]
    NoNode {
        /// Which kind of node.
        kind: &'static str,
        /// Its id.
        id: u64,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "InUse",
            Self::Files(source) => source.category(),
            Self::Safekeeper(source) => source.category(),
            Self::Timelines(source) => source.category(),
            Self::Pageserver(source) => source.category(),
            Self::Controller(source) => source.category(),
            Self::NoNode { .. } => "NotFound",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::InUse { .. } | Self::NoNode { .. } => Retry::Never,
            Self::Files(source) => source.retry(),
            Self::Safekeeper(source) => source.retry(),
            Self::Timelines(source) => source.retry(),
            Self::Pageserver(source) => source.retry(),
            Self::Controller(source) => source.retry(),
        }
    }
}
