//! Writes tar entries in the form that a pageserver gives them.
//!
//! GNU headers without owner, files of mode 0600, directories of mode 0755
//! (`pageserver/src/basebackup.rs` of Neon).

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::Sink;

const BLOCK: usize = 512;
/// Longest path without an extension, in bytes.
const LONGEST_PATH: usize = 100;

/// Appends entries to a writer. Unlike the builder of the `tar` crate it can stop
/// without an end marker: another part of the archive may follow.
pub(in crate::storage) struct TarWriter<W> {
    inner: W,
    /// Seconds since 1970, for all entries.
    mtime: u64,
}

impl<W: Sink> TarWriter<W> {
    pub(in crate::storage) fn new(inner: W, mtime: u64) -> Self {
        Self { inner, mtime }
    }

    /// Appends a directory.
    pub(in crate::storage) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(path, EntryType::Directory, 0o755, 0)
    }

    /// Appends a small file.
    pub(in crate::storage) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.file_from(path, content.len() as u64, content)
    }

    /// Appends a file of `size` bytes; a shorter source is filled up with zeros, of a
    /// longer one only the beginning is taken.
    pub(in crate::storage) fn file_from(
        &mut self,
        path: &str,
        size: u64,
        source: impl Read,
    ) -> io::Result<()> {
        self.header(path, EntryType::Regular, 0o600, size)?;
        let written = io::copy(&mut source.take(size), &mut self.inner)?;
        let padded = size.next_multiple_of(BLOCK as u64);
        self.inner.zeros(padded - written)
    }

    /// Writes the end marker.
    pub(in crate::storage) fn end_marker(&mut self) -> io::Result<()> {
        self.inner.write_all(&[0; 2 * BLOCK])
    }

    pub(in crate::storage) fn into_inner(self) -> W {
        self.inner
    }

    fn header(&mut self, path: &str, kind: EntryType, mode: u32, size: u64) -> io::Result<()> {
        if path.len() > LONGEST_PATH {
            let problem = format!("the path {path} is too long for a tar header");
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, problem));
        }
        let mut header = Header::new_gnu();
        header.set_path(path)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        self.inner.write_all(header.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_what_was_written() {
        let mut writer = TarWriter::new(Vec::new(), 7);
        writer.directory("base/1").unwrap();
        writer.file("base/1/PG_VERSION", b"15").unwrap();
        writer.file_from("short", 700, &b"x"[..]).unwrap();
        writer.file_from("long", 3, &b"abcdef"[..]).unwrap();
        writer.end_marker().unwrap();
        let bytes = writer.into_inner();
        assert_eq!(bytes.len() % BLOCK, 0);

        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mode().unwrap(), content)
        });
        let mut short = vec![b'x'];
        short.resize(700, 0);
        assert_eq!(
            entries.collect::<Vec<_>>(),
            [
                ("base/1".to_owned(), 0o755, Vec::new()),
                ("base/1/PG_VERSION".to_owned(), 0o600, b"15".to_vec()),
                ("short".to_owned(), 0o600, short),
                ("long".to_owned(), 0o600, b"abc".to_vec()),
            ]
        );
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut writer = TarWriter::new(Vec::new(), 0);
        assert!(writer.file(&"x".repeat(101), b"").is_err());
        assert!(writer.into_inner().is_empty());
    }
}
