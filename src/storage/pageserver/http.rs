//! The management API of a pageserver, as far as a compute manager uses it, and
//! metrics.
//!
//! Routes, bodies and texts: `pageserver/src/http/routes.rs` and
//! `libs/pageserver_api/src/models.rs` of Neon.

mod location;
mod timeline;

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::node::Node;
use crate::id::{TenantId, TenantShardId};
use crate::secret::Secret;

/// An answer that is an error: a status and a text.
#[derive(Debug)]
pub(in crate::storage) struct ApiError(
    pub(in crate::storage) StatusCode,
    pub(in crate::storage) String,
);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"msg": self.1}))).into_response()
    }
}

impl ApiError {
    pub(in crate::storage) fn not_found(what: impl std::fmt::Display) -> Self {
        Self(StatusCode::NOT_FOUND, format!("NotFound: {what}"))
    }

    /// Upstream shows the debug form of these texts.
    pub(in crate::storage) fn bad_request(text: &str) -> Self {
        Self(StatusCode::BAD_REQUEST, format!("{text:?}"))
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let text = rejection.body_text();
        Self::bad_request(&format!("Failed to parse json request: {text}"))
    }
}

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

/// Refuses a request that does not bear the token.
pub(in crate::storage) fn check_token(
    token: Option<&Secret>,
    request: &Request,
) -> Result<(), ApiError> {
    let Some(token) = token else {
        return Ok(());
    };
    let Some(given) = request.headers().get(header::AUTHORIZATION) else {
        let text = "Unauthorized: missing authorization header".to_owned();
        return Err(ApiError(StatusCode::UNAUTHORIZED, text));
    };
    if given.as_bytes() == format!("Bearer {}", token.reveal()).as_bytes() {
        Ok(())
    } else {
        let text = "Forbidden: JWT authentication error".to_owned();
        Err(ApiError(StatusCode::FORBIDDEN, text))
    }
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

fn shard_id(text: &str) -> Result<TenantShardId, ApiError> {
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
