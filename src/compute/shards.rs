//! Asks the pageservers whether they serve the tenant's shards, and the storage
//! controller where the shards are.

use std::time::Duration;

use crate::access::Access;
use crate::pageserver::{self, ShardsRequest, relocation};
use crate::report::ProbeFacts;
use crate::spec::{ComputeMode, ComputeSpec, ShardMap};

/// How long one pageserver may take to answer. It takes connections before it serves.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// Asks the pageserver of every shard, once.
pub(super) async fn probe(spec: &ComputeSpec, access: &Access) -> ProbeFacts {
    let request = ShardsRequest {
        tenant_id: spec.tenant_id,
        timeline_id: spec.timeline_id,
        shards: &spec.pageservers,
        lsn: match spec.mode {
            ComputeMode::Static(lsn) => Some(lsn),
            ComputeMode::Primary | ComputeMode::Replica => None,
        },
        access,
        deadline: PROBE_LIMIT,
    };
    let shards = pageserver::probe_shards(&request).await;
    ProbeFacts {
        at: jiff::Timestamp::now(),
        asked: spec.pageservers.clone(),
        shards,
    }
}

/// Where the storage controller says that the shards are; `None` if the spec names none.
pub(super) async fn locate(
    http: &reqwest::Client,
    spec: &ComputeSpec,
    access: &Access,
) -> Result<Option<ShardMap>, pageserver::Error> {
    let Some(controller) = &spec.storage_controller else {
        return Ok(None);
    };
    let located = pageserver::locate(http, controller, spec.tenant_id, &access.token).await?;
    Ok(Some(relocation::settle(&spec.pageservers, located)))
}
