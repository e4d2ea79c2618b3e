//! `POST /terminate[?mode=fast|immediate]`.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;

use super::Routes;
use crate::http::api::{self, Content, Operation};
use crate::http::control::{Request, TerminateMode, TerminateOutcome};
use crate::http::respond::{self, Terminated};

/// Longer than any budget for stopping.
const LIMIT: Duration = Duration::from_mins(10);

#[derive(Deserialize)]
struct Parameters {
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    Immediate,
}

pub(super) fn operation() -> Operation {
    let modes = json!({"type": "string", "enum": ["fast", "immediate"]});
    let about = "fast, the default, answers status for 30 s more; immediate ends at once";
    Operation::new(
        "terminate",
        "Stop postgres and end; answers when postgres has stopped",
    )
    .within(LIMIT + Duration::from_secs(10))
    .query("mode", false, modes, about)
    .answers(
        StatusCode::OK,
        "Postgres has stopped",
        api::json::<Terminated>(),
    )
    .answers(
        StatusCode::CREATED,
        "It had stopped before",
        api::json::<Terminated>(),
    )
    .answers(
        StatusCode::BAD_REQUEST,
        "The query is not usable",
        Content::Text("text/plain"),
    )
    .fails(StatusCode::PRECONDITION_FAILED, "Not in this state")
}

/// Answers when postgres has stopped: 200 with the commit LSN, or 201 if it had
/// stopped before.
pub(super) async fn terminate(State(routes): State<Routes>, uri: Uri) -> Response {
    let mode = match uri.query() {
        None => TerminateMode::Fast,
        Some(_) => match Query::<Parameters>::try_from_uri(&uri) {
            Ok(Query(Parameters { mode: Mode::Fast })) => TerminateMode::Fast,
            Ok(Query(Parameters {
                mode: Mode::Immediate,
            })) => TerminateMode::Immediate,
            Err(rejection) => return rejection.into_response(),
        },
    };
    let terminate = |reply| Request::Terminate { mode, reply };
    match routes.owner.ask(terminate, LIMIT).await {
        Ok(Ok(TerminateOutcome { lsn, already })) => {
            let code = if already {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            (code, Json(Terminated::at(lsn))).into_response()
        }
        Ok(Err(refusal)) => respond::refused(&refusal),
        Err(unanswered) => unanswered.into_response(),
    }
}
