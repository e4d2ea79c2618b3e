//! Writes a basebackup into a directory while it arrives, and reports success only
//! if it was one whole archive.
//!
//! Two blocking threads work side by side: one inflates, one takes the tar archive
//! apart and writes files. Buffers go round between them, so that memory stays
//! bounded and pages are not faulted in again for each. Nothing is synced to disk:
//! the directory is made anew at every start.

mod files;
mod inflate;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::files::Files;
use super::archive::{Defect, Event, Untar};
use crate::process::RunAs;

/// What goes to the unpacker.
pub(super) enum Piece {
    /// Some bytes of the archive.
    Data(Vec<Bytes>),
    /// The server has ended the archive and reported success.
    End,
}

/// Why unpacking stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The archive is not one.
    #[error("bad archive")]
    Archive(#[source] Defect),
    /// The directory cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The sender went away without an end.
    #[error("abandoned")]
    Abandoned,
    /// A thread panicked.
    #[error("unpacking panicked")]
    Panicked,
}

impl From<Defect> for Failure {
    fn from(defect: Defect) -> Self {
        Self::Archive(defect)
    }
}

/// Counters that both sides see.
#[derive(Debug, Default)]
pub(super) struct Counters {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Counters {
    /// Bytes of file data written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files completed.
    pub(super) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }
}

/// A running unpacker.
pub(super) struct Unpacker {
    pieces: mpsc::Sender<Piece>,
    threads: Vec<JoinHandle<Result<(), Failure>>>,
    counters: Arc<Counters>,
}

/// Pieces that may wait for the unpacker.
const PIECES: usize = 8;

impl Unpacker {
    /// Starts unpacking into a directory that exists, giving what is made to `owner`.
    pub(super) fn start(into: &Path, owner: Option<&RunAs>, gzip: bool) -> Self {
        let (pieces, incoming) = mpsc::channel(PIECES);
        let counters = Arc::new(Counters::default());
        let sink = Sink {
            untar: Untar::new(),
            files: Files::new(into.to_owned(), owner.map(|o| (o.uid, o.gid))),
            counters: Arc::clone(&counters),
        };
        let threads = if gzip {
            let (full, emptied) = inflate::buffers();
            vec![
                tokio::task::spawn_blocking(move || inflate::run(incoming, emptied)),
                tokio::task::spawn_blocking(move || inflate::drain_into(full, sink)),
            ]
        } else {
            vec![tokio::task::spawn_blocking(move || {
                write_plain(incoming, sink)
            })]
        };
        Self {
            pieces,
            threads,
            counters,
        }
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Hands a piece over, waiting while the unpacker is behind. Cancel safe. An
    /// error means that the unpacker has stopped: [`Unpacker::finish`] tells why.
    pub(super) async fn push(&self, piece: Piece) -> Result<(), ()> {
        self.pieces.send(piece).await.map_err(drop)
    }

    /// Waits until the unpacker's threads are done. Nothing touches the directory
    /// any more when this returns.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.pieces);
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread.await.unwrap_or(Err(Failure::Panicked));
            // When one thread fails, the other sees only that it is gone.
            if matches!(result, Ok(()) | Err(Failure::Abandoned)) && ended.is_err() {
                result = ended;
            }
        }
        result
    }
}

/// Where the archive's bytes end up.
struct Sink {
    untar: Untar,
    files: Files,
    counters: Arc<Counters>,
}

impl Sink {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while let Some(event) = self.untar.next(&mut bytes)? {
            match event {
                Event::Directory { path } => self.files.directory(&path)?,
                Event::File { path, size } => self.files.create(&path, size)?,
                Event::Data(data) => {
                    self.files.write(data)?;
                    let written = data.len() as u64;
                    self.counters.bytes.fetch_add(written, Ordering::Relaxed);
                }
                Event::FileEnd => {
                    self.files.close()?;
                    self.counters.files.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        Ok(self.untar.finish()?)
    }
}

fn write_plain(mut incoming: mpsc::Receiver<Piece>, mut sink: Sink) -> Result<(), Failure> {
    loop {
        match incoming.blocking_recv() {
            Some(Piece::Data(batch)) => {
                batch.iter().try_for_each(|bytes| sink.write(bytes))?;
            }
            Some(Piece::End) => return sink.finish(),
            None => return Err(Failure::Abandoned),
        }
    }
}
