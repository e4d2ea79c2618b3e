//! The snapshot of what is true now, and who tells it.
//!
//! One task owns the compute's facts and publishes them as a [`Snapshot`] on a watch
//! channel. Everything that people and machines read of a compute - `GET /status`,
//! the resource's status, the status file, metrics, probes - is rendered from it.
//! A [`status_writer`] per [`sink`] brings it to people; [`events`] tells what happened.

pub mod api_call;
pub mod conditions;
pub mod config_map;
pub mod event_budget;
pub mod events;
pub mod metrics;
pub mod progress_bar;
pub mod resource;
pub mod sink;
mod snapshot;
pub mod status;
pub mod status_file;
pub mod status_writer;
pub mod write_policy;

pub use snapshot::{
    CatalogFacts, ConfigFacts, DiskFacts, Downtime, Event, EventKind, LsnFacts, MonitorFacts,
    NeonCounters, PagestreamFacts, Phase, PhaseDurations, PostgresFacts, PostgresPhase, ProbeFacts,
    Progress, RelayFacts, Sessions, Snapshot, SpecFacts, StepFacts, StorageFault, StorageWaits,
};
