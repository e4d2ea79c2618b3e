//! A name for the content of a specification, for the status.

use sha2::{Digest, Sha256};

use super::neon_json::to_spec;
use super::{ComputeSpec, Password};
use crate::secret::Secret;

/// `sha256:…` of all that the specification says, its secrets left out: who can read the
/// hash could try out passwords on it. Two specifications of one hash may therefore differ
/// in a secret; compare them themselves to find out.
pub fn hash(spec: &ComputeSpec) -> String {
    let mut public = spec.clone();
    let blank = |secret: &mut Option<Secret>| *secret = secret.take().map(|_| Secret::new(""));
    blank(&mut public.storage_token);
    blank(&mut public.neon.endpoint_storage_token);
    for role in &mut public.roles {
        role.password = role.password.take().map(|password| match password {
            Password::Cleartext(_) => Password::Cleartext(Secret::new("")),
            Password::Verifier(_) => Password::Verifier(Secret::new("")),
        });
    }
    let text = serde_json::to_vec(&to_spec(&public)).unwrap_or_default();
    format!("sha256:{}", hex::encode(Sha256::digest(&text)))
}
