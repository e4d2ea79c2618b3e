//! `GET /autoscaling_metrics`: hands through what postgres' communicator process tells
//! of the local file cache (`compute_tools/src/communicator_socket_client.rs`,
//! `pgxn/neon/communicator/src/worker_process/control_socket.rs`).

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Routes;
use crate::http::api::{Content, Operation};
use crate::http::respond;

/// Name of the socket in the data directory.
const SOCKET: &str = "neon-communicator.socket";

/// How long the communicator may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Most that is handed through: 65 series take a few kilobytes.
const MAX_BODY: usize = 1024 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn operation() -> Operation {
    Operation::new("getAutoscalingMetrics", "Metrics of the local file cache")
        .open()
        .answers(
            StatusCode::OK,
            "Prometheus text",
            Content::Text("application/text"),
        )
        .fails(
            StatusCode::NOT_IMPLEMENTED,
            "This postgres is not Neon's, and has no local file cache",
        )
        .fails(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Postgres cannot be asked",
        )
}

pub(super) async fn metrics(State(routes): State<Routes>) -> Response {
    let snapshot = routes.owner.snapshot();
    let flavor = snapshot
        .spec
        .as_ref()
        .map(|facts| facts.spec.postgres.flavor);
    if flavor == Some(crate::spec::Flavor::Vanilla) {
        return respond::error(
            StatusCode::NOT_IMPLEMENTED,
            "this postgres is not Neon's, and has no local file cache",
        );
    }
    let failed = |what: &str, error: &str| {
        respond::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("{what} communicator control socket: {error}"),
        )
    };
    let pgdata = routes.gate.local.pgdata.clone();
    let stream = match timeout(LIMIT, connect(pgdata)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed("connecting to", &error.to_string()),
        Err(_) => return failed("connecting to", "it takes too long"),
    };
    match timeout(LIMIT, ask(stream)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => failed("asking the", &error.to_string()),
        Err(_) => failed("asking the", &format!("no answer within {LIMIT:?}")),
    }
}

/// Connects by way of the directory's descriptor: the path of a socket has 107 bytes at
/// most (unix(7)), and the data directory's may be longer.
async fn connect(pgdata: PathBuf) -> std::io::Result<UnixStream> {
    let open = move || std::fs::File::open(pgdata);
    let directory = tokio::task::spawn_blocking(open).await??;
    let here = format!("/proc/self/fd/{}", directory.as_raw_fd());
    UnixStream::connect(Path::new(&here).join(SOCKET)).await
}

async fn ask(stream: UnixStream) -> Result<Response, Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/autoscaling_metrics").header(header::HOST, "localhost");
    let request = request.body(Empty::<Bytes>::new())?;
    // The sender goes with the exchange, and that ends the connection.
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
        Ok::<_, Failure>((parts, body))
    };
    let (answered, _) = tokio::join!(exchange, connection);
    let (parts, body) = answered?;
    let mut response = (parts.status, Body::from(body)).into_response();
    let plain = HeaderValue::from_static("application/text");
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .cloned()
        .unwrap_or(plain);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}
