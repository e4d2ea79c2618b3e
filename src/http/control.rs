//! What the HTTP servers ask of the task that owns the compute.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::api::status::ComputeState;
use crate::lsn::Lsn;
use crate::report::Snapshot;
use crate::spec::ComputeSpec;
use crate::telemetry::traces::Parent;

/// How fast a requested termination ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TerminateMode {
    /// Keep answering status for 30 s after postgres has stopped.
    #[default]
    Fast,
    /// End at once after postgres has stopped.
    Immediate,
}

/// A request refused because of the compute's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{request} is not accepted in state {state}: {advice}")]
pub struct Refusal {
    /// What was asked.
    pub request: &'static str,
    /// The state that it was asked in.
    pub state: ComputeState,
    /// What the caller can do.
    pub advice: &'static str,
}

/// A failed configuration: the text for the caller, cause chain included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// The state does not allow it now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The spec is not usable; the text names the fields.
    #[error("{0}")]
    Invalid(String),
    /// Applying it failed.
    #[error("{0}")]
    Failed(String),
}

/// What a termination ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminateOutcome {
    /// The commit LSN after the shutdown, if it is known.
    pub lsn: Option<Lsn>,
    /// Whether the compute had terminated before the request came.
    pub already: bool,
}

/// A request, with the channel for its answer. Each is answered exactly once, also
/// when the compute ends first: a dropped channel means that.
#[derive(Debug)]
pub enum Request {
    /// Use this spec; answered when it is in force, or was refused.
    Configure {
        /// The spec.
        spec: Box<ComputeSpec>,
        /// The trace that the request is part of.
        trace: Parent,
        /// Receives the snapshot after the configuration.
        reply: oneshot::Sender<Result<Arc<Snapshot>, ConfigureError>>,
    },
    /// Stop postgres and end; answered when postgres has stopped.
    Terminate {
        /// How fast.
        mode: TerminateMode,
        /// Receives the outcome.
        reply: oneshot::Sender<Result<TerminateOutcome, Refusal>>,
    },
    /// Postgres lost its pageserver: find out where it went. Answered at once.
    Refresh {
        /// Receives whether the request was taken.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
}
