//! Accepts connections within limits: how many at once, and how long a client may
//! take to send a request's head.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that are open at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 128;

/// How long a client may take to send the head of a request, or be idle between two.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long requests under way may take after the cancellation.
const GRACE: Duration = Duration::from_secs(2);

/// Pause after a failed accept: the process may have run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `cancel`; then answers what is under way and returns.
pub(super) async fn run(listener: TcpListener, router: Router, cancel: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = serve(stream, router.clone(), cancel.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = cancel.cancelled() => {}
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(GRACE, connections.wait()).await;
}

async fn serve(stream: TcpStream, router: Router, cancel: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection broke");
    }
}
