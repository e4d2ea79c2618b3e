//! Finds out where the tenant's shards went when postgres cannot reach them, and puts
//! the answer in force.
//!
//! Sources are watched, so the spec in hand is the newest. What it may not know yet is
//! where the storage controller has just moved a shard.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::config::ComputeConfig;
use super::error::Error;
use super::facts::Fact;
use super::reconfigure;
use crate::access::Access;
use crate::backoff::Backoff;
use crate::error::{Category as _, Retry};
use crate::pageserver;
use crate::process::Spawner;
use crate::spec::{ComputeSpec, ShardMap};

/// Attempts to ask the storage controller.
const ATTEMPTS: u32 = 5;

/// What a refresh needs.
pub(super) struct Refresh {
    pub(super) config: Arc<ComputeConfig>,
    pub(super) spawner: Spawner,
    pub(super) http: reqwest::Client,
    pub(super) access: Access,
    pub(super) started_with: Arc<ComputeSpec>,
    pub(super) spec: Arc<ComputeSpec>,
    pub(super) configured: Arc<ComputeSpec>,
    pub(super) facts: mpsc::Sender<Fact>,
    pub(super) cancel: CancellationToken,
}

/// What a refresh ended with.
pub(super) struct Refreshed {
    /// The spec whose configuration is in force.
    pub(super) configured: Arc<ComputeSpec>,
    /// Where the shards are, if that has changed.
    pub(super) moved: Option<ShardMap>,
}

/// Asks, compares, and reloads if something moved.
pub(super) async fn run(job: Refresh) -> Result<Refreshed, Error> {
    tokio::select! {
        result = refresh(&job) => result,
        () = job.cancel.cancelled() => Err(Error::Cancelled),
    }
}

async fn refresh(job: &Refresh) -> Result<Refreshed, Error> {
    let Some(moved) = locate(job).await? else {
        info!("storage is where the spec says");
        return Ok(Refreshed {
            configured: job.configured.clone(),
            moved: None,
        });
    };
    let mut spec = (*job.spec).clone();
    spec.pageservers = moved.clone();
    let spec = Arc::new(spec);
    let Refresh {
        config,
        started_with,
        configured,
        spawner,
        facts,
        ..
    } = job;
    reconfigure::apply_conf(config, started_with, &spec, configured, spawner, facts).await?;
    info!("storage moved; the new locations are in force");
    Ok(Refreshed {
        configured: spec,
        moved: Some(moved),
    })
}

/// The locations that the storage controller names, if they differ from the spec's.
async fn locate(job: &Refresh) -> Result<Option<ShardMap>, Error> {
    let Some(controller) = &job.spec.storage_controller else {
        return Ok(None);
    };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let (tenant_id, token) = (job.spec.tenant_id, &job.access.token);
        match pageserver::locate(&job.http, controller, tenant_id, token).await {
            Ok(mut located) => {
                located.prefer_protocol = job.spec.pageservers.prefer_protocol;
                return Ok((located != job.spec.pageservers).then_some(located));
            }
            Err(error) => {
                let again = error.retry() != Retry::Never && backoff.attempts() < ATTEMPTS;
                if !again {
                    return Err(Error::Locate(Box::new(error)));
                }
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
        }
    }
}
