//! Writes backups: tar entries as a pageserver writes them, and one gzip member made
//! of sections that are compressed at different times.
//!
//! A base never changes, so its files are put into a tar and compressed once; each
//! backup adds its WAL. Deflate allows that: a section that ends with a sync flush
//! ends on a byte, and the next needs nothing of it.

mod deflate;
mod tar;

use std::io::{self, Read, Write};

pub(super) use deflate::{GzipWriter, Section, SectionWriter};
pub(super) use tar::TarWriter;

/// A writer that may know a short way to write many zeros.
pub(super) trait Sink: Write {
    /// Writes this many zeros.
    fn zeros(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(count), self).map(drop)
    }
}

#[cfg(test)]
impl Sink for Vec<u8> {}

impl<S: Sink> Sink for &mut S {
    fn zeros(&mut self, count: u64) -> io::Result<()> {
        (**self).zeros(count)
    }
}
