//! The external server: what a control plane asks for
//! (`compute_tools/src/http/server.rs`, `Server::External`).

mod autoscaling;
mod configure;
mod database;
mod lfc;
mod schema;
mod terminate;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

pub use configure::ParseSpec;

use super::api::{Api, Content, Operation, json};
use super::auth::Authorizer;
use super::owner::Owner;
use super::postgres::Gate;
use super::respond::{self, StartupMetrics, Status};
use crate::telemetry::metrics::Metrics;

/// What the handlers need.
#[derive(Clone)]
pub(super) struct Routes {
    pub(super) owner: Owner,
    pub(super) metrics: Arc<Metrics>,
    pub(super) parse_spec: ParseSpec,
    pub(super) gate: Gate,
}

/// All routes. They ask for a token, but for those that are open.
pub(super) fn api(authorizer: Arc<Authorizer>) -> Api<Routes> {
    const ABOUT: &str = "What a control plane asks of a compute: the API of Neon's compute_ctl";
    let api = Api::new(ABOUT, Some(authorizer));
    let api = of_the_process(api);
    let api = of_the_databases(api);
    lfc::routes(api)
}

fn of_the_process(api: Api<Routes>) -> Api<Routes> {
    let status_operation = Operation::new("getComputeStatus", "State of the compute").answers(
        StatusCode::OK,
        "The state, whichever it is",
        json::<Status>(),
    );
    let timings = Operation::new("getComputeMetricsJSON", "Timings of the last start-up").answers(
        StatusCode::OK,
        "Zeros before they are measured",
        json::<StartupMetrics>(),
    );
    let exposition = Operation::new("getComputeMetrics", "Metrics of the process")
        .open()
        .answers(
            StatusCode::OK,
            "Prometheus text",
            Content::Text("text/plain"),
        )
        .fails(StatusCode::INTERNAL_SERVER_ERROR, "They cannot be rendered");
    let promotion = Operation::new("promoteReplica", "Make a replica the primary")
        .fails(StatusCode::NOT_IMPLEMENTED, "glowplug cannot do this yet");
    api.route("/status", &Method::GET, get(status), &status_operation)
        .route(
            "/metrics.json",
            &Method::GET,
            get(startup_metrics),
            &timings,
        )
        .route("/metrics", &Method::GET, get(metrics), &exposition)
        .route(
            "/autoscaling_metrics",
            &Method::GET,
            get(autoscaling::metrics),
            &autoscaling::operation(),
        )
        .route(
            "/configure",
            &Method::POST,
            post(configure::configure),
            &configure::operation(),
        )
        .route(
            "/terminate",
            &Method::POST,
            post(terminate::terminate),
            &terminate::operation(),
        )
        .route("/promote", &Method::POST, post(promote), &promotion)
}

fn of_the_databases(api: Api<Routes>) -> Api<Routes> {
    api.route(
        "/check_writability",
        &Method::POST,
        post(database::writability),
        &database::writability_operation(),
    )
    .route(
        "/database_schema",
        &Method::GET,
        get(schema::database_schema),
        &schema::operation(),
    )
    .route(
        "/dbs_and_roles",
        &Method::GET,
        get(database::objects),
        &database::objects_operation(),
    )
    .route(
        "/insights",
        &Method::GET,
        get(database::insights),
        &database::insights_operation(),
    )
    .route(
        "/hadron_liveness_probe",
        &Method::GET,
        get(database::liveness),
        &database::liveness_operation(),
    )
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

async fn promote() -> Response {
    respond::not_implemented("/promote", "promotion of replicas")
}
