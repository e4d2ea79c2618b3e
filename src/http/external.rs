//! The external server: what a control plane asks for
//! (`compute_tools/src/http/server.rs`, `Server::External`).

mod configure;
mod terminate;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};

pub use configure::ParseSpec;

use super::auth::Authorizer;
use super::owner::Owner;
use super::respond::{self, StartupMetrics, Status};
use crate::telemetry::metrics::Metrics;

/// What the handlers need.
#[derive(Clone)]
pub(super) struct Routes {
    pub(super) owner: Owner,
    pub(super) metrics: Arc<Metrics>,
    pub(super) authorizer: Arc<Authorizer>,
    pub(super) parse_spec: ParseSpec,
}

impl Routes {
    pub(super) fn router(self) -> Router {
        let authorize = middleware::from_fn_with_state(self.authorizer.clone(), authorize);
        // Per route, so that a wrong method is 405 with or without a token.
        let guarded = |route: MethodRouter<Self>| route.route_layer(authorize.clone());
        let missing = not_implemented;
        let authorized = Router::new()
            .route("/status", guarded(get(status)))
            .route("/metrics.json", guarded(get(startup_metrics)))
            .route("/configure", guarded(post(configure::configure)))
            .route("/terminate", guarded(post(terminate::terminate)))
            .route("/promote", guarded(post(missing)))
            .route("/check_writability", guarded(post(missing)))
            .route("/database_schema", guarded(get(missing)))
            .route("/dbs_and_roles", guarded(get(missing)))
            .route("/insights", guarded(get(missing)))
            .route("/hadron_liveness_probe", guarded(get(missing)))
            .route("/lfc/offload", guarded(get(missing).post(missing)))
            .route(
                "/lfc/prewarm",
                guarded(get(missing).post(missing).delete(missing)),
            );
        let open = Router::new()
            .route("/metrics", get(metrics))
            .route("/autoscaling_metrics", get(not_implemented));
        authorized.merge(open).with_state(self)
    }
}

async fn authorize(
    State(authorizer): State<Arc<Authorizer>>,
    request: Request,
    next: Next,
) -> Response {
    match authorizer.authorize(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    }
}

async fn status(State(routes): State<Routes>) -> Json<Status> {
    Json(Status::of(&routes.owner.snapshot()))
}

async fn startup_metrics(State(routes): State<Routes>) -> Json<StartupMetrics> {
    Json(StartupMetrics::of(&routes.owner.snapshot()))
}

async fn metrics(State(routes): State<Routes>) -> Response {
    match routes.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => respond::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &crate::error::chain(&error),
        ),
    }
}

/// A route of upstream's that has no counterpart here yet.
pub(super) async fn not_implemented(route: MatchedPath) -> Response {
    let message = format!("{} is not implemented by glowplug yet", route.as_str());
    respond::error(StatusCode::NOT_IMPLEMENTED, &message)
}
