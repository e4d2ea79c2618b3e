//! The internal server: what postgres' extension and sidecars ask for
//! (`compute_tools/src/http/server.rs`, `Server::Internal`).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;

use super::control::Request;
use super::external::not_implemented;
use super::owner::Owner;
use super::respond;
use crate::telemetry::metrics::Metrics;

/// Limit of an answer that the owning task gives at once. The extension waits 3 s
/// (`pgxn/neon/extension_server.c`).
const AT_ONCE: Duration = Duration::from_millis(2500);

#[derive(Clone)]
struct Internal {
    owner: Owner,
    metrics: Arc<Metrics>,
}

pub(super) fn router(owner: Owner, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/refresh_configuration", post(refresh_configuration))
        .route("/extension_server/{*filename}", post(not_implemented))
        .route("/extensions", post(not_implemented))
        .route("/grants", post(not_implemented))
        .with_state(Internal { owner, metrics })
}

/// Postgres lost a pageserver. Counted whatever the answer; 200 means that somebody
/// will look, not that anything changes.
async fn refresh_configuration(State(internal): State<Internal>) -> Response {
    internal.metrics.upstream.pagestream_request_errors.inc();
    let refresh = |reply| Request::Refresh { reply };
    match internal.owner.ask(refresh, AT_ONCE).await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(refusal)) => respond::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!(
                "Cannot refresh compute configuration in state {:?}",
                refusal.state
            ),
        ),
        Err(unanswered) => unanswered.into_response(),
    }
}
