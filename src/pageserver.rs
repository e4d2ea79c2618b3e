//! Gets from pageservers what a compute needs: the basebackup to start from, where
//! the shards are, and whether they are still there.
//!
//! # Protocol
//!
//! The page service on the PostgreSQL protocol, or on gRPC
//! (`pageserver/src/page_service.rs` of Neon). It takes a TCP connection before it serves: it may stay silent until its
//! storage controller answered, so every wait here has a limit.
//!
//! # Not here
//!
//! Retries: callers ask [`Category::retry`]. The directory a basebackup goes to must
//! be made, and made anew before another attempt, by the caller.

mod address;
pub mod archive;
mod basebackup;
mod grpc;
mod lease;
mod locate;
mod misrouted;
mod probe;
mod refusal;
pub mod relocation;
pub mod shard_probe;
mod transport;
mod unpack;

use std::path::PathBuf;
use std::time::Duration;

pub use archive::Defect;
pub use basebackup::{
    BackupKind, BasebackupProgress, BasebackupRequest, BasebackupStats, fetch_basebackup,
};
pub use grpc::Failure as GrpcFailure;
pub use lease::{Lease, LeaseRequest, lease_lsn};
pub use locate::{locate, shard_map_in};
pub use misrouted::{misrouted_in, scrape_misrouted};
pub use probe::{ProbeRequest, ShardsRequest, probe, probe_shards};
pub use refusal::Refusal;
pub use shard_probe::{ProbeOutcome, ShardProbe};
pub use transport::{Connected, connect};

use crate::error::{Category, Retry};
use crate::id::ShardIndex;
use crate::pgwire;

/// Why something could not be got from a pageserver or the storage controller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec does not say where the shard is.
    #[error("shard {shard} has no libpq address: give it one in the spec's pageservers")]
    NoAddress {
        /// The shard.
        shard: ShardIndex,
    },
    /// The spec prefers gRPC and does not say where the shard is.
    #[error(
        "shard {shard} has no gRPC address: give it one in the spec's pageservers, or prefer libpq"
    )]
    NoGrpcAddress {
        /// The shard.
        shard: ShardIndex,
    },
    /// The gRPC address of the shard cannot be used.
    #[error("the gRPC address of shard {shard} is malformed: write grpc://host:51051")]
    GrpcAddress {
        /// The shard.
        shard: ShardIndex,
    },
    /// The address of the shard cannot be used.
    #[error("the libpq address of shard {shard} is malformed")]
    Address {
        /// The shard.
        shard: ShardIndex,
        /// What is wrong with it.
        #[source]
        source: pgwire::Error,
    },
    /// No connection was made.
    #[error("cannot connect to the pageserver of shard {shard}")]
    Connect {
        /// The shard.
        shard: ShardIndex,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The pageserver refused a command.
    #[error("pageserver {peer} refused '{command}', as {refusal}")]
    Refused {
        /// `host:port`.
        peer: String,
        /// The command.
        command: String,
        /// What that means.
        refusal: Refusal,
        /// Its answer.
        #[source]
        source: Cause,
    },
    /// The pageserver did not start to answer in time.
    #[error("pageserver {peer} did not answer '{command}' within {limit:?}")]
    NoAnswer {
        /// `host:port`.
        peer: String,
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection ended, or the server failed, before the backup was complete.
    #[error("the basebackup from {peer} broke off after {bytes} bytes")]
    Interrupted {
        /// `host:port`.
        peer: String,
        /// Bytes received.
        bytes: u64,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The server sent nothing for too long.
    #[error("the basebackup from {peer} stalled: nothing came for {limit:?} after {bytes} bytes")]
    Stalled {
        /// `host:port`.
        peer: String,
        /// Bytes received.
        bytes: u64,
        /// The limit.
        limit: Duration,
    },
    /// The server said that it was done, but the archive is cut short.
    #[error("the basebackup from {peer} is truncated, {bytes} bytes long")]
    Truncated {
        /// `host:port`.
        peer: String,
        /// Bytes received.
        bytes: u64,
        /// Where it ends.
        #[source]
        source: Defect,
    },
    /// The archive is damaged, or not one.
    #[error("the basebackup from {peer} is corrupt")]
    Corrupt {
        /// `host:port`.
        peer: String,
        /// What is wrong with it.
        #[source]
        source: Defect,
    },
    /// The archive would write where it must not.
    #[error("the basebackup from {peer} is refused: do not trust this pageserver")]
    Hostile {
        /// `host:port`.
        peer: String,
        /// The entry.
        #[source]
        source: Defect,
    },
    /// The file system is full.
    #[error("no space is left for {}: give the data directory's volume more", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The directory cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The unpacking thread panicked: a bug.
    #[error("unpacking the basebackup panicked: report this as a bug")]
    Panicked,
    /// The caller no longer wants it.
    #[error("fetching the basebackup was cancelled")]
    Cancelled,
    /// A pageserver or the storage controller could not be reached by HTTP.
    #[error("cannot get {url}")]
    Http {
        /// What was asked for.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// It answered with an error.
    #[error("{url} answered {status}: {body}")]
    HttpStatus {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// It answered with something else than expected.
    #[error("{url} answered with something else than expected: {problem}")]
    HttpBody {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection broke while a lease was asked for, or the answer is none.
    #[error("cannot lease an LSN from pageserver {peer}")]
    Lease {
        /// `host:port`.
        peer: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The pagestream did not answer in time, or broke off.
    #[error("the pagestream of {peer} failed: {problem}")]
    Pagestream {
        /// `host:port`.
        peer: String,
        /// What happened.
        problem: String,
        /// Why, where the connection says so.
        #[source]
        source: Option<pgwire::Error>,
    },
}

/// What a connection or a call ended with.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// On the PostgreSQL protocol, and below both.
    #[error(transparent)]
    Libpq(#[from] pgwire::Error),
    /// On gRPC.
    #[error(transparent)]
    Grpc(#[from] GrpcFailure),
}

impl Category for Cause {
    fn category(&self) -> &'static str {
        match self {
            Self::Libpq(error) => error.category(),
            Self::Grpc(failure) => failure.category(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Libpq(error) => error.retry(),
            Self::Grpc(failure) => failure.retry(),
        }
    }
}

impl Error {
    /// Whether the storage token was refused, or is missing.
    fn is_unauthorized(&self) -> bool {
        self.category() == "AuthFailed"
    }
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::NoAddress { .. }
            | Self::Address { .. }
            | Self::NoGrpcAddress { .. }
            | Self::GrpcAddress { .. } => "InvalidLocation",
            Self::Connect { source, .. } | Self::Lease { source, .. } => source.category(),
            Self::Refused { refusal, .. } => refusal.category(),
            Self::NoAnswer { .. } | Self::Stalled { .. } => "Timeout",
            Self::Interrupted { .. } => "Interrupted",
            Self::Truncated { .. } => "Truncated",
            Self::Corrupt { .. } => "Corrupt",
            Self::Hostile { .. } => "Hostile",
            Self::DiskFull { .. } => "DiskFull",
            Self::Write { .. } => "WriteFailed",
            Self::Panicked => "Panicked",
            Self::Cancelled => "Cancelled",
            Self::Http { source, .. } if source.is_timeout() => "Timeout",
            Self::Http { .. } => "Unreachable",
            Self::HttpStatus {
                status: 401 | 403, ..
            } => "AuthFailed",
            Self::HttpStatus { status: 404, .. } => "NotFound",
            Self::HttpStatus { .. } => "ServerError",
            Self::HttpBody { .. } => "ProtocolViolation",
            Self::Pagestream { source, .. } => {
                source.as_ref().map_or("Timeout", Category::category)
            }
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NoAddress { .. }
            | Self::Address { .. }
            | Self::NoGrpcAddress { .. }
            | Self::GrpcAddress { .. } => Retry::Never,
            Self::Connect { source, .. } | Self::Lease { source, .. } => source.retry(),
            Self::Refused { refusal, .. } => refusal.retry(),
            Self::NoAnswer { .. }
            | Self::Stalled { .. }
            | Self::Interrupted { .. }
            | Self::Truncated { .. }
            | Self::Corrupt { .. }
            | Self::Pagestream { .. } => Retry::Backoff,
            Self::Hostile { .. }
            | Self::DiskFull { .. }
            | Self::Write { .. }
            | Self::Panicked
            | Self::Cancelled => Retry::Never,
            Self::Http { source, .. } if source.is_builder() => Retry::Never,
            // 400 is a tenant that is not attached anywhere just now.
            Self::HttpStatus {
                status: 401 | 403 | 404,
                ..
            } => Retry::Never,
            Self::Http { .. } | Self::HttpStatus { .. } | Self::HttpBody { .. } => Retry::Backoff,
        }
    }
}
