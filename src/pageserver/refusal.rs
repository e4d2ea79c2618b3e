//! Decides what a pageserver's refusal of a command means, and whether asking again
//! may help.
//!
//! In the simple query protocol most errors share SQLSTATE XX000, so that their
//! text decides (`pageserver/src/page_service.rs` of Neon, `QueryError` and
//! `PageStreamError`).

use std::fmt;

use crate::error::Retry;
use crate::pgwire::ServerError;

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The pageserver does not have the tenant's shard, or not the timeline: it does
    /// not say which.
    NotFound,
    /// The tenant is here, the timeline is not.
    TimelineNotFound,
    /// The timeline is archived.
    TimelineArchived,
    /// The token is missing, wrong, expired, or of another tenant.
    Unauthorized,
    /// It takes encrypted connections only.
    TlsRequired,
    /// The LSN is older than what is kept.
    LsnCollected,
    /// WAL up to the LSN did not arrive in time.
    LsnNotReached,
    /// The pageserver is shutting down, or wants the client to connect anew.
    GoingAway,
    /// Anything else.
    Other,
}

impl Refusal {
    /// Reads an ErrorResponse.
    pub fn of(error: &ServerError) -> Self {
        let says = |text: &str| error.message.contains(text);
        match error.code.as_str() {
            _ if error.demands_tls() => Self::TlsRequired,
            "57P01" | "08006" => Self::GoingAway,
            code if code.starts_with("28") => Self::Unauthorized,
            _ if says("JWT authentication error") || says("Unauthorized") => Self::Unauthorized,
            _ if says("timeline is archived") => Self::TimelineArchived,
            _ if says("Not found: Timeline") => Self::TimelineNotFound,
            _ if says("not found") || says("Not found") => Self::NotFound,
            _ if says("earlier than latest GC cutoff") || says("invalid basebackup lsn") => {
                Self::LsnCollected
            }
            _ if says("Timed out while waiting for WAL record") => Self::LsnNotReached,
            _ => Self::Other,
        }
    }

    /// Reads a status of gRPC.
    pub fn of_status(code: tonic::Code, message: &str) -> Self {
        use tonic::Code;
        let says = |text: &str| message.contains(text);
        match code {
            Code::Unauthenticated | Code::PermissionDenied => Self::Unauthorized,
            Code::InvalidArgument if says("invalid JWT token") => Self::Unauthorized,
            Code::InvalidArgument if says("invalid basebackup LSN") => Self::LsnCollected,
            Code::FailedPrecondition if says("timeline is archived") => Self::TimelineArchived,
            Code::NotFound if message.starts_with("Timeline ") => Self::TimelineNotFound,
            Code::NotFound => Self::NotFound,
            Code::Unavailable => Self::GoingAway,
            _ if says("Timed out while waiting for WAL record") => Self::LsnNotReached,
            _ => Self::Other,
        }
    }

    /// Whether something was not found.
    pub(super) const fn is_missing(self) -> bool {
        matches!(
            self,
            Self::NotFound | Self::TimelineNotFound | Self::TimelineArchived
        )
    }

    pub(super) const fn category(self) -> &'static str {
        match self {
            Self::NotFound => "Misrouted",
            Self::TimelineNotFound => "TimelineNotFound",
            Self::TimelineArchived => "TimelineArchived",
            Self::Unauthorized => "AuthFailed",
            Self::TlsRequired => "TlsFailed",
            Self::LsnCollected => "LsnCollected",
            Self::LsnNotReached => "LsnNotReached",
            Self::GoingAway => "ShuttingDown",
            Self::Other => "ServerError",
        }
    }

    pub(super) const fn retry(self) -> Retry {
        match self {
            Self::TimelineNotFound
            | Self::TimelineArchived
            | Self::Unauthorized
            | Self::TlsRequired
            | Self::LsnCollected => Retry::Never,
            // A shard that moves is found where it moved to, once the location is
            // asked for again.
            Self::NotFound | Self::LsnNotReached | Self::GoingAway | Self::Other => Retry::Backoff,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "the tenant's shard or the timeline is not there",
            Self::TimelineNotFound => "there is no such timeline",
            Self::TimelineArchived => "the timeline is archived: unarchive it first",
            Self::Unauthorized => "the storage token does not allow it",
            Self::TlsRequired => "it takes TLS only: set the spec's storage.tls",
            Self::LsnCollected => "the LSN is older than what storage keeps",
            Self::LsnNotReached => "the write-ahead log up to the LSN did not arrive there",
            Self::GoingAway => "it is shutting down or closing connections",
            Self::Other => "it failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str, message: &str) -> Refusal {
        Refusal::of(&ServerError {
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            ..ServerError::default()
        })
    }

    #[test]
    fn answers_of_a_real_pageserver_are_told_apart() {
        for (code, message, expected) in [
            ("XX000", "not found", Refusal::NotFound),
            (
                "XX000",
                "Not found: Tenant cccc not found",
                Refusal::NotFound,
            ),
            (
                "XX000",
                "Not found: Timeline a1a1/cccc was not found",
                Refusal::TimelineNotFound,
            ),
            (
                "XX000",
                "Not found: timeline is archived",
                Refusal::TimelineArchived,
            ),
            ("XX000", "JWT authentication error", Refusal::Unauthorized),
            (
                "XX000",
                "Unauthorized: Tenant id mismatch. Permission denied",
                Refusal::Unauthorized,
            ),
            (
                "XX000",
                "invalid basebackup lsn: LSN 0/10 is earlier than latest GC cutoff 0/1511A88 \
                 (we might've already garbage collected needed data)",
                Refusal::LsnCollected,
            ),
            (
                "XX000",
                "Timed out while waiting for WAL record at LSN 0/9 to arrive, …",
                Refusal::LsnNotReached,
            ),
            ("XX000", "must connect with TLS", Refusal::TlsRequired),
            ("57P01", "shutdown", Refusal::GoingAway),
            ("08006", "reconnect", Refusal::GoingAway),
            (
                "28P01",
                "password authentication failed",
                Refusal::Unauthorized,
            ),
            (
                "XX000",
                "spcnode != DEFAULTTABLESPACE_OID, spcnode=16400",
                Refusal::Other,
            ),
        ] {
            assert_eq!(refusal(code, message), expected, "{message}");
        }
    }

    #[test]
    fn statuses_of_a_real_pageserver_are_told_apart() {
        use tonic::Code;
        for (code, message, expected) in [
            (
                Code::NotFound,
                "Tenant cccccccccccccccccccccccccccccccc not found",
                Refusal::NotFound,
            ),
            (
                Code::NotFound,
                "Timeline a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5-0001/cccc was not found",
                Refusal::TimelineNotFound,
            ),
            (
                Code::InvalidArgument,
                "invalid basebackup LSN: LSN 0/10 is earlier than latest GC cutoff 0/1511A88",
                Refusal::LsnCollected,
            ),
            (
                Code::InvalidArgument,
                "request only valid on shard zero (requested shard 0104)",
                Refusal::Other,
            ),
            (
                Code::InvalidArgument,
                "invalid JWT token: InvalidSignature",
                Refusal::Unauthorized,
            ),
            (Code::Unauthenticated, "", Refusal::Unauthorized),
            (Code::PermissionDenied, "", Refusal::Unauthorized),
            (
                Code::FailedPrecondition,
                "timeline is archived",
                Refusal::TimelineArchived,
            ),
        ] {
            assert_eq!(Refusal::of_status(code, message), expected, "{message}");
        }
    }

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        assert_eq!(Refusal::GoingAway.retry(), Retry::Backoff);
        assert_eq!(Refusal::NotFound.retry(), Retry::Backoff);
        assert_eq!(Refusal::Unauthorized.retry(), Retry::Never);
        assert_eq!(Refusal::LsnCollected.retry(), Retry::Never);
    }
}
