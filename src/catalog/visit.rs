//! Short stays on the server for somebody who waits: what the HTTP API asks of it.
//!
//! Each has one connection of its own, with the same pinned settings as an application
//! of the catalog, a statement timeout, and a deadline for all of it. The statement of a
//! late visit is cancelled; that of a visit that is dropped ends by its timeout.

pub mod extensions;
pub mod grants;
pub mod health;
pub mod objects;
pub mod statistics;

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::session::{RunError, Session, Stop};
use super::{ApplyOptions, CatalogTarget};
use crate::error::{Category, Retry};

/// How long a visit waits for a lock, at most.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a visit came to nothing.
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
    /// Postgres refused the statement, or went away.
    #[error("postgres does not {what}")]
    Statement {
        /// What was wanted of it.
        what: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A name or a text that postgres cannot have.
    #[error("{what} is not usable: {problem}")]
    Unusable {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It took too long.
    #[error("postgres has not answered within {0:?}")]
    Deadline(Duration),
}

impl Error {
    /// What postgres said, as a code (SQLSTATE).
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Connect { source, .. } | Self::Statement { source, .. } => source.code(),
            Self::Unusable { .. } | Self::Deadline(_) => None,
        }
    }
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "PostgresUnreachable",
            Self::Statement { .. } => "StatementFailed",
            Self::Unusable { .. } => "InvalidArgument",
            Self::Deadline(_) => "Timeout",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unusable { .. } => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}

/// A visit that is under way.
struct Visit {
    session: Session,
    stop: Stop,
    limit: Duration,
}

impl Visit {
    /// Connects to `database`, or to the one that the target names, for at most `limit`.
    async fn begin(
        target: &CatalogTarget,
        database: Option<&str>,
        limit: Duration,
    ) -> Result<Self, Error> {
        let options = ApplyOptions {
            concurrency: 1,
            statement_timeout: limit,
            lock_timeout: LOCK_TIMEOUT.min(limit),
            deadline: limit,
        };
        let stop = Stop::new(&CancellationToken::new(), limit);
        // The version is not known: settings of newer ones are left alone.
        match Session::connect(target, database, &options, 0, &stop).await {
            Ok(session) => Ok(Self {
                session,
                stop,
                limit,
            }),
            Err(RunError::Sql(source)) => Err(Error::Connect {
                database: database.unwrap_or("postgres").to_owned(),
                source,
            }),
            Err(RunError::Interrupted(_)) => Err(Error::Deadline(limit)),
        }
    }

    /// Runs a query, and reads the wanted columns of its rows. `what` completes
    /// "postgres does not …".
    async fn rows<const COLUMNS: usize>(
        &self,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<[Option<String>; COLUMNS]>, Error> {
        let asked = self.session.simple_query(sql, &self.stop).await;
        let messages = asked.map_err(|error| self.error(what, error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(std::array::from_fn(|column| {
                row.try_get(column).ok().flatten().map(str::to_owned)
            })),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs a statement.
    async fn run(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        let done = self.session.run(sql, &self.stop).await;
        done.map_err(|error| self.error(what, error))
    }

    fn error(&self, what: &'static str, error: RunError) -> Error {
        match error {
            RunError::Sql(source) => Error::Statement { what, source },
            RunError::Interrupted(_) => Error::Deadline(self.limit),
        }
    }

    /// Says goodbye, so that the server is not left to find out.
    async fn end<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        self.session.close().await;
        result
    }
}

/// Refuses a name that postgres would not take just as it is.
fn check_name(what: &'static str, name: &str) -> Result<(), Error> {
    super::quote::check_name(name).map_err(|problem| Error::Unusable {
        what,
        problem: problem.to_string(),
    })
}

fn check_text(what: &'static str, text: &str) -> Result<(), Error> {
    if super::quote::check_text(text) {
        return Ok(());
    }
    Err(Error::Unusable {
        what,
        problem: "it contains a NUL byte".to_owned(),
    })
}
