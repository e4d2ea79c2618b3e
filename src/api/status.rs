//! What a compute says of itself: the `.status` of the resource.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a compute. The names are upstream's: see [`ComputeState::snake_case`]
/// for `GET /status` and the `Display` form for logs, metric labels and messages.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
pub enum ComputeState {
    /// No spec was processed yet.
    Empty,
    /// A spec was accepted and not picked up yet.
    ConfigurationPending,
    /// The start-up runs.
    Init,
    /// Serving.
    Running,
    /// A changed spec is being applied.
    Configuration,
    /// The start-up or a reconfiguration failed.
    Failed,
    /// A fast termination was accepted.
    TerminationPendingFast,
    /// An immediate termination was accepted.
    TerminationPendingImmediate,
    /// Postgres is gone; the process is about to exit.
    Terminated,
    /// A refresh of the configuration was requested.
    RefreshConfigurationPending,
    /// A refresh is in progress.
    RefreshConfiguration,
}

impl ComputeState {
    /// Every state, in the order of this enum.
    pub const ALL: [Self; 11] = [
        Self::Empty,
        Self::ConfigurationPending,
        Self::Init,
        Self::Running,
        Self::Configuration,
        Self::Failed,
        Self::TerminationPendingFast,
        Self::TerminationPendingImmediate,
        Self::Terminated,
        Self::RefreshConfigurationPending,
        Self::RefreshConfiguration,
    ];

    /// The name in the JSON of `GET /status`.
    pub const fn snake_case(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::ConfigurationPending => "configuration_pending",
            Self::Init => "init",
            Self::Running => "running",
            Self::Configuration => "configuration",
            Self::Failed => "failed",
            Self::TerminationPendingFast => "termination_pending_fast",
            Self::TerminationPendingImmediate => "termination_pending_immediate",
            Self::Terminated => "terminated",
            Self::RefreshConfigurationPending => "refresh_configuration_pending",
            Self::RefreshConfiguration => "refresh_configuration",
        }
    }

    /// Whether the compute is on its way out.
    pub const fn is_terminating(self) -> bool {
        matches!(
            self,
            Self::TerminationPendingFast | Self::TerminationPendingImmediate | Self::Terminated
        )
    }
}

impl fmt::Display for ComputeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.snake_case().replace('_', "-"))
    }
}
