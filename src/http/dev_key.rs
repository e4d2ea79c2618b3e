//! Makes a key pair and a token for a compute that runs for development.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Serialize;

use super::auth::{KeyError, Keys};
use crate::secret::Secret;

/// A key that lets one token in.
#[derive(Debug)]
pub struct DevKey {
    /// For the external server.
    pub keys: Keys,
    /// Send it as `Authorization: Bearer …`. It has no end: it dies with the key.
    pub token: Secret,
}

/// The claims of a token for one compute (`libs/compute_api/src/requests.rs`,
/// `ComputeClaims`).
#[derive(Serialize)]
struct Claims<'a> {
    compute_id: &'a str,
}

/// Makes a new Ed25519 key pair, forgets its private half, and keeps a token.
pub fn generate(compute_id: &str) -> Result<DevKey, KeyError> {
    let failed = || KeyError::Generate;
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed())?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| failed())?;
    let token = jsonwebtoken::encode(
        &Header::new(Algorithm::EdDSA),
        &Claims { compute_id },
        &EncodingKey::from_ed_der(pkcs8.as_ref()),
    );
    Ok(DevKey {
        keys: Keys::from_ed25519(pair.public_key().as_ref(), compute_id),
        token: Secret::new(token.map_err(|_| failed())?),
    })
}
