//! Sends backups: makes them on a thread of their own, and streams what comes with
//! bounded memory.

mod content;
mod wal_segment;

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tracing::warn;

use crate::error::chain;
use crate::lsn::Lsn;
use crate::storage::archive::Sink;
use crate::storage::files::blocking;
use crate::storage::knobs::BackupFault;
use crate::storage::pgwire_server::{Error, Session};
use crate::storage::timelines::{Base, LogEnd, Timeline};

/// Bytes in one message, and in one piece between the threads.
const CHUNK: usize = 64 * 1024;
/// Pieces that wait to be sent.
const QUEUE: usize = 4;
/// Where faults happen, in bytes from the start.
const MIDDLE: usize = 32 * 1024;

/// What kind of backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A complete data directory with its WAL.
    Full,
    /// What Neon's postgres starts from.
    Basebackup,
}

/// A backup to be made.
#[derive(Debug, Clone)]
pub(super) struct Backup {
    pub(super) kind: Kind,
    pub(super) timeline: Arc<Timeline>,
    /// Made at `lsn` or before.
    pub(super) base: Arc<Base>,
    pub(super) lsn: Lsn,
    /// Start of the record that ends at `lsn`; `None` if that is not known.
    pub(super) prev_lsn: Option<Lsn>,
    pub(super) gzip: bool,
}

impl Backup {
    /// Start of the record that ends at `lsn`: known at a base and at the end.
    pub(super) fn prev_lsn_at(lsn: Lsn, base: &Base, end: &LogEnd) -> Option<Lsn> {
        if lsn == end.last_record_lsn {
            Some(end.prev_record_lsn)
        } else if lsn == base.end_lsn() {
            Some(base.checkpoint_lsn())
        } else {
            None
        }
    }
}

/// How sending ended, where the connection did not break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// The client has it all.
    Whole,
    /// The client was told that it has not.
    Failed,
    /// The connection must be closed.
    Close,
}

/// Sends a backup, or what a fault leaves of it. Does not say that the next query may
/// come.
pub(super) async fn send(
    session: &mut Session,
    backup: Backup,
    fault: Option<BackupFault>,
) -> Result<Sent, Error> {
    session.copy_out();
    let (pieces, mut arriving) = mpsc::channel(QUEUE);
    let making = blocking(move || {
        let mut out = Pieces::new(pieces);
        content::write(&backup, &mut out)
    });
    let (sent, made) = tokio::join!(pass_on(session, &mut arriving, fault), making);
    let ended = sent?;
    if let Err(error) = &made
        && ended == Passed::All
    {
        warn!(error = chain(error), "a backup failed");
        session.error("XX000", &chain(error));
        return Ok(Sent::Failed);
    }
    let at_end = fault.is_some() && fault != Some(BackupFault::Corrupt);
    match ended {
        Passed::Closing => return Ok(Sent::Close),
        Passed::All if at_end => {
            session.error("XX000", "an injected fault at the end");
            return Ok(Sent::Failed);
        }
        Passed::Failing => {
            session.error("XX000", "an injected fault in the middle");
            return Ok(Sent::Failed);
        }
        Passed::All | Passed::Short => {}
    }
    session.copy_done();
    session.complete("SELECT 1");
    Ok(Sent::Whole)
}

/// Sends a backup, or what a fault leaves of it, to a client that takes it piece by piece.
/// What is not whole ends in an error.
pub(super) async fn feed(
    backup: Backup,
    fault: Option<BackupFault>,
    client: &mpsc::Sender<Result<Bytes, String>>,
) {
    let (pieces, mut arriving) = mpsc::channel(QUEUE);
    let making = blocking(move || {
        let mut out = Pieces::new(pieces);
        content::write(&backup, &mut out)
    });
    let (passed, made) = tokio::join!(feed_pieces(client, &mut arriving, fault), making);
    let problem = match (passed, made) {
        (Some(Passed::All), Err(error)) => {
            warn!(error = chain(&error), "a backup failed");
            Some(chain(&error))
        }
        (Some(Passed::All), Ok(())) if fault == Some(BackupFault::ErrorAtEnd) => {
            Some("an injected fault at the end".to_owned())
        }
        (Some(Passed::Failing | Passed::Closing), _) => {
            Some("an injected fault in the middle".to_owned())
        }
        // A short one ends as if it were whole; who is gone is told nothing.
        _ => None,
    };
    if let Some(problem) = problem {
        let _ = client.send(Err(problem)).await;
    }
}

/// As [`pass_on`]; `None` if the client is gone.
async fn feed_pieces(
    client: &mpsc::Sender<Result<Bytes, String>>,
    arriving: &mut mpsc::Receiver<Bytes>,
    fault: Option<BackupFault>,
) -> Option<Passed> {
    let arriving = Closing(arriving);
    let mut sent = 0;
    while let Some(mut piece) = arriving.0.recv().await {
        let due = sent < MIDDLE && sent + piece.len() >= MIDDLE;
        let fault = fault.filter(|_| due);
        if fault == Some(BackupFault::Corrupt) {
            piece = spoilt(piece, MIDDLE - sent);
        }
        let ending = match fault {
            Some(BackupFault::Truncated) => Some(Passed::Short),
            Some(BackupFault::ErrorMidway) => Some(Passed::Failing),
            Some(BackupFault::Dropped | BackupFault::Stall) => Some(Passed::Closing),
            _ => None,
        };
        if ending.is_some() {
            client.send(Ok(piece.slice(..MIDDLE - sent))).await.ok()?;
            if fault == Some(BackupFault::Stall) {
                client.closed().await;
            }
            return ending;
        }
        sent += piece.len();
        client.send(Ok(piece)).await.ok()?;
    }
    Some(Passed::All)
}

/// How far a backup was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    All,
    /// A part, as if it were all.
    Short,
    /// A part, and an error is to follow.
    Failing,
    /// A part, and the connection is to break.
    Closing,
}

/// Passes pieces on. Whatever the outcome, the maker notices that nobody listens.
async fn pass_on(
    session: &mut Session,
    arriving: &mut mpsc::Receiver<Bytes>,
    fault: Option<BackupFault>,
) -> Result<Passed, Error> {
    let arriving = Closing(arriving);
    let mut sent = 0;
    while let Some(mut piece) = arriving.0.recv().await {
        let due = sent < MIDDLE && sent + piece.len() >= MIDDLE;
        if let Some(fault) = fault.filter(|_| due) {
            let middle = MIDDLE - sent;
            match fault {
                BackupFault::Corrupt => piece = spoilt(piece, middle),
                BackupFault::Refused | BackupFault::ErrorAtEnd => {}
                BackupFault::Truncated
                | BackupFault::Dropped
                | BackupFault::ErrorMidway
                | BackupFault::Stall => {
                    session.copy_data(&piece[..middle]).await?;
                    return stop(session, fault).await;
                }
            }
        }
        sent += piece.len();
        session.copy_data(&piece).await?;
    }
    Ok(Passed::All)
}

async fn stop(session: &mut Session, fault: BackupFault) -> Result<Passed, Error> {
    match fault {
        BackupFault::Truncated => Ok(Passed::Short),
        BackupFault::ErrorMidway => Ok(Passed::Failing),
        BackupFault::Stall => {
            // Until the client gives up.
            session.next_query().await?;
            Ok(Passed::Closing)
        }
        _ => Ok(Passed::Closing),
    }
}

/// Closes a channel also when its reader is cancelled.
struct Closing<'a>(&'a mut mpsc::Receiver<Bytes>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

fn spoilt(piece: Bytes, at: usize) -> Bytes {
    let mut piece = BytesMut::from(piece);
    if let Some(byte) = piece.get_mut(at.saturating_sub(1)) {
        *byte ^= 0xFF;
    }
    piece.freeze()
}

/// Gathers what is written into pieces for another thread.
struct Pieces {
    buffer: BytesMut,
    pieces: mpsc::Sender<Bytes>,
}

impl Pieces {
    fn new(pieces: mpsc::Sender<Bytes>) -> Self {
        Self {
            buffer: BytesMut::with_capacity(CHUNK),
            pieces,
        }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let piece = self.buffer.split().freeze();
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left");
        self.pieces.blocking_send(piece).map_err(gone)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.pass_on()?;
            self.buffer.reserve(CHUNK);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.pass_on()
    }
}

impl Sink for Pieces {}
