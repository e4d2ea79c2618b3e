//! Serves the PostgreSQL wire protocol the way Neon's storage nodes do: start-up,
//! a token as cleartext password, simple queries, and copy streams.
//!
//! Both development nodes use it; upstream's counterpart is
//! `libs/postgres_backend/src/lib.rs`. TLS is asked for by an SSLRequest; where it is
//! configured, nobody gets in without.
//!
//! # Guarantees
//! 1. Nothing waits without end: the handshake has a limit, and so has every wait
//!    for the next message.
//! 2. A peer names no length above [`MAX_FRAME`] or [`MAX_STARTUP`].
//! 3. Malformed input ends the connection; nothing panics.

mod frontend;
mod session;
mod startup;
mod stream;

pub use frontend::{Frontend, MAX_FRAME};
pub use session::{Column, CopyInput, CopyReceiver, CopySender, Session};
pub use startup::{MAX_STARTUP, Startup, StartupPacket};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::secret::Secret;

/// What a listener expects of those who connect.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The token that must come as the password; `None` trusts everybody.
    pub token: Option<Secret>,
    /// The certificate to show; all connections are then encrypted.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How long start-up and authentication may take together.
    pub handshake_limit: Duration,
    /// How long a client may stay silent. Neon's safekeeper allows 10 minutes.
    pub idle_limit: Duration,
    /// Parameters that are reported to every client, beside those of upstream.
    pub parameters: &'static [(&'static str, &'static str)],
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            token: None,
            tls: None,
            handshake_limit: Duration::from_mins(1),
            idle_limit: Duration::from_mins(10),
            parameters: &[],
        }
    }
}

/// Why a connection ended otherwise than by its client's wish.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Start-up or authentication took too long.
    #[error("{peer} did not finish its start-up within {limit:?}")]
    HandshakeTimeout {
        /// Who connected.
        peer: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// The client was silent for too long.
    #[error("{peer} sent nothing for {limit:?}")]
    Idle {
        /// Who connected.
        peer: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// The client does not know the token.
    #[error("{peer} did not give the right token")]
    Authentication {
        /// Who connected.
        peer: SocketAddr,
    },
    /// The client sent what the protocol does not allow here.
    #[error("{peer} sent {what}")]
    Protocol {
        /// Who connected.
        peer: SocketAddr,
        /// What it sent.
        what: String,
    },
    /// The connection broke.
    #[error("connection from {peer} broke")]
    Broken {
        /// Who connected.
        peer: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
