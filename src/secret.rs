//! Secrets that cannot be printed.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A password, token or key. It has no `Display`, its `Debug` prints a
/// placeholder, and it does not serialize: reading it takes an explicit
/// [`Secret::reveal`], which reviewers can search for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that must send it to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_text() {
        assert_eq!(
            format!("{:?}", Some(Secret::new("hunter2"))),
            "Some(<redacted>)"
        );
    }
}
