//! A client of the PostgreSQL wire protocol for what `tokio-postgres` leaves out:
//! replication connections, `COPY BOTH`, and peers that are not PostgreSQL
//! (safekeepers and pageservers speak it too).
//!
//! Message bodies are parsed by `postgres-protocol`. Nothing here waits without an
//! end but where its documentation says so: connecting takes a limit, and callers
//! wrap the rest in their own deadline. All methods are cancel safe unless marked.

mod connection;
mod conninfo;
mod frame;

pub use connection::{Connection, CopyBoth, CopyOut, CopyReader, CopyWriter, Row, put_copy_data};
pub use conninfo::{ConnectConfig, Host};
pub use frame::{Frame, MAX_FRAME};

use crate::error::{Category, Retry};

/// What can go wrong while talking to a peer on this protocol.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection string is malformed.
    #[error("connection string is malformed: write postgresql://user@host:port/database")]
    ConnectionString(#[source] Option<Box<tokio_postgres::Error>>),
    /// No connection could be opened.
    #[error("cannot connect to {peer}")]
    Connect {
        /// `host:port` or the socket's path.
        peer: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Connecting and authenticating took too long.
    #[error("{peer} did not finish connecting within {limit:?}")]
    ConnectTimeout {
        /// `host:port` or the socket's path.
        peer: String,
        /// The limit.
        limit: std::time::Duration,
    },
    /// The established connection broke.
    #[error("connection to {peer} broke")]
    Broken {
        /// `host:port` or the socket's path.
        peer: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The peer closed the connection where the protocol does not allow it.
    #[error("{peer} closed the connection")]
    Closed {
        /// `host:port` or the socket's path.
        peer: String,
    },
    /// The peer answered with an ErrorResponse.
    #[error("{peer} answered: {error}")]
    Server {
        /// `host:port` or the socket's path.
        peer: String,
        /// Its answer.
        error: Box<ServerError>,
    },
    /// The peer sent something that the protocol does not allow here.
    #[error("{peer} sent {what}")]
    Protocol {
        /// `host:port` or the socket's path.
        peer: String,
        /// What it sent.
        what: String,
    },
    /// The peer wants a way of authenticating that is not supported, or a password
    /// where none is known.
    #[error("{peer} asks for {method}, which needs {needs}")]
    Authentication {
        /// `host:port` or the socket's path.
        peer: String,
        /// What it asks for.
        method: &'static str,
        /// What would be needed.
        needs: &'static str,
    },
}

/// Fields of an ErrorResponse or NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{severity} {code}: {message}")]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, …
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// Detail, if any.
    pub detail: Option<String>,
    /// Hint, if any.
    pub hint: Option<String>,
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::ConnectionString(_) => "InvalidConnectionString",
            Self::Connect { .. } | Self::Broken { .. } | Self::Closed { .. } => "Unreachable",
            Self::ConnectTimeout { .. } => "Timeout",
            Self::Server { error, .. } if error.is_authentication() => "AuthFailed",
            Self::Server { .. } => "ServerError",
            Self::Protocol { .. } => "ProtocolViolation",
            Self::Authentication { .. } => "AuthFailed",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::ConnectionString(_) | Self::Authentication { .. } => Retry::Never,
            Self::Server { error, .. } if error.is_authentication() => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}

impl ServerError {
    /// Whether the peer refused who we are rather than what we asked: SQLSTATE
    /// class 28, invalid authorization.
    pub fn is_authentication(&self) -> bool {
        self.code.starts_with("28")
    }
}
