//! Routes that make timelines, show them, and wait for their WAL.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{served, shard_id};
use crate::error::{Category, chain};
use crate::id::{TenantShardId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::management::{ApiError, Body};
use crate::storage::pageserver::node::Node;
use crate::storage::timelines::{self, Timeline};

/// `TimelineCreateRequest`, the variant that makes a new cluster. Branches and
/// imports are not served here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::storage) struct CreateRequest {
    pub(in crate::storage) new_timeline_id: TimelineId,
    /// Major version; that of the programs at hand if it is left out.
    #[serde(default)]
    pub(in crate::storage) pg_version: Option<u32>,
}

pub(super) async fn create(
    State(node): State<Arc<Node>>,
    Path(shard): Path<String>,
    Body(request): Body<CreateRequest>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    served(&node, &shard)?;
    let shard = shard_id(&shard)?;
    let created = node
        .timelines
        .create(shard.tenant_id, request.new_timeline_id, request.pg_version)
        .await;
    let timeline = created.map_err(|error| creation_error(&error))?;
    Ok((StatusCode::CREATED, Json(info(shard, &timeline))))
}

/// The answer that a failed creation gets.
pub(in crate::storage) fn creation_error(error: &timelines::Error) -> ApiError {
    let status = match error {
        timelines::Error::Conflict => StatusCode::CONFLICT,
        timelines::Error::InProgress(_) => StatusCode::TOO_MANY_REQUESTS,
        timelines::Error::Version { .. } => StatusCode::BAD_REQUEST,
        error if error.category() == "ShuttingDown" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError(status, chain(error))
}

pub(super) async fn list(
    State(node): State<Arc<Node>>,
    Path(shard): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let tenant_id = served(&node, &shard)?;
    let shard = shard_id(&shard)?;
    let timelines = node.timelines.all();
    let own = timelines
        .iter()
        .filter(|timeline| timeline.tenant_id() == tenant_id);
    Ok(Json(own.map(|timeline| info(shard, timeline)).collect()))
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Path((shard, timeline)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let tenant_id = served(&node, &shard)?;
    let missing = || ApiError::not_found(format!("Timeline {shard}/{timeline} was not found"));
    let id = timeline.parse();
    let id =
        id.map_err(|error: crate::id::ParseIdError| ApiError::bad_request(&error.to_string()))?;
    let found = node.timelines.find(tenant_id, id).ok_or_else(missing)?;
    Ok(Json(info(shard_id(&shard)?, &found)))
}

/// `TimelineInfo`, without the sizes of layers that there are none of.
pub(in crate::storage) fn info(shard: TenantShardId, timeline: &Timeline) -> Value {
    let end = timeline.end();
    let receiver = timeline.receiver();
    let oldest = timeline.oldest_lsn();
    json!({
        "tenant_id": shard.to_string(),
        "timeline_id": timeline.timeline_id(),
        "ancestor_timeline_id": null,
        "ancestor_lsn": null,
        "last_record_lsn": end.last_record_lsn,
        "prev_record_lsn": end.prev_record_lsn,
        "applied_gc_cutoff_lsn": oldest,
        "min_readable_lsn": oldest,
        "disk_consistent_lsn": end.last_record_lsn,
        "remote_consistent_lsn": end.last_record_lsn,
        "remote_consistent_lsn_visible": end.last_record_lsn,
        "initdb_lsn": oldest,
        "wal_source_connstr": null,
        "last_received_msg_lsn": receiver.source.map(|_| receiver.commit_lsn),
        "last_received_msg_ts": null,
        "pg_version": timeline.pg_major(),
        "state": "Active",
        "walreceiver_status": receiver.to_string(),
        "is_archived": false,
        "is_invisible": false,
    })
}

/// Timelines and the LSN that each is to reach, and a limit.
#[derive(Debug, Deserialize)]
pub(super) struct WaitRequest {
    timeout: WaitLimit,
    #[serde(flatten)]
    timelines: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct WaitLimit {
    secs: u64,
    nanos: u32,
}

/// 200 when all were reached, 202 when not all were in time, 404 when none is here.
pub(super) async fn wait_lsn(
    State(node): State<Arc<Node>>,
    Path(shard): Path<String>,
    Body(request): Body<WaitRequest>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    /// As long as a request may keep a connection busy.
    const LONGEST: Duration = Duration::from_mins(5);
    let tenant_id = served(&node, &shard)?;
    let limit = Duration::from_secs(request.timeout.secs);
    let limit = limit.saturating_add(Duration::from_nanos(request.timeout.nanos.into()));
    let limit = limit.min(LONGEST);
    let mut waits = Vec::new();
    for (id, lsn) in request.timelines {
        let malformed = || ApiError::bad_request(&format!("{id} is no timeline with an LSN"));
        let timeline_id = id.parse().map_err(|_| malformed())?;
        let lsn: Lsn = serde_json::from_value(lsn).map_err(|_| malformed())?;
        if let Some(timeline) = node.timelines.find(tenant_id, timeline_id) {
            waits.push(async move { timeline.wait_for(lsn, limit).await.is_ok() });
        }
    }
    let status = if waits.is_empty() {
        StatusCode::NOT_FOUND
    } else if join_all(waits).await.into_iter().all(|reached| reached) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(Value::Null)))
}
