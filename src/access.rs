//! How storage is reached: the token that it asks for, and TLS.
//!
//! One [`Access`] serves all of a compute's connections to safekeepers, pageservers
//! and the storage controller. It follows the spec, so that what connects next uses
//! what is true then.

mod token;
mod trust;

pub use token::{ReadToken, StorageToken};
pub use trust::Trust;

use crate::secret::Secret;
use crate::spec::ComputeSpec;

/// What a connection to storage is made with, beside an address.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The token.
    pub token: StorageToken,
    /// When connections are encrypted, and whom to trust.
    pub trust: Trust,
}

impl Access {
    /// A token that has no source, and TLS where the other side insists.
    pub fn with_token(token: Option<Secret>) -> Self {
        Self {
            token: StorageToken::fixed(token),
            ..Self::default()
        }
    }

    /// What a spec says, without a source to read the token from again.
    pub fn of(spec: &ComputeSpec) -> Self {
        let access = Self::default();
        access.follow(spec);
        access
    }

    /// Takes over what a newer spec says, for whatever connects next.
    pub fn follow(&self, spec: &ComputeSpec) {
        self.token.replace(spec.storage_token.clone());
        self.trust.follow(spec);
    }
}
