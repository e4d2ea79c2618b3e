//! Why a safekeeper was lost, and why a proposer gave up.

use std::fmt;

use super::config::ConfigError;
use crate::lsn::Lsn;

/// Why there is no connection to a safekeeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What kind of reason it is.
    pub kind: LossKind,
    /// What happened, for people.
    pub message: String,
}

impl Loss {
    /// A loss with this text.
    pub fn new(kind: LossKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Kinds of reasons why there is no connection to a safekeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// No connection, or it broke.
    Unreachable,
    /// It did not answer in time.
    Silent,
    /// It said something that ends the stream, and that may pass.
    Refused,
    /// It sent what the protocol does not allow here.
    Protocol,
    /// It does not accept the token.
    AuthFailed,
    /// It does not have the timeline, and may not create it.
    UnknownTimeline,
    /// The timeline has been deleted.
    TimelineDeleted,
    /// It belongs to a timeline of another PostgreSQL version, or cannot hold one of
    /// this version.
    VersionMismatch,
    /// It wants TLS, or does not offer it where it was asked for.
    TlsMismatch,
    /// It has no room for more WAL.
    StorageFull,
    /// It has another membership than the one adopted.
    Membership,
    /// Its place in the list is wrong.
    Misconfigured,
}

impl LossKind {
    /// Whether trying again cannot help until somebody changes something.
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::AuthFailed
                | Self::UnknownTimeline
                | Self::TimelineDeleted
                | Self::VersionMismatch
                | Self::TlsMismatch
                | Self::StorageFull
        )
    }
}

impl LossKind {
    /// What to do about a majority that refuses for this reason.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::AuthFailed => "check the storage token",
            Self::UnknownTimeline => {
                "check both ids, or create the timeline through the storage controller"
            }
            Self::TimelineDeleted => "it is gone for good: run another timeline",
            Self::VersionMismatch => {
                "run the major version of PostgreSQL that the timeline was made with"
            }
            Self::TlsMismatch => "make the spec's storage.tls fit how they are set up",
            Self::StorageFull => "give them room, or raise their limit",
            Self::Membership => "wait until the storage controller has changed them over",
            Self::Misconfigured => "correct the spec's storage.safekeepers",
            Self::Unreachable | Self::Silent | Self::Refused | Self::Protocol => {
                "look into their logs"
            }
        }
    }
}

/// Why a proposer gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A majority refuses for the same reason.
    #[error("a majority of the safekeepers refuses: {message}")]
    Refused {
        /// The reason.
        kind: LossKind,
        /// What one of them said.
        message: String,
    },
    /// Another proposer was elected after this one.
    #[error(
        "safekeeper {endpoint} is in term {term}, above ours ({ours}): another compute holds this timeline"
    )]
    NewerTerm {
        /// Who said so.
        endpoint: String,
        /// The term it is in.
        term: u64,
        /// The term of this proposer.
        ours: u64,
    },
    /// Elections were lost to another proposer again and again.
    #[error(
        "{elections} elections were lost, the last in term {term}: another compute keeps taking this timeline; stop one of the two"
    )]
    Contended {
        /// How many.
        elections: u32,
        /// The last term that was asked for.
        term: u64,
    },
    /// The log ends elsewhere than where the local postgres begins to write.
    #[error(
        "the timeline ends at {term_start_lsn} (written in term {last_term}), but postgres was started from {start_lsn}: another compute wrote in between; start again from a fresh basebackup"
    )]
    Diverged {
        /// Where postgres begins to write.
        start_lsn: Lsn,
        /// Where the log ends.
        term_start_lsn: Lsn,
        /// The term that wrote its end.
        last_term: u64,
    },
    /// The spec names a generation, but the safekeepers know of no membership.
    #[error(
        "the spec names safekeepers generation {generation}, but the safekeepers have no membership configuration for this timeline: create it through the storage controller, or leave the generation out"
    )]
    NoMembership {
        /// The generation of the spec.
        generation: u32,
    },
    /// A new list of safekeepers cannot be used.
    #[error("the new list of safekeepers cannot be used: {0}")]
    Config(ConfigError),
}
