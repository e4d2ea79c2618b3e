//! The inflating thread, and the buffers that go round between it and the writer.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::mpsc;

use super::{Failure, Piece, Sink};
use crate::pageserver::archive::Gunzip;

/// Size of a buffer, in bytes: with [`BUFFERS`] of them small enough for a cache,
/// large enough that almost every file of a basebackup lies in one.
const BUFFER_SIZE: usize = 256 * 1024;
/// Buffers in circulation.
const BUFFERS: usize = 4;

/// A buffer that was filled this far.
struct Filled {
    buffer: Vec<u8>,
    length: usize,
    /// Nothing follows.
    last: bool,
}

/// The inflating thread's ends.
pub(super) struct Outlet {
    full: SyncSender<Filled>,
    empty: Receiver<Vec<u8>>,
}

/// The writing thread's ends.
pub(super) struct Inlet {
    full: Receiver<Filled>,
    empty: SyncSender<Vec<u8>>,
}

pub(super) fn buffers() -> (Inlet, Outlet) {
    let (full, filled) = sync_channel(BUFFERS);
    let (emptied, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // Cannot fail: the receiver is right here, and there is room for all.
        let _ = emptied.send(vec![0; BUFFER_SIZE]);
    }
    (
        Inlet {
            full: filled,
            empty: emptied,
        },
        Outlet { full, empty },
    )
}

/// Inflates until the end of the archive.
pub(super) fn run(mut incoming: mpsc::Receiver<Piece>, outlet: Outlet) -> Result<(), Failure> {
    let mut gunzip = Gunzip::new();
    let mut output = Output::new(outlet)?;
    loop {
        match incoming.blocking_recv() {
            Some(Piece::Data(batch)) => {
                for bytes in &batch {
                    let mut input = &bytes[..];
                    while !input.is_empty() {
                        let done = gunzip.inflate(input, output.room())?;
                        output.advance(done.produced)?;
                        input = &input[done.consumed..];
                    }
                }
            }
            Some(Piece::End) => break,
            None => return Err(Failure::Abandoned),
        }
    }
    loop {
        let produced = gunzip.drain(output.room())?;
        if produced == 0 {
            break;
        }
        output.advance(produced)?;
    }
    gunzip.finish()?;
    output.finish()
}

/// Writes what the other thread inflated.
pub(super) fn drain_into(inlet: Inlet, mut sink: Sink) -> Result<(), Failure> {
    let Inlet { full, empty } = inlet;
    loop {
        let filled = full.recv().map_err(|_| Failure::Abandoned)?;
        sink.write(&filled.buffer[..filled.length])?;
        if filled.last {
            return sink.finish();
        }
        // The other thread may have ended already; it then needs no buffer.
        let _ = empty.send(filled.buffer);
    }
}

/// The buffer that is being filled. It always has room.
struct Output {
    outlet: Outlet,
    buffer: Vec<u8>,
    length: usize,
}

impl Output {
    fn new(outlet: Outlet) -> Result<Self, Failure> {
        let buffer = outlet.empty.recv().map_err(|_| Failure::Abandoned)?;
        Ok(Self {
            outlet,
            buffer,
            length: 0,
        })
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.length..]
    }

    fn advance(&mut self, produced: usize) -> Result<(), Failure> {
        self.length += produced;
        if self.length == self.buffer.len() {
            let fresh = self.outlet.empty.recv().map_err(|_| Failure::Abandoned)?;
            let full = std::mem::replace(&mut self.buffer, fresh);
            self.send(full, false)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Failure> {
        let buffer = std::mem::take(&mut self.buffer);
        self.send(buffer, true)
    }

    fn send(&mut self, buffer: Vec<u8>, last: bool) -> Result<(), Failure> {
        let length = std::mem::take(&mut self.length);
        let filled = Filled {
            buffer,
            length,
            last,
        };
        self.outlet
            .full
            .send(filled)
            .map_err(|_| Failure::Abandoned)
    }
}
