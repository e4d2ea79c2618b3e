//! What every request of every server goes through: a request id, the access log,
//! metrics, and an answer even if the handler panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use futures::FutureExt as _;
use tokio::sync::Semaphore;

use super::api::Answers;
use super::respond;
use crate::telemetry::metrics::Metrics;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Clone)]
struct Observed {
    server: &'static str,
    metrics: Arc<Metrics>,
    /// As many requests as may be under way at once.
    turns: Arc<Semaphore>,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests check what is answered"))]
    answers: Arc<Answers>,
}

/// Wraps all routes of a server, its 404 and 405 too. At most `at_once` requests are
/// under way; `answers` are those that the server's document tells of.
pub(super) fn layer(
    router: Router,
    server: &'static str,
    metrics: Arc<Metrics>,
    at_once: usize,
    answers: Answers,
) -> Router {
    let observed = Observed {
        server,
        metrics,
        turns: Arc::new(Semaphore::new(at_once)),
        answers: Arc::new(answers),
    };
    router.layer(middleware::from_fn_with_state(observed, observe))
}

async fn observe(State(observed): State<Observed>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request.headers().get(REQUEST_ID).cloned();
    let id = id.unwrap_or_else(new_request_id);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // The pattern of the route, so that clients cannot make up label values.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_owned();

    let mut response = match observed.turns.try_acquire() {
        // The panic hook has logged a panic.
        Ok(_turn) => {
            let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            answered.unwrap_or_else(|_| {
                respond::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the request handler failed",
                )
            })
        }
        Err(_) => respond::busy("too many requests are under way"),
    };
    #[cfg(test)]
    assert!(
        observed.answers.allow(&route, &method, response.status()),
        "{method} {route} answered {}, of which its document does not tell",
        response.status()
    );
    if !response.headers().contains_key(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }

    let code = response.status().as_u16();
    let server = observed.server;
    let elapsed = started.elapsed();
    let metrics = &observed.metrics;
    metrics
        .http_requests
        .with_label_values(&[server, &route, response.status().as_str()])
        .inc();
    metrics
        .http_request_seconds
        .with_label_values(&[server, &route])
        .observe(elapsed.as_secs_f64());
    let ms = elapsed.as_millis() as u64;
    // Polling is no news.
    if method == Method::GET || method == Method::HEAD {
        tracing::debug!(server, %method, path, code, ms, request_id = ?id, "answered");
    } else {
        tracing::info!(server, %method, path, code, ms, request_id = ?id, "answered");
    }
    response
}

/// A random UUID, version 4 (RFC 9562).
fn new_request_id() -> HeaderValue {
    let random: u128 = rand::random();
    let hex = format!(
        "{:032x}",
        random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
    );
    let uuid = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-");
    // Hexadecimal digits and hyphens are a valid header value; were they not, an
    // empty id would do.
    HeaderValue::from_str(&uuid).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_random_uuid() {
        let id = new_request_id();
        let text = id.to_str().unwrap();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
        assert_ne!(id, new_request_id());
    }
}
