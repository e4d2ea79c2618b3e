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
mod tls;
mod tls_options;

pub use connection::{
    Connection, CopyBoth, CopyOut, CopyReader, CopyWriter, Row, encrypt, put_copy_data,
};
pub use conninfo::{ConnectConfig, Host};
pub use frame::{Frame, MAX_FRAME};
pub use tls::{Tls, TlsMode};
pub use tls_options::TlsOptions;

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
    /// The peer has no TLS, where the spec asks for it.
    #[error(
        "{peer} does not offer TLS: have it serve TLS, or set the mode in the spec's storage.tls \
         to Disable"
    )]
    TlsNotOffered {
        /// `host:port`.
        peer: String,
    },
    /// The TLS handshake failed for a reason that somebody must see to.
    #[error("no TLS connection to {peer}: {advice}")]
    Tls {
        /// `host:port`.
        peer: String,
        /// What is wrong, and what to do.
        advice: &'static str,
        /// What the handshake ended with.
        #[source]
        source: std::io::Error,
    },
    /// The certificates to trust cannot be had.
    #[error("cannot read the trusted certificates of {origin}")]
    TrustedCertificates {
        /// The file, or where else they come from.
        origin: String,
        /// What is wrong with them.
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
            Self::TlsNotOffered { .. } | Self::Tls { .. } | Self::TrustedCertificates { .. } => {
                "TlsFailed"
            }
            Self::ConnectTimeout { .. } => "Timeout",
            Self::Server { error, .. } if error.is_authentication() => "AuthFailed",
            Self::Server { error, .. } if error.demands_tls() => "TlsFailed",
            Self::Server { .. } => "ServerError",
            Self::Protocol { .. } => "ProtocolViolation",
            Self::Authentication { .. } => "AuthFailed",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::ConnectionString(_)
            | Self::Authentication { .. }
            | Self::TlsNotOffered { .. }
            | Self::Tls { .. }
            | Self::TrustedCertificates { .. } => Retry::Never,
            Self::Server { error, .. } if error.is_authentication() || error.demands_tls() => {
                Retry::Never
            }
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

    /// Whether the peer refuses to go on without TLS (`libs/postgres_backend/src/lib.rs`
    /// of Neon).
    pub fn demands_tls(&self) -> bool {
        self.message == "must connect with TLS"
    }
}
