//! Compresses parts of one gzip member independently of each other.
//!
//! Formats: RFC 1951 and RFC 1952.

use std::io::{self, Write};

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};

/// Start of a gzip member: deflate, no name, no time, fastest algorithm, Unix.
pub(in crate::storage) const GZIP_HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 3];

/// A pageserver compresses at the fastest level, too.
const LEVEL: u32 = 1;

const BUFFER: usize = 64 * 1024;

/// What must be known of a compressed section to put it into a gzip member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::storage) struct Section {
    /// CRC-32 of its uncompressed bytes.
    pub(in crate::storage) crc32: u32,
    /// Number of its uncompressed bytes.
    pub(in crate::storage) length: u64,
}

/// Compresses a section into a writer.
pub(in crate::storage) struct SectionWriter<W> {
    inner: W,
    compress: Compress,
    hasher: Hasher,
    length: u64,
    buffer: Vec<u8>,
}

impl<W: Write> SectionWriter<W> {
    pub(in crate::storage) fn new(inner: W) -> Self {
        Self {
            inner,
            compress: Compress::new(Compression::new(LEVEL), false),
            hasher: Hasher::new(),
            length: 0,
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// Ends the section on a byte: another one may follow.
    pub(in crate::storage) fn end(self) -> io::Result<(W, Section)> {
        self.close(FlushCompress::Sync)
    }

    /// Ends the last section of a member.
    pub(in crate::storage) fn end_last(self) -> io::Result<(W, Section)> {
        self.close(FlushCompress::Finish)
    }

    fn close(mut self, flush: FlushCompress) -> io::Result<(W, Section)> {
        loop {
            let status = self.step(&[], flush)?.0;
            // A flush is complete once it left room in the buffer.
            let room = self.buffer.len() < self.buffer.capacity();
            if status == Status::StreamEnd || (flush == FlushCompress::Sync && room) {
                break;
            }
        }
        let section = Section {
            crc32: self.hasher.finalize(),
            length: self.length,
        };
        Ok((self.inner, section))
    }

    /// Compresses once; returns how much of the input was taken.
    fn step(&mut self, input: &[u8], flush: FlushCompress) -> io::Result<(Status, usize)> {
        let before = self.compress.total_in();
        self.buffer.clear();
        let status = self
            .compress
            .compress_vec(input, &mut self.buffer, flush)
            .map_err(io::Error::other)?;
        self.inner.write_all(&self.buffer)?;
        Ok((status, (self.compress.total_in() - before) as usize))
    }
}

impl<W: Write> Write for SectionWriter<W> {
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        let mut rest = input;
        while !rest.is_empty() {
            let (_, taken) = self.step(rest, FlushCompress::None)?;
            rest = &rest[taken..];
        }
        self.hasher.update(input);
        self.length += input.len() as u64;
        Ok(input.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// End of the gzip member that consists of these sections.
pub(in crate::storage) fn gzip_trailer(sections: &[Section]) -> [u8; 8] {
    let mut whole = Hasher::new();
    let mut length = 0;
    for section in sections {
        whole.combine(&Hasher::new_with_initial_len(section.crc32, section.length));
        length += section.length;
    }
    let crc32 = u64::from(whole.finalize());
    (length << 32 | crc32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn member(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut out = GZIP_HEADER.to_vec();
        let mut sections = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let mut writer = SectionWriter::new(out);
            writer.write_all(part).unwrap();
            let ended = if i + 1 == parts.len() {
                writer.end_last()
            } else {
                writer.end()
            };
            let section;
            (out, section) = ended.unwrap();
            sections.push(section);
        }
        out.extend(gzip_trailer(&sections));
        out
    }

    fn unzip(member: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut decoder = GzDecoder::new(member);
        decoder.read_to_end(&mut bytes).unwrap();
        assert!(decoder.into_inner().is_empty());
        bytes
    }

    /// Compresses badly.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn sections_of_any_size_are_one_member() {
        let sizes = [0, 1, BUFFER - 5, BUFFER, 10 * BUFFER + 3];
        let parts: Vec<_> = sizes.iter().map(|size| noise(*size)).collect();
        assert_eq!(unzip(&member(&parts)), parts.concat());
    }

    proptest! {
        #[test]
        fn a_member_holds_its_sections(
            parts in prop::collection::vec(prop::collection::vec(0_u8..4, 0..3000), 1..5)
        ) {
            prop_assert_eq!(unzip(&member(&parts)), parts.concat());
        }
    }
}
