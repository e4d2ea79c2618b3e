//! The keys that sign tokens: read from PEM or JSON Web Keys, each used with its own
//! algorithms only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Claims, Denied};

/// Tolerated difference of clocks, in seconds, as upstream has it.
const LEEWAY: u64 = 60;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Neither PEM nor JSON.
    #[error(
        "keys are neither PEM nor a JSON Web Key (Set): \
         give a public key of Ed25519, P-256, P-384 or RSA"
    )]
    Malformed(#[source] Option<serde_json::Error>),
    /// There is no usable key.
    #[error(
        "none of {count} keys can be used: \
         give a public key of Ed25519, P-256, P-384 or RSA"
    )]
    NoneUsable {
        /// How many there are.
        count: usize,
    },
    /// No key could be made.
    #[error("a key pair cannot be made: the system has no random numbers")]
    Generate,
}

/// The keys that sign tokens for one compute.
pub struct Keys {
    compute_id: String,
    keys: Vec<Arc<Key>>,
}

/// One of them.
pub(super) struct Key {
    id: Option<String>,
    /// What it was read from, digested: equal ones are one key.
    fingerprint: [u8; 32],
    verifying: DecodingKey,
    validation: Validation,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// Shows the id only.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("compute_id", &self.compute_id)
            .field("keys", &self.keys)
            .finish()
    }
}

impl Keys {
    /// Reads a file: PEM public keys, a JSON Web Key, or a set of them. Blocks.
    pub fn from_file(path: &Path, compute_id: &str) -> Result<Self, KeyError> {
        let text = std::fs::read(path).map_err(|source| KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, compute_id)
    }

    /// Reads PEM public keys, a JSON Web Key, or a set of them, at least one of which
    /// must be usable.
    pub fn parse(text: &[u8], compute_id: &str) -> Result<Self, KeyError> {
        if text.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Self::from_pem(text, compute_id);
        }
        let json: Value = serde_json::from_slice(text).map_err(|e| KeyError::Malformed(Some(e)))?;
        let jwks = match json.get("keys") {
            Some(Value::Array(keys)) => keys.clone(),
            Some(_) => return Err(KeyError::Malformed(None)),
            None => vec![json],
        };
        Self::from_jwks(&jwks, compute_id)
    }

    /// Takes the usable ones of JSON Web Keys (RFC 7517), such as
    /// `compute_ctl_config.jwks.keys`. Others are logged and left out.
    pub fn from_jwks(jwks: &[Value], compute_id: &str) -> Result<Self, KeyError> {
        let keys: Vec<_> = jwks
            .iter()
            .filter_map(Key::from_jwk)
            .map(Arc::new)
            .collect();
        if keys.is_empty() {
            return Err(KeyError::NoneUsable { count: jwks.len() });
        }
        Ok(Self {
            compute_id: compute_id.to_owned(),
            keys,
        })
    }

    fn from_pem(pem: &[u8], compute_id: &str) -> Result<Self, KeyError> {
        let text = String::from_utf8_lossy(pem);
        let blocks: Vec<_> = text.split_inclusive("-----END PUBLIC KEY-----").collect();
        let blocks = blocks.into_iter().filter(|block| !block.trim().is_empty());
        let (mut keys, mut count) = (Vec::new(), 0);
        for block in blocks {
            count += 1;
            keys.extend(Key::from_pem(block.trim().as_bytes()).map(Arc::new));
        }
        if keys.is_empty() {
            return Err(KeyError::NoneUsable { count });
        }
        Ok(Self {
            compute_id: compute_id.to_owned(),
            keys,
        })
    }

    /// One raw Ed25519 public key.
    pub(in crate::http) fn from_ed25519(public_key: &[u8], compute_id: &str) -> Self {
        let key = DecodingKey::from_ed_der(public_key);
        Self {
            compute_id: compute_id.to_owned(),
            keys: vec![Arc::new(Key::new(
                None,
                public_key,
                key,
                vec![Algorithm::EdDSA],
            ))],
        }
    }

    pub(super) fn authorize(&self, token: &str) -> Result<(), Denied> {
        verify(self.keys.iter().map(|key| &**key), token)?.check(&self.compute_id)
    }

    pub(super) fn into_keys(self) -> Vec<Arc<Key>> {
        self.keys
    }
}

/// The claims of a token that one of the keys verifies. If it names a key that is known,
/// only that one counts; two may have one name while one replaces the other.
pub(super) fn verify<'a>(
    keys: impl Iterator<Item = &'a Key> + Clone,
    token: &str,
) -> Result<Claims, Denied> {
    let id = token_key_id(token);
    let mut named = keys
        .clone()
        .filter(|key| id.is_some() && key.id == id)
        .peekable();
    let claims = if named.peek().is_some() {
        named.find_map(|key| key.verify(token))
    } else {
        let mut keys = keys;
        keys.find_map(|key| key.verify(token))
    };
    claims.ok_or(Denied::Unverified)
}

impl Key {
    #[cfg(test)]
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn new(
        id: Option<String>,
        source: &[u8],
        verifying: DecodingKey,
        algorithms: Vec<Algorithm>,
    ) -> Self {
        let mut validation = Validation {
            algorithms,
            leeway: LEEWAY,
            validate_nbf: true,
            // The audience is checked with the other claims.
            validate_aud: false,
            ..Validation::default()
        };
        // Tokens without an end are upstream's habit.
        validation.required_spec_claims.clear();
        Self {
            id,
            fingerprint: Sha256::digest(source).into(),
            verifying,
            validation,
        }
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let (key, algorithms) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            (key, vec![EdDSA])
        } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            (key, vec![ES256, ES384])
        } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            (key, vec![RS256, RS384, RS512, PS256, PS384, PS512])
        } else {
            tracing::warn!("a PEM block holds no public key that can be used, and is left out");
            return None;
        };
        Some(Self::new(None, pem, key, algorithms))
    }

    fn from_jwk(value: &Value) -> Option<Self> {
        let id = value.get("kid").and_then(Value::as_str).map(str::to_owned);
        let usable = Jwk::deserialize(value).ok().and_then(|jwk| {
            let algorithms = algorithms(&jwk)?;
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            // A wrong length would show only at the first token.
            let whole = match &jwk.algorithm {
                AlgorithmParameters::OctetKeyPair(pair) => {
                    BASE64_URL_SAFE_NO_PAD.decode(&pair.x).ok()?.len() == 32
                }
                _ => true,
            };
            whole.then_some((key, algorithms))
        });
        if usable.is_none() {
            tracing::warn!(kid = id, "a JSON Web Key cannot be used and is left out");
        }
        let (key, algorithms) = usable?;
        Some(Self::new(id, value.to_string().as_bytes(), key, algorithms))
    }

    fn verify(&self, token: &str) -> Option<Claims> {
        let decoded = jsonwebtoken::decode(token, &self.verifying, &self.validation);
        match decoded {
            Ok(data) => Some(data.claims),
            Err(error) => {
                tracing::debug!(kid = self.id, %error, "a token does not verify with this key");
                None
            }
        }
    }
}

/// What a key may be used with: what it says, if that fits its type.
fn algorithms(jwk: &Jwk) -> Option<Vec<Algorithm>> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            vec![EdDSA]
        }
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => return None,
        },
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        _ => return None,
    };
    match jwk.common.key_algorithm {
        None => Some(by_type),
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => None,
        Some(named) => {
            let named: Algorithm = named.to_string().parse().ok()?;
            by_type.contains(&named).then_some(vec![named])
        }
    }
}

/// The id of the key that the token claims to be signed with.
fn token_key_id(token: &str) -> Option<String> {
    jsonwebtoken::decode_header(token).ok()?.kid
}
