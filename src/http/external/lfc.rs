//! `/lfc/prewarm` and `/lfc/offload`: the local file cache of Neon's postgres
//! (`compute_tools/src/http/routes/lfc.rs`). glowplug does neither yet, and says so
//! truly: nothing was prewarmed, and there is nothing to cancel.

use axum::Json;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::Routes;
use crate::http::api::{Api, Content, Operation, json};
use crate::http::respond;

/// `LfcPrewarmState` and `LfcOffloadState` (`libs/compute_api/src/responses.rs`), as
/// far as they occur.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LfcState")]
struct State {
    status: Stage,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LfcStage")]
enum Stage {
    NotPrewarmed,
    NotOffloaded,
}

pub(super) fn routes(api: Api<Routes>) -> Api<Routes> {
    let state = |id, summary| {
        Operation::new(id, summary).answers(StatusCode::OK, "How it stands", json::<State>())
    };
    let not_yet = |id, summary| {
        Operation::new(id, summary)
            .fails(StatusCode::NOT_IMPLEMENTED, "glowplug cannot do this yet")
    };
    let from = "Take the state of this endpoint's cache";
    let prewarm = not_yet("lfcPrewarm", "Fill the local file cache").query(
        "from_endpoint",
        false,
        json!({"type": "string"}),
        from,
    );
    let cancel = Operation::new("cancelLfcPrewarm", "Cancel filling the local file cache").answers(
        StatusCode::ACCEPTED,
        "Also if there is nothing to cancel",
        Content::Empty,
    );
    api.route(
        "/lfc/prewarm",
        &Method::GET,
        get(prewarm_state),
        &state(
            "getLfcPrewarmState",
            "Whether the local file cache was filled",
        ),
    )
    .route("/lfc/prewarm", &Method::POST, post(start_prewarm), &prewarm)
    .route(
        "/lfc/prewarm",
        &Method::DELETE,
        delete(cancel_prewarm),
        &cancel,
    )
    .route(
        "/lfc/offload",
        &Method::GET,
        get(offload_state),
        &state(
            "getLfcOffloadState",
            "Whether the state of the local file cache was kept",
        ),
    )
    .route(
        "/lfc/offload",
        &Method::POST,
        post(start_offload),
        &not_yet("lfcOffload", "Keep the state of the local file cache"),
    )
}

async fn prewarm_state() -> Json<State> {
    let status = Stage::NotPrewarmed;
    Json(State { status })
}

async fn offload_state() -> Json<State> {
    let status = Stage::NotOffloaded;
    Json(State { status })
}

async fn start_prewarm() -> Response {
    respond::not_implemented("/lfc/prewarm", "prewarming of the local file cache")
}

async fn start_offload() -> Response {
    respond::not_implemented("/lfc/offload", "offloading of the local file cache")
}

async fn cancel_prewarm() -> StatusCode {
    StatusCode::ACCEPTED
}
