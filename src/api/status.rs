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

/// What a compute says of itself. The pod writes it by server-side apply, always
/// whole, so that no stale field stays behind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ComputeSpecStatus {
    /// `metadata.generation` of the newest spec that was looked at, accepted or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// State of the compute, for people; machines read the conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ComputeState>,
    /// Id of the compute that wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_id: Option<String>,
    /// Pod that the compute runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// `Disabled` where the external HTTP server lets everybody in (`--insecure-no-auth`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
    /// `sha256:…` of the spec that is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_spec_hash: Option<String>,
    /// When the compute's process started (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When postgres was last active (RFC 3339), rounded down to half a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_at: Option<String>,
    /// The postgres child.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresStatus>,
    /// Positions in the write-ahead log, as `HI/LO`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<LsnStatus>,
    /// How long each phase of the last start-up took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_durations: Option<StartupDurations>,
    /// Long work that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Health of reading pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pagestream: Option<PagestreamStatus>,
    /// Who pushes the write-ahead log, for the Vanilla flavor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayStatus>,
    /// Settings that wait for a restart of postgres.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub restart_required: Vec<String>,
    /// What is true of the compute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// The postgres child.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresStatus {
    /// `15.18`, as the server reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Process id of the postmaster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Unplanned restarts since the compute's process started.
    pub restarts: i32,
}

/// Positions in the write-ahead log, as `HI/LO`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LsnStatus {
    /// Where this postgres started: the commit LSN of the sync, or the spec's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<String>,
    /// The newest position known to be on a quorum of safekeepers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where the last clean shutdown ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_shutdown: Option<String>,
}

/// How long each phase of a start-up took, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupDurations {
    /// Process start to the first accepted spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_for_spec_ms: Option<i64>,
    /// Agreement of the safekeepers on the commit LSN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safekeeper_sync_ms: Option<i64>,
    /// Connecting to the pageserver, receiving and unpacking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basebackup_ms: Option<i64>,
    /// Bytes received for the basebackup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basebackup_bytes: Option<i64>,
    /// Configuration text and signal files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configure_ms: Option<i64>,
    /// From exec to the first accepted connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_start_ms: Option<i64>,
    /// Roles, databases and grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog_apply_ms: Option<i64>,
    /// Spec accepted to Running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<i64>,
}

/// Long work that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressStatus {
    /// Which phase: `Basebackup`, `SafekeeperSync`, `CatalogApply`.
    pub phase: String,
    /// Bytes done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Bytes per second over the whole phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
}

/// Health of reading pages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PagestreamStatus {
    /// Refresh requests from postgres since the process started
    /// (`pg_cctl_pagestream_request_errors_total`).
    pub request_errors: i64,
    /// Sum of `pageserver_misrouted_pagestream_requests_total` over the shards'
    /// pageservers, where their HTTP address is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misrouted_requests: Option<i64>,
    /// When the last refresh request came (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<String>,
}

/// Who pushes the write-ahead log, for the Vanilla flavor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayStatus {
    /// `Connecting`, `Electing`, `Streaming` or `Fenced`.
    pub phase: String,
    /// The elected term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
}

/// One condition, as `metav1.Condition` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, for machines: a PascalCase token.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Why, for people; may be empty.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed (RFC 3339).
    pub last_transition_time: String,
    /// The generation that this speaks of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}
