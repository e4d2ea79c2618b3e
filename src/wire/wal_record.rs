//! Finds where the records of a write-ahead log end, and refuses what is not WAL.
//!
//! A safekeeper may promise only whole records: a log that ends inside one gives
//! the next primary an end that it cannot start from. The decoder checks what
//! `libs/postgres_ffi/src/waldecoder_handler.rs` of Neon checks: page headers,
//! continuation lengths, record lengths and CRC-32C. It keeps no record, so that a
//! record's length, which its writer names, costs no memory.

use crate::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use crate::wire::wal_page::{
    FIRST_IS_CONTRECORD, LONG_HEADER_SIZE, PageHeader, SHORT_HEADER_SIZE, header_size, page_magic,
};

/// Size of a record's header (`SizeOfXLogRecord`), in bytes.
pub const RECORD_HEADER_SIZE: usize = 24;

/// `RM_XLOG_ID`: the resource manager of records about the log itself.
pub const RMGR_XLOG: u8 = 0;
/// `XLOG_SWITCH`, in the upper half of `xl_info`: the rest of the segment is empty.
pub const XLOG_SWITCH: u8 = 0x40;

const CRC_OFFSET: usize = 20;

/// A record that has been seen to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpan {
    /// Its first byte.
    pub start: Lsn,
    /// Behind its last byte.
    pub end: Lsn,
    /// Where the log goes on: `end` rounded up to 8, or the next segment behind
    /// an `XLOG_SWITCH`. Never behind a page header.
    pub next: Lsn,
    /// `xl_tot_len`, in bytes.
    pub total_len: u32,
    /// `xl_rmid`: whose record it is.
    pub rmid: u8,
    /// `xl_info`.
    pub info: u8,
}

/// Why bytes are not WAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The PostgreSQL version is not known.
    #[error("WAL of PostgreSQL {0} is not known")]
    UnknownVersion(u32),
    /// A page header is not what must stand there.
    #[error("invalid xlog page header: {problem} at {lsn}")]
    PageHeader {
        /// Position of the page.
        lsn: Lsn,
        /// What is wrong with it.
        problem: String,
    },
    /// A record says that it is shorter than its header.
    #[error("invalid xl_tot_len {length} at {lsn}")]
    Length {
        /// Start of the record.
        lsn: Lsn,
        /// What it says.
        length: u32,
    },
    /// A record's checksum does not fit its bytes.
    #[error("WAL record crc mismatch at {end}")]
    Checksum {
        /// Behind the record's last byte.
        end: Lsn,
    },
}

/// Decodes WAL as it comes, in pieces of any size. No input has to be kept.
///
/// After an error the decoder stays where it is: make a new one.
#[derive(Debug, Clone)]
pub struct RecordDecoder {
    magic: u16,
    position: Lsn,
    page_header: [u8; LONG_HEADER_SIZE],
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Up to this position nothing is looked at.
    Skipping { until: Lsn },
    /// A record may start here.
    Between,
    /// Inside a record.
    Inside(Partial),
}

#[derive(Debug, Clone, Copy)]
struct Partial {
    start: Lsn,
    header: [u8; RECORD_HEADER_SIZE],
    /// Bytes seen.
    seen: u32,
    /// CRC-32C of the bytes behind the header.
    crc: u32,
}

impl Partial {
    fn total_len(&self) -> u32 {
        let [a, b, c, d, ..] = self.header;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Bytes to come, as far as is known: the length stands in the first four.
    fn wanted(&self) -> u32 {
        if self.seen < 4 {
            4 - self.seen
        } else {
            self.total_len().saturating_sub(self.seen)
        }
    }

    fn checksum_fits(&self) -> bool {
        let (covered, crc) = self.header.split_at(CRC_OFFSET);
        crc32c::crc32c_append(self.crc, covered).to_le_bytes() == *crc
    }
}

impl RecordDecoder {
    /// Starts at `start`, which must be the end of a record ([`RecordSpan::next`])
    /// or the first position of the log, in WAL of this PostgreSQL major version.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownVersion`].
    pub fn new(start: Lsn, pg_major: u32) -> Result<Self, Error> {
        Ok(Self {
            magic: page_magic(pg_major).ok_or(Error::UnknownVersion(pg_major))?,
            position: start,
            page_header: [0; LONG_HEADER_SIZE],
            state: State::Between,
        })
    }

    /// Position of the next byte that is expected.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Consumes `input` up to the end of a record, or all of it.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<RecordSpan>, Error> {
        while !input.is_empty() {
            match self.state {
                State::Skipping { until } => {
                    self.take(input, until.bytes_since(self.position));
                    if self.position == until {
                        self.state = State::Between;
                    }
                }
                _ if self.in_page_header() => self.read_page_header(input)?,
                State::Between => {
                    self.state = State::Inside(Partial {
                        start: self.position,
                        header: [0; RECORD_HEADER_SIZE],
                        seen: 0,
                        crc: 0,
                    });
                }
                State::Inside(partial) => {
                    if let Some(record) = self.read_record(partial, input)? {
                        return Ok(Some(record));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes up to `wanted` bytes off the input.
    fn take<'a>(&mut self, input: &mut &'a [u8], wanted: u64) -> &'a [u8] {
        let count = wanted.min(input.len() as u64) as usize;
        let (taken, rest) = input.split_at(count);
        *input = rest;
        self.position.0 = self.position.0.wrapping_add(count as u64);
        taken
    }

    fn in_page_header(&self) -> bool {
        ((self.position.0 % WAL_PAGE_SIZE) as usize) < header_size(self.position)
    }

    fn read_page_header(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        let offset = (self.position.0 % WAL_PAGE_SIZE) as usize;
        let page = Lsn(self.position.0 - offset as u64);
        let size = header_size(page);
        let taken = self.take(input, (size - offset) as u64);
        for (to, from) in self.page_header.iter_mut().skip(offset).zip(taken) {
            *to = *from;
        }
        if offset + taken.len() < size {
            return Ok(());
        }
        let header = std::mem::replace(&mut self.page_header, [0; LONG_HEADER_SIZE]);
        let problem = match header.first_chunk::<SHORT_HEADER_SIZE>() {
            Some(header) => self.problem_with(&PageHeader::decode(header), page),
            None => None,
        };
        match problem {
            Some(problem) => Err(Error::PageHeader { lsn: page, problem }),
            None => Ok(()),
        }
    }

    fn problem_with(&self, header: &PageHeader, page: Lsn) -> Option<String> {
        let contrecord = header.info & FIRST_IS_CONTRECORD != 0;
        let remaining = match &self.state {
            State::Inside(partial) => Some(partial.wanted()),
            State::Skipping { .. } | State::Between => None,
        };
        if header.magic != self.magic {
            let (magic, expected) = (header.magic, self.magic);
            return Some(format!("xlp_magic={magic}, expected {expected}"));
        }
        if header.address != page {
            return Some(format!(
                "xlp_pageaddr={}, expected {page}",
                header.address.0
            ));
        }
        match remaining {
            Some(_) if !contrecord => {
                Some("XLP_FIRST_IS_CONTRECORD expected, not found".to_owned())
            }
            Some(expected) if header.remaining_len != expected => Some(format!(
                "xlp_rem_len={}, expected {expected}",
                header.remaining_len
            )),
            None if contrecord => Some("unexpected XLP_FIRST_IS_CONTRECORD".to_owned()),
            None if header.remaining_len != 0 => Some(format!(
                "xlp_rem_len={}, but it's not a contrecord",
                header.remaining_len
            )),
            _ => None,
        }
    }

    fn read_record(
        &mut self,
        mut partial: Partial,
        input: &mut &[u8],
    ) -> Result<Option<RecordSpan>, Error> {
        let left_on_page = WAL_PAGE_SIZE - self.position.0 % WAL_PAGE_SIZE;
        let seen = partial.seen as usize;
        let mut wanted = left_on_page.min(partial.wanted().into());
        if seen < RECORD_HEADER_SIZE {
            wanted = wanted.min((RECORD_HEADER_SIZE - seen) as u64);
        }
        let taken = self.take(input, wanted);
        if seen < RECORD_HEADER_SIZE {
            for (to, from) in partial.header.iter_mut().skip(seen).zip(taken) {
                *to = *from;
            }
        } else {
            partial.crc = crc32c::crc32c_append(partial.crc, taken);
        }
        partial.seen += taken.len() as u32;
        self.state = State::Inside(partial);
        let length = partial.total_len();
        if partial.seen >= 4 && (length as usize) < RECORD_HEADER_SIZE {
            let lsn = partial.start;
            return Err(Error::Length { lsn, length });
        }
        if partial.seen < 4 || partial.seen < length {
            return Ok(None);
        }
        self.finish_record(&partial).map(Some)
    }

    fn finish_record(&mut self, partial: &Partial) -> Result<RecordSpan, Error> {
        let end = self.position;
        if !partial.checksum_fits() {
            return Err(Error::Checksum { end });
        }
        let [.., info, rmid, _, _, _, _, _, _] = partial.header;
        let switch = rmid == RMGR_XLOG && info & 0xF0 == XLOG_SWITCH;
        let unit = if switch { WAL_SEGMENT_SIZE } else { 8 };
        // A hostile writer can name positions up to the last one that there is.
        let next = Lsn(end.0.checked_next_multiple_of(unit).unwrap_or(u64::MAX));
        self.state = if next == end {
            State::Between
        } else {
            State::Skipping { until: next }
        };
        Ok(RecordSpan {
            start: partial.start,
            end,
            next,
            total_len: partial.total_len(),
            rmid,
            info,
        })
    }
}

#[cfg(test)]
mod tests;
