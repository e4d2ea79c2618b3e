//! The routes of the storage controller.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::placement::Placement;
use super::{DEFAULT_STRIPE_SIZE, Error, Shared};
use crate::error::chain;
use crate::id::{ParseIdError, TenantId, TenantShardId, TimelineId};
use crate::storage::management::{ApiError, Body, check_token};

use crate::storage::pageserver::http::{CreateRequest, creation_error, info, shard_id};

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoTenant(_) | Error::NoShard(_) | Error::NoNode(_) => Self::not_found(error),
            Error::Refused { .. } => Self(StatusCode::CONFLICT, chain(&error)),
            Error::Stopped => Self(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
            Error::Listen { .. } | Error::Files(_) => {
                Self(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))
            }
        }
    }
}

/// All routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let protected = Router::new()
        .route("/debug/v1/tenant/{tenant}/locate", get(locate))
        .route(
            "/debug/v1/tenant/{tenant}/timeline/{timeline}/locate",
            get(locate_timeline),
        )
        .route("/v1/tenant", post(create_tenant))
        .route("/v1/tenant/{tenant}/timeline", post(create_timeline))
        .route(
            "/v1/tenant/{tenant}/timeline/{timeline}",
            get(show_timeline),
        )
        .route("/control/v1/node", get(list_nodes))
        .route("/control/v1/tenant/{shard}/migrate", put(migrate))
        .route_layer(middleware::from_fn_with_state(shared.clone(), authorize));
    let up = || async { Json(Value::Null) };
    Router::new()
        .route("/status", get(up))
        .route("/ready", get(up))
        .route("/live", get(up))
        .merge(protected)
        .fallback(|| async { ApiError(StatusCode::NOT_FOUND, "page not found".to_owned()) })
        .with_state(shared)
}

async fn authorize(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check_token(shared.token.as_ref(), &request)?;
    Ok(next.run(request).await)
}

type Answer = Result<Json<Value>, ApiError>;
type Created = Result<(StatusCode, Json<Value>), ApiError>;

fn id<T: std::str::FromStr<Err = ParseIdError>>(text: &str) -> Result<T, ApiError> {
    let parsed: Result<T, _> = text.parse();
    parsed.map_err(|error| ApiError::bad_request(&error.to_string()))
}

fn placed(shared: &Shared, tenant: &str) -> Result<(TenantId, Placement), ApiError> {
    let tenant_id = id(tenant)?;
    let placement = shared.placement(tenant_id);
    let placement = placement.ok_or(Error::NoTenant(tenant_id))?;
    Ok((tenant_id, placement))
}

/// `TenantLocateResponse`.
async fn locate(State(shared): State<Arc<Shared>>, Path(tenant): Path<String>) -> Answer {
    let (tenant_id, placement) = placed(&shared, &tenant)?;
    let mut shards = Vec::new();
    for (shard, node) in placement.shards(tenant_id) {
        let node = shared.node(node)?;
        shards.push(json!({
            "shard_id": shard.to_string(),
            "node_id": node.id,
            "listen_pg_addr": node.pg_addr.ip(),
            "listen_pg_port": node.pg_addr.port(),
            "listen_grpc_addr": node.grpc_addr.ip(),
            "listen_grpc_port": node.grpc_addr.port(),
            "listen_http_addr": node.http_addr.ip(),
            "listen_http_port": node.http_addr.port(),
            "listen_https_port": null,
        }));
    }
    Ok(Json(json!({
        "shards": shards,
        "shard_params": {"count": placement.count, "stripe_size": placement.stripe_size},
    })))
}

async fn locate_timeline(
    State(shared): State<Arc<Shared>>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Answer {
    let (tenant_id, timeline_id) = (id(&tenant)?, id(&timeline)?);
    if shared.timelines.find(tenant_id, timeline_id).is_none() {
        return Err(timeline_not_found(tenant_id, timeline_id));
    }
    let ids: Vec<_> = shared.safekeepers.iter().map(|node| node.id).collect();
    Ok(Json(
        json!({"generation": 1, "sk_set": ids, "new_sk_set": null}),
    ))
}

fn timeline_not_found(tenant_id: TenantId, timeline_id: TimelineId) -> ApiError {
    ApiError::not_found(format!("Timeline {tenant_id}/{timeline_id} was not found"))
}

/// `TenantCreateRequest`. Whatever else it says about the tenant has no effect here.
#[derive(Debug, Deserialize)]
struct TenantRequest {
    new_tenant_id: TenantId,
    #[serde(default)]
    shard_parameters: Option<ShardParameters>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct ShardParameters {
    count: u8,
    #[serde(default)]
    stripe_size: Option<u32>,
}

async fn create_tenant(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<TenantRequest>,
) -> Created {
    let parameters = request.shard_parameters;
    let count = parameters.map_or(0, |parameters| parameters.count);
    let stripe_size = parameters.and_then(|parameters| parameters.stripe_size);
    let stripe_size = stripe_size.unwrap_or(DEFAULT_STRIPE_SIZE);
    let tenant_id = request.new_tenant_id;
    let created = shared.create_tenant(tenant_id, count, stripe_size);
    let placement = created.await?;
    let shards = placement.shards(tenant_id).map(|(shard, node)| {
        json!({
            "shard_id": shard.to_string(),
            "node_id": node,
            "generation": placement.generation,
        })
    });
    let shards: Vec<_> = shards.collect();
    Ok((StatusCode::CREATED, Json(json!({"shards": shards}))))
}

async fn create_timeline(
    State(shared): State<Arc<Shared>>,
    Path(tenant): Path<String>,
    Body(request): Body<CreateRequest>,
) -> Created {
    let (tenant_id, placement) = placed(&shared, &tenant)?;
    let timeline_id = request.new_timeline_id;
    let created = shared
        .timelines
        .create(tenant_id, timeline_id, request.pg_version)
        .await;
    let timeline = created.map_err(|error| creation_error(&error))?;
    let mut body = info(shard_zero(tenant_id, &placement), &timeline);
    let hosts = shared
        .safekeepers
        .iter()
        .map(|node| json!({"id": node.id, "hostname": node.host}));
    body["safekeepers"] = json!({
        "tenant_id": tenant_id,
        "timeline_id": timeline_id,
        "generation": 1,
        "safekeepers": hosts.collect::<Vec<_>>(),
    });
    Ok((StatusCode::CREATED, Json(body)))
}

fn shard_zero(tenant_id: TenantId, placement: &Placement) -> TenantShardId {
    let first = placement.shards(tenant_id).next();
    first.map_or(
        TenantShardId {
            tenant_id,
            shard: crate::id::ShardIndex::UNSHARDED,
        },
        |(shard, _)| shard,
    )
}

async fn show_timeline(
    State(shared): State<Arc<Shared>>,
    Path((tenant, timeline)): Path<(String, String)>,
) -> Answer {
    let (tenant_id, placement) = placed(&shared, &tenant)?;
    let timeline_id = id(&timeline)?;
    let found = shared.timelines.find(tenant_id, timeline_id);
    let found = found.ok_or_else(|| timeline_not_found(tenant_id, timeline_id))?;
    Ok(Json(info(shard_zero(tenant_id, &placement), &found)))
}

async fn list_nodes(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let nodes = shared.pageservers.iter().map(|node| {
        json!({
            "id": node.id,
            "availability": "Active",
            "scheduling": "Active",
            "listen_pg_addr": node.pg_addr.ip(),
            "listen_pg_port": node.pg_addr.port(),
            "listen_http_addr": node.http_addr.ip(),
            "listen_http_port": node.http_addr.port(),
        })
    });
    Json(nodes.collect())
}

/// `TenantShardMigrateRequest`. There is no scheduler to override.
#[derive(Debug, Deserialize)]
struct MigrateRequest {
    node_id: u64,
}

async fn migrate(
    State(shared): State<Arc<Shared>>,
    Path(shard): Path<String>,
    Body(request): Body<MigrateRequest>,
) -> Answer {
    let shard = shard_id(&shard)?;
    shared.migrate(shard, request.node_id).await?;
    Ok(Json(json!({})))
}
