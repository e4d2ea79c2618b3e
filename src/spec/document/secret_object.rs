//! Secrets that stand in the same text as the ComputeSpec that refers to them.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::Value;

use crate::secret::Secret;
use crate::spec::secrets::{SecretError, Secrets};
use crate::spec::{Errors, FieldError};

/// The Secrets of one text, by name and key.
#[derive(Default)]
pub(super) struct SecretObjects(BTreeMap<String, BTreeMap<String, Secret>>);

impl SecretObjects {
    /// Adds an object of kind Secret.
    pub(super) fn add(&mut self, object: &Value) -> Result<(), Errors> {
        let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) else {
            let advice = "give the Secret a name";
            return Err(FieldError::new("metadata.name", "is missing", advice).into());
        };
        let keys = self.0.entry(name.to_owned()).or_default();
        let packed = "write text in base64, or put it under stringData as it is";
        for (key, value) in entries(object, "data") {
            let text = value.as_str().and_then(decode);
            let text = text.ok_or_else(|| unreadable(name, "data", key, packed))?;
            keys.insert(key.clone(), Secret::new(text));
        }
        for (key, value) in entries(object, "stringData") {
            let text = value.as_str();
            let text =
                text.ok_or_else(|| unreadable(name, "stringData", key, "put it in quotes"))?;
            keys.insert(key.clone(), Secret::new(text));
        }
        Ok(())
    }

    /// The key of a Secret of this text, or else of another place.
    pub(super) fn look_up(
        &self,
        name: &str,
        key: &str,
        elsewhere: &Secrets<'_>,
    ) -> Result<Secret, SecretError> {
        match self.0.get(name) {
            Some(keys) => keys.get(key).cloned().ok_or(SecretError::KeyMissing),
            None => elsewhere(name, key),
        }
    }
}

fn entries<'o>(object: &'o Value, field: &str) -> impl Iterator<Item = (&'o String, &'o Value)> {
    let entries = object.get(field).and_then(Value::as_object);
    entries.into_iter().flatten()
}

fn unreadable(secret: &str, field: &str, key: &str, advice: &str) -> FieldError {
    let problem = format!("is not readable, in the Secret {secret}");
    FieldError::new(format!("{field}.{key}"), problem, advice)
}

fn decode(base64: &str) -> Option<String> {
    let packed: String = base64.split_ascii_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .ok()?;
    String::from_utf8(bytes).ok()
}
