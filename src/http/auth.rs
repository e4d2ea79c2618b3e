//! Decides who may use the external server: bearers of a token that one of the known
//! keys signed for this compute, or for administrators of all computes
//! (`compute_tools/src/http/middleware/authorize.rs`,
//! `libs/compute_api/src/requests.rs`).
//!
//! Unlike upstream, a key is used with its own algorithm only (upstream uses one
//! algorithm for all), by its id if the token names one that is known; and symmetric
//! keys are refused: what is published must not be able to sign.

mod keys;
mod ring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;

pub use keys::{KeyError, Keys};
pub use ring::{KeyRing, Origin};

use super::respond;

/// Who may use the external server.
#[derive(Debug)]
pub enum Authorizer {
    /// Everybody. Only where it was asked for by name.
    Insecure,
    /// Bearers of a token that one of these keys signed.
    Keys(Keys),
    /// Bearers of a token that one of the keys of the moment signed.
    Ring(Arc<KeyRing>),
}

impl Authorizer {
    /// Whether anybody may do anything.
    pub const fn is_insecure(&self) -> bool {
        matches!(self, Self::Insecure)
    }

    /// Whether a request with these headers may pass.
    pub fn authorize(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match self {
            Self::Insecure => Ok(()),
            Self::Keys(keys) => keys.authorize(bearer(headers).ok_or(Denied::NoToken)?),
            Self::Ring(ring) => ring.authorize(bearer(headers).ok_or(Denied::NoToken)?),
        }
    }
}

/// `ComputeClaims`.
#[derive(Debug, Deserialize)]
struct Claims {
    compute_id: Option<String>,
    scope: Option<Scope>,
    aud: Option<Audience>,
}

#[derive(Debug, Deserialize)]
enum Scope {
    #[serde(rename = "compute_ctl:admin")]
    Admin,
}

/// One or several, as RFC 7519 allows (section 4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    /// `COMPUTE_AUDIENCE` of upstream.
    const COMPUTE: &str = "compute";

    fn is_compute(&self) -> bool {
        match self {
            Self::One(audience) => audience == Self::COMPUTE,
            Self::Several(audiences) => audiences.iter().any(|one| one == Self::COMPUTE),
        }
    }
}

impl Claims {
    fn check(&self, compute_id: &str) -> Result<(), Denied> {
        match (&self.scope, &self.aud, &self.compute_id) {
            (Some(Scope::Admin), None, _) => Err(Denied::NoAudience),
            (Some(Scope::Admin), Some(audience), _) if audience.is_compute() => Ok(()),
            (Some(Scope::Admin), Some(_), _) => Err(Denied::OtherAudience),
            (None, _, None) => Err(Denied::NoCompute),
            (None, _, Some(id)) if id == compute_id => Ok(()),
            (None, _, Some(_)) => Err(Denied::OtherCompute),
        }
    }
}

/// Why a request is turned away. Its text tells nothing that the caller did not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No bearer token.
    #[error("invalid authorization token")]
    NoToken,
    /// No key verifies it, it is not in force, or its claims are malformed.
    #[error("failed to verify authorization token")]
    Unverified,
    /// An administrator's token without an audience.
    #[error("missing audience in authorization token claims")]
    NoAudience,
    /// An administrator's token for something else.
    #[error("invalid audience in authorization token claims")]
    OtherAudience,
    /// A token for no compute.
    #[error("missing compute_id in authorization token claims")]
    NoCompute,
    /// A token for another compute.
    #[error("invalid compute ID in authorization token claims")]
    OtherCompute,
}

/// The scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

impl Denied {
    pub(super) fn into_response(self) -> Response {
        let status = match self {
            Self::NoCompute | Self::OtherCompute => StatusCode::FORBIDDEN,
            Self::NoToken | Self::Unverified | Self::NoAudience | Self::OtherAudience => {
                StatusCode::UNAUTHORIZED
            }
        };
        let mut response = respond::error(status, &self.to_string());
        if status == StatusCode::UNAUTHORIZED {
            let bearer = header::HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
