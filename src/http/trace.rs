//! Makes each request a span, part of the trace that its `traceparent` tells.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, info_span};

use crate::telemetry::traces::Parent;

/// Wraps all routes of a server.
pub(super) fn layer(router: Router, server: &'static str) -> Router {
    router.layer(middleware::from_fn_with_state(server, traced))
}

async fn traced(State(server): State<&'static str>, request: Request, next: Next) -> Response {
    let span = span(server, &request);
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    Parent::from_carrier(header).adopt(&span);
    let answering = next.run(request).instrument(span.clone());
    let response = answering.await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// Named by OpenTelemetry's conventions for HTTP servers. No header and no query is in
/// it: they may hold credentials.
fn span(server: &'static str, request: &Request) -> Span {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str);
    let method = request.method().as_str();
    info_span!(
        "http_request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        server,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
    )
}
