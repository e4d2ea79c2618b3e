//! `POST /configure`.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Routes;
use crate::http::control::{self, ConfigureError};
use crate::http::respond::{self, Status};
use crate::spec::ComputeSpec;

/// Reads a spec in Neon's JSON; the error is for the caller.
pub type ParseSpec = fn(&[u8]) -> Result<ComputeSpec, String>;

/// Largest body. Upstream's limit of 2 MiB is too small for some specs.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How long a client may take to send its body.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// How long applying a spec may take before the client is told to watch the status.
/// A start-up that waits for storage takes any time.
const LIMIT: Duration = Duration::from_mins(10);

/// `ConfigurationRequest` (`libs/compute_api/src/requests.rs`) without its
/// `compute_ctl_config`, which upstream requires and ignores: the keys in it count only
/// at the start of the process.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    spec: &'a RawValue,
}

/// Answers when the spec is in force, or says why it is not.
pub(super) async fn configure(State(routes): State<Routes>, request: Request) -> Response {
    let spec = match read_spec(routes.parse_spec, request).await {
        Ok(spec) => spec,
        Err(response) => return response,
    };
    let configure = |reply| control::Request::Configure { spec, reply };
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

async fn read_spec(parse: ParseSpec, request: Request) -> Result<Box<ComputeSpec>, Response> {
    if !is_json(request.headers()) {
        return Err(respond::error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "expected request with `content-type: application/json`",
        ));
    }
    let body = read_body(request).await?;
    let envelope: Envelope<'_> = serde_json::from_slice(&body).map_err(|e| malformed(&e))?;
    let spec = parse(envelope.spec.get().as_bytes());
    spec.map(Box::new)
        .map_err(|problem| respond::error(StatusCode::BAD_REQUEST, &problem))
}

async fn read_body(mut request: Request) -> Result<Bytes, Response> {
    DefaultBodyLimit::max(MAX_BODY).apply(&mut request);
    match timeout(BODY_LIMIT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) => Err(respond::error(
            rejection.status(),
            &rejection.body_text().to_lowercase(),
        )),
        Err(_) => Err(respond::error(
            StatusCode::REQUEST_TIMEOUT,
            &format!("the request body did not arrive within {BODY_LIMIT:?}"),
        )),
    }
}

/// Upstream tells text that is not JSON from JSON that does not fit.
fn malformed(error: &serde_json::Error) -> Response {
    let (status, what) = match error.classify() {
        Category::Data => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "failed to deserialize the json body into the target type",
        ),
        Category::Syntax | Category::Eof | Category::Io => (
            StatusCode::BAD_REQUEST,
            "failed to parse the request body as json",
        ),
    };
    let text = error.to_string().to_lowercase();
    respond::error(status, &format!("{what}: {text}"))
}

/// `application/json`, or a type with the suffix `+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let Some(value) = value.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_media_type() {
        let is_json = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            is_json(&headers)
        };
        assert!(is_json("application/json"));
        assert!(is_json("Application/JSON; charset=utf-8"));
        assert!(is_json("application/problem+json"));
        assert!(!is_json("text/json"));
        assert!(!is_json("application/jsonp"));
    }
}
