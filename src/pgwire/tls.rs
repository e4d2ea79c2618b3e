//! When a connection is encrypted, in the words of libpq's `sslmode`, and what a failed
//! handshake means.
//!
//! Encryption is always asked for by an SSLRequest: Neon's nodes never answer a TLS
//! handshake that comes without one (`libs/postgres_backend/src/lib.rs`).

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use rustls::{CertificateError, ClientConfig};

use super::Error;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// Only if the peer refuses to go on without; saves a round trip where it does not.
    #[default]
    Allow,
    /// If the peer offers it.
    Prefer,
    /// Always, whoever the peer is.
    Require,
    /// Always, and the peer's certificate must be of a trusted authority.
    VerifyCa,
    /// Always, and the certificate must be for the peer's name, too.
    VerifyFull,
}

impl TlsMode {
    pub(super) const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// As libpq spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TlsMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let named = |mode: &Self| mode.as_str() == text;
        Self::ALL.into_iter().find(named).ok_or(())
    }
}

/// When a connection is encrypted, and with which trust.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// Never.
    #[default]
    Never,
    /// If the peer refuses to go on without.
    IfDemanded(Arc<ClientConfig>),
    /// If the peer offers it.
    IfOffered(Arc<ClientConfig>),
    /// Always.
    Always(Arc<ClientConfig>),
}

/// Whether an error is the refusal to go on without TLS, which Neon's nodes answer a
/// plain start-up with.
pub(super) fn is_demand(error: &Error) -> bool {
    matches!(error, Error::Server { error, .. } if error.demands_tls())
}

/// The error of a handshake that failed.
pub(super) fn handshake_failed(peer: String, source: io::Error) -> Error {
    let cause = source.get_ref().and_then(|cause| cause.downcast_ref());
    match cause.and_then(advice) {
        Some(advice) => Error::Tls {
            peer,
            advice,
            source,
        },
        None => Error::Connect { peer, source },
    }
}

/// What to do about it; `None` if it is no fault of the two ends' configuration.
fn advice(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(problem) = error else {
        return match error {
            rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
                Some("the two have no version or cipher in common")
            }
            _ => None,
        };
    };
    Some(match problem {
        // The latter: of an authority that has the name of a trusted one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of no trusted authority: name the authority's certificate in \
             the spec (storage.tls)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name: address it by a name of its certificate"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check both clocks"
        }
        _ => "its certificate cannot be accepted",
    })
}
