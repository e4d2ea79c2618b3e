//! Fetches a timeline's committed WAL from its safekeepers, one at a time, for as
//! long as the storage runs.
//!
//! # Protocol
//!
//! `START_REPLICATION` without a term, which ends at the safekeeper's commit LSN
//! (`safekeeper/src/send_wal.rs` of Neon). An idle safekeeper says so every second.
//!
//! # Guarantees
//! 1. It goes on where the log ends, whatever happened before.
//! 2. A safekeeper that is away, silent, or behind while somebody waits for WAL, is
//!    left for the next.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::wal_files::WalFiles;
use super::{Error, Timeline};
use crate::access::Access;
use crate::backoff::Backoff;
use crate::error::chain;
use crate::lsn::Lsn;
use crate::pgwire::{ConnectConfig, Connection, CopyReader, CopyWriter, Error as WireError};
use crate::secret::Secret;
use crate::storage::files::blocking;
use crate::wire::replication::{ReaderMessage, SenderMessage};
use crate::wire::safekeeper::PageserverFeedback;

/// Limit for connecting to a safekeeper, and for its answer to the command.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// A safekeeper that says nothing for so long is away.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// How long somebody waits before a safekeeper that has nothing new is left; shorter
/// than the second between two of its signs of life.
const STALE_LIMIT: Duration = Duration::from_millis(500);

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(1);

/// Microseconds between 1970 and 2000.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A safekeeper to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSource {
    /// Its node id.
    pub id: u64,
    /// Host of its WAL service.
    pub host: String,
    /// Port of its WAL service.
    pub port: u16,
}

/// From whom WAL comes just now. Shown in a pageserver's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceiverStatus {
    /// Node id of the safekeeper.
    pub source: Option<u64>,
    /// Its commit LSN.
    pub commit_lsn: Lsn,
    /// End of what came from it.
    pub streaming_lsn: Lsn,
}

impl fmt::Display for ReceiverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(node) => write!(
                f,
                ": streaming WAL from node {node}, commit|streaming Lsn: {}|{}",
                self.commit_lsn, self.streaming_lsn
            ),
            None => {
                f.write_str(": disconnected, safekeeper candidates (id|update_time|commit_lsn): []")
            }
        }
    }
}

/// Why a stream was left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("safekeeper {0} does not answer")]
    Silent(u64),
    #[error("safekeeper {0} has no newer WAL, and somebody waits for it")]
    Stale(u64),
    #[error("safekeeper {0} ended the stream")]
    Ended(u64),
    #[error("the stream from safekeeper {id} broke")]
    Broken {
        id: u64,
        #[source]
        source: WireError,
    },
    #[error("safekeeper {id} sent a malformed message")]
    Malformed {
        id: u64,
        #[source]
        source: crate::wire::DecodeError,
    },
    #[error("WAL of safekeeper {id} cannot be kept")]
    Rejected {
        id: u64,
        #[source]
        source: Error,
    },
    /// The files are lost with the task that worked on them.
    #[error("the storage is ending")]
    Lost,
}

/// The task that fetches.
pub(super) struct Receiver {
    pub(super) timeline: Arc<Timeline>,
    pub(super) files: WalFiles,
    pub(super) sources: Vec<WalSource>,
    pub(super) access: Access,
    pub(super) cancel: CancellationToken,
}

impl Receiver {
    /// Fetches until cancelled.
    pub(super) async fn run(self) {
        let (tenant_id, timeline_id) = (self.timeline.tenant_id(), self.timeline.timeline_id());
        let span = info_span!("receive_wal", %tenant_id, %timeline_id);
        let cancel = self.cancel.clone();
        let fetching = self.fetch().instrument(span);
        // The files need no farewell: a restart decodes them.
        cancel.run_until_cancelled(fetching).await;
    }

    async fn fetch(self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        let mut stream = Stream {
            waiting: self.timeline.waiting(),
            timeline: self.timeline,
            files: Some(self.files),
        };
        for source in self.sources.iter().cycle() {
            let before = stream.timeline.end();
            let left = stream.follow(source, &self.access).await;
            stream
                .timeline
                .receiver
                .send_replace(ReceiverStatus::default());
            match &left {
                Left::Lost => return,
                Left::Rejected { .. } => warn!(error = chain(&left), "left a safekeeper"),
                // A fresh timeline is unknown to them until its first compute comes.
                _ => debug!(error = chain(&left), "left a safekeeper"),
            }
            if stream.timeline.end() != before {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }
}

/// What goes from one safekeeper to the next.
struct Stream {
    timeline: Arc<Timeline>,
    /// Lent to the thread that writes.
    files: Option<WalFiles>,
    waiting: watch::Receiver<usize>,
}

impl Stream {
    /// Follows one safekeeper until there is a reason to leave it.
    async fn follow(&mut self, source: &WalSource, access: &Access) -> Left {
        match self.try_follow(source, access).await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn try_follow(
        &mut self,
        source: &WalSource,
        access: &Access,
    ) -> Result<std::convert::Infallible, Left> {
        let id = source.id;
        let broken = |source| Left::Broken { id, source };
        let Some(files) = &mut self.files else {
            return Err(Left::Lost);
        };
        let rejected = |source| Left::Rejected { id, source };
        files.restart().map_err(|source| rejected(source.into()))?;
        let start = files.end().last_record_lsn;
        let command = format!("START_REPLICATION PHYSICAL {start}");
        let connected = timeout(CONNECT_LIMIT, async {
            let mut config = self.config(source, access.token.current());
            config.tls = access.trust.for_safekeepers().await?;
            let connection = Connection::connect(&config).await?;
            connection.copy_both(&command).await
        });
        let copy = connected
            .await
            .map_err(|_| Left::Silent(id))?
            .map_err(broken)?;
        let (mut reader, mut writer) = (copy.reader, copy.writer);
        let mut commit_lsn = Lsn::INVALID;
        loop {
            let message = self.next(id, &mut reader).await?;
            match SenderMessage::decode(message).map_err(|source| Left::Malformed { id, source })? {
                SenderMessage::XLogData {
                    start_lsn,
                    end_lsn,
                    wal,
                    ..
                } => {
                    self.append(id, start_lsn, wal).await?;
                    commit_lsn = commit_lsn.max(end_lsn);
                }
                SenderMessage::KeepAlive { end_lsn, .. } => {
                    commit_lsn = commit_lsn.max(end_lsn);
                    self.report(&mut writer).await.map_err(broken)?;
                }
            }
            self.show(id, commit_lsn);
        }
    }

    fn config(&self, source: &WalSource, token: Option<Secret>) -> ConnectConfig {
        let options = format!(
            "-c timeline_id={} tenant_id={}",
            self.timeline.timeline_id(),
            self.timeline.tenant_id()
        );
        let mut config = ConnectConfig::tcp(&source.host, source.port, "pageserver")
            .parameter("options", options)
            .parameter("application_name", "pageserver")
            .password(token);
        config.connect_timeout = CONNECT_LIMIT;
        config
    }

    /// The next message, unless the safekeeper is to be left.
    async fn next(&mut self, id: u64, reader: &mut CopyReader) -> Result<Bytes, Left> {
        let stale = async {
            // The sender lives in the timeline, which we hold.
            let _ = self.waiting.wait_for(|count| *count > 0).await;
            tokio::time::sleep(STALE_LIMIT).await;
        };
        tokio::select! {
            biased;
            message = timeout(SILENCE_LIMIT, reader.next()) => match message {
                Err(_) => Err(Left::Silent(id)),
                Ok(Ok(Some(message))) => Ok(message),
                Ok(Ok(None)) => Err(Left::Ended(id)),
                Ok(Err(source)) => Err(Left::Broken { id, source }),
            },
            () = stale => Err(Left::Stale(id)),
        }
    }

    async fn append(&mut self, id: u64, at: Lsn, wal: Bytes) -> Result<(), Left> {
        let mut files = self.files.take().ok_or(Left::Lost)?;
        let done = blocking(move || {
            let appended = files.append(at, &wal);
            Ok::<_, Error>((files, appended))
        });
        let (files, appended) = done.await.map_err(|_| Left::Lost)?;
        let end = files.end();
        self.files = Some(files);
        self.timeline.end.send_if_modified(|known| {
            let changed = *known != end;
            *known = end;
            changed
        });
        appended.map_err(|source| Left::Rejected { id, source })
    }

    /// Tells the safekeeper, and through it the compute, how far we are. Nothing is
    /// "remote consistent": a safekeeper ends the stream once that reaches its
    /// commit LSN and no compute is connected.
    async fn report(&self, writer: &mut CopyWriter) -> Result<(), WireError> {
        let end = self.timeline.end().last_record_lsn;
        let feedback = PageserverFeedback {
            last_received_lsn: end,
            disk_consistent_lsn: end,
            reply_time: now(),
            ..PageserverFeedback::default()
        };
        writer.buffer(|out| ReaderMessage::PageserverFeedback(feedback).encode(out));
        writer.flush().await
    }

    fn show(&self, id: u64, commit_lsn: Lsn) {
        let streaming_lsn = self.timeline.end().last_record_lsn;
        let status = ReceiverStatus {
            source: Some(id),
            commit_lsn,
            streaming_lsn,
        };
        if self.timeline.receiver.send_replace(status).source != Some(id) {
            info!(safekeeper = id, lsn = %streaming_lsn, "streaming WAL");
        }
    }
}

/// Microseconds since 2000-01-01 UTC.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as i64 - POSTGRES_EPOCH
}
