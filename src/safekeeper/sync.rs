//! Finds the LSN that a primary may start from: everything below is durable on a
//! majority of the safekeepers, and no older proposer can still commit above it.
//!
//! Does what `postgres --sync-safekeepers` does (`pgxn/neon/walproposer.c`), with an
//! end to every wait.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::address::Introduction;
use super::driver::Driver;
use super::precheck;
use super::proposer::{
    ConfigError, Endpoints, Failure, LossKind, Mode, PeerStatus, ProposerConfig, Synced as Outcome,
    Timing,
};
use crate::access::Access;
use crate::error::{Category, Retry};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::spec::SafekeeperSet;

/// How long saying goodbye may take; the result stands already.
const GOODBYE_LIMIT: Duration = Duration::from_millis(200);

/// What a sync needs to know.
#[derive(Debug, Clone)]
pub struct SyncConfig {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
    /// The safekeepers that the spec names.
    pub safekeepers: SafekeeperSet,
    /// The storage's token.
    pub access: Access,
    /// `PG_VERSION_NUM`, such as 150018; only the major part matters.
    pub pg_version: u32,
    /// PostgreSQL's system identifier; 0 if it is not known, which leaves the
    /// safekeepers' as it is.
    pub system_id: u64,
    /// Be elected even if all safekeepers say that they are in sync. Without it an
    /// older proposer may still write afterwards.
    pub always_elect: bool,
    /// Limit for making a connection, and for an answer on it.
    pub connect_timeout: Duration,
    /// Limit for all of it.
    pub deadline: Duration,
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// Everything below is durable on a majority. `0/0`: the timeline has no WAL on
    /// the safekeepers, and the pageserver's latest LSN is the place to start from.
    pub commit_lsn: Lsn,
    /// The term that was won; `None` if nobody was asked for a vote.
    pub term: Option<u64>,
    /// How it was found.
    pub how: SyncedHow,
}

/// How a sync found the end of the log, the cheapest way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncedHow {
    /// All safekeepers said the same.
    PreCheck,
    /// The votes of an election showed that all have everything.
    Votes,
    /// After an election, a majority was brought to the end of the log.
    Full,
}

/// Why there is no LSN to start from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec names safekeepers that cannot be used, or an unknown PostgreSQL.
    #[error(transparent)]
    Config(ConfigError),
    /// Too few safekeepers answered before the deadline.
    #[error(
        "no majority of the safekeepers answered within {deadline:?}; check that they run and can be reached: {}",
        summary(safekeepers)
    )]
    NoQuorum {
        /// The deadline.
        deadline: Duration,
        /// What is known of each.
        safekeepers: Vec<PeerStatus>,
    },
    /// A majority answered, but was not in sync before the deadline.
    #[error(
        "the safekeepers were not in sync within {deadline:?}; WAL may still be on its way to a majority, so try again: {}",
        summary(safekeepers)
    )]
    Timeout {
        /// The deadline.
        deadline: Duration,
        /// What is known of each.
        safekeepers: Vec<PeerStatus>,
    },
    /// A majority does not accept the token.
    #[error(
        "the safekeepers do not accept the token: check that it is the storage's, for this tenant, and not expired: {}",
        summary(safekeepers)
    )]
    AuthFailed {
        /// What is known of each.
        safekeepers: Vec<PeerStatus>,
    },
    /// A majority does not have the timeline.
    #[error(
        "the safekeepers do not have timeline {timeline_id} of tenant {tenant_id}: check both ids, or create it through the storage controller: {}",
        summary(safekeepers)
    )]
    UnknownTimeline {
        /// The tenant.
        tenant_id: TenantId,
        /// The timeline.
        timeline_id: TimelineId,
        /// What is known of each.
        safekeepers: Vec<PeerStatus>,
    },
    /// A majority refuses for another reason.
    #[error("a majority of the safekeepers refuses; {}: {}", kind.advice(), summary(safekeepers))]
    Refused {
        /// The reason.
        kind: LossKind,
        /// What is known of each.
        safekeepers: Vec<PeerStatus>,
    },
    /// Another proposer keeps winning.
    #[error("the safekeepers follow another proposer")]
    NewerTerm(#[source] Failure),
    /// The spec names a generation that the safekeepers know nothing of.
    #[error("the safekeepers do not know of their membership")]
    Membership(#[source] Failure),
    /// The caller gave up.
    #[error("the sync of the safekeepers was cancelled")]
    Cancelled,
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Config(_) => "InvalidSafekeepers",
            Self::NoQuorum { .. } => "NoQuorum",
            Self::Timeout { .. } => "Timeout",
            Self::AuthFailed { .. } => "AuthFailed",
            Self::UnknownTimeline { .. } => "UnknownTimeline",
            Self::Refused { .. } => "Refused",
            Self::NewerTerm(_) => "NewerTerm",
            Self::Membership(_) => "MembershipMissing",
            Self::Cancelled => "Cancelled",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Config(_) | Self::Cancelled => Retry::Never,
            // Tokens are rotated and timelines created while a compute waits.
            _ => Retry::Backoff,
        }
    }
}

/// `sk-0:5454: cannot connect: …; sk-1:5454: …`
pub(super) fn summary(safekeepers: &[PeerStatus]) -> String {
    let line = |peer: &PeerStatus| match &peer.last_loss {
        Some(loss) => format!("{} {loss}", peer.endpoint),
        None => format!("{} is {}", peer.endpoint, peer.state),
    };
    let lines: Vec<String> = safekeepers.iter().map(line).collect();
    lines.join("; ")
}

/// Brings a majority of the safekeepers to the end of the log, fences older
/// proposers, and returns that end. Cancel safe: dropping it closes all connections.
///
/// # Errors
///
/// See [`Error`]; at the latest after `config.deadline`. A majority that refuses for
/// one reason is not waited out.
pub async fn sync(config: &SyncConfig, cancel: &CancellationToken) -> Result<Synced, Error> {
    let introduction = Introduction {
        tenant_id: config.tenant_id,
        timeline_id: config.timeline_id,
        access: config.access.clone(),
        connect_timeout: config.connect_timeout,
    };
    let deadline = tokio::time::Instant::now() + config.deadline;
    if !config.always_elect {
        let check = precheck::in_sync_at(&introduction, &config.safekeepers.endpoints);
        let found = tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            found = check => found,
        };
        if let Some(commit_lsn) = found {
            info!(%commit_lsn, "all safekeepers are in sync already");
            return Ok(Synced {
                commit_lsn,
                term: None,
                how: SyncedHow::PreCheck,
            });
        }
    }
    let mut driver = driver(config, introduction).map_err(Error::Config)?;
    let outcome = tokio::select! {
        () = cancel.cancelled() => return Err(Error::Cancelled),
        outcome = drive(&mut driver) => outcome,
        () = tokio::time::sleep_until(deadline) => return Err(timed_out(config, &driver)),
    };
    match outcome {
        Ok(outcome) => {
            // The goodbye carries the truncate LSN; the result stands without it.
            let _ = tokio::time::timeout(GOODBYE_LIMIT, driver.close()).await;
            Ok(synced(outcome))
        }
        Err(failure) => Err(refused(config, &driver, failure)),
    }
}

fn driver(config: &SyncConfig, introduction: Introduction) -> Result<Driver, ConfigError> {
    let proposer = ProposerConfig {
        tenant_id: config.tenant_id,
        timeline_id: config.timeline_id,
        pg_version: config.pg_version,
        system_id: config.system_id,
        mode: Mode::Sync,
        timing: Timing {
            silence_limit: config.connect_timeout,
            ..Timing::SYNC
        },
        window_limit: 0,
    };
    let list = Endpoints::from(&config.safekeepers);
    Driver::new(proposer, list, introduction, None)
}

async fn drive(driver: &mut Driver) -> Result<Outcome, Failure> {
    loop {
        if let Some(result) = driver.pump() {
            return result.clone();
        }
        let event = driver.next().await;
        driver.handle(event);
    }
}

fn synced(outcome: Outcome) -> Synced {
    let how = if outcome.by_votes_alone {
        SyncedHow::Votes
    } else {
        SyncedHow::Full
    };
    info!(commit_lsn = %outcome.commit_lsn, term = outcome.term, ?how, "safekeepers are in sync");
    Synced {
        commit_lsn: outcome.commit_lsn,
        term: Some(outcome.term),
        how,
    }
}

fn timed_out(config: &SyncConfig, driver: &Driver) -> Error {
    let safekeepers = driver.proposer.peers().collect();
    let deadline = config.deadline;
    if driver.proposer.leading_term().is_some() {
        return Error::Timeout {
            deadline,
            safekeepers,
        };
    }
    Error::NoQuorum {
        deadline,
        safekeepers,
    }
}

fn refused(config: &SyncConfig, driver: &Driver, failure: Failure) -> Error {
    let safekeepers = driver.proposer.peers().collect();
    match failure {
        Failure::Refused { kind, .. } => match kind {
            LossKind::AuthFailed => Error::AuthFailed { safekeepers },
            LossKind::UnknownTimeline => Error::UnknownTimeline {
                tenant_id: config.tenant_id,
                timeline_id: config.timeline_id,
                safekeepers,
            },
            kind => Error::Refused { kind, safekeepers },
        },
        Failure::NoMembership { .. } => Error::Membership(failure),
        Failure::Config(error) => Error::Config(error),
        Failure::NewerTerm { .. } | Failure::Contended { .. } | Failure::Diverged { .. } => {
            Error::NewerTerm(failure)
        }
    }
}

impl From<&SafekeeperSet> for Endpoints {
    fn from(set: &SafekeeperSet) -> Self {
        Self {
            endpoints: set.endpoints.clone(),
            generation: set.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safekeeper::proposer::{Loss, PeerState};

    #[test]
    fn an_error_names_each_safekeeper_and_what_it_said() {
        let status = |endpoint: &str, state, loss: Option<Loss>| PeerStatus {
            endpoint: endpoint.into(),
            node_id: None,
            state,
            flush_lsn: Lsn::INVALID,
            last_loss: loss,
        };
        let refused = Loss::new(LossKind::Unreachable, "cannot connect: connection refused");
        let error = Error::NoQuorum {
            deadline: Duration::from_secs(30),
            safekeepers: vec![
                status("sk-0:5454", PeerState::Electing, None),
                status("sk-1:5454", PeerState::Offline, Some(refused)),
            ],
        };
        assert_eq!(
            error.to_string(),
            "no majority of the safekeepers answered within 30s; check that they run and can be \
             reached: sk-0:5454 is electing; sk-1:5454 cannot connect: connection refused"
        );
        assert_eq!(error.category(), "NoQuorum");
    }
}
