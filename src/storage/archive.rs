//! Writes backups: tar entries as a pageserver writes them, and one gzip member made
//! of sections that are compressed at different times.
//!
//! A base never changes, so its files are put into a tar and compressed once; each
//! backup adds its WAL. Deflate allows that: a section that ends with a sync flush
//! ends on a byte, and the next needs nothing of it.

mod deflate;
mod tar;

pub(super) use deflate::{GZIP_HEADER, Section, SectionWriter, gzip_trailer};
pub(super) use tar::TarWriter;
