//! Why the catalog could not be read or changed at all.

use std::time::Duration;

use crate::error::{Category, Retry};

/// An application that could not be carried through. What concerns one object only
/// is an [`ObjectFailure`](super::ObjectFailure) instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to database {database:?}")]
    Connect {
        /// The database.
        database: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The catalog could not be read.
    #[error("cannot read the catalog from database {database:?}")]
    Observe {
        /// The database that was asked.
        database: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// An answer that postgres does not give.
    #[error("postgres described its catalog in an unknown way: {problem}")]
    Answer {
        /// What is odd about it.
        problem: String,
    },
    /// A postgres older than any that glowplug knows.
    #[error("postgres {major} is not supported; use 14 or newer")]
    UnsupportedVersion {
        /// Its major version.
        major: u32,
    },
    /// Postgres went away while the catalog was being changed.
    #[error("lost the connection to database {database:?} while changing the catalog")]
    ConnectionLost {
        /// The database of the connection.
        database: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// It took too long.
    #[error(
        "the catalog was not brought to match within {limit:?}: {done} of {total} changes are done"
    )]
    Deadline {
        /// The limit.
        limit: Duration,
        /// Changes that were made, or were found impossible.
        done: usize,
        /// Changes that were planned.
        total: usize,
    },
    /// The caller gave up.
    #[error("changing the catalog was cancelled")]
    Cancelled,
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "PostgresUnreachable",
            Self::Observe { .. } | Self::Answer { .. } => "CatalogUnreadable",
            Self::UnsupportedVersion { .. } => "UnsupportedVersion",
            Self::ConnectionLost { .. } => "ConnectionLost",
            Self::Deadline { .. } => "Timeout",
            Self::Cancelled => "Cancelled",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::UnsupportedVersion { .. } | Self::Cancelled => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}
