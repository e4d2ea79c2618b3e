//! A compute: it syncs, copies the log, and writes on, until it dies or is fenced.

use std::collections::BTreeMap;
use std::time::Instant;

use glowplug::lsn::Lsn;
use glowplug::safekeeper::proposer::{
    Endpoints, Failure, Mode, Proposer, ProposerConfig, Slot, Source, Synced, Timing,
};

use super::wal::Log;

/// WAL being read back for a safekeeper that lags.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) position: Lsn,
    pub(crate) until: Lsn,
    pub(crate) source: Source,
}

pub(crate) struct Compute {
    /// Grows with each life.
    pub(crate) life: u64,
    pub(crate) proposer: Proposer,
    pub(crate) streams: bool,
    pub(crate) connections: BTreeMap<Slot, u64>,
    pub(crate) fetches: BTreeMap<Slot, Fetch>,
    pub(crate) log: Log,
    pub(crate) finished: Option<Result<Synced, Failure>>,
    /// What others had acknowledged when it was started.
    pub(crate) acknowledged_before: Lsn,
    /// Up to where its log was compared with what everybody has acknowledged.
    pub(crate) compared_lsn: Lsn,
    /// What it has acknowledged.
    pub(crate) acknowledged_lsn: Lsn,
}

impl Compute {
    pub(crate) fn syncing(life: u64, nodes: usize, now: Instant, start: Lsn) -> Self {
        Self::new(life, nodes, now, Mode::Sync, Log::new(start, Vec::new()))
    }

    pub(crate) fn streaming(life: u64, nodes: usize, now: Instant, log: Log) -> Self {
        let start_lsn = log.end();
        Self::new(life, nodes, now, Mode::Stream { start_lsn }, log)
    }

    fn new(life: u64, nodes: usize, now: Instant, mode: Mode, log: Log) -> Self {
        let streams = matches!(mode, Mode::Stream { .. });
        let config = ProposerConfig {
            tenant_id: super::tenant(),
            timeline_id: super::timeline(),
            pg_version: 150_018,
            system_id: 0,
            mode,
            timing: if streams {
                Timing::STREAM
            } else {
                Timing::SYNC
            },
            // Small, so that laggards must be helped from elsewhere.
            window_limit: 20_000,
        };
        let list = Endpoints {
            endpoints: (0..nodes).map(|index| format!("node-{index}")).collect(),
            generation: None,
        };
        Self {
            life,
            proposer: Proposer::new(config, list, now, life).unwrap(),
            streams,
            connections: BTreeMap::new(),
            fetches: BTreeMap::new(),
            acknowledged_before: Lsn::INVALID,
            compared_lsn: log.start,
            acknowledged_lsn: log.end(),
            log,
            finished: None,
        }
    }
}
