//! `POST /configure`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Routes;
use crate::http::api::{self, Operation};
use crate::http::body;
use crate::http::control::{self, ConfigureError};
use crate::http::respond::{self, Status};
use crate::spec::ComputeSpec;
use crate::telemetry::traces::Parent;

/// Reads a spec in Neon's JSON; the error is for the caller.
pub type ParseSpec = fn(&[u8]) -> Result<ComputeSpec, String>;

/// Largest body. Upstream's limit of 2 MiB is too small for some specs.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How long applying a spec may take before the client is told to watch the status.
/// A start-up that waits for storage takes any time.
const LIMIT: Duration = Duration::from_mins(10);

/// `ConfigurationRequest` (`libs/compute_api/src/requests.rs`).
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConfigurationRequest")]
pub(super) struct Envelope {
    /// A compute specification in Neon's JSON.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    spec: Box<RawValue>,
    /// Upstream requires it and does not look at it, and so it is here: keys count where
    /// they come from a source, not where a bearer of a token brings them.
    #[serde(default, rename = "compute_ctl_config")]
    #[schemars(with = "Option<serde_json::Value>")]
    _settings: serde::de::IgnoredAny,
}

pub(super) fn operation() -> Operation {
    Operation::new(
        "configureCompute",
        "Use this spec; answers when it is in force",
    )
    .within(LIMIT + Duration::from_secs(40))
    .body::<Envelope>(MAX_BODY)
    .answers(
        StatusCode::OK,
        "The spec is in force",
        api::json::<Status>(),
    )
    .fails(StatusCode::PRECONDITION_FAILED, "Not in this state")
    .fails(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The spec could not be applied; the body says why",
    )
}

/// Answers when the spec is in force, or says why it is not.
pub(super) async fn configure(
    State(routes): State<Routes>,
    body::Json(envelope): body::Json<Envelope>,
) -> Response {
    let spec = match (routes.parse_spec)(envelope.spec.get().as_bytes()) {
        Ok(spec) => Box::new(spec),
        Err(problem) => return respond::error(StatusCode::BAD_REQUEST, &problem),
    };
    let trace = Parent::current();
    let configure = |reply| control::Request::Configure { spec, trace, reply };
    match routes.owner.ask(configure, LIMIT).await {
        Ok(Ok(snapshot)) => Json(Status::of(&snapshot)).into_response(),
        Ok(Err(ConfigureError::Refused(refusal))) => respond::refused(&refusal),
        Ok(Err(ConfigureError::Invalid(problem))) => {
            respond::error(StatusCode::BAD_REQUEST, &problem)
        }
        Ok(Err(ConfigureError::Failed(cause))) => respond::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("compute configuration failed: {cause:?}"),
        ),
        Err(unanswered) => unanswered.into_response(),
    }
}
