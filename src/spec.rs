//! The internal compute specification: parse, validate, resolve. No I/O.

mod compute_spec;
mod crd;
mod field_error;
mod neon_fields;
pub mod neon_json;
mod owned_settings;
pub mod resolve;
pub mod revision;
mod secrets;
pub mod validate;

pub use compute_spec::*;
pub use crd::{crd, crd_yaml};
pub use field_error::{Errors, FieldError, Reason, report_errors};
pub use neon_fields::*;
pub use owned_settings::{Allowed, OwnedSetting, owned_setting, owned_settings};
pub use secrets::{SecretError, Secrets, no_secrets};
