//! Splits a tar archive into directories, files and their data, as it arrives.
//!
//! Only what a basebackup holds is accepted: plain files and directories with GNU
//! or ustar headers. `tar::Header` reads a header's fields; the archive reader of
//! that library pulls from a blocking reader and takes a missing end marker for an
//! end, so the splitting is done here.

use tar::{EntryType, Header};

use super::Defect;
use super::entry_name::{relative_path, shown};

const BLOCK: usize = 512;

/// The next thing in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A directory; the path is empty for the root.
    Directory {
        /// Relative path.
        path: String,
    },
    /// A file; its data follows, and then [`Event::FileEnd`].
    File {
        /// Relative path.
        path: String,
        /// Size in bytes.
        size: u64,
    },
    /// The next bytes of the file.
    Data(&'a [u8]),
    /// The file is complete.
    FileEnd,
}

/// The splitter.
pub struct Untar {
    state: State,
    /// Bytes of the archive that were taken so far.
    offset: u64,
    /// Name of the entry that is being read, for messages.
    entry: String,
}

enum State {
    Header {
        block: Box<[u8; BLOCK]>,
        filled: usize,
    },
    Data {
        left: u64,
        padding: usize,
    },
    Padding {
        left: usize,
    },
    /// One zero block was seen; a second makes the end marker.
    HalfEnd {
        seen: usize,
    },
    End,
}

impl State {
    fn header() -> Self {
        Self::Header {
            block: Box::new([0; BLOCK]),
            filled: 0,
        }
    }
}

impl Untar {
    /// At the beginning of an archive.
    #[expect(clippy::new_without_default, reason = "a beginning is said in words")]
    pub fn new() -> Self {
        Self {
            state: State::header(),
            offset: 0,
            entry: String::new(),
        }
    }

    /// Takes bytes off the front of `input` up to the next event; `None` when all
    /// were taken without one.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Defect> {
        // A file is complete as soon as its last byte is there, so that an event
        // follows although no input may be left.
        loop {
            match &mut self.state {
                State::Data { left: 0, padding } => {
                    self.state = State::Padding { left: *padding };
                    return Ok(Some(Event::FileEnd));
                }
                State::Padding { left: 0 } => self.state = State::header(),
                _ if input.is_empty() => return Ok(None),
                State::Data { left, .. } => {
                    let take = usize::try_from(*left).map_or(input.len(), |l| l.min(input.len()));
                    *left -= take as u64;
                    return Ok(Some(Event::Data(self.take(input, take))));
                }
                State::Padding { left } => {
                    let take = input.len().min(*left);
                    *left -= take;
                    self.take(input, take);
                }
                State::Header { block, filled } => {
                    let take = input.len().min(BLOCK - *filled);
                    let (bytes, rest) = input.split_at(take);
                    block[*filled..*filled + take].copy_from_slice(bytes);
                    *filled += take;
                    *input = rest;
                    self.offset += take as u64;
                    if *filled == BLOCK {
                        let block = std::mem::replace(&mut **block, [0; BLOCK]);
                        if let Some(event) = self.entry(&block)? {
                            return Ok(Some(event));
                        }
                    }
                }
                State::HalfEnd { seen } => {
                    let take = input.len().min(BLOCK - *seen);
                    *seen += take;
                    let complete = *seen == BLOCK;
                    if !is_zero(self.take(input, take)) {
                        return Err(self.no_header("a lone block of zeros stands before it"));
                    }
                    if complete {
                        self.state = State::End;
                    }
                }
                // Writers fill up the last record with zeros.
                State::End => {
                    let rest = self.take(input, input.len());
                    if !is_zero(rest) {
                        return Err(Defect::GarbageBehindTar);
                    }
                }
            }
        }
    }

    /// To be called at the end of the input.
    pub fn finish(self) -> Result<(), Defect> {
        match self.state {
            State::End => Ok(()),
            State::Header { filled: 0, .. }
            | State::HalfEnd { .. }
            | State::Padding { left: 0 }
            | State::Data {
                left: 0,
                padding: 0,
            } => Err(Defect::NoTarEnd),
            State::Header { .. } => Err(Defect::TarCut {
                entry: "a header".to_owned(),
            }),
            State::Data { .. } | State::Padding { .. } => Err(Defect::TarCut { entry: self.entry }),
        }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(count);
        *input = rest;
        self.offset += count as u64;
        taken
    }

    /// Reads a header block: the entry it announces, or `None` for a block of zeros.
    fn entry(&mut self, block: &[u8; BLOCK]) -> Result<Option<Event<'static>>, Defect> {
        if is_zero(block) {
            self.state = State::HalfEnd { seen: 0 };
            return Ok(None);
        }
        let header = Header::from_byte_slice(block);
        if header.cksum().ok() != Some(checksum(block)) {
            return Err(self.no_header("its checksum does not fit"));
        }
        let size = header.entry_size();
        let size = size.map_err(|_| self.no_header("its size is not a number"))?;
        let name = header.path_bytes();
        self.entry = shown(&name);
        let path = relative_path(&name)?;
        match header.entry_type() {
            EntryType::Directory => {
                if size > 0 {
                    return Err(self.refused("is a directory with data"));
                }
                self.state = State::header();
                Ok(Some(Event::Directory { path }))
            }
            EntryType::Regular if path.is_empty() => Err(self.refused("is a file without a name")),
            EntryType::Regular => {
                let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
                self.state = State::Data {
                    left: size,
                    padding: padding as usize,
                };
                Ok(Some(Event::File { path, size }))
            }
            EntryType::Link | EntryType::Symlink => Err(self.refused("is a link")),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                Err(self.refused("is a device"))
            }
            _ => Err(self.refused("is neither a file nor a directory")),
        }
    }

    fn refused(&self, problem: &'static str) -> Defect {
        Defect::Entry {
            entry: self.entry.clone(),
            problem,
        }
    }

    fn no_header(&self, problem: &'static str) -> Defect {
        Defect::TarHeader {
            offset: self.offset.saturating_sub(BLOCK as u64),
            problem,
        }
    }
}

/// Sum of a header's bytes, its checksum field read as blanks.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    const FIELD: std::ops::Range<usize> = 148..156;
    let blanks = FIELD.len() as u32 * u32::from(b' ');
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..FIELD.start]) + blanks + sum(&block[FIELD.end..])
}

/// Whether all bytes are 0. Compares a slice with itself, one byte on: that is a
/// `memcmp`, many times faster than a loop in unoptimized builds and no slower in
/// others.
pub(in crate::pageserver) fn is_zero(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && bytes[..rest.len()] == *rest,
    }
}

#[cfg(test)]
mod tests;
