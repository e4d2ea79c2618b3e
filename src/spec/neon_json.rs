//! Neon's JSON form of a specification, as `compute_ctl` reads it: every struct and field,
//! both ways, and its envelopes.
//!
//! Sources: `libs/compute_api/src/{spec,requests,responses}.rs`; how the pieces resolve:
//! `ParsedSpec` in `compute_tools/src/compute.rs`.
//!
//! # Rules
//! - Unknown keys are ignored everywhere.
//! - A field that may be absent and is not an `Option` upstream refuses `null`.
//! - What glowplug adds stands under the key `glowplug` of the object that it belongs to,
//!   where `compute_ctl` does not look.

mod enums;
mod envelopes;
mod fields;
mod legacy;
mod read;
mod spec;
mod write;

use serde::de::DeserializeOwned;

use super::{ComputeSpec, Errors, FieldError};
pub use enums::*;
pub use envelopes::*;
pub(super) use legacy::split_safekeepers;
pub use read::{Resolved, resolve};
pub use spec::*;
pub use write::to_spec;

/// Reads a bare specification. Paths of errors start at its root.
pub fn parse(json: &[u8]) -> Result<ComputeSpec, Errors> {
    let spec: Spec = read(json)?;
    resolve(&spec, "").map(|resolved| resolved.spec)
}

/// Reads a struct of this module: a [`Spec`] or an envelope around one.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Errors> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(json_error)?;
    let rest = deserializer.end();
    rest.map_err(|error| {
        FieldError::new(
            "",
            error.to_string(),
            "remove what stands behind the document",
        )
    })?;
    Ok(value)
}

/// The specification in Neon's JSON, what glowplug adds included. Holds its secrets.
pub fn to_json(spec: &ComputeSpec) -> String {
    serde_json::to_string_pretty(&to_spec(spec)).unwrap_or_default()
}

pub(super) fn json_error(error: serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let path = match error.path().to_string() {
        path if path == "." => String::new(),
        path => path,
    };
    let error = error.into_inner();
    let advice = if error.is_data() {
        "correct the field"
    } else {
        "write valid JSON"
    };
    // The unexpected value that serde prints could be a secret at the wrong place.
    let is_secret = ["password", "token"].iter().any(|word| path.contains(word));
    let problem = if is_secret && error.is_data() {
        "is not text".to_owned()
    } else {
        error.to_string()
    };
    FieldError::new(path, problem, advice)
}

#[cfg(test)]
mod tests;
