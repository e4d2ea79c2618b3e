//! What can keep a compute from running.

use std::path::PathBuf;
use std::time::Duration;

use super::ending::Ending;
use super::postgres;
use crate::error::{Category, Retry};
use crate::lsn::Lsn;
use crate::{catalog, pageserver, pgdata, safekeeper};

/// A step of a compute's life that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PGDATA could not be made, configured or read.
    #[error("cannot prepare {}", path.display())]
    Pgdata {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: pgdata::Error,
    },
    /// The safekeepers did not agree.
    #[error("cannot sync the safekeepers")]
    Sync(#[source] Box<safekeeper::sync::Error>),
    /// No basebackup could be had.
    #[error("cannot fetch a basebackup at {}", lsn_or_latest(*lsn))]
    Basebackup {
        /// The LSN asked for; `None` for the latest.
        lsn: Option<Lsn>,
        /// Why.
        #[source]
        source: Box<pageserver::Error>,
    },
    /// The spec names no pageserver that can be asked.
    #[error("the spec names no location of shard 0: set spec.storage.pageservers.shards")]
    NoPageserver,
    /// Storage stayed away for longer than the limit.
    #[error("storage was unavailable for {limit:?}")]
    StorageWait {
        /// The limit.
        limit: Duration,
        /// The last attempt's error.
        #[source]
        source: Box<Error>,
    },
    /// Postgres did not start, or could not be asked.
    #[error("postgres does not serve")]
    Postgres(#[source] postgres::Error),
    /// The running postgres could not be asked.
    #[error("cannot query the local postgres")]
    Query(#[source] tokio_postgres::Error),
    /// The running postgres did not take up a reload in time.
    #[error("postgres did not reload its configuration within {0:?}")]
    ReloadTimeout(Duration),
    /// Postgres refused settings of the spec.
    #[error("postgres refuses the configuration: {0}")]
    ConfigurationRefused(String),
    /// Roles and databases could not be made to match.
    #[error("cannot apply roles and databases")]
    Catalog(#[source] Box<catalog::Error>),
    /// The relay of the write-ahead log ended.
    #[error("the WAL relay ended")]
    Relay(#[source] Box<safekeeper::relay::Error>),
    /// No pageserver of the spec, nor one that the storage controller names, serves the
    /// tenant.
    #[error("cannot find out where the tenant's shards are")]
    Locate(#[source] Box<pageserver::Error>),
    /// Nobody could say whether the spec is the newest.
    #[error(
        "cannot find out where storage is: the spec names no storage controller, and of its \
         source it is not known whether it has a newer one: {0}"
    )]
    LookAgain(String),
    /// The postgres program could not be asked for its version.
    #[error("cannot tell the version of {}: is it a postgres program?", program.display())]
    Version {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: Option<crate::process::Error>,
    },
    /// The spec wants another version than the program has.
    #[error(
        "the spec wants PostgreSQL {wanted}, but {} is version {found}: change \
         spec.postgres.version or --pgbin",
        program.display()
    )]
    VersionMismatch {
        /// Of the spec.
        wanted: u32,
        /// Of the program.
        found: u32,
        /// The program.
        program: PathBuf,
    },
    /// The work was called off.
    #[error("cancelled")]
    Cancelled,
    /// A task ended in a way that it must not.
    #[error("task '{0}' ended unexpectedly: this is a fault of glowplug, please report it")]
    Task(&'static str),
}

fn lsn_or_latest(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "the latest LSN".to_owned(), |lsn| lsn.to_string())
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Pgdata { source, .. } => source.category(),
            Self::Sync(source) => source.category(),
            Self::Basebackup { source, .. } | Self::Locate(source) => source.category(),
            Self::StorageWait { source, .. } => source.category(),
            Self::LookAgain(_) => "SourceUnreachable",
            Self::NoPageserver => "NoPageserver",
            Self::Postgres(source) => source.category(),
            Self::Query(_) => "PostgresUnreachable",
            Self::ReloadTimeout(_) => "Timeout",
            Self::ConfigurationRefused(_) => "InvalidSetting",
            Self::Catalog(_) => "ApplyFailed",
            Self::Relay(source) => source.category(),
            Self::Version { .. } | Self::VersionMismatch { .. } => "UnsupportedVersion",
            Self::Cancelled => "Cancelled",
            Self::Task(_) => "InternalError",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Sync(source) => source.retry(),
            Self::Postgres(source) => source.retry(),
            Self::Basebackup { source, .. } | Self::Locate(source) => source.retry(),
            Self::LookAgain(_) | Self::Query(_) | Self::ReloadTimeout(_) => Retry::Backoff,
            Self::Catalog(source) => source.retry(),
            _ => Retry::Never,
        }
    }
}

impl Error {
    /// Whether a newer compute has the timeline.
    pub fn is_takeover(&self) -> bool {
        matches!(self, Self::Relay(source) if source.category() == "TakeoverDetected")
    }

    /// Whether postgres ended by itself: worth another start.
    pub fn is_postgres_exit(&self) -> bool {
        matches!(self, Self::Postgres(source) if source.retry() != Retry::Never)
            || matches!(self, Self::Relay(_)) && !self.is_takeover()
    }

    /// Whether postgres refused its configuration.
    pub fn is_configuration_refused(&self) -> bool {
        match self {
            Self::ConfigurationRefused(_) => true,
            Self::Postgres(source) => source.category() == "ConfigurationRefused",
            _ => false,
        }
    }

    /// The exit code of a process that gives up for this reason.
    pub fn ending(&self) -> Ending {
        match self {
            Self::Pgdata { .. } => Ending::CannotCreate,
            _ if self.is_configuration_refused() => Ending::ConfigurationRefused,
            Self::NoPageserver | Self::VersionMismatch { .. } => Ending::SpecInvalid,
            Self::StorageWait { source, .. } => match source.ending() {
                Ending::CredentialsRefused => Ending::CredentialsRefused,
                _ => Ending::StorageUnavailable,
            },
            Self::Sync(_) | Self::Basebackup { .. } | Self::Locate(_) | Self::Relay(_) => {
                match self.category() {
                    "AuthFailed" => Ending::CredentialsRefused,
                    "DiskFull" => Ending::CannotCreate,
                    _ => Ending::StorageUnavailable,
                }
            }
            _ => Ending::Internal,
        }
    }
}
