//! Finds out where the tenant's shards went when postgres cannot reach them, and puts
//! the answer in force.
//!
//! Most sources are watched, so the spec in hand is the newest; a control plane is asked
//! again. What neither may know yet is where the storage controller has just moved a
//! shard.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::LookAgain;
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

/// How long the spec's source may take to answer. Postgres hangs meanwhile, and the
/// storage controller may know more.
const SOURCE_LIMIT: Duration = Duration::from_secs(10);
/// Attempts to ask the storage controller.
const ATTEMPTS: u32 = 5;

/// What a refresh needs.
pub(super) struct Refresh {
    pub(super) config: Arc<ComputeConfig>,
    pub(super) spawner: Spawner,
    pub(super) http: reqwest::Client,
    pub(super) access: Access,
    pub(super) look_again: Option<mpsc::Sender<LookAgain>>,
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
    /// Where the shards are, if the storage controller says otherwise than the spec.
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
    let unchanged = || Refreshed {
        configured: job.configured.clone(),
        moved: None,
    };
    let looked = look_again(job).await;
    if looked == Ok(true) {
        info!("the source holds a new spec, which is applied next");
        return Ok(unchanged());
    }
    let moved = match (locate(job).await?, looked) {
        (Located::Elsewhere(shards), _) => shards,
        (Located::AsSpecified, _) | (Located::NobodyKnows, Ok(_)) => {
            info!("storage is where the spec says");
            return Ok(unchanged());
        }
        (Located::NobodyKnows, Err(why)) => return Err(Error::LookAgain(why)),
    };
    let mut spec = (*job.spec).clone();
    spec.pageservers = moved.clone();
    let Refresh {
        config,
        started_with,
        configured,
        spawner,
        facts,
        ..
    } = job;
    let configured =
        reconfigure::apply_conf(config, started_with, &spec, configured, spawner, facts).await?;
    info!("storage moved; the new locations are in force");
    Ok(Refreshed {
        configured,
        moved: Some(moved),
    })
}

/// Whether the source holds another spec than the one in hand, or why that is not known.
async fn look_again(job: &Refresh) -> Result<bool, String> {
    let Some(source) = &job.look_again else {
        return Ok(false);
    };
    let ask = async {
        let (question, answer) = oneshot::channel();
        source.send(question).await.ok()?;
        answer.await.ok()
    };
    let looked = match tokio::time::timeout(SOURCE_LIMIT, ask).await {
        Ok(Some(looked)) => looked,
        Ok(None) => Err("the source has ended".to_owned()),
        Err(_) => Err(format!("no answer within {SOURCE_LIMIT:?}")),
    };
    if let Err(why) = &looked {
        warn!("the spec's source cannot say whether the spec is the newest: {why}");
    }
    looked
}

/// What the storage controller says.
enum Located {
    AsSpecified,
    Elsewhere(ShardMap),
    /// The spec names no storage controller.
    NobodyKnows,
}

async fn locate(job: &Refresh) -> Result<Located, Error> {
    let Some(controller) = &job.spec.storage_controller else {
        return Ok(Located::NobodyKnows);
    };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let (tenant_id, token) = (job.spec.tenant_id, &job.access.token);
        match pageserver::locate(&job.http, controller, tenant_id, token).await {
            Ok(mut located) => {
                located.prefer_protocol = job.spec.pageservers.prefer_protocol;
                return Ok(if located == job.spec.pageservers {
                    Located::AsSpecified
                } else {
                    Located::Elsewhere(located)
                });
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
