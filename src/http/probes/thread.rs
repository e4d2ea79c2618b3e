//! A thread with a runtime of its own, so that the probes wait for nothing else.

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::http::Error;
use crate::http::listener::{self, Limits};

/// The probes need no deep stack.
const STACK_BYTES: usize = 256 * 1024;

/// Serves on a new thread until `cancel`. The future ends when the thread has.
pub(in crate::http) fn run(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    cancel: CancellationToken,
) -> Result<impl Future<Output = ()>, Error> {
    let listener = listener.into_std().map_err(Error::Thread)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Thread)?;
    let (ended, end) = oneshot::channel::<()>();
    let serve = move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => listener::run(listener, router, limits, cancel).await,
                Err(error) => tracing::error!(%error, "the probes cannot be served"),
            }
        });
        drop(ended);
    };
    std::thread::Builder::new()
        .name("probes".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(serve)
        .map_err(Error::Thread)?;
    Ok(async {
        // Nothing is sent: the thread drops its end.
        let _ = end.await;
    })
}
