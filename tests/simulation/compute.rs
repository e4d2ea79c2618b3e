//! A compute: it syncs, takes the log for its own, and writes on, until it dies or
//! is fenced. Then it starts anew, as somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use glowplug::lsn::Lsn;
use glowplug::safekeeper::proposer::{
    Endpoints, Failure, Mode, Proposer, ProposerConfig, Slot, Source, Synced, Timing,
};

use crate::node::{PG_VERSION, TENANT, TIMELINE};
use crate::wal::Log;

/// As in earnest, but for how long it takes: a run should see much in little time.
const TIMING: Timing = Timing {
    reconnect_first: Duration::from_millis(5),
    reconnect_cap: Duration::from_millis(50),
    silence_limit: Duration::from_millis(300),
    ask_again: Duration::from_millis(80),
    heartbeat: Duration::from_millis(60),
    commit_notice: Duration::from_millis(2),
    straggler_grace: Duration::from_millis(100),
    election_first: Duration::from_millis(10),
    election_cap: Duration::from_millis(100),
    elections: 8,
};

/// WAL being read back for a safekeeper that lags.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) position: Lsn,
    pub(crate) until: Lsn,
    pub(crate) source: Source,
}

pub(crate) struct Compute {
    /// Who it is: each life of a compute is another proposer.
    pub(crate) life: u64,
    pub(crate) proposer: Proposer,
    /// Its connection to each safekeeper.
    pub(crate) connections: BTreeMap<Slot, u64>,
    pub(crate) fetches: BTreeMap<Slot, Fetch>,
    /// The log of its postgres; `None` while it syncs.
    pub(crate) log: Option<Log>,
    pub(crate) records: u64,
    pub(crate) finished: Option<Result<Synced, Failure>>,
    /// What was committed when it was started.
    pub(crate) committed_before: Lsn,
    /// What it was last seen to have committed.
    pub(crate) committed: Lsn,
    /// Generation that its messages name.
    pub(crate) generation: u32,
    /// Where the WAL of its term begins.
    pub(crate) term_start_lsn: Lsn,
    /// Who was asked for a vote and has not answered.
    pub(crate) asked: BTreeSet<Slot>,
    /// When it is to be woken.
    pub(crate) wakes_at: Option<u64>,
}

impl Compute {
    /// One that syncs.
    pub(crate) fn syncing(life: u64, endpoints: Endpoints, now: Instant) -> Self {
        Self::new(life, endpoints, now, Mode::Sync, None)
    }

    /// One that writes on behind this log.
    pub(crate) fn streaming(life: u64, endpoints: Endpoints, now: Instant, log: Log) -> Self {
        let start_lsn = log.end();
        Self::new(life, endpoints, now, Mode::Stream { start_lsn }, Some(log))
    }

    fn new(life: u64, endpoints: Endpoints, now: Instant, mode: Mode, log: Option<Log>) -> Self {
        let config = ProposerConfig {
            tenant_id: TENANT,
            timeline_id: TIMELINE,
            pg_version: PG_VERSION,
            system_id: 0,
            mode,
            timing: TIMING,
            // Small, so that laggards must be helped from elsewhere.
            window_limit: 3000,
        };
        Self {
            life,
            proposer: Proposer::new(config, endpoints, now, life).unwrap(),
            connections: BTreeMap::new(),
            fetches: BTreeMap::new(),
            log,
            records: 0,
            finished: None,
            committed_before: Lsn::INVALID,
            committed: Lsn::INVALID,
            generation: 0,
            term_start_lsn: Lsn::INVALID,
            asked: BTreeSet::new(),
            wakes_at: None,
        }
    }
}
