//! What a proposer is told when it is made.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;

/// Major versions of PostgreSQL that safekeepers know. Greeting them with another
/// one breaks them: the task panics, and a timeline created by it stays broken
/// (`libs/postgres_versioninfo`, `safekeeper/src/timelines_global_map.rs`).
pub const SUPPORTED_PG_MAJORS: RangeInclusive<u32> = 14..=17;

/// Most safekeepers that one timeline may have (`MAX_SAFEKEEPERS` of
/// `pgxn/neon/walproposer.h`, less its sentinel).
pub const MAX_SAFEKEEPERS: usize = 31;

/// Everything that stays the same while a proposer lives.
#[derive(Debug, Clone)]
pub struct ProposerConfig {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
    /// `PG_VERSION_NUM`, such as 150018; only the major part matters.
    pub pg_version: u32,
    /// PostgreSQL's system identifier; 0 leaves the safekeepers' as it is.
    pub system_id: u64,
    /// What to do once elected.
    pub mode: Mode,
    /// How long to wait for what.
    pub timing: Timing,
    /// Most WAL kept in memory for safekeepers that have not got it yet, in bytes.
    pub window_limit: usize,
}

/// What a proposer does once it is elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bring a quorum to the end of the log, and finish.
    Sync,
    /// Append the WAL of a local postgres, until fenced.
    Stream {
        /// Where the local postgres begins to write: the LSN of its basebackup.
        start_lsn: Lsn,
    },
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// First wait before a lost connection is made again; doubles.
    pub reconnect_first: Duration,
    /// Longest such wait.
    pub reconnect_cap: Duration,
    /// How long a safekeeper may stay silent when an answer is due.
    pub silence_limit: Duration,
    /// How long a safekeeper waits for an election that others hold up, before it is
    /// asked again what its membership is: that may be what holds it up.
    pub ask_again: Duration,
    /// Longest time without a message to a safekeeper that streams.
    pub heartbeat: Duration,
    /// How long news of a commit may wait for WAL that carries it along.
    pub commit_notice: Duration,
    /// How long a sync that has its quorum waits for safekeepers that seem alive:
    /// a pageserver may be reading from one of them.
    pub straggler_grace: Duration,
    /// First wait before an election that was lost to another proposer is
    /// repeated; doubles.
    pub election_first: Duration,
    /// Longest such wait.
    pub election_cap: Duration,
    /// How many elections may be lost before giving up.
    pub elections: u32,
}

impl Timing {
    /// For a sync: positions are told at once, and asked for again often.
    pub const SYNC: Self = Self {
        heartbeat: Duration::from_millis(100),
        commit_notice: Duration::ZERO,
        ..Self::STREAM
    };

    /// For a stream of WAL.
    pub const STREAM: Self = Self {
        reconnect_first: Duration::from_millis(50),
        reconnect_cap: Duration::from_secs(1),
        silence_limit: Duration::from_secs(10),
        ask_again: Duration::from_secs(2),
        heartbeat: Duration::from_secs(1),
        commit_notice: Duration::from_millis(5),
        straggler_grace: Duration::from_secs(2),
        election_first: Duration::from_millis(100),
        election_cap: Duration::from_secs(2),
        elections: 8,
    };
}

/// The safekeepers to speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// `host:port` of each.
    pub endpoints: Vec<String>,
    /// Generation of the membership that the spec names. Above 0, timelines are
    /// created by their storage alone, and its membership decides what a majority is.
    pub generation: Option<u32>,
}

/// A configuration that no safekeeper should see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nobody to speak to.
    #[error("the spec names no safekeepers: list them in storage.safekeepers.endpoints")]
    NoSafekeepers,
    /// More than [`MAX_SAFEKEEPERS`].
    #[error("the spec names {count} safekeepers: at most {MAX_SAFEKEEPERS} can hold a timeline")]
    TooManySafekeepers {
        /// How many.
        count: usize,
    },
    /// One endpoint stands in the list twice.
    #[error("the spec names safekeeper {endpoint} twice: list each once")]
    DuplicateSafekeeper {
        /// Which.
        endpoint: String,
    },
    /// A version of PostgreSQL that breaks safekeepers.
    #[error(
        "PostgreSQL version number {pg_version} is unknown to safekeepers: they hold WAL of PostgreSQL 14 to 17"
    )]
    UnsupportedPostgres {
        /// `PG_VERSION_NUM`.
        pg_version: u32,
    },
}

/// Checks what a proposer may be made of.
pub(super) fn validate(config: &ProposerConfig, list: &Endpoints) -> Result<(), ConfigError> {
    if !SUPPORTED_PG_MAJORS.contains(&(config.pg_version / 10_000)) {
        let pg_version = config.pg_version;
        return Err(ConfigError::UnsupportedPostgres { pg_version });
    }
    validate_endpoints(list)
}

/// Checks a list of safekeepers.
pub(super) fn validate_endpoints(list: &Endpoints) -> Result<(), ConfigError> {
    let count = list.endpoints.len();
    if count == 0 {
        return Err(ConfigError::NoSafekeepers);
    }
    if count > MAX_SAFEKEEPERS {
        return Err(ConfigError::TooManySafekeepers { count });
    }
    for (index, endpoint) in list.endpoints.iter().enumerate() {
        if list.endpoints[..index].contains(endpoint) {
            let endpoint = endpoint.clone();
            return Err(ConfigError::DuplicateSafekeeper { endpoint });
        }
    }
    Ok(())
}
