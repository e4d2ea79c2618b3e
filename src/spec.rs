//! The internal compute specification: parse, validate, resolve. No I/O.

pub mod change;
mod compute_spec;
mod conf_text;
mod crd;
pub mod document;
mod field_error;
mod hash;
mod neon_fields;
pub mod neon_json;
mod owned_settings;
pub mod resolve;
mod restart_settings;
pub mod revision;
mod schema;
mod secrets;
pub mod validate;

pub use compute_spec::*;
pub use conf_text::{assignments, without_owned};
pub use crd::{crd, crd_yaml};
pub use document::parse as parse_document;
pub use field_error::{Errors, FieldError, Reason, report_errors};
pub use hash::hash;
pub use neon_fields::*;
pub use owned_settings::{Allowed, OwnedSetting, owned_setting, owned_settings};
pub use restart_settings::needs_restart;
pub use secrets::{SecretError, Secrets, no_secrets};

#[cfg(test)]
mod tests;
