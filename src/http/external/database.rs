//! What the external server tells of the databases, by asking postgres.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::Routes;
use crate::catalog::visit::{health, objects, statistics};
use crate::error::chain;
use crate::http::api::{Operation, json};
use crate::http::postgres::{LIMIT, failed};
use crate::http::respond;

/// `CatalogObjects` (`libs/compute_api/src/responses.rs`).
#[derive(Serialize, JsonSchema)]
pub(super) struct CatalogObjects {
    roles: Vec<RoleEntry>,
    databases: Vec<DatabaseEntry>,
}

/// A role.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Role")]
struct RoleEntry {
    name: String,
    /// The verifier of its password.
    encrypted_password: Option<String>,
    /// Always null.
    options: Option<String>,
}

/// A database.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Database")]
struct DatabaseEntry {
    name: String,
    owner: String,
    /// Always null.
    options: Option<String>,
    /// It allows no connections.
    restrict_conn: bool,
    /// It is left over from an interrupted `DROP DATABASE`.
    invalid: bool,
}

pub(super) fn objects_operation() -> Operation {
    Operation::new(
        "getDbsAndRoles",
        "All roles and databases that postgres has",
    )
    .answers(StatusCode::OK, "They are", json::<CatalogObjects>())
    .fails(
        StatusCode::INTERNAL_SERVER_ERROR,
        "Postgres cannot be asked",
    )
}

/// Shows verifiers of passwords, since control planes take roles over with them.
pub(super) async fn objects(State(routes): State<Routes>) -> Response {
    let admitted = match routes.gate.in_any_state().await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    let (roles, databases) = match objects::list(&admitted.target, LIMIT).await {
        Ok(listed) => listed,
        Err(error) => return failed(&error, None),
    };
    let role = |role: objects::RoleEntry| RoleEntry {
        name: role.name,
        encrypted_password: role.verifier.map(|verifier| verifier.reveal().to_owned()),
        options: None,
    };
    let database = |database: objects::DatabaseEntry| DatabaseEntry {
        name: database.name,
        owner: database.owner,
        options: None,
        restrict_conn: database.closed,
        invalid: database.invalid,
    };
    Json(CatalogObjects {
        roles: roles.into_iter().map(role).collect(),
        databases: databases.into_iter().map(database).collect(),
    })
    .into_response()
}

pub(super) fn insights_operation() -> Operation {
    Operation::new("getComputeInsights", "The slowest statements on average")
        .answers(
            StatusCode::OK,
            "JSON in a string, as upstream has it: {\"pg_stat_statements\": […]}",
            json::<String>(),
        )
        .fails(StatusCode::PRECONDITION_FAILED, "Not in this state")
        .fails(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Postgres cannot be asked",
        )
}

pub(super) async fn insights(State(routes): State<Routes>) -> Response {
    let admitted = match routes.gate.when_running("insights").await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    match statistics::slowest_statements(&admitted.target, LIMIT).await {
        Ok(rows) => {
            let rows = rows.join(",");
            Json(format!("{{\"pg_stat_statements\": [{rows}]}}")).into_response()
        }
        Err(error) => failed(&error, None),
    }
}

pub(super) fn writability_operation() -> Operation {
    Operation::new(
        "checkComputeWritability",
        "Writes a row, and waits for its commit",
    )
    .answers(
        StatusCode::OK,
        "It is written, or the tenant's disk is full",
        json::<bool>(),
    )
    .fails(StatusCode::PRECONDITION_FAILED, "Not in this state")
    .fails(StatusCode::INTERNAL_SERVER_ERROR, "It cannot be written")
}

pub(super) async fn writability(State(routes): State<Routes>) -> Response {
    let admitted = match routes.gate.when_running("a check of writability").await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    match health::write(&admitted.target, LIMIT).await {
        Ok(()) => Json(true).into_response(),
        // Whatever the reason: this is not writable.
        Err(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, &chain(&error)),
    }
}

pub(super) fn liveness_operation() -> Operation {
    Operation::new(
        "hadronLivenessProbe",
        "Whether postgres accepts connections",
    )
    .answers(StatusCode::OK, "It does", json::<String>())
    .fails(StatusCode::INTERNAL_SERVER_ERROR, "It does not")
}

/// Upstream runs `pg_isready`.
pub(super) async fn liveness(State(routes): State<Routes>) -> Response {
    let admitted = match routes.gate.in_any_state().await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    match health::accepts_connections(&admitted.target, LIMIT).await {
        Ok(()) => Json("ok").into_response(),
        Err(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, &chain(&error)),
    }
}
