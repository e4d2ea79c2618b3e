//! One request for a compute's spec, and which answers are worth another.

use std::time::Duration;

use prometheus::IntCounterVec;
use reqwest::{Response, StatusCode, header};
use url::Url;

use crate::error::{Category, Retry, truncate};
use crate::secret::Secret;

/// Limit of one request, as of upstream's client.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer; that of a spec in `POST /configure`.
const MAX_BYTES: usize = 16 << 20;
/// What is shown of an error's body, in bytes.
const SHOWN_BODY: usize = 256;
/// The label `rpc` of the counter.
const RPC: &str = "GetConfig";

/// Where to ask for the spec of one compute, and with what.
#[derive(Clone)]
pub struct ControlPlane {
    http: reqwest::Client,
    address: Url,
    token: Option<Secret>,
    requests: IntCounterVec,
}

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base URL cannot be used.
    #[error("the control plane's URL cannot be used: give one like http://control-plane.neon:3000")]
    Address(#[source] Option<url::ParseError>),
    /// No connection, or it broke.
    #[error("{address} does not answer")]
    Transport {
        /// The URL, without credentials.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The credentials are missing or refused.
    #[error(
        "{address} answers {status}: give the control plane's token in NEON_CONTROL_PLANE_TOKEN"
    )]
    Unauthorized {
        /// The URL, without credentials.
        address: String,
        /// 401 or 403.
        status: StatusCode,
    },
    /// Another status than 200.
    #[error("{address} answers {status}: {body}")]
    Status {
        /// The URL, without credentials.
        address: String,
        /// The status.
        status: StatusCode,
        /// What `Retry-After` says.
        after: Option<Duration>,
        /// The start of the answer.
        body: String,
    },
    /// 200, and no JSON: something else than a control plane, or half an answer.
    #[error("{address} answers something that is not JSON")]
    NotJson {
        /// The URL, without credentials.
        address: String,
        /// Where it stops being JSON.
        #[source]
        source: serde_json::Error,
    },
    /// The answer does not end.
    #[error("{address} answers more than {MAX_BYTES} bytes")]
    TooLong {
        /// The URL, without credentials.
        address: String,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Address(_) => "InvalidAddress",
            Self::Transport { .. } => "Unreachable",
            Self::Unauthorized { .. } => "AuthFailed",
            Self::Status { .. } => "Refused",
            Self::NotJson { .. } | Self::TooLong { .. } => "InvalidAnswer",
        }
    }

    /// As upstream: what a proxy says of a control plane that restarts passes, what the
    /// control plane says of this compute does not.
    fn retry(&self) -> Retry {
        match self {
            Self::Transport { .. } | Self::NotJson { .. } => Retry::Backoff,
            Self::Status { status, after, .. } => match (*status, after) {
                (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(after)) => {
                    Retry::After(*after)
                }
                (
                    StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT,
                    _,
                ) => Retry::Backoff,
                _ => Retry::Never,
            },
            Self::Address(_) | Self::Unauthorized { .. } | Self::TooLong { .. } => Retry::Never,
        }
    }
}

impl ControlPlane {
    /// The spec of `compute_id` at `GET {base}/compute/api/v2/computes/{id}/spec`. Each
    /// request is counted in `requests` by `rpc` and `http_status`.
    ///
    /// # Errors
    ///
    /// [`Error::Address`]: the base is no URL of HTTP.
    pub fn new(
        http: reqwest::Client,
        base: &str,
        compute_id: &str,
        token: Option<Secret>,
        requests: IntCounterVec,
    ) -> Result<Self, Error> {
        let mut address = Url::parse(base).map_err(|error| Error::Address(Some(error)))?;
        if !matches!(address.scheme(), "http" | "https") {
            return Err(Error::Address(None));
        }
        address
            .path_segments_mut()
            .map_err(|()| Error::Address(None))?
            .pop_if_empty()
            .extend(["compute", "api", "v2", "computes", compute_id, "spec"]);
        Ok(Self {
            http,
            address,
            token,
            requests,
        })
    }

    /// For people: where the spec comes from, without credentials.
    pub fn origin(&self) -> String {
        format!("control plane {}", self.shown())
    }

    fn shown(&self) -> String {
        let mut shown = self.address.clone();
        // They cannot be set on URLs without a host, which have none.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.set_query(None);
        shown.to_string()
    }

    /// Asks once; the answer is JSON.
    pub(super) async fn ask(&self) -> Result<String, Error> {
        let mut request = self.http.get(self.address.clone()).timeout(LIMIT);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let response = request.send().await.map_err(|error| {
            self.count("unknown");
            self.transport(error)
        })?;
        let status = response.status();
        // Upstream's label is the status as it is displayed: code and reason.
        self.count(&status.to_string());
        if status != StatusCode::OK {
            return Err(self.refused(status, response).await);
        }
        let body = self.body(response).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            Ok(_) => Ok(text),
            Err(source) => Err(Error::NotJson {
                address: self.shown(),
                source,
            }),
        }
    }

    fn count(&self, status: &str) {
        self.requests.with_label_values(&[RPC, status]).inc();
    }

    fn transport(&self, source: reqwest::Error) -> Error {
        Error::Transport {
            address: self.shown(),
            source: source.without_url(),
        }
    }

    async fn refused(&self, status: StatusCode, response: Response) -> Error {
        let address = self.shown();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Error::Unauthorized { address, status };
        }
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        // What it says is for people; a broken one does not change what to do.
        let body = self.body(response).await.unwrap_or_default();
        let mut body = String::from_utf8_lossy(&body).into_owned();
        // Some servers show what they were sent.
        if let Some(token) = &self.token {
            body = body.replace(token.reveal(), "(token)");
        }
        Error::Status {
            address,
            status,
            after: after.map(Duration::from_secs),
            body: truncate(body.trim(), SHOWN_BODY),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.transport(error))?
        {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(Error::TooLong {
                    address: self.shown(),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
