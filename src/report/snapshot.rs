//! The facts of one compute at one moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::api::status::ComputeState;
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pageserver::ShardProbe;
use crate::spec::revision::Rejection;
use crate::spec::{ComputeSpec, ShardMap};

/// What is true of a compute now. Cheap to clone; holds no secret but inside the
/// spec, whose secrets cannot be printed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Id of the compute.
    pub compute_id: String,
    /// When the process started.
    pub started_at: Timestamp,
    /// The external HTTP server lets everybody in.
    pub insecure: bool,
    /// State, as upstream's API names it.
    pub state: ComputeState,
    /// The error of a failed start-up or reconfiguration, cause chain included.
    pub error: Option<String>,
    /// The spec that is in force or being applied.
    pub spec: Option<SpecFacts>,
    /// The newest spec that was refused, if it is newer than the one in force.
    pub rejection: Option<Rejection>,
    /// Why the spec's source cannot be reached, while it cannot.
    pub source_unreachable: Option<String>,
    /// The newest generation that was looked at, accepted or not.
    pub observed_generation: Option<i64>,
    /// Agreement of the safekeepers.
    pub safekeepers: StepFacts,
    /// The basebackup.
    pub basebackup: StepFacts,
    /// The configuration of postgres.
    pub configuration: ConfigFacts,
    /// Roles, databases, grants.
    pub catalog: CatalogFacts,
    /// The postgres child.
    pub postgres: PostgresFacts,
    /// The WAL relay, for the Vanilla flavor.
    pub relay: Option<RelayFacts>,
    /// Reading pages.
    pub pagestream: PagestreamFacts,
    /// Positions in the log.
    pub lsn: LsnFacts,
    /// How long the phases of the last start-up took.
    pub durations: PhaseDurations,
    /// Long work that is under way.
    pub progress: Option<Progress>,
    /// When postgres was last active.
    pub last_active_at: Option<Timestamp>,
    /// What the monitor sees of postgres.
    pub monitor: MonitorFacts,
}

/// What the monitor sees of postgres.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MonitorFacts {
    /// What postgres is busy with; nothing while it does not answer.
    pub sessions: Sessions,
    /// Who waits for storage.
    pub waits: StorageWaits,
    /// How long postgres did not answer.
    pub downtime: Downtime,
    /// The file system of PGDATA.
    pub disk: Option<DiskFacts>,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFacts {
    /// Its size.
    pub size_bytes: u64,
    /// What an unprivileged user may still write.
    pub available_bytes: u64,
}

/// What postgres is busy with, or would be busy with again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sessions {
    /// Clients in a statement or a transaction.
    pub active: i64,
    /// Clients that wait for nothing but their next statement.
    pub idle: i64,
    /// Senders of the log, physical and logical, but for the one to the safekeepers.
    pub walsenders: i64,
    /// Workers that apply a subscription.
    pub subscriptions: i64,
    /// Workers of autovacuum.
    pub autovacuum_workers: i64,
    /// Transactions that wait for `COMMIT PREPARED`.
    pub prepared_transactions: i64,
}

impl Sessions {
    /// Whether any of it is activity now; an idle client is not.
    pub const fn are_active(&self) -> bool {
        self.active > 0
            || self.walsenders > 0
            || self.subscriptions > 0
            || self.autovacuum_workers > 0
            || self.prepared_transactions > 0
    }
}

/// Who waits for storage, as postgres sees it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StorageWaits {
    /// Sessions whose commit waits for a quorum of safekeepers.
    pub commits: i64,
    /// How long the one that waits longest has been in its statement.
    pub oldest_commit: Duration,
    /// Sessions that wait for a pageserver, where Neon's extension says so (17 and newer).
    pub page_reads: i64,
    /// Counters of Neon's extension, where it is there.
    pub neon: Option<NeonCounters>,
}

/// Counters of Neon's extension (`pgxn/neon/neon_perf_counters.c`), summed over all
/// backends.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NeonCounters {
    /// Requests that waited longer than `neon.pageserver_response_log_timeout`.
    pub stuck_requests: f64,
    /// How long the oldest of those that wait now has waited.
    pub oldest_stuck: Duration,
    /// Requests that wait for an answer now.
    pub open_requests: f64,
    /// Connections to pageservers that were lost.
    pub disconnects: f64,
    /// Pages that were asked for, and the time waited for them.
    pub getpages: f64,
    /// Time waited for pages.
    pub getpage_wait: Duration,
    /// Time that writers were held back so that pageservers keep up.
    pub throttled: Duration,
}

/// How long postgres did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Downtime {
    /// The last time it answered, while it does not.
    pub since: Option<Instant>,
    /// All earlier times together.
    pub past: Duration,
}

impl Downtime {
    /// It does not answer; it last did at `last_up`.
    pub const fn begin(&mut self, last_up: Instant) {
        if self.since.is_none() {
            self.since = Some(last_up);
        }
    }

    /// It answers.
    pub fn end(&mut self, now: Instant) {
        self.past += self.current(now);
        self.since = None;
    }

    /// How long this downtime has lasted; zero if there is none.
    pub fn current(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Which spec.
#[derive(Debug, Clone)]
pub struct SpecFacts {
    /// The resolved spec.
    pub spec: Arc<ComputeSpec>,
    /// Its generation.
    pub generation: i64,
    /// `sha256:…`.
    pub hash: String,
    /// Where it came from, for people.
    pub origin: String,
}

/// How a step of the start-up stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StepFacts {
    /// Not begun.
    #[default]
    Pending,
    /// Under way; `last_error` is why an attempt before this one failed.
    Running {
        /// Category (a condition reason) and text of the last failed attempt.
        last_error: Option<(&'static str, String)>,
    },
    /// Done; the reason of the condition, such as `Synced` or `NotRequired`.
    Done(&'static str),
    /// Given up: category (a condition reason) and text.
    Failed(&'static str, String),
}

/// How the configuration of postgres stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigFacts {
    /// Whether the spec's settings are in force.
    pub step: StepFacts,
    /// Settings that wait for a restart of postgres.
    pub restart_required: Vec<String>,
}

/// How roles, databases and grants stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogFacts {
    /// Whether the catalog matches the spec.
    pub step: StepFacts,
    /// Statements that the last apply ran.
    pub statements: usize,
}

/// The postgres child.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PostgresFacts {
    /// What it is doing.
    pub phase: PostgresPhase,
    /// `15.18`, as the server reports it.
    pub version: Option<String>,
    /// Process id of the postmaster.
    pub pid: Option<i32>,
    /// Unplanned restarts since the process started.
    pub restarts: u32,
    /// How it ended last, for people.
    pub last_exit: Option<String>,
}

/// What the postgres child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PostgresPhase {
    /// There is none.
    #[default]
    Absent,
    /// Started, does not accept connections yet.
    Starting,
    /// Accepts connections.
    Accepting,
    /// Being stopped on purpose.
    Stopping,
    /// Ended by itself; `restarts` says how often.
    Exited,
    /// Keeps ending by itself; the budget of restarts is nearly spent.
    CrashLooping,
}

/// The WAL relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayFacts {
    /// `Connecting`, `Electing`, `Streaming` or `Fenced`.
    pub phase: &'static str,
    /// The elected term.
    pub term: Option<u64>,
    /// The newest position known to be on a quorum.
    pub commit_lsn: Lsn,
    /// Bytes that postgres wrote and no quorum has yet.
    pub lag_bytes: u64,
    /// Why it was fenced, if it was.
    pub fenced: Option<String>,
}

/// Reading pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PagestreamFacts {
    /// Refresh requests from postgres since the process started.
    pub request_errors: u64,
    /// When the last one came.
    pub last_error_at: Option<Timestamp>,
    /// Sum over the shards' pageservers; `None` where no HTTP address is known.
    pub misrouted_requests: Option<u64>,
    /// Why a pageserver's metrics could not be read.
    pub scrape_error: Option<String>,
    /// What the shards' pageservers answered when they were asked last.
    pub probed: Option<ProbeFacts>,
    /// Counters that keep rising, if they do.
    pub errors: Option<StorageFault>,
}

/// Why storage cannot be reached, though postgres runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageFault {
    /// The condition's reason, PascalCase.
    pub reason: &'static str,
    /// For people: which shard, which pageserver, since when.
    pub message: String,
}

/// What the shards' pageservers answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFacts {
    /// When.
    pub at: Timestamp,
    /// Where the shards were thought to be.
    pub asked: ShardMap,
    /// Shard by shard.
    pub shards: Vec<ShardProbe>,
}

/// Positions in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LsnFacts {
    /// Where this postgres started.
    pub startup: Option<Lsn>,
    /// The newest position known to be on a quorum.
    pub commit: Option<Lsn>,
    /// Where the last clean shutdown ended.
    pub last_shutdown: Option<Lsn>,
}

/// Phases of a start-up, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Process start to the first accepted spec.
    WaitForSpec,
    /// Agreement of the safekeepers.
    SafekeeperSync,
    /// Receiving and unpacking the basebackup.
    Basebackup,
    /// Configuration text and signal files.
    Configure,
    /// From exec to the first accepted connection.
    PostgresStart,
    /// Roles, databases and grants.
    CatalogApply,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 6] = [
        Self::WaitForSpec,
        Self::SafekeeperSync,
        Self::Basebackup,
        Self::Configure,
        Self::PostgresStart,
        Self::CatalogApply,
    ];

    /// PascalCase name, as the status has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitForSpec => "WaitForSpec",
            Self::SafekeeperSync => "SafekeeperSync",
            Self::Basebackup => "Basebackup",
            Self::Configure => "Configure",
            Self::PostgresStart => "PostgresStart",
            Self::CatalogApply => "CatalogApply",
        }
    }
}

/// How long the phases of the last start-up took; `None` for those not reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhaseDurations {
    /// By phase.
    pub phases: std::collections::BTreeMap<Phase, Duration>,
    /// Connecting to the pageserver, part of the basebackup's phase.
    pub pageserver_connect: Option<Duration>,
    /// Bytes received for the basebackup.
    pub basebackup_bytes: Option<u64>,
    /// Spec accepted to Running.
    pub total: Option<Duration>,
}

/// Long work that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which phase.
    pub phase: Phase,
    /// Bytes done so far.
    pub bytes: u64,
    /// Bytes per second over the phase so far.
    pub bytes_per_second: u64,
}

/// Something that happened, for Kubernetes Events and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Normal or a warning.
    pub kind: EventKind,
    /// PascalCase reason, stable API: `PostgresStarted`, `SpecRejected`, …
    pub reason: &'static str,
    /// What happened, for people; never a secret.
    pub note: String,
}

/// Type of an [`Event`], as `events.k8s.io/v1` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// As wanted.
    Normal,
    /// Somebody may have to look.
    Warning,
}

impl Snapshot {
    /// A process that just started and knows nothing.
    pub fn new(compute_id: impl Into<String>, started_at: Timestamp) -> Self {
        Self {
            compute_id: compute_id.into(),
            started_at,
            insecure: false,
            state: ComputeState::Empty,
            error: None,
            spec: None,
            rejection: None,
            source_unreachable: None,
            observed_generation: None,
            safekeepers: StepFacts::default(),
            basebackup: StepFacts::default(),
            configuration: ConfigFacts::default(),
            catalog: CatalogFacts::default(),
            postgres: PostgresFacts::default(),
            relay: None,
            pagestream: PagestreamFacts::default(),
            lsn: LsnFacts::default(),
            durations: PhaseDurations::default(),
            progress: None,
            last_active_at: None,
            monitor: MonitorFacts::default(),
        }
    }

    /// Tenant of the spec in force.
    pub fn tenant_id(&self) -> Option<TenantId> {
        self.spec.as_ref().map(|facts| facts.spec.tenant_id)
    }

    /// Timeline of the spec in force.
    pub fn timeline_id(&self) -> Option<TimelineId> {
        self.spec.as_ref().map(|facts| facts.spec.timeline_id)
    }
}
