//! The Secrets that a source has seen, and what a document asks of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::Resolve;
use crate::secret::Secret;
use crate::spec::{ComputeSpec, Errors, SecretError};

/// Name of a Secret and one of its keys.
pub(super) type Reference = (String, String);

/// What is known of one Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretState {
    /// It does not exist.
    Missing,
    /// It cannot be read, and why.
    Unreadable(String),
    /// Its keys. Those that are no text are `None`.
    Present(BTreeMap<String, Option<Secret>>),
}

/// What is known of the Secrets that a document may refer to, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SecretSet(BTreeMap<String, SecretState>);

impl SecretSet {
    pub(super) fn insert(&mut self, name: impl Into<String>, state: SecretState) {
        self.0.insert(name.into(), state);
    }

    fn look_up(&self, name: &str, key: &str) -> Result<Secret, SecretError> {
        match self.0.get(name) {
            None | Some(SecretState::Missing) => Err(SecretError::NotFound),
            Some(SecretState::Unreadable(why)) => Err(SecretError::Unreadable(why.clone())),
            Some(SecretState::Present(keys)) => match keys.get(key) {
                None => Err(SecretError::KeyMissing),
                Some(None) => Err(SecretError::Unreadable("it is not UTF-8 text".to_owned())),
                Some(Some(secret)) => Ok(secret.clone()),
            },
        }
    }

    /// Secrets by the references that have them, for a copy of last time.
    pub(super) fn of_references(secrets: BTreeMap<Reference, Secret>) -> Self {
        let mut by_name = BTreeMap::<String, BTreeMap<_, _>>::new();
        for ((name, key), secret) in secrets {
            by_name.entry(name).or_default().insert(key, Some(secret));
        }
        Self(
            by_name
                .into_iter()
                .map(|(name, keys)| (name, SecretState::Present(keys)))
                .collect(),
        )
    }
}

/// What a document asks for. A document that is refused asks for what it asked
/// until then.
pub(super) fn references(resolve: &Resolve, text: &str) -> BTreeSet<Reference> {
    let asked = RefCell::new(BTreeSet::new());
    let placeholder = |name: &str, key: &str| {
        asked.borrow_mut().insert((name.to_owned(), key.to_owned()));
        Ok(Secret::new("placeholder"))
    };
    // Whether it is valid is told when the Secrets are at hand.
    let _ = resolve(text, &placeholder);
    asked.into_inner()
}

/// Resolves a document, and tells which secrets it used.
pub(super) fn resolve_with(
    resolve: &Resolve,
    text: &str,
    secrets: &SecretSet,
) -> (
    Result<Option<ComputeSpec>, Errors>,
    BTreeMap<Reference, Secret>,
) {
    let used = RefCell::new(BTreeMap::new());
    let look_up = |name: &str, key: &str| {
        let secret = secrets.look_up(name, key)?;
        used.borrow_mut()
            .insert((name.to_owned(), key.to_owned()), secret.clone());
        Ok(secret)
    };
    let result = resolve(text, &look_up);
    (result, used.into_inner())
}
