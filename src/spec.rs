//! The internal compute specification: parse, validate, resolve. No I/O.

mod compute_spec;
mod crd;
mod owned_settings;
pub mod revision;

pub use compute_spec::*;
pub use crd::{crd, crd_yaml};
pub use owned_settings::{Allowed, OwnedSetting, owned_setting, owned_settings};
