//! Which shards of which tenants are on a pageserver, as it was told.
//!
//! Kept in `locations.json`. Rules: `pageserver/src/tenant/mgr.rs` of Neon
//! (`upsert_location`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::id::{ShardIndex, TenantId, TenantShardId};
use crate::storage::files;
use crate::wire::pagestream::Query;
use crate::wire::sharding::shard_of_page;

const NAME: &str = "locations.json";

/// How a shard is on a pageserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocationMode {
    /// It is served.
    Attached {
        /// Grows with each attachment.
        generation: u32,
    },
    /// It is kept warm for later, and not served.
    Secondary,
}

/// A shard on a pageserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Served or not.
    pub mode: LocationMode,
    /// Pages in a stripe; without meaning for an unsharded tenant.
    pub stripe_size: u32,
}

/// Why a location was not changed: a pageserver's texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Generation {wanted:08x} is less than existing {existing:08x}")]
pub struct StaleGeneration {
    wanted: u32,
    existing: u32,
}

/// The locations of a pageserver.
#[derive(Debug)]
pub struct Locations {
    path: PathBuf,
    known: Mutex<BTreeMap<TenantShardId, Location>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant_id: TenantId,
    shard: ShardIndex,
    location: Location,
}

impl Locations {
    /// Reads what was kept in a pageserver's directory, which need not exist. Blocks.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, or are damaged.
    pub fn open(dir: &Path) -> Result<Self, files::Error> {
        files::create_dir(dir)?;
        let path = dir.join(NAME);
        let entries: Vec<Entry> = match fs::read(&path) {
            Ok(document) => {
                serde_json::from_slice(&document).map_err(|error| files::damaged(&path, error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(files::failed("read", &path)(error)),
        };
        let known = entries.into_iter().map(|entry| {
            let (tenant_id, shard) = (entry.tenant_id, entry.shard);
            (TenantShardId { tenant_id, shard }, entry.location)
        });
        Ok(Self {
            path,
            known: Mutex::new(known.collect()),
        })
    }

    /// Sets a location, or removes it. Takes effect at once; [`Locations::save`] is
    /// to follow.
    ///
    /// # Errors
    ///
    /// An attachment that is older than the one that is there.
    pub fn set(
        &self,
        shard: TenantShardId,
        location: Option<Location>,
    ) -> Result<(), StaleGeneration> {
        let mut known = self.known();
        let Some(location) = location else {
            known.remove(&shard);
            return Ok(());
        };
        if let LocationMode::Attached { generation: wanted } = location.mode
            && let Some(Location {
                mode: LocationMode::Attached { generation },
                ..
            }) = known.get(&shard)
            && wanted < *generation
        {
            let existing = *generation;
            return Err(StaleGeneration { wanted, existing });
        }
        known.insert(shard, location);
        Ok(())
    }

    /// Keeps the locations. Blocks.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn save(&self) -> Result<(), files::Error> {
        let entries: Vec<_> = self.known().iter().map(entry).collect();
        let document = serde_json::to_vec_pretty(&entries).map_err(io::Error::from);
        let document = document.map_err(files::failed("write", &self.path))?;
        files::replace(&self.path, &document)
    }

    /// All locations.
    pub fn all(&self) -> BTreeMap<TenantShardId, Location> {
        self.known().clone()
    }

    /// Whether exactly this shard is served.
    pub(super) fn serves(&self, shard: TenantShardId) -> bool {
        self.known().get(&shard).is_some_and(Location::is_attached)
    }

    /// The shard of this tenant that is served here and has what everything but a
    /// page is asked of: number 0.
    pub(super) fn shard_zero(&self, tenant_id: TenantId) -> Option<TenantShardId> {
        self.attached(tenant_id)
            .find(|(shard, _)| shard.number == 0)
            .map(|(shard, _)| TenantShardId { tenant_id, shard })
    }

    /// The shard of this tenant that is served here and can answer the query.
    pub(super) fn shard_for(&self, tenant_id: TenantId, query: &Query) -> Option<TenantShardId> {
        let Query::GetPage { rel, blkno } = query else {
            return self.shard_zero(tenant_id);
        };
        let owns = |(shard, location): &(ShardIndex, Location)| {
            shard.number == shard_of_page(rel, *blkno, shard.count, location.stripe_size)
        };
        self.attached(tenant_id)
            .find(owns)
            .map(|(shard, _)| TenantShardId { tenant_id, shard })
    }

    fn attached(&self, tenant_id: TenantId) -> impl Iterator<Item = (ShardIndex, Location)> {
        let known = self.known();
        let ours = known
            .iter()
            .filter(|(id, location)| id.tenant_id == tenant_id && location.is_attached())
            .map(|(id, location)| (id.shard, *location));
        ours.collect::<Vec<_>>().into_iter()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<TenantShardId, Location>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Location {
    fn is_attached(&self) -> bool {
        matches!(self.mode, LocationMode::Attached { .. })
    }
}

fn entry((id, location): (&TenantShardId, &Location)) -> Entry {
    Entry {
        tenant_id: id.tenant_id,
        shard: id.shard,
        location: *location,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pagestream::RelTag;

    const TENANT: TenantId = TenantId([1; 16]);

    fn shard(number: u8, count: u8) -> TenantShardId {
        TenantShardId {
            tenant_id: TENANT,
            shard: ShardIndex { number, count },
        }
    }

    fn attached(generation: u32) -> Location {
        Location {
            mode: LocationMode::Attached { generation },
            stripe_size: 2048,
        }
    }

    fn page(blkno: u32) -> Query {
        let rel = RelTag {
            spcnode: 1663,
            dbnode: 5,
            relnode: 16384,
            forknum: 0,
        };
        Query::GetPage { rel, blkno }
    }

    #[test]
    fn locations_survive_a_restart() {
        let dir = tempfile::TempDir::new().unwrap();
        let locations = Locations::open(dir.path()).unwrap();
        locations.set(shard(1, 4), Some(attached(3))).unwrap();
        locations.save().unwrap();
        let again = Locations::open(dir.path()).unwrap();
        assert_eq!(again.all(), locations.all());
    }

    #[test]
    fn a_page_is_served_by_its_owner_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let locations = Locations::open(dir.path()).unwrap();
        // Block 2048 of this relation belongs to shard 3 of 4.
        locations.set(shard(0, 4), Some(attached(1))).unwrap();
        assert_eq!(locations.shard_for(TENANT, &page(0)), Some(shard(0, 4)));
        assert_eq!(locations.shard_for(TENANT, &page(2048)), None);
        locations.set(shard(3, 4), Some(attached(1))).unwrap();
        assert_eq!(locations.shard_for(TENANT, &page(2048)), Some(shard(3, 4)));
        assert!(!locations.serves(shard(0, 0)));
    }

    #[test]
    fn a_secondary_location_serves_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let locations = Locations::open(dir.path()).unwrap();
        let secondary = Location {
            mode: LocationMode::Secondary,
            stripe_size: 0,
        };
        locations.set(shard(0, 0), Some(secondary)).unwrap();
        assert_eq!(locations.shard_zero(TENANT), None);
    }

    #[test]
    fn a_generation_never_goes_back() {
        let dir = tempfile::TempDir::new().unwrap();
        let locations = Locations::open(dir.path()).unwrap();
        locations.set(shard(0, 0), Some(attached(5))).unwrap();
        let refused = locations.set(shard(0, 0), Some(attached(4))).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Generation 00000004 is less than existing 00000005"
        );
        locations.set(shard(0, 0), None).unwrap();
        assert_eq!(locations.all().len(), 0);
    }
}
