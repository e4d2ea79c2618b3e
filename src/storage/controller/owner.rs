//! The one task that changes placements: a change at a time, each to its end on disk.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use super::placement::{Placement, Placements};
use super::{Error, PageserverNode};
use crate::id::{TenantId, TenantShardId};
use crate::storage::files::blocking;
use crate::storage::pageserver::{Location, LocationMode};

/// Changes that may wait.
const QUEUE: usize = 16;

/// A change that is wanted, and where to tell how it went.
pub(super) enum Change {
    CreateTenant {
        tenant_id: TenantId,
        count: u8,
        stripe_size: u32,
        reply: oneshot::Sender<Result<Placement, Error>>,
    },
    Migrate {
        shard: TenantShardId,
        to: u64,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// The ends that others hold.
pub(super) struct Desk {
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) placements: watch::Receiver<Arc<Placements>>,
}

/// Owns the placements.
pub(super) struct Owner {
    placements: Arc<Placements>,
    pageservers: Vec<PageserverNode>,
    changes: mpsc::Receiver<Change>,
    published: watch::Sender<Arc<Placements>>,
}

impl Owner {
    pub(super) fn new(placements: Placements, pageservers: Vec<PageserverNode>) -> (Self, Desk) {
        let placements = Arc::new(placements);
        let (sender, changes) = mpsc::channel(QUEUE);
        let (published, receiver) = watch::channel(placements.clone());
        let owner = Self {
            placements,
            pageservers,
            changes,
            published,
        };
        let desk = Desk {
            changes: sender,
            placements: receiver,
        };
        (owner, desk)
    }

    /// Carries out changes until nobody can ask for any.
    pub(super) async fn run(mut self) {
        while let Some(change) = self.changes.recv().await {
            // Whoever asked may have left; the change stands.
            match change {
                Change::CreateTenant {
                    tenant_id,
                    count,
                    stripe_size,
                    reply,
                } => drop(reply.send(self.create(tenant_id, count, stripe_size).await)),
                Change::Migrate { shard, to, reply } => {
                    drop(reply.send(self.migrate(shard, to).await));
                }
            }
        }
    }

    async fn create(
        &mut self,
        tenant_id: TenantId,
        count: u8,
        stripe_size: u32,
    ) -> Result<Placement, Error> {
        if let Some(known) = self.placements.find(tenant_id) {
            return Ok(known.clone());
        }
        let first = self.pageservers.first().ok_or(Error::NoNode(1))?;
        let nodes = vec![first.id; usize::from(count.max(1))];
        let placement = Placement::new(count, stripe_size, nodes);
        for (shard, node) in placement.shards(tenant_id) {
            self.attach(node, shard, &placement).await?;
        }
        self.publish(tenant_id, placement.clone()).await?;
        Ok(placement)
    }

    async fn migrate(&mut self, shard: TenantShardId, to: u64) -> Result<(), Error> {
        let found = self.placements.find(shard.tenant_id).cloned();
        let mut placement = found.ok_or(Error::NoTenant(shard.tenant_id))?;
        let from = placement.move_shard(shard.shard, to);
        let from = from.ok_or(Error::NoShard(shard))?;
        if from == to {
            return Ok(());
        }
        self.attach(to, shard, &placement).await?;
        self.publish(shard.tenant_id, placement).await?;
        self.tell(from, shard, None).await?;
        info!(%shard, from, to, "moved a shard");
        Ok(())
    }

    async fn attach(
        &self,
        node: u64,
        shard: TenantShardId,
        placement: &Placement,
    ) -> Result<(), Error> {
        let location = Location {
            mode: LocationMode::Attached {
                generation: placement.generation,
            },
            stripe_size: placement.stripe_size,
        };
        self.tell(node, shard, Some(location)).await
    }

    async fn tell(
        &self,
        id: u64,
        shard: TenantShardId,
        location: Option<Location>,
    ) -> Result<(), Error> {
        let node = self.pageservers.iter().find(|node| node.id == id);
        let locations = node.ok_or(Error::NoNode(id))?.locations.clone();
        let told = locations.set(shard, location);
        told.map_err(|source| Error::Refused { id, source })?;
        Ok(blocking(move || locations.save()).await?)
    }

    /// Keeps a placement, then lets it be seen.
    async fn publish(&mut self, tenant_id: TenantId, placement: Placement) -> Result<(), Error> {
        let mut placements = Placements::clone(&self.placements);
        placements.set(tenant_id, placement);
        let placements = Arc::new(placements);
        let kept = placements.clone();
        blocking(move || kept.save()).await?;
        self.placements = placements.clone();
        self.published.send_replace(placements);
        Ok(())
    }
}
