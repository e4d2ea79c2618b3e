//! Streams the WAL of a local, unmodified postgres to a majority of the safekeepers,
//! and tells it what is committed: its commits wait for the majority.
//!
//! The relay reads as the standby that `synchronous_standby_names` waits for. It
//! reports a position as written, flushed and applied only once a majority has
//! flushed it, so that no `synchronous_commit` level means less than that.
//!
//! ```text
//! postgres ──WAL──▶ relay ──AppendRequest──▶ safekeepers
//!          ◀─commit─       ◀─AppendResponse─
//! ```
//!
//! # Guarantees
//!
//! 1. Only what a majority has flushed in the term of this relay is confirmed.
//! 2. A relay whose postgres was not started from the end of the log streams
//!    nothing ([`Error::Diverged`]).
//! 3. A newer term ends the relay at once ([`Error::Fenced`]); it is not contested.
//! 4. A torn connection, to postgres or to a safekeeper, is resumed where it was.
//!
//! While postgres shuts down it waits until all its WAL is confirmed, so a relay is
//! cancelled only after postgres has exited.

mod local;
mod status;

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::local::{LocalEvent, LocalPostgres};
use self::status::Publisher;
use super::address::Introduction;
use super::driver::Driver;
use super::proposer::{
    ConfigError, Endpoints, Failure, Input, LossKind, Mode, PeerStatus, ProposerConfig, Timing,
};
use super::sync::summary;
use crate::access::Access;
use crate::error::{Category, Retry};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire::ConnectConfig;
use crate::spec::SafekeeperSet;

pub use self::status::{Fenced, RelayPhase, RelayStatus};

/// How long saying goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_millis(200);

/// What a relay needs to know.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The timeline.
    pub timeline_id: TimelineId,
    /// The safekeepers that the spec names.
    pub safekeepers: SafekeeperSet,
    /// The storage's token.
    pub access: Access,
    /// `PG_VERSION_NUM` of the local postgres, such as 150018.
    pub pg_version: u32,
    /// System identifier of the local postgres; 0 if it is not known yet.
    pub system_id: u64,
    /// Where the local postgres begins to write: the LSN of its basebackup, which is
    /// the commit LSN that a sync has found.
    pub start_lsn: Lsn,
    /// How to reach the local postgres, as a user who may replicate.
    pub local: ConnectConfig,
    /// Whether the local postgres accepts connections. It is not connected to before
    /// that; a sender that is gone leaves it to trying.
    pub local_accepts: watch::Receiver<bool>,
    /// Limit for making a connection, and for an answer on it.
    pub connect_timeout: Duration,
    /// Most WAL kept in memory for safekeepers that have not got it yet, in bytes.
    pub window_limit: usize,
}

impl RelayConfig {
    /// Default of [`window_limit`](Self::window_limit): one WAL segment.
    pub const WINDOW_LIMIT: usize = 16 * 1024 * 1024;
}

/// What a running relay can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayCommand {
    /// The spec names other safekeepers: be elected by these. Postgres stays up.
    Membership(SafekeeperSet),
}

/// Why a relay ended. Postgres cannot commit any more and must be stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec names safekeepers that cannot be used, or an unknown PostgreSQL.
    #[error(transparent)]
    Config(ConfigError),
    /// Another compute was elected.
    #[error(
        "safekeeper {endpoint} follows term {by_term}, above ours ({ours}): another compute has taken over this timeline"
    )]
    Fenced {
        /// Who said so.
        endpoint: String,
        /// The term of the other compute.
        by_term: u64,
        /// The term that this relay had.
        ours: u64,
    },
    /// The timeline has moved on since the basebackup.
    #[error("the local postgres does not continue the timeline")]
    Diverged(#[source] Failure),
    /// Elections were lost to another compute again and again.
    #[error("this compute was not elected")]
    Contended(#[source] Failure),
    /// A majority refuses before the first election.
    #[error("a majority of the safekeepers refuses; {}: {}", kind.advice(), summary(safekeepers))]
    Refused {
        /// The reason.
        kind: LossKind,
        /// What is known of each.
        safekeepers: Vec<PeerStatus>,
    },
    /// The spec names a generation that the safekeepers know nothing of.
    #[error("the safekeepers do not know of their membership")]
    Membership(#[source] Failure),
    /// The local postgres is not the one that the relay started with.
    #[error(
        "the postgres at {peer} has {what} {found}, not {expected}: it is not the one that was started for this relay"
    )]
    WrongPostgres {
        /// Where it is.
        peer: String,
        /// What differs.
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// The local postgres has removed WAL that a majority does not have.
    #[error(
        "the postgres at {peer} has removed the WAL at {position}, which is not on a majority of the safekeepers: start again from a fresh basebackup"
    )]
    WalRemoved {
        /// Where it is.
        peer: String,
        /// The position.
        position: Lsn,
    },
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Config(_) => "InvalidSafekeepers",
            Self::Fenced { .. } => "TakeoverDetected",
            Self::Diverged(_) => "Diverged",
            Self::Contended(_) => "NewerTerm",
            Self::Refused {
                kind: LossKind::AuthFailed,
                ..
            } => "AuthFailed",
            Self::Refused {
                kind: LossKind::UnknownTimeline,
                ..
            } => "UnknownTimeline",
            Self::Refused { .. } => "Refused",
            Self::Membership(_) => "MembershipMissing",
            Self::WrongPostgres { .. } => "WrongPostgres",
            Self::WalRemoved { .. } => "WalRemoved",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Config(_) | Self::Fenced { .. } | Self::WrongPostgres { .. } => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}

/// Runs a relay until `cancel`, or until it cannot go on. Reconnects to safekeepers
/// and to postgres by itself. `status` always holds what is true now.
///
/// # Errors
///
/// See [`Error`]. Nothing is confirmed to postgres any more by then.
pub async fn relay(
    config: RelayConfig,
    mut commands: mpsc::Receiver<RelayCommand>,
    status: watch::Sender<RelayStatus>,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let mut relay = Relay::new(config, status)?;
    let result = relay.run(&mut commands, &cancel).await;
    let _ = tokio::time::timeout(GOODBYE_LIMIT, relay.driver.close()).await;
    result
}

struct Relay {
    driver: Driver,
    local: LocalPostgres,
    publisher: Publisher,
}

impl Relay {
    fn new(config: RelayConfig, status: watch::Sender<RelayStatus>) -> Result<Self, Error> {
        let introduction = Introduction {
            tenant_id: config.tenant_id,
            timeline_id: config.timeline_id,
            access: config.access,
            connect_timeout: config.connect_timeout,
        };
        let proposer = ProposerConfig {
            tenant_id: config.tenant_id,
            timeline_id: config.timeline_id,
            pg_version: config.pg_version,
            system_id: config.system_id,
            mode: Mode::Stream {
                start_lsn: config.start_lsn,
            },
            timing: Timing {
                silence_limit: config.connect_timeout,
                ..Timing::STREAM
            },
            window_limit: config.window_limit,
        };
        let list = Endpoints::from(&config.safekeepers);
        let reads_back = local::recovery_config(&config.local);
        let driver = Driver::new(proposer, list, introduction, Some(reads_back));
        Ok(Self {
            driver: driver.map_err(Error::Config)?,
            local: LocalPostgres::new(config.local, config.system_id, config.local_accepts),
            publisher: Publisher::new(status),
        })
    }

    async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<RelayCommand>,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut commands_open = true;
        loop {
            self.settle()?;
            let wants_wal = self.driver.proposer.wants_wal();
            tokio::select! {
                () = cancel.cancelled() => {
                    self.publisher.close(&self.driver.proposer);
                    return Ok(());
                }
                command = commands.recv(), if commands_open => match command {
                    Some(command) => self.obey(command),
                    None => commands_open = false,
                },
                event = self.driver.next() => self.driver.handle(event),
                event = self.local.next(wants_wal) => self.take(event?),
                () = self.publisher.due() => {}
            }
        }
    }

    /// Does what follows from what has happened so far.
    fn settle(&mut self) -> Result<(), Error> {
        if let Some(result) = self.driver.pump() {
            // A stream ends in failure only.
            if let Err(failure) = result.clone() {
                let error = self.ended(failure);
                self.publisher.end(&self.driver.proposer, &error);
                return Err(error);
            }
        }
        let proposer = &self.driver.proposer;
        let received_lsn = proposer.wal_position();
        if proposer.leading_term().is_some() {
            self.local.open_at(received_lsn);
        }
        // Positions are rounded up to where the next record may start, and so may be
        // above what postgres has sent.
        self.local.confirm(proposer.commit_lsn().min(received_lsn));
        self.publisher.publish(proposer);
        Ok(())
    }

    fn obey(&mut self, command: RelayCommand) {
        let RelayCommand::Membership(set) = command;
        info!(endpoints = ?set.endpoints, generation = ?set.generation, "other safekeepers");
        let input = Input::Endpoints(Endpoints::from(&set));
        self.driver
            .proposer
            .handle(std::time::Instant::now(), input);
    }

    fn take(&mut self, event: LocalEvent) {
        match event {
            LocalEvent::Wal { start_lsn, wal } => {
                let end_lsn = Lsn(start_lsn.0 + wal.len() as u64);
                let input = Input::Wal { start_lsn, wal };
                let proposer = &mut self.driver.proposer;
                proposer.handle(std::time::Instant::now(), input);
                if proposer.leading_term().is_some() && proposer.wal_position() < end_lsn {
                    let expected = proposer.wal_position();
                    warn!(%start_lsn, %expected, "postgres sent WAL that does not follow; reading again");
                    self.local.reopen();
                }
            }
            LocalEvent::Changed => {}
        }
    }

    fn ended(&self, failure: Failure) -> Error {
        match failure {
            Failure::NewerTerm {
                endpoint,
                term,
                ours,
            } => Error::Fenced {
                endpoint,
                by_term: term,
                ours,
            },
            Failure::Diverged { .. } => Error::Diverged(failure),
            Failure::Contended { .. } => Error::Contended(failure),
            Failure::NoMembership { .. } => Error::Membership(failure),
            Failure::Config(error) => Error::Config(error),
            Failure::Refused { kind, .. } => Error::Refused {
                kind,
                safekeepers: self.driver.proposer.peers().collect(),
            },
        }
    }
}
