//! Reads JSON bodies, and refuses the others with upstream's codes and words
//! (`compute_tools/src/http/extract/json.rs`).

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::time::timeout;

use super::respond;

/// How long a client may take to send its body.
const LIMIT: Duration = Duration::from_secs(30);

/// A body that was JSON of the wanted form. How large it may be says the route.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        if !is_json(request.headers()) {
            return Err(respond::error(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "expected request with `content-type: application/json`",
            ));
        }
        let body = read(request).await?;
        let mut deserializer = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            malformed(&path, error.inner())
        })?;
        deserializer.end().map_err(|error| malformed(".", &error))?;
        Ok(Self(value))
    }
}

async fn read(request: Request) -> Result<Bytes, Response> {
    match timeout(LIMIT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) => Err(respond::error(
            rejection.status(),
            &rejection.body_text().to_lowercase(),
        )),
        Err(_) => Err(respond::error(
            StatusCode::REQUEST_TIMEOUT,
            &format!("the request body did not arrive within {LIMIT:?}"),
        )),
    }
}

/// Upstream tells text that is not JSON from JSON that does not fit.
fn malformed(path: &str, error: &serde_json::Error) -> Response {
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
    let place = match path {
        "." | "?" => String::new(),
        path => format!("{path}: "),
    };
    respond::error(status, &format!("{what}: {place}{error}").to_lowercase())
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
