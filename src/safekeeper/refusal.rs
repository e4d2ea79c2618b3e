//! What a safekeeper's error means. It has one SQLSTATE for all of them, `XX000`,
//! so the text must tell; each text is cited from where it is made.

use super::proposer::{Loss, LossKind};
use crate::error;
use crate::pgwire;

/// Texts and what they mean. The first that the message contains counts.
const TEXTS: &[(&str, LossKind)] = &[
    // libs/postgres_backend: QueryError::Unauthorized
    ("JWT authentication error", LossKind::AuthFailed),
    ("jwt response is not UTF-8", LossKind::AuthFailed),
    // libs/postgres_backend: startup without TLS where it is configured
    ("must connect with TLS", LossKind::TlsMismatch),
    // safekeeper/src/timeline.rs: TimelineError
    ("has been deleted", LossKind::TimelineDeleted),
    ("was not found in global map", LossKind::UnknownTimeline),
    ("pg_version is unknown", LossKind::VersionMismatch),
    // safekeeper/src/safekeeper.rs: handle_greeting
    ("incompatible server version", LossKind::VersionMismatch),
    ("invalid wal_seg_size", LossKind::VersionMismatch),
    ("InvalidPgVersion", LossKind::VersionMismatch),
    ("is not a member of", LossKind::Membership),
    ("generation mismatch", LossKind::Membership),
    // safekeeper/src/timeline.rs: the gates on disk usage
    ("exceeds configured limit", LossKind::StorageFull),
    ("disk usage exceeded limit", LossKind::StorageFull),
];

/// Texts by which a safekeeper shows that it does not know version 3 of the protocol:
/// it says so, or takes the greeting for one of version 2
/// (`safekeeper/src/safekeeper.rs: ProposerAcceptorMessage::parse`).
const VERSION_TEXTS: &[&str] = &[
    "unsupported protocol version",
    "wal_seg_size is zero",
    "instead of greeting",
];

/// What a failure of the connection means.
pub(super) fn loss(failure: &pgwire::Error) -> Loss {
    match failure {
        pgwire::Error::Server { error, .. } => Loss::new(
            kind_of(&error.message, error.is_authentication()),
            format!("answered: {}", error.message),
        ),
        pgwire::Error::Authentication { method, needs, .. } => Loss::new(
            LossKind::AuthFailed,
            format!("asks for {method}, which needs {needs}"),
        ),
        pgwire::Error::Connect { source, .. } => {
            Loss::new(LossKind::Unreachable, format!("cannot connect: {source}"))
        }
        pgwire::Error::TlsNotOffered { .. } => Loss::new(
            LossKind::TlsMismatch,
            "does not offer TLS: have it serve TLS, or set the mode in storage.tls to Disable",
        ),
        pgwire::Error::Tls { advice, source, .. } => Loss::new(
            LossKind::TlsMismatch,
            format!("no TLS connection, {advice}: {source}"),
        ),
        pgwire::Error::TrustedCertificates { .. } => {
            Loss::new(LossKind::Misconfigured, error::chain(failure))
        }
        pgwire::Error::ConnectTimeout { limit, .. } => Loss::new(
            LossKind::Unreachable,
            format!("did not finish connecting within {limit:?}"),
        ),
        pgwire::Error::Broken { source, .. } => {
            Loss::new(LossKind::Unreachable, format!("connection broke: {source}"))
        }
        pgwire::Error::Closed { .. } => Loss::new(LossKind::Unreachable, "closed the connection"),
        pgwire::Error::Protocol { what, .. } => {
            Loss::new(LossKind::Protocol, format!("sent {what}"))
        }
        pgwire::Error::ConnectionString(_) => {
            Loss::new(LossKind::Misconfigured, error::chain(failure))
        }
    }
}

fn kind_of(message: &str, is_authentication: bool) -> LossKind {
    if is_authentication {
        return LossKind::AuthFailed;
    }
    let known = TEXTS.iter().find(|(text, _)| message.contains(text));
    known.map_or(LossKind::Refused, |(_, kind)| *kind)
}

/// Whether the failure says that an older version of the protocol is to be tried.
pub(super) fn asks_for_older_version(failure: &pgwire::Error) -> bool {
    let pgwire::Error::Server { error, .. } = failure else {
        return false;
    };
    VERSION_TEXTS
        .iter()
        .any(|text| error.message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(message: &str) -> pgwire::Error {
        pgwire::Error::Server {
            peer: "sk-0:5454".into(),
            error: Box::new(pgwire::ServerError {
                severity: "ERROR".into(),
                code: "XX000".into(),
                message: message.into(),
                ..pgwire::ServerError::default()
            }),
        }
    }

    #[test]
    fn texts_of_real_safekeepers_are_told_apart() {
        let id = "9e4c8f36063c6c6e93bc20d65a820f3d/112ded66422aa5e953e5440fa5427ac4";
        let kinds = [
            ("JWT authentication error".to_owned(), LossKind::AuthFailed),
            (
                format!("create timeline: Timeline {id} has been deleted"),
                LossKind::TimelineDeleted,
            ),
            (
                format!("Timeline {id} was not found in global map"),
                LossKind::UnknownTimeline,
            ),
            (
                "WAL acceptor: incompatible server version 160000, expected 150018".into(),
                LossKind::VersionMismatch,
            ),
            (
                "WAL acceptor: WAL storage utilization exceeds configured limit of 20000000".into(),
                LossKind::StorageFull,
            ),
            (
                "WAL acceptor: refusing VoteRequest due to generation mismatch: sk generation 2"
                    .into(),
                LossKind::Membership,
            ),
            (
                "WAL acceptor: append request rewrites WAL written before".into(),
                LossKind::Refused,
            ),
        ];
        for (message, kind) in kinds {
            assert_eq!(loss(&answer(&message)).kind, kind, "{message}");
        }
    }

    #[test]
    fn only_a_talk_of_versions_asks_for_an_older_one() {
        assert!(asks_for_older_version(&answer(
            "unsupported protocol version 3"
        )));
        assert!(!asks_for_older_version(&answer("JWT authentication error")));
    }
}
