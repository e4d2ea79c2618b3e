//! Every request to the API server ends within a limit.
//!
//! kube's client has no limit of its own for the answer to a plain request.

use std::future::Future;
use std::time::Duration;

use crate::api::failure::Failure;

/// Longest wait for the answer to a plain request.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Awaits a request for at most `limit`. Dropping the future drops the request.
pub async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::timeout(limit)),
    }
}
