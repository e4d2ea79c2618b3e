//! Which compute a log event is about: fields that every JSON event carries, so that
//! events of one compute, tenant or timeline are found among those of a fleet.

use std::sync::{Arc, PoisonError, RwLock};

/// Names and values.
pub type Fields = Vec<(&'static str, String)>;

/// The fields of one process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Correlation(Arc<RwLock<Fields>>);

impl Correlation {
    /// Replaces the fields.
    pub fn set(&self, fields: Fields) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fields;
    }

    /// The fields as they are now.
    pub fn fields(&self) -> Fields {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
