//! The management API of a pageserver, as far as a compute manager uses it, and
//! metrics.
//!
//! Routes, bodies and texts: `pageserver/src/http/routes.rs` and
//! `libs/pageserver_api/src/models.rs` of Neon.

mod location;
mod timeline;

pub(in crate::storage) use timeline::{CreateRequest, creation_error, info};

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::node::Node;
use crate::id::{TenantId, TenantShardId};
use crate::storage::management::{ApiError, check_token};

/// All routes.
pub(super) fn router(node: Arc<Node>) -> Router {
    let tenant = Router::new()
        .route("/v1/tenant", get(location::list_tenants))
        .route("/v1/tenant/{shard}", get(location::show_tenant))
        .route("/v1/location_config", get(location::list))
        .route("/v1/location_config/{shard}", get(location::show))
        .route("/v1/tenant/{shard}/location_config", put(location::set))
        .route(
            "/v1/tenant/{shard}/timeline",
            post(timeline::create).get(timeline::list),
        )
        .route(
            "/v1/tenant/{shard}/timeline/{timeline}",
            get(timeline::show),
        )
        .route("/v1/tenant/{shard}/wait_lsn", post(timeline::wait_lsn))
        .route_layer(middleware::from_fn_with_state(node.clone(), authorize));
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .merge(tenant)
        .fallback(|| async { ApiError(StatusCode::NOT_FOUND, "page not found".to_owned()) })
        .layer(middleware::from_fn_with_state(node.clone(), unpaused))
        .with_state(node)
}

async fn unpaused(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    node.knobs.unpaused().await;
    next.run(request).await
}

async fn authorize(
    State(node): State<Arc<Node>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check_token(node.token.as_ref(), &request)?;
    Ok(next.run(request).await)
}

async fn status(State(node): State<Arc<Node>>) -> Json<Value> {
    Json(json!({"id": node.id}))
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let timelines = node.timelines.all();
    let served = timelines.iter().filter_map(|timeline| {
        let shard = node.locations.shard_zero(timeline.tenant_id())?;
        Some((shard.shard.to_string(), &**timeline))
    });
    let text = node.metrics.render(served);
    let text_type = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
    (text_type, text)
}

pub(in crate::storage) fn shard_id(text: &str) -> Result<TenantShardId, ApiError> {
    let parsed = text.parse();
    parsed.map_err(|error: crate::id::ParseIdError| ApiError::bad_request(&error.to_string()))
}

/// The tenant of a shard that is served here.
fn served(node: &Node, shard: &str) -> Result<TenantId, ApiError> {
    let shard = shard_id(shard)?;
    if node.locations.serves(shard) {
        Ok(shard.tenant_id)
    } else {
        Err(ApiError::not_found(format!("tenant {shard}")))
    }
}
