//! Serves a router on a listener, one task per connection, until cancelled: then at
//! once, as a node that is gone.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// How long a client may take to send a request's head.
const HEADER_LIMIT: Duration = Duration::from_secs(30);

/// Pause after a connection could not be accepted: file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until cancelled. Connections are tasks of `tasks`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let accepting = accept_all(listener, |stream| {
        let connection = connection(stream, router.clone());
        let cancel = cancel.clone();
        tasks.spawn(async move { cancel.run_until_cancelled(connection).await });
    });
    cancel.run_until_cancelled(accepting).await;
}

/// Hands every connection to `take`, for ever.
pub(super) async fn accept_all(listener: TcpListener, mut take: impl FnMut(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => take(stream),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// As [`serve`], on HTTP/2 alone, as gRPC speaks it.
pub(super) async fn serve_http2(
    listener: TcpListener,
    router: Router,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let accepting = accept_all(listener, |stream| {
        let connection = http2_connection(stream, router.clone());
        let cancel = cancel.clone();
        tasks.spawn(async move { cancel.run_until_cancelled(connection).await });
    });
    cancel.run_until_cancelled(accepting).await;
}

async fn http2_connection(stream: TcpStream, router: Router) {
    // Its streams end with the connection.
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%error, "an HTTP/2 connection broke");
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%error, "an HTTP connection broke");
    }
}
