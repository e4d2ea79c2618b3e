//! Sends exported spans by the HTTP client that the rest of the program uses.
//!
//! The exporter runs on a thread of its own, outside of the runtime; the request runs
//! inside.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use opentelemetry_http::{HttpError, Request, Response};
use tokio::runtime::Handle;

/// The client, and the runtime that it works in.
pub(super) struct HttpClient {
    client: reqwest::Client,
    runtime: Handle,
}

impl HttpClient {
    /// Works in the current runtime.
    pub(super) fn new() -> Self {
        Self {
            client: reqwest::Client::new(),
            runtime: Handle::current(),
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

async fn send(
    client: reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let answer = client.execute(request.try_into()?).await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    Ok(response.body(answer.bytes().await?)?)
}

impl opentelemetry_http::HttpClient for HttpClient {
    fn send_bytes<'life, 'answer>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'life: 'answer,
        Self: 'answer,
    {
        // The exporter waits for it, and has a deadline of its own.
        let sent = self.runtime.spawn(send(self.client.clone(), request));
        Box::pin(async { sent.await? })
    }
}
