//! Finds out where the tenant's shards went when postgres cannot reach them, puts the
//! answer in force, and makes sure that they are served there.
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
use super::{reconfigure, shards};
use crate::access::Access;
use crate::backoff::Backoff;
use crate::error::{Category as _, Retry, chain};
use crate::pageserver::ShardProbe;
use crate::process::Spawner;
use crate::report::ProbeFacts;
use crate::spec::{ComputeSpec, ShardMap, change};

/// How long the spec's source may take to answer. Postgres hangs meanwhile, and the
/// storage controller may know more.
const SOURCE_LIMIT: Duration = Duration::from_secs(10);
/// Attempts to ask the storage controller.
const ATTEMPTS: u32 = 5;
/// Rounds until every shard is served: one that is just moving is neither here nor there
/// for a moment.
const ROUNDS: u32 = 4;

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
    /// What the shards' pageservers say, where the shards are now; `None` if they were not
    /// asked.
    pub(super) probed: Option<ProbeFacts>,
}

/// Asks, compares, reloads if something moved, and probes.
pub(super) async fn run(mut job: Refresh) -> Result<Refreshed, Error> {
    let cancel = job.cancel.clone();
    tokio::select! {
        result = job.refresh() => result,
        () = cancel.cancelled() => Err(Error::Cancelled),
    }
}

impl Refresh {
    async fn refresh(&mut self) -> Result<Refreshed, Error> {
        let looked = self.look_again().await;
        if looked == Ok(true) {
            info!("the source holds a new spec, which is applied next");
            return Ok(Refreshed {
                configured: self.configured.clone(),
                probed: None,
            });
        }
        let located = self.locate().await?;
        if let (None, Err(why)) = (&located, looked) {
            return Err(Error::LookAgain(why));
        }
        self.put_in_force(located).await?;
        self.wait_until_served().await
    }

    /// Probes, and looks again while a shard seems to be on its way.
    async fn wait_until_served(&mut self) -> Result<Refreshed, Error> {
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        loop {
            let mut spec = (*self.spec).clone();
            spec.pageservers = self.configured.pageservers.clone();
            let probed = shards::probe(&spec, &self.access).await;
            let moving = probed.shards.iter().any(ShardProbe::may_have_moved);
            if !moving || pause.attempts() + 1 >= ROUNDS {
                return Ok(Refreshed {
                    configured: self.configured.clone(),
                    probed: Some(probed),
                });
            }
            tokio::time::sleep(pause.next(rand::random())).await;
            match self.locate().await {
                Ok(located) => self.put_in_force(located).await?,
                Err(error) => warn!("{}", chain(&error)),
            }
        }
    }

    /// Whether the source holds another spec than the one in hand, or why that is not known.
    async fn look_again(&self) -> Result<bool, String> {
        let Some(source) = &self.look_again else {
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

    /// Where the storage controller says that the shards are; `None` if the spec names none.
    async fn locate(&self) -> Result<Option<ShardMap>, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match shards::locate(&self.http, &self.spec, &self.access).await {
                Ok(located) => return Ok(located),
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

    /// Has postgres read its pages there, or where the spec says. What else is configured
    /// stays as it is.
    async fn put_in_force(&mut self, located: Option<ShardMap>) -> Result<(), Error> {
        let shards = located.unwrap_or_else(|| self.spec.pageservers.clone());
        if self.configured.pageservers == shards {
            return Ok(());
        }
        let mut spec = (*self.configured).clone();
        spec.pageservers = shards;
        let Self {
            config,
            started_with,
            configured,
            spawner,
            facts,
            ..
        } = &*self;
        let applied =
            reconfigure::apply_conf(config, started_with, &spec, configured, spawner, facts);
        let configured = Box::pin(applied).await?;
        // What waits for a restart is what the spec says, not what is in force.
        let pending = change::fields_for_restart(&self.started_with, &self.spec);
        let _ = self.facts.send(Fact::PendingFields(pending)).await;
        info!("the shards' new locations are in force");
        self.configured = configured;
        Ok(())
    }
}
