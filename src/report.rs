//! The snapshot of what is true now, and who tells it.
//!
//! One task owns the compute's facts and publishes them as a [`Snapshot`] on a watch
//! channel. Everything that people and machines read of a compute - `GET /status`,
//! the resource's status, the status file, metrics, probes - is rendered from it.

pub mod conditions;
mod snapshot;
pub mod status;

pub use snapshot::{
    CatalogFacts, ConfigFacts, Event, EventKind, LsnFacts, PagestreamFacts, Phase, PhaseDurations,
    PostgresFacts, PostgresPhase, Progress, RelayFacts, Snapshot, SpecFacts, StepFacts,
};
