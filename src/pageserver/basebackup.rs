//! Fetches a basebackup: one attempt, which succeeds only if the archive was whole.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::unpack::{Failure, Piece, Unpacker};
use super::{Error, Refusal, address};
use crate::access::Access;
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire::{self, ConnectConfig, Connection, CopyOut};
use crate::process::RunAs;
use crate::secret::Secret;
use crate::spec::{ComputeMode, PageserverProtocol, ShardLocation};

/// Bytes that are handed to the unpacker at once, if so many have arrived.
const BATCH_BYTES: usize = 128 * 1024;

/// A parameter that glowplug's own development storage reports at connecting: its
/// `fullbackup` knows `--gzip`, which a pageserver's does not.
const DEVELOPMENT_STORAGE: &str = "glowplug_storage";

/// Which kind of backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupKind {
    /// What Neon's postgres needs: everything but the relations.
    Basebackup {
        /// Leave out the replication slots.
        replica: bool,
    },
    /// A complete data directory.
    Fullbackup,
}

/// What to fetch, and from where.
#[derive(Debug, Clone)]
pub struct BasebackupRequest<'a> {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its timeline.
    pub timeline_id: TimelineId,
    /// As of when; `None` for the latest that the pageserver has.
    pub lsn: Option<Lsn>,
    /// Which kind.
    pub kind: BackupKind,
    /// Told to the pageserver, for its logs.
    pub compute_mode: ComputeMode,
    /// Compress on the way, where the server can.
    pub gzip: bool,
    /// Location of shard 0.
    pub location: &'a ShardLocation,
    /// How to speak to it.
    pub protocol: PageserverProtocol,
    /// The storage's token.
    pub access: &'a Access,
    /// Limit for connecting and authenticating.
    pub connect_limit: Duration,
    /// Limit from the command to the first byte. The pageserver waits for the LSN
    /// meanwhile, by default up to 300 s: give it longer.
    pub answer_limit: Duration,
    /// Limit between one byte and the next.
    pub stall_limit: Duration,
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BasebackupProgress {
    /// Bytes that came over the network.
    pub bytes_received: u64,
    /// Bytes of files written.
    pub bytes_unpacked: u64,
    /// Files written.
    pub files: u64,
}

/// What an attempt took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasebackupStats {
    /// Connecting and authenticating.
    pub connect: Duration,
    /// From the command to the last file.
    pub elapsed: Duration,
    /// Bytes that came over the network.
    pub bytes_received: u64,
    /// Bytes of files written.
    pub bytes_unpacked: u64,
    /// Files written.
    pub files: u64,
}

/// A connection to a pageserver, made before the LSN is known. The server closes it
/// after 10 minutes without a command.
pub struct Connected {
    config: ConnectConfig,
    connection: Connection,
    elapsed: Duration,
}

/// Connects to the page service, for a later [`Connected::fetch`].
///
/// # Errors
///
/// [`Error::NoAddress`], [`Error::Address`], [`Error::GrpcUnsupported`],
/// [`Error::Connect`], [`Error::Refused`].
pub async fn connect(request: &BasebackupRequest<'_>) -> Result<Connected, Error> {
    let token = &request.access.token;
    let attempt = |token| connect_with(request, token);
    token.attempt(attempt, Error::is_unauthorized).await
}

async fn connect_with(
    request: &BasebackupRequest<'_>,
    token: Option<Secret>,
) -> Result<Connected, Error> {
    let config = address::page_service(
        request.location,
        request.protocol,
        request.compute_mode,
        request.access,
        token,
        request.connect_limit,
    )
    .await?;
    let started = Instant::now();
    let connection = log_in(&config, request.location.index).await?;
    Ok(Connected {
        config,
        connection,
        elapsed: started.elapsed(),
    })
}

/// Connects to the page service of a shard.
pub(super) async fn log_in(config: &ConnectConfig, shard: ShardIndex) -> Result<Connection, Error> {
    Connection::connect(config).await.map_err(|source| {
        refused(&config.peer(), "login", source)
            .unwrap_or_else(|source| Error::Connect { shard, source })
    })
}

/// Connects, fetches and unpacks into a directory that exists and is empty.
///
/// One attempt; [`crate::error::Category::retry`] of the error tells whether another
/// may help, for which the directory must be made anew. On success the archive was
/// whole, to its last byte. `owner` gets the files. Not cancel safe: use `cancel`;
/// when this returns, nothing touches the directory any more.
///
/// # Errors
///
/// All of [`Error`] but the HTTP ones.
pub async fn fetch_basebackup(
    request: &BasebackupRequest<'_>,
    into: &Path,
    owner: Option<&RunAs>,
    progress: &watch::Sender<BasebackupProgress>,
    cancel: &CancellationToken,
) -> Result<BasebackupStats, Error> {
    let connected = or_cancelled(cancel, connect(request)).await?;
    connected
        .fetch(request, into, owner, progress, cancel)
        .await
}

impl Connected {
    /// `host:port`.
    pub fn peer(&self) -> &str {
        self.connection.peer()
    }

    /// As [`fetch_basebackup`], on this connection.
    ///
    /// # Errors
    ///
    /// As [`fetch_basebackup`].
    pub async fn fetch(
        self,
        request: &BasebackupRequest<'_>,
        into: &Path,
        owner: Option<&RunAs>,
        progress: &watch::Sender<BasebackupProgress>,
        cancel: &CancellationToken,
    ) -> Result<BasebackupStats, Error> {
        let started = Instant::now();
        let connect = self.elapsed;
        let peer = self.connection.peer().to_owned();
        let ours = self.connection.parameter(DEVELOPMENT_STORAGE) == Some("on");
        let gzip = request.gzip && (ours || request.kind != BackupKind::Fullbackup);
        let command = request.command(gzip);
        debug!(%peer, command, "asking for a basebackup");

        let copy = or_cancelled(cancel, self.start(request, &command)).await?;
        let mut transfer = Transfer {
            copy,
            peer,
            stall_limit: request.stall_limit,
            unpacker: Unpacker::start(into, owner, gzip),
            received: 0,
            progress,
        };
        let transferred = or_cancelled(cancel, transfer.run()).await;
        transfer.finish(transferred, connect, started).await
    }

    /// Sends the command and waits for the stream. A pageserver takes the token of
    /// another tenant at login, and refuses it here.
    async fn start(self, request: &BasebackupRequest<'_>, command: &str) -> Result<CopyOut, Error> {
        let token = self.config.password.clone();
        match self.start_once(command, request.answer_limit).await {
            Err(error) if error.is_unauthorized() => {
                let another = request.access.token.after_refusal(token.as_ref()).await;
                let Some(another) = another else {
                    return Err(error);
                };
                let again = connect_with(request, Some(another)).await?;
                again.start_once(command, request.answer_limit).await
            }
            result => result,
        }
    }

    async fn start_once(self, command: &str, limit: Duration) -> Result<CopyOut, Error> {
        let peer = self.config.peer();
        let copy = tokio::time::timeout(limit, self.connection.copy_out(command)).await;
        let Ok(copy) = copy else {
            return Err(Error::NoAnswer {
                peer,
                command: command.to_owned(),
                limit,
            });
        };
        match copy.map_err(|source| refused(&peer, command, source)) {
            Ok(copy) => Ok(copy),
            Err(Ok(refused)) => Err(name_the_missing(refused, &self.config).await),
            Err(Err(source)) => Err(Error::Interrupted {
                peer,
                bytes: 0,
                source,
            }),
        }
    }
}

impl BasebackupRequest<'_> {
    /// The command, as `compute_tools/src/compute.rs` of Neon writes it: 0/0, a
    /// timeline that was never written, is left out.
    fn command(&self, gzip: bool) -> String {
        use std::fmt::Write;
        let word = match self.kind {
            BackupKind::Basebackup { .. } => "basebackup",
            BackupKind::Fullbackup => "fullbackup",
        };
        let mut command = format!("{word} {} {}", self.tenant_id, self.timeline_id);
        if let Some(lsn) = self.lsn.filter(|lsn| lsn.is_valid()) {
            let _ = write!(command, " {lsn}");
        }
        if gzip {
            command.push_str(" --gzip");
        }
        if self.kind == (BackupKind::Basebackup { replica: true }) {
            command.push_str(" --replica");
        }
        command
    }
}

/// The bytes on their way from the network to the unpacker.
struct Transfer<'a> {
    copy: CopyOut,
    peer: String,
    stall_limit: Duration,
    unpacker: Unpacker,
    received: u64,
    progress: &'a watch::Sender<BasebackupProgress>,
}

impl Transfer<'_> {
    /// Moves everything over. An unpacker that stopped ends this without an error:
    /// its own is told by [`Unpacker::finish`].
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            let next = tokio::time::timeout(self.stall_limit, self.copy.next()).await;
            let first = match next {
                Ok(next) => next.map_err(|source| self.interrupted(source))?,
                Err(_) => return Err(self.stalled()),
            };
            let ended = match first {
                Some(first) => self.pass_on(first).await?,
                None => Some(Ok(())),
            };
            self.report();
            match ended {
                Some(Ok(())) => break,
                Some(Err(UnpackerStopped)) => return Ok(()),
                None => {}
            }
        }
        let _ = self.unpacker.push(Piece::End).await;
        Ok(())
    }

    /// Hands over what has arrived, as one batch: waking the unpacker for each of the
    /// many small messages would cost more than unpacking them.
    async fn pass_on(
        &mut self,
        first: Bytes,
    ) -> Result<Option<Result<(), UnpackerStopped>>, Error> {
        let mut size = first.len();
        let mut batch = vec![first];
        let mut ended = None;
        while size < BATCH_BYTES {
            match self.copy.next().now_or_never() {
                Some(Ok(Some(bytes))) => {
                    size += bytes.len();
                    batch.push(bytes);
                }
                Some(Ok(None)) => {
                    ended = Some(Ok(()));
                    break;
                }
                Some(Err(source)) => return Err(self.interrupted(source)),
                None => break,
            }
        }
        self.received += size as u64;
        if self.unpacker.push(Piece::Data(batch)).await.is_err() {
            ended = Some(Err(UnpackerStopped));
        }
        Ok(ended)
    }

    fn report(&self) {
        let counters = self.unpacker.counters();
        self.progress.send_replace(BasebackupProgress {
            bytes_received: self.received,
            bytes_unpacked: counters.bytes(),
            files: counters.files(),
        });
    }

    fn interrupted(&self, source: pgwire::Error) -> Error {
        Error::Interrupted {
            peer: self.peer.clone(),
            bytes: self.received,
            source,
        }
    }

    fn stalled(&self) -> Error {
        Error::Stalled {
            peer: self.peer.clone(),
            bytes: self.received,
            limit: self.stall_limit,
        }
    }

    /// Waits for the unpacker and decides which error counts: that of the network
    /// stops the unpacker, so it comes first.
    async fn finish(
        self,
        transferred: Result<(), Error>,
        connect: Duration,
        started: Instant,
    ) -> Result<BasebackupStats, Error> {
        let counters = Arc::clone(self.unpacker.counters());
        let unpacked = self.unpacker.finish().await;
        transferred?;
        unpacked.map_err(|failure| failed(failure, &self.peer, self.received))?;
        let done = BasebackupProgress {
            bytes_received: self.received,
            bytes_unpacked: counters.bytes(),
            files: counters.files(),
        };
        self.progress.send_replace(done);
        Ok(BasebackupStats {
            connect,
            elapsed: started.elapsed(),
            bytes_received: done.bytes_received,
            bytes_unpacked: done.bytes_unpacked,
            files: done.files,
        })
    }
}

struct UnpackerStopped;

async fn or_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    cancel
        .run_until_cancelled(work)
        .await
        .unwrap_or(Err(Error::Cancelled))
}

/// A refusal, if that is what it is.
pub(super) fn refused(
    peer: &str,
    command: &str,
    source: pgwire::Error,
) -> Result<Error, pgwire::Error> {
    match source {
        pgwire::Error::Server { ref error, .. } => Ok(Error::Refused {
            peer: peer.to_owned(),
            command: command.to_owned(),
            refusal: Refusal::of(error),
            source,
        }),
        other => Err(other),
    }
}

/// Finds out what a pageserver did not find: in the simple protocol, a tenant that is
/// elsewhere and a timeline that does not exist look the same. One is worth another
/// attempt. If this fails, the first answer stands.
async fn name_the_missing(first: Error, config: &ConnectConfig) -> Error {
    let Error::Refused {
        refusal: Refusal::NotFound,
        ref command,
        ..
    } = first
    else {
        return first;
    };
    let again = async { Connection::connect(config).await?.refusal(command).await };
    match tokio::time::timeout(config.connect_timeout, again).await {
        Ok(Ok(Some(error))) if Refusal::of(&error).is_missing() => Error::Refused {
            peer: config.peer(),
            command: command.clone(),
            refusal: Refusal::of(&error),
            source: pgwire::Error::Server {
                peer: config.peer(),
                error,
            },
        },
        _ => first,
    }
}

fn failed(failure: Failure, peer: &str, bytes: u64) -> Error {
    use super::Defect;
    let peer = peer.to_owned();
    match failure {
        Failure::Archive(source @ Defect::Entry { .. }) => Error::Hostile { peer, source },
        Failure::Archive(source) if source.is_truncation() => Error::Truncated {
            peer,
            bytes,
            source,
        },
        Failure::Archive(source) => Error::Corrupt { peer, source },
        Failure::Write { path, source } if is_full(&source) => Error::DiskFull { path, source },
        Failure::Write { path, source } => Error::Write { path, source },
        Failure::Abandoned => Error::Cancelled,
        Failure::Panicked => Error::Panicked,
    }
}

/// No blocks, no inodes, or no quota left.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;

    fn command(kind: BackupKind, lsn: Option<Lsn>, gzip: bool) -> String {
        let location = ShardLocation {
            index: ShardIndex::UNSHARDED,
            node_id: None,
            libpq: None,
            grpc: None,
            http: None,
        };
        let access = Access::default();
        let request = BasebackupRequest {
            tenant_id: TenantId([0xA1; 16]),
            timeline_id: TimelineId([0xB1; 16]),
            lsn,
            kind,
            compute_mode: ComputeMode::Primary,
            gzip,
            location: &location,
            protocol: PageserverProtocol::Libpq,
            access: &access,
            connect_limit: Duration::ZERO,
            answer_limit: Duration::ZERO,
            stall_limit: Duration::ZERO,
        };
        request
            .command(gzip)
            .replace(&"a1".repeat(16), "T")
            .replace(&"b1".repeat(16), "L")
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures_to_write() {
        let write = |errno| {
            let failure = Failure::Write {
                path: "base/1/1259".into(),
                source: std::io::Error::from_raw_os_error(errno),
            };
            failed(failure, "ps-0:6400", 0)
        };
        for errno in [nix::libc::ENOSPC, nix::libc::EDQUOT] {
            assert!(matches!(write(errno), Error::DiskFull { .. }));
        }
        assert!(matches!(write(nix::libc::EACCES), Error::Write { .. }));
    }

    #[test]
    fn commands_are_what_pageservers_parse() {
        let primary = BackupKind::Basebackup { replica: false };
        let replica = BackupKind::Basebackup { replica: true };
        let lsn = Some(Lsn(0x0169_AD58));
        assert_eq!(command(primary, None, true), "basebackup T L --gzip");
        assert_eq!(
            command(primary, Some(Lsn::INVALID), true),
            "basebackup T L --gzip"
        );
        assert_eq!(
            command(primary, lsn, true),
            "basebackup T L 0/169AD58 --gzip"
        );
        assert_eq!(
            command(replica, None, true),
            "basebackup T L --gzip --replica"
        );
        assert_eq!(
            command(replica, lsn, false),
            "basebackup T L 0/169AD58 --replica"
        );
        assert_eq!(
            command(BackupKind::Fullbackup, lsn, false),
            "fullbackup T L 0/169AD58"
        );
    }
}
