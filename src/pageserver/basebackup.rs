//! Fetches a basebackup: one attempt, which succeeds only if the archive was whole.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::transport::Incoming;
use super::unpack::{Failure, Piece, Unpacker};
use super::{Cause, Connected, Error, connect};
use crate::access::Access;
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::process::RunAs;
use crate::spec::{ComputeMode, PageserverProtocol, ShardLocation};

/// Bytes that are handed to the unpacker at once, if so many have arrived.
const BATCH_BYTES: usize = 128 * 1024;

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
        let peer = self.peer().to_owned();
        let incoming = or_cancelled(cancel, self.start(request)).await?;
        let mut transfer = Transfer {
            unpacker: Unpacker::start(into, owner, incoming.gzip),
            incoming,
            peer,
            stall_limit: request.stall_limit,
            received: 0,
            progress,
        };
        let transferred = or_cancelled(cancel, transfer.run()).await;
        transfer.finish(transferred, connect, started).await
    }
}

impl BasebackupRequest<'_> {
    /// The command, as `compute_tools/src/compute.rs` of Neon writes it: 0/0, a
    /// timeline that was never written, is left out.
    pub(super) fn command(&self, gzip: bool) -> String {
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
    incoming: Incoming,
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
            let next = tokio::time::timeout(self.stall_limit, self.incoming.next()).await;
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
            match self.incoming.next().now_or_never() {
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

    fn interrupted(&self, source: Cause) -> Error {
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
