//! What a source reports: accepted specs, refused ones, and its own health.

use std::sync::Arc;

use super::ComputeSpec;

/// One accepted version of a spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// The resolved spec.
    pub spec: Arc<ComputeSpec>,
    /// `metadata.generation` of the resource; a counter of the source elsewhere.
    pub generation: i64,
    /// `sha256:…` of what the spec says, its secrets left out; for the status. Whether
    /// there is work to do, the specs themselves tell.
    pub hash: String,
    /// Where it came from, for people: `computespec shop/main`, `file /etc/…`.
    pub origin: String,
}

/// A version of a spec that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `metadata.generation` of the resource; a counter of the source elsewhere.
    pub generation: i64,
    /// Where it came from, for people.
    pub origin: String,
    /// PascalCase reason for the condition `SpecAccepted`: `ValidationFailed`,
    /// `ImmutableFieldChanged`, `SecretNotFound`, `SecretKeyMissing`, …
    pub reason: &'static str,
    /// What is wrong, each with the path of the field and what to do.
    pub message: String,
}

/// What a source has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// A valid spec: at the start, and whenever it changed.
    Accepted(Revision),
    /// A spec that cannot be used; the last good one stays in force.
    Rejected(Rejection),
    /// The source has no spec: a resource that does not exist (any more), a
    /// control plane that answers `empty`.
    Absent {
        /// Where it was looked for.
        origin: String,
    },
    /// The source cannot be reached; it keeps trying.
    Unreachable {
        /// Why, for the log and the condition.
        message: String,
    },
}
