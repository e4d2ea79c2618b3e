//! `POST /grants`: privileges on a schema (`compute_tools/src/http/routes/grants.rs`).

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Internal;
use crate::catalog::visit::grants;
use crate::http::api::{Api, Operation, json};
use crate::http::body;
use crate::http::postgres::{LIMIT, failed};

/// `SetRoleGrantsRequest`, and `SetRoleGrantsResponse`, which repeats it
/// (`libs/compute_api/src/requests.rs`, `responses.rs`).
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SetRoleGrantsRequest")]
struct Grants {
    database: String,
    schema: String,
    privileges: Vec<Privilege>,
    role: String,
}

/// `Privilege` (`libs/compute_api/src/privilege.rs`). Postgres itself has only `USAGE`
/// and `CREATE` for schemas, and says so.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum Privilege {
    Select,
    Insert,
    Update,
    Delete,
    Truncate,
    References,
    Trigger,
    Usage,
    Create,
    Connect,
    Temporary,
    Execute,
}

impl Privilege {
    const fn sql(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
            Self::References => "REFERENCES",
            Self::Trigger => "TRIGGER",
            Self::Usage => "USAGE",
            Self::Create => "CREATE",
            Self::Connect => "CONNECT",
            Self::Temporary => "TEMPORARY",
            Self::Execute => "EXECUTE",
        }
    }
}

pub(super) fn routes(api: Api<Internal>) -> Api<Internal> {
    let operation = Operation::new("setRoleGrants", "Make a role have privileges on a schema")
        .body::<Grants>(64 * 1024)
        .answers(StatusCode::CREATED, "It has them", json::<Grants>())
        .fails(StatusCode::NOT_FOUND, "There is no such database")
        .fails(StatusCode::PRECONDITION_FAILED, "Not in this state")
        .fails(
            StatusCode::INTERNAL_SERVER_ERROR,
            "They could not be granted",
        );
    api.route("/grants", &Method::POST, post(grant), &operation)
}

async fn grant(
    State(internal): State<Internal>,
    body::Json(wanted): body::Json<Grants>,
) -> Response {
    let admitted = match internal.gate.when_running("a grant").await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    let privileges: Vec<_> = wanted.privileges.iter().map(|one| one.sql()).collect();
    let Grants {
        database,
        schema,
        role,
        ..
    } = &wanted;
    let granted =
        grants::on_schema(&admitted.target, database, schema, role, &privileges, LIMIT).await;
    match granted {
        Ok(()) => (StatusCode::CREATED, Json(wanted)).into_response(),
        Err(error) => failed(
            &error,
            Some("failed to grant role privileges to the schema"),
        ),
    }
}
