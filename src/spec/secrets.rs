//! How a specification's references to Secrets are looked up, and what can go wrong.

use super::{FieldError, Reason};
use crate::api::resource::SecretKeyRef;
use crate::secret::Secret;

/// Looks up the key of a Secret, by the Secret's name and the key's.
pub type Secrets<'a> = dyn Fn(&str, &str) -> Result<Secret, SecretError> + 'a;

/// Why a Secret's key cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is no Secret of that name.
    #[error("there is no such Secret")]
    NotFound,
    /// The Secret lacks the key.
    #[error("the Secret has no such key")]
    KeyMissing,
    /// It is there and cannot be read.
    #[error("the Secret cannot be read: {0}")]
    Unreadable(String),
}

/// A lookup for sources that have no Secrets at all.
pub fn no_secrets(_name: &str, _key: &str) -> Result<Secret, SecretError> {
    Err(SecretError::NotFound)
}

/// The text of a reference's target, without the line break that editors and `echo`
/// leave at its end.
pub(super) fn look_up(
    secrets: &Secrets<'_>,
    reference: &SecretKeyRef,
    path: &str,
) -> Result<Secret, FieldError> {
    let SecretKeyRef { name, key } = reference;
    let secret = secrets(name, key).map_err(|error| match error {
        SecretError::NotFound => FieldError::new(
            format!("{path}.name"),
            format!("there is no Secret {name}"),
            format!("create it with the key {key}"),
        )
        .because(Reason::SecretNotFound),
        SecretError::KeyMissing => FieldError::new(
            format!("{path}.key"),
            format!("the Secret {name} has no key {key}"),
            "add it, or name another key",
        )
        .because(Reason::SecretKeyMissing),
        SecretError::Unreadable(why) => FieldError::new(
            path,
            format!("the Secret {name} cannot be read: {why}"),
            "let glowplug read it",
        )
        .because(Reason::SecretNotFound),
    })?;
    let text = secret.reveal().trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        let problem = format!("the key {key} of the Secret {name} is empty");
        let error = FieldError::new(format!("{path}.key"), problem, "put the secret there");
        return Err(error.because(Reason::SecretKeyMissing));
    }
    Ok(Secret::new(text))
}
