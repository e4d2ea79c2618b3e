//! The internal server: what postgres' extension and sidecars ask for
//! (`compute_tools/src/http/server.rs`, `Server::Internal`).

mod extensions;
mod grants;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;

use super::api::{Api, Content, Operation};
use super::control::Request;
use super::owner::Owner;
use super::postgres::Gate;
use super::respond;
use crate::telemetry::metrics::Metrics;

/// Limit of an answer that the owning task gives at once. The extension waits 3 s
/// (`pgxn/neon/extension_server.c`).
const AT_ONCE: Duration = Duration::from_millis(2500);

/// What the handlers need.
#[derive(Clone)]
pub(super) struct Internal {
    pub(super) owner: Owner,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gate: Gate,
    /// Whether there is a store of extensions to download from.
    pub(super) remote_extensions: bool,
}

/// All routes. Nobody is asked for a token.
pub(super) fn api() -> Api<Internal> {
    const ABOUT: &str = "What postgres and what runs beside it ask of a compute";
    let refresh = Operation::new("refreshConfiguration", "Postgres lost a pageserver")
        .answers(StatusCode::OK, "Somebody will look", Content::Empty)
        .fails(StatusCode::INTERNAL_SERVER_ERROR, "Not in this state");
    let api = Api::new(ABOUT, None).route(
        "/refresh_configuration",
        &Method::POST,
        post(refresh_configuration),
        &refresh,
    );
    grants::routes(extensions::routes(api))
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
