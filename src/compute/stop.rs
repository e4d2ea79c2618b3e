//! Stops postgres within a budget, and finds out where its log ended.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::ComputeConfig;
use super::postgres::StopStep;
use super::running::Running;
use crate::access::Access;
use crate::error::chain;
use crate::lsn::Lsn;
use crate::safekeeper::sync::{self, SyncConfig};
use crate::spec::{ComputeMode, ComputeSpec, Flavor};

/// How long finding the final LSN may take; the next start finds it too.
const FINAL_SYNC_LIMIT: Duration = Duration::from_secs(10);

/// What a stop needs.
pub(super) struct StopJob {
    pub(super) config: Arc<ComputeConfig>,
    pub(super) running: Option<Running>,
    pub(super) spec: Option<Arc<ComputeSpec>>,
    pub(super) access: Access,
    /// Skips to the immediate stop when cancelled.
    pub(super) escalate: CancellationToken,
}

/// What a stop ended with.
#[derive(Clone, Copy)]
pub(super) struct Stopped {
    /// Where the log ended, as far as a quorum has it.
    pub(super) lsn: Option<Lsn>,
    /// Whether postgres had to be killed.
    pub(super) forced: bool,
}

/// Stops what runs. Never fails: a postgres that does not stop is killed.
pub(super) async fn run(job: StopJob) -> Stopped {
    let StopJob {
        config,
        running,
        spec,
        access,
        escalate,
    } = job;
    let Some(running) = running else {
        return Stopped {
            lsn: None,
            forced: false,
        };
    };
    let forced = match running.postgres.stop(config.limits.stop, &escalate).await {
        Ok(stopped) => {
            info!(step = ?stopped.step, "postgres has stopped: {}", stopped.exit);
            stopped.step != StopStep::Fast
        }
        Err(error) => {
            warn!("{}", chain(&error));
            true
        }
    };
    let lsn = match running.relay {
        Some(relay) => {
            let (last, ended) = relay.stop().await;
            if let Err(error) = ended {
                warn!("the WAL relay ended badly: {}", chain(&error));
            }
            last.commit_lsn.is_valid().then_some(last.commit_lsn)
        }
        None => final_sync(spec.as_deref(), access, running.pg_version).await,
    };
    Stopped { lsn, forced }
}

/// With Neon's postgres, which pushes its own log, the safekeepers tell where it ended.
async fn final_sync(spec: Option<&ComputeSpec>, access: Access, pg_version: u32) -> Option<Lsn> {
    let spec = spec
        .filter(|spec| spec.mode == ComputeMode::Primary && spec.postgres.flavor == Flavor::Neon)?;
    let config = SyncConfig {
        tenant_id: spec.tenant_id,
        timeline_id: spec.timeline_id,
        safekeepers: spec.safekeepers.clone(),
        access,
        pg_version,
        system_id: 0,
        always_elect: false,
        connect_timeout: Duration::from_secs(2),
        deadline: FINAL_SYNC_LIMIT,
    };
    match sync::sync(&config, &CancellationToken::new()).await {
        Ok(synced) => Some(synced.commit_lsn),
        Err(error) => {
            warn!("the final LSN is not known: {}", chain(&error));
            None
        }
    }
}
