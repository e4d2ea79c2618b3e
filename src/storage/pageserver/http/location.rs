//! Routes that tell a pageserver which shards it has.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::shard_id;
use crate::error::chain;
use crate::id::TenantShardId;
use crate::storage::files::{self, blocking};
use crate::storage::management::{ApiError, Body};
use crate::storage::pageserver::locations::{Location, LocationMode};
use crate::storage::pageserver::node::Node;

/// `LocationConfig`. Unknown fields are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocationConfig {
    mode: Mode,
    #[serde(default)]
    generation: Option<u32>,
    #[serde(default, rename = "secondary_conf")]
    _secondary_conf: Option<Value>,
    #[serde(default)]
    shard_number: u8,
    #[serde(default)]
    shard_count: u8,
    #[serde(default)]
    shard_stripe_size: u32,
    #[serde(rename = "tenant_conf")]
    _tenant_conf: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Mode {
    AttachedSingle,
    AttachedMulti,
    AttachedStale,
    Secondary,
    Detached,
}

impl LocationConfig {
    /// The location; `None` for one that is to go.
    fn location(&self) -> Result<Option<Location>, ApiError> {
        if self.shard_count > 0 && self.shard_stripe_size == 0 {
            let text = "InvalidStripeSize".to_owned();
            return Err(ApiError(StatusCode::BAD_REQUEST, text));
        }
        if self.shard_count > 0 && self.shard_number >= self.shard_count {
            let text = "InvalidNumber".to_owned();
            return Err(ApiError(StatusCode::BAD_REQUEST, text));
        }
        let mode = match (self.mode, self.generation) {
            (Mode::Detached, _) => return Ok(None),
            (Mode::Secondary, None) => LocationMode::Secondary,
            (Mode::Secondary, Some(_)) => {
                let text = "Condition failed: `conf.generation.is_none()`";
                return Err(ApiError::bad_request(text));
            }
            (_, Some(generation)) => LocationMode::Attached { generation },
            (_, None) => {
                let text = "Generation must be set when attaching";
                return Err(ApiError::bad_request(text));
            }
        };
        Ok(Some(Location {
            mode,
            stripe_size: self.shard_stripe_size,
        }))
    }
}

pub(super) async fn set(
    State(node): State<Arc<Node>>,
    Path(shard): Path<String>,
    Body(config): Body<LocationConfig>,
) -> Result<Json<Value>, ApiError> {
    let shard = shard_id(&shard)?;
    let location = config.location()?;
    let set = node.locations.set(shard, location);
    set.map_err(|error| ApiError::bad_request(&error.to_string()))?;
    let locations = node.locations.clone();
    let saved = blocking(move || locations.save()).await;
    saved.map_err(|error: files::Error| {
        ApiError(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))
    })?;
    let Some(location) = location else {
        return Ok(Json(Value::Null));
    };
    let stripe_size = (shard.shard.count > 0).then_some(location.stripe_size);
    let here = json!({"shard_id": shard.to_string(), "node_id": node.id});
    Ok(Json(json!({"shards": [here], "stripe_size": stripe_size})))
}

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<Value> {
    let all = node.locations.all();
    let all = all
        .iter()
        .map(|(shard, location)| json!([shard.to_string(), config_of(*shard, location)]));
    Json(json!({"tenant_shards": all.collect::<Vec<_>>()}))
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    Path(shard): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let shard = shard_id(&shard)?;
    let all = node.locations.all();
    let location = all.get(&shard);
    let location = location.ok_or_else(|| ApiError::not_found("Tenant shard not found"))?;
    Ok(Json(config_of(shard, location)))
}

fn config_of(shard: TenantShardId, location: &Location) -> Value {
    let (mode, generation) = match location.mode {
        LocationMode::Attached { generation } => ("AttachedSingle", Some(generation)),
        LocationMode::Secondary => ("Secondary", None),
    };
    json!({
        "mode": mode,
        "generation": generation,
        "secondary_conf": null,
        "shard_number": shard.shard.number,
        "shard_count": shard.shard.count,
        "shard_stripe_size": location.stripe_size,
        "tenant_conf": {},
    })
}

pub(super) async fn list_tenants(State(node): State<Arc<Node>>) -> Json<Value> {
    let all = node.locations.all();
    let tenants = all
        .iter()
        .filter_map(|(shard, location)| tenant(*shard, location));
    Json(tenants.collect())
}

pub(super) async fn show_tenant(
    State(node): State<Arc<Node>>,
    Path(shard): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let shard = shard_id(&shard)?;
    let all = node.locations.all();
    let found = all.get(&shard).and_then(|location| tenant(shard, location));
    let mut found = found.ok_or_else(|| ApiError::not_found(format!("tenant {shard}")))?;
    let timelines = node.timelines.all();
    let own = timelines
        .iter()
        .filter(|timeline| timeline.tenant_id() == shard.tenant_id);
    let ids: Vec<_> = own.map(|timeline| timeline.timeline_id()).collect();
    found["timelines"] = json!(ids);
    Ok(Json(found))
}

fn tenant(shard: TenantShardId, location: &Location) -> Option<Value> {
    let LocationMode::Attached { generation } = location.mode else {
        return None;
    };
    Some(json!({
        "id": shard.to_string(),
        "state": {"slug": "Active"},
        "current_physical_size": null,
        "attachment_status": {"slug": "attached"},
        "generation": generation,
    }))
}
