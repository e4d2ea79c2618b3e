//! Which pageserver has which shard of which tenant.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::id::{ShardIndex, TenantId, TenantShardId};
use crate::storage::files;

const NAME: &str = "placements.json";

/// Where the shards of a tenant are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Number of shards; 0 for an unsharded tenant.
    pub count: u8,
    /// Pages in a stripe.
    pub stripe_size: u32,
    /// Of the last attachment of any shard.
    pub generation: u32,
    /// Node of each shard.
    nodes: Vec<u64>,
}

impl Placement {
    pub(super) fn new(count: u8, stripe_size: u32, nodes: Vec<u64>) -> Self {
        Self {
            count,
            stripe_size,
            generation: 1,
            nodes,
        }
    }

    /// Each shard and its node.
    pub(super) fn indices(&self) -> impl Iterator<Item = (ShardIndex, u64)> {
        let count = self.count;
        let numbered = (0_u8..=u8::MAX).zip(&self.nodes);
        numbered.map(move |(number, node)| (ShardIndex { number, count }, *node))
    }

    /// Each shard, as its tenant's, and its node.
    pub(super) fn shards(&self, tenant_id: TenantId) -> impl Iterator<Item = (TenantShardId, u64)> {
        let of_tenant = move |(shard, node)| (TenantShardId { tenant_id, shard }, node);
        self.indices().map(of_tenant)
    }

    /// Moves a shard and says where it was; `None` if there is no such shard.
    pub(super) fn move_shard(&mut self, shard: ShardIndex, to: u64) -> Option<u64> {
        if shard.count != self.count {
            return None;
        }
        let node = self.nodes.get_mut(usize::from(shard.number))?;
        let from = std::mem::replace(node, to);
        if from != to {
            self.generation += 1;
        }
        Some(from)
    }
}

/// The placements of all tenants, and the file that keeps them.
#[derive(Debug, Clone)]
pub(super) struct Placements {
    path: PathBuf,
    known: BTreeMap<TenantId, Placement>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant_id: TenantId,
    #[serde(flatten)]
    placement: Placement,
}

impl Placements {
    /// Reads what was kept. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Self, files::Error> {
        files::create_dir(dir)?;
        let path = dir.join(NAME);
        let entries: Vec<Entry> = match fs::read(&path) {
            Ok(document) => {
                serde_json::from_slice(&document).map_err(|error| files::damaged(&path, error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(files::failed("read", &path)(error)),
        };
        let known = entries
            .into_iter()
            .map(|entry| (entry.tenant_id, entry.placement));
        Ok(Self {
            path,
            known: known.collect(),
        })
    }

    pub(super) fn find(&self, tenant_id: TenantId) -> Option<&Placement> {
        self.known.get(&tenant_id)
    }

    /// Sets a placement; [`Placements::save`] is to follow.
    pub(super) fn set(&mut self, tenant_id: TenantId, placement: Placement) {
        self.known.insert(tenant_id, placement);
    }

    /// Keeps all placements. Blocks.
    pub(super) fn save(&self) -> Result<(), files::Error> {
        let entry = |(tenant_id, placement): (&TenantId, &Placement)| Entry {
            tenant_id: *tenant_id,
            placement: placement.clone(),
        };
        let entries: Vec<_> = self.known.iter().map(entry).collect();
        let document = serde_json::to_vec_pretty(&entries).map_err(io::Error::from);
        let document = document.map_err(files::failed("write", &self.path))?;
        files::replace(&self.path, &document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_raises_the_generation_once() {
        let mut placement = Placement::new(2, 2048, vec![1, 1]);
        let second = ShardIndex {
            number: 1,
            count: 2,
        };
        assert_eq!(placement.move_shard(second, 2), Some(1));
        assert_eq!(placement.move_shard(second, 2), Some(2));
        assert_eq!(placement.generation, 2);
        assert_eq!(placement.move_shard(ShardIndex::UNSHARDED, 2), None);
        let nodes: Vec<_> = placement.indices().map(|(_, node)| node).collect();
        assert_eq!(nodes, [1, 2]);
    }

    #[test]
    fn placements_survive_a_restart() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut placements = Placements::open(dir.path()).unwrap();
        let placement = Placement::new(0, 2048, vec![3]);
        placements.set(TenantId([7; 16]), placement.clone());
        placements.save().unwrap();
        let again = Placements::open(dir.path()).unwrap();
        assert_eq!(again.find(TenantId([7; 16])), Some(&placement));
    }
}
