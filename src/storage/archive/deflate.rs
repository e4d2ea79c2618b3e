//! Compresses parts of one gzip member independently of each other.
//!
//! Formats: RFC 1951 and RFC 1952.

use std::io::{self, Read, Write};
use std::sync::LazyLock;

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};

use super::Sink;

/// Start of a gzip member: deflate, no name, no time, fastest algorithm, Unix.
const GZIP_HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 3];

/// A pageserver compresses at the fastest level, too.
const FASTEST: Compression = Compression::fast();

const BUFFER: usize = 64 * 1024;

/// Zeros that are compressed once for all.
const ZEROS: u64 = 1024 * 1024;

/// What must be known of a compressed section to put it into a gzip member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::storage) struct Section {
    /// CRC-32 of its uncompressed bytes.
    crc32: u32,
    /// Number of its uncompressed bytes.
    pub(in crate::storage) length: u64,
}

/// Compresses a section into a writer.
pub(in crate::storage) struct SectionWriter<W> {
    inner: W,
    deflate: Deflate,
    hasher: Hasher,
    length: u64,
}

impl<W: Write> SectionWriter<W> {
    pub(in crate::storage) fn new(inner: W) -> Self {
        Self::with_level(inner, FASTEST)
    }

    fn with_level(inner: W, level: Compression) -> Self {
        Self {
            inner,
            deflate: Deflate::new(level),
            hasher: Hasher::new(),
            length: 0,
        }
    }

    /// Ends the section on a byte: another one may follow.
    pub(in crate::storage) fn end(mut self) -> io::Result<(W, Section)> {
        self.deflate.flush(&mut self.inner, FlushCompress::Sync)?;
        let section = Section {
            crc32: self.hasher.finalize(),
            length: self.length,
        };
        Ok((self.inner, section))
    }
}

impl<W: Write> Write for SectionWriter<W> {
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        self.deflate.write(&mut self.inner, input)?;
        self.hasher.update(input);
        self.length += input.len() as u64;
        Ok(input.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Sink for SectionWriter<W> {}

/// Writes a gzip member of sections, some of which were compressed before.
pub(in crate::storage) struct GzipWriter<W> {
    inner: W,
    deflate: Deflate,
    hasher: Hasher,
    length: u64,
}

impl<W: Write> GzipWriter<W> {
    pub(in crate::storage) fn new(mut inner: W) -> io::Result<Self> {
        inner.write_all(&GZIP_HEADER)?;
        Ok(Self {
            inner,
            deflate: Deflate::new(FASTEST),
            hasher: Hasher::new(),
            length: 0,
        })
    }

    /// Appends a section that was compressed before.
    pub(in crate::storage) fn append(
        &mut self,
        mut compressed: impl Read,
        section: Section,
    ) -> io::Result<()> {
        self.deflate.flush(&mut self.inner, FlushCompress::Sync)?;
        // What follows must not refer to what came before the section.
        self.deflate.forget();
        io::copy(&mut compressed, &mut self.inner)?;
        let hasher = Hasher::new_with_initial_len(section.crc32, section.length);
        self.hasher.combine(&hasher);
        self.length += section.length;
        Ok(())
    }

    /// Ends the member.
    pub(in crate::storage) fn finish(mut self) -> io::Result<W> {
        self.deflate.flush(&mut self.inner, FlushCompress::Finish)?;
        let crc32 = u64::from(self.hasher.finalize());
        // Both fields hold 32 bits, the length modulo their range.
        let trailer = self.length << 32 | crc32;
        self.inner.write_all(&trailer.to_le_bytes())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        self.deflate.write(&mut self.inner, input)?;
        self.hasher.update(input);
        self.length += input.len() as u64;
        Ok(input.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Sink for GzipWriter<W> {
    /// Most of a WAL segment is zeros.
    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        static COMPRESSED: LazyLock<io::Result<(Vec<u8>, Section)>> = LazyLock::new(|| {
            let mut writer = SectionWriter::with_level(Vec::new(), Compression::best());
            io::copy(&mut io::repeat(0).take(ZEROS), &mut writer)?;
            writer.end()
        });
        if let Ok((compressed, section)) = &*COMPRESSED {
            while count >= ZEROS {
                self.append(&compressed[..], *section)?;
                count -= ZEROS;
            }
        }
        io::copy(&mut io::repeat(0).take(count), self)?;
        Ok(())
    }
}

/// A deflate stream without a wrapper.
struct Deflate {
    compress: Compress,
    buffer: Vec<u8>,
}

impl Deflate {
    fn new(level: Compression) -> Self {
        Self {
            compress: Compress::new(level, false),
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    fn write(&mut self, out: &mut impl Write, input: &[u8]) -> io::Result<()> {
        let mut rest = input;
        while !rest.is_empty() {
            let (_, taken) = self.step(out, rest, FlushCompress::None)?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut impl Write, flush: FlushCompress) -> io::Result<()> {
        loop {
            let (status, _) = self.step(out, &[], flush)?;
            // A flush is complete once it left room in the buffer.
            let room = self.buffer.len() < self.buffer.capacity();
            if status == Status::StreamEnd || (flush == FlushCompress::Sync && room) {
                return Ok(());
            }
        }
    }

    /// Starts anew, without knowledge of what was compressed.
    fn forget(&mut self) {
        self.compress.reset();
    }

    /// Compresses once; returns how much of the input was taken.
    fn step(
        &mut self,
        out: &mut impl Write,
        input: &[u8],
        flush: FlushCompress,
    ) -> io::Result<(Status, usize)> {
        let before = self.compress.total_in();
        self.buffer.clear();
        let status = self
            .compress
            .compress_vec(input, &mut self.buffer, flush)
            .map_err(io::Error::other)?;
        out.write_all(&self.buffer)?;
        Ok((status, (self.compress.total_in() - before) as usize))
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn section(part: &[u8]) -> (Vec<u8>, Section) {
        let mut writer = SectionWriter::new(Vec::new());
        writer.write_all(part).unwrap();
        writer.end().unwrap()
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
        let mut writer = GzipWriter::new(Vec::new()).unwrap();
        let mut whole = Vec::new();
        for size in sizes {
            let part = noise(size);
            let (compressed, section) = section(&part);
            writer.append(&compressed[..], section).unwrap();
            writer.write_all(&part).unwrap();
            whole.extend([part.clone(), part].concat());
        }
        assert_eq!(unzip(&writer.finish().unwrap()), whole);
    }

    #[test]
    fn many_zeros_take_little_room() {
        let count = 16 * ZEROS + 5;
        let mut writer = GzipWriter::new(Vec::new()).unwrap();
        writer.write_all(b"a").unwrap();
        writer.zeros(count).unwrap();
        writer.write_all(b"z").unwrap();
        let member = writer.finish().unwrap();
        assert!(member.len() < 20_000, "{}", member.len());
        let bytes = unzip(&member);
        assert_eq!(bytes.len() as u64, count + 2);
        assert!(bytes[1..=count as usize].iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn a_member_holds_its_parts(
            parts in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(0_u8..4, 0..3000)), 0..6)
        ) {
            let mut writer = GzipWriter::new(Vec::new()).unwrap();
            let mut whole = Vec::new();
            for (before, part) in parts {
                if before {
                    let (compressed, section) = section(&part);
                    writer.append(&compressed[..], section).unwrap();
                } else {
                    writer.write_all(&part).unwrap();
                }
                whole.extend(part);
            }
            prop_assert_eq!(unzip(&writer.finish().unwrap()), whole);
        }
    }
}
