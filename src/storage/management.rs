//! What the management APIs of the nodes have in common: errors as JSON, and the
//! token that clients bear.
//!
//! Texts: `libs/http-utils/src/error.rs` and `auth.rs` of Neon.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::secret::Secret;

/// An answer that is an error: a status and a text.
#[derive(Debug)]
pub(in crate::storage) struct ApiError(
    pub(in crate::storage) StatusCode,
    pub(in crate::storage) String,
);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"msg": self.1}))).into_response()
    }
}

impl ApiError {
    pub(in crate::storage) fn not_found(what: impl std::fmt::Display) -> Self {
        Self(StatusCode::NOT_FOUND, format!("NotFound: {what}"))
    }

    /// Upstream shows the debug form of these texts.
    pub(in crate::storage) fn bad_request(text: &str) -> Self {
        Self(StatusCode::BAD_REQUEST, format!("{text:?}"))
    }
}

/// The body of a request, as JSON. Unlike axum's extractor it asks for no content
/// type, and words its refusal as upstream does.
pub(in crate::storage) struct Body<T>(pub(in crate::storage) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| ApiError::bad_request(&rejection.body_text()))?;
        let parsed = serde_json::from_slice(&bytes).map(Self);
        parsed.map_err(|error| {
            ApiError::bad_request(&format!("Failed to parse json request: {error}"))
        })
    }
}

/// Refuses a request that does not bear the token.
pub(in crate::storage) fn check_token(
    token: Option<&Secret>,
    request: &Request,
) -> Result<(), ApiError> {
    let Some(token) = token else {
        return Ok(());
    };
    let Some(given) = request.headers().get(header::AUTHORIZATION) else {
        let text = "Unauthorized: missing authorization header".to_owned();
        return Err(ApiError(StatusCode::UNAUTHORIZED, text));
    };
    if given.as_bytes() == format!("Bearer {}", token.reveal()).as_bytes() {
        Ok(())
    } else {
        let text = "Forbidden: JWT authentication error".to_owned();
        Err(ApiError(StatusCode::FORBIDDEN, text))
    }
}
