//! What a failed request to the API server means, and how people read it. Pure.
//!
//! kube's own errors print a `Debug` dump of the server's answer and some print
//! their source; [`Failure`] keeps the text and the class.

use std::time::Duration;

use crate::error::{Category, Retry, chain};

/// Class of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// 404: the object, or its whole kind, does not exist.
    NotFound,
    /// 401 or 403: the credentials do not suffice.
    Forbidden,
    /// 409: someone else changed the object, or it is another one by the same name.
    Conflict,
    /// 400 or 422: the server does not accept the object.
    Invalid,
    /// 410: a watch is too old to be continued.
    Expired,
    /// 429: come back later.
    TooManyRequests,
    /// No answer within the limit.
    Timeout,
    /// No connection.
    Unreachable,
    /// Anything else, 5xx for the most part.
    ServerError,
}

impl FailureKind {
    /// The class of an HTTP status code.
    pub const fn of_code(code: u16) -> Self {
        match code {
            404 => Self::NotFound,
            401 | 403 => Self::Forbidden,
            409 => Self::Conflict,
            400 | 422 => Self::Invalid,
            410 => Self::Expired,
            429 => Self::TooManyRequests,
            _ => Self::ServerError,
        }
    }

    /// Label of a metric: snake_case.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::TooManyRequests => "too_many_requests",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::ServerError => "server_error",
        }
    }

    /// Whether the server answered at all.
    pub const fn is_answer(self) -> bool {
        !matches!(self, Self::Timeout | Self::Unreachable)
    }
}

/// A failed request to the API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Its class.
    pub kind: FailureKind,
    /// What the server said, or why there was no answer.
    pub text: String,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// No answer within `limit`.
    pub fn timeout(limit: Duration) -> Self {
        Self {
            kind: FailureKind::Timeout,
            text: format!("the API server did not answer within {limit:?}"),
            retry_after: None,
        }
    }
}

impl From<kube::core::Status> for Failure {
    fn from(status: kube::core::Status) -> Self {
        let retry_after = status
            .details
            .as_ref()
            .map(|details| details.retry_after_seconds)
            .filter(|seconds| *seconds > 0);
        let text = if status.message.is_empty() {
            format!("the API server answered {} {}", status.code, status.reason)
        } else {
            status.message
        };
        Self {
            kind: FailureKind::of_code(status.code),
            text: text.trim_end().to_owned(),
            retry_after: retry_after.map(|seconds| Duration::from_secs(seconds.into())),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => (*status).into(),
            kube::Error::SerdeError(cause) => Self {
                kind: FailureKind::Invalid,
                text: format!("the API server's answer does not parse: {cause}"),
                retry_after: None,
            },
            other => Self {
                kind: FailureKind::Unreachable,
                text: chain(&other),
                retry_after: None,
            },
        }
    }
}

impl From<kube::runtime::watcher::Error> for Failure {
    fn from(error: kube::runtime::watcher::Error) -> Self {
        use kube::runtime::watcher::Error;
        match error {
            Error::InitialListFailed(cause)
            | Error::WatchStartFailed(cause)
            | Error::WatchFailed(cause) => cause.into(),
            Error::WatchError(status) => (*status).into(),
            Error::NoResourceVersion => Self {
                kind: FailureKind::ServerError,
                text: error.to_string(),
                retry_after: None,
            },
        }
    }
}

impl Category for Failure {
    fn category(&self) -> &'static str {
        match self.kind {
            FailureKind::NotFound => "NotFound",
            FailureKind::Forbidden => "Forbidden",
            FailureKind::Conflict => "Conflict",
            FailureKind::Invalid => "Invalid",
            FailureKind::Expired => "Expired",
            FailureKind::TooManyRequests => "TooManyRequests",
            FailureKind::Timeout => "Timeout",
            FailureKind::Unreachable => "Unreachable",
            FailureKind::ServerError => "ServerError",
        }
    }

    fn retry(&self) -> Retry {
        match (self.kind, self.retry_after) {
            (FailureKind::Conflict | FailureKind::Invalid, _) => Retry::Never,
            (_, Some(wait)) => Retry::After(wait),
            (_, None) => Retry::Backoff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_message_is_the_text_and_its_wait_is_kept() {
        let answer = r#"{"kind":"Status","status":"Failure","message":"too many requests, please try again later",
            "reason":"TooManyRequests","code":429,"details":{"retryAfterSeconds":60}}"#;
        let status: kube::core::Status = serde_json::from_str(answer).unwrap();
        let failure = Failure::from(kube::Error::Api(Box::new(status)));
        assert_eq!(
            failure.to_string(),
            "too many requests, please try again later"
        );
        assert_eq!(failure.retry(), Retry::After(Duration::from_mins(1)));
        assert_eq!(failure.kind.label(), "too_many_requests");
    }

    #[test]
    fn another_object_by_the_same_name_is_not_worth_a_blind_retry() {
        for code in [409, 422] {
            let failure = Failure {
                kind: FailureKind::of_code(code),
                text: String::new(),
                retry_after: None,
            };
            assert_eq!(failure.retry(), Retry::Never);
        }
    }

    #[test]
    fn a_missing_answer_is_told_apart_from_a_bad_one() {
        assert!(!Failure::timeout(Duration::from_secs(5)).kind.is_answer());
        assert!(FailureKind::of_code(500).is_answer());
    }
}
