//! Tells whether two documents, with their secrets, are the same.
//!
//! The fingerprint stands in the status, where people read it who may not read the
//! Secrets. A plain hash would let them try passwords until it fits; so what holds
//! secrets is hashed with a key that never leaves the process, and has another
//! fingerprint in each process. A public document has the same everywhere.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::secret_set::Reference;
use crate::secret::Secret;

/// Makes fingerprints for one process.
pub(super) struct Fingerprinter {
    key: [u8; 32],
}

impl Fingerprinter {
    /// With a random key.
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// `sha256:…` of a document and the secrets that it uses. `is_public` says that its
    /// text holds none itself.
    pub(super) fn fingerprint(
        &self,
        text: &str,
        is_public: bool,
        secrets: &BTreeMap<Reference, Secret>,
    ) -> String {
        let mut hash = Sha256::new();
        if !is_public || !secrets.is_empty() {
            hash.update(self.key);
        }
        let parts = secrets
            .iter()
            .flat_map(|((name, key), secret)| [name, key, secret.reveal()]);
        for part in std::iter::once(text).chain(parts) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        format!("sha256:{}", hex::encode(hash.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(password: &str) -> BTreeMap<Reference, Secret> {
        BTreeMap::from([(
            ("app".to_owned(), "password".to_owned()),
            Secret::new(password),
        )])
    }

    #[test]
    fn a_rotated_secret_changes_the_fingerprint() {
        let of =
            |password| Fingerprinter::new([1; 32]).fingerprint("text", true, &secrets(password));
        assert_eq!(of("old"), of("old"));
        assert_ne!(of("old"), of("new"));
    }

    #[test]
    fn a_secret_cannot_be_tried_out_without_the_key() {
        let of = |key| Fingerprinter::new([key; 32]).fingerprint("text", true, &secrets("hunter2"));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn only_a_public_document_has_the_same_fingerprint_everywhere() {
        let none = BTreeMap::new();
        let of = |key, public| Fingerprinter::new([key; 32]).fingerprint("text", public, &none);
        assert_eq!(of(1, true), of(2, true));
        assert_ne!(of(1, false), of(2, false));
    }
}
