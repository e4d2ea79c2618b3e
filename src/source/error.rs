//! What can go wrong with a source itself, rather than with the documents in it.

use std::io;
use std::path::PathBuf;

use crate::error::{Category, Retry};

/// A source that cannot be set up or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a kubeconfig file nor the environment of a pod.
    #[error(
        "find out how to reach the API server: set KUBECONFIG, or run in a pod that has a \
         ServiceAccount token"
    )]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// The kubeconfig file is not usable.
    #[error("read the kubeconfig file {}", path.display())]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// The client could not be built, for its certificates most likely.
    #[error("build a client of the API server")]
    Client(#[source] Box<kube::Error>),
    /// The directory cannot be watched.
    #[error("watch the directory {}", path.display())]
    Watch {
        /// Which directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// The last good copy cannot be read.
    #[error("read the last good spec {}", path.display())]
    ReadLastGood {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The last good copy cannot be written.
    #[error("write the last good spec {}; its directory must be writable", path.display())]
    WriteLastGood {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::NoCluster(_) | Self::Kubeconfig { .. } | Self::Client(_) => "InvalidKubeconfig",
            Self::Watch { .. } => "WatchFailed",
            Self::ReadLastGood { .. } | Self::WriteLastGood { .. } => "LastGoodFailed",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NoCluster(_) | Self::Kubeconfig { .. } | Self::Client(_) => Retry::Never,
            Self::Watch { .. } | Self::ReadLastGood { .. } | Self::WriteLastGood { .. } => {
                Retry::Backoff
            }
        }
    }
}
