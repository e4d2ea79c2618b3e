//! The heart: state, lifecycle and supervision of one compute.
//!
//! [`owner`] is the one task that owns the state; it runs one job at a time:
//! [`startup`], [`reconfigure`], [`refresh`] or [`stop`]. [`state`] says which may
//! follow from what.

pub mod activity;
mod apply_catalog;
pub mod config;
pub mod ending;
pub mod error;
mod extension_census;
pub mod facts;
pub mod launch;
mod local;
mod measure;
mod monitor;
pub mod owner;
pub mod pagestream_health;
pub mod postgres;
mod reconfigure;
mod refresh;
mod relay_task;
mod reload;
pub mod restart_budget;
mod running;
mod server_version;
mod shards;
pub mod signals;
mod startup;
pub mod state;
mod stop;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::access::Access;
use crate::http::control::Request;
use crate::report::{Event, Snapshot};
use crate::spec::revision::SourceEvent;
use crate::telemetry::metrics::Metrics;

/// A signal that asks the process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM or SIGINT: stop postgres in order; a second one hastens it.
    Stop,
    /// SIGQUIT: stop postgres at once.
    Quit,
}

/// A wish to have the spec's source looked at again. The answer says whether it holds
/// another spec than the one that it told before - it has told that one by then - or why
/// that is not known.
pub type LookAgain = oneshot::Sender<Result<bool, String>>;

/// What the owner listens to.
pub struct Inputs {
    /// The spec's source.
    pub source: mpsc::Receiver<SourceEvent>,
    /// The HTTP servers.
    pub control: mpsc::Receiver<Request>,
    /// Signals to the process.
    pub signals: mpsc::Receiver<StopSignal>,
}

/// Where the owner tells what is true, and what it asks others with.
pub struct Outputs {
    /// The snapshot.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// What happened.
    pub events: mpsc::Sender<Event>,
    /// For the storage controller and the pageservers' metrics.
    pub http: reqwest::Client,
    /// Durations and retries of jobs.
    pub metrics: Arc<Metrics>,
    /// For safekeepers, pageservers and the storage controller.
    pub access: Access,
    /// For a source that is asked rather than watched.
    pub look_again: Option<mpsc::Sender<LookAgain>>,
}
