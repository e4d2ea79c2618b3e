//! Turns the output of a child into lines, of bytes that need not be UTF-8.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Longest line that is passed on whole; a longer one is split. Bounds the memory
/// that a child can make us use.
pub const MAX_LINE: usize = 64 * 1024;

/// How much is read from a pipe at once.
const CHUNK: usize = 16 * 1024;

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a child's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it came from.
    pub stream: Stream,
    /// Its bytes, without the newline.
    pub bytes: Bytes,
}

impl Line {
    /// The line for people: what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// Splits a byte stream into lines. Pure.
///
/// A line ends with `\n`, or `\r\n`; the end is not part of it. More than
/// [`MAX_LINE`] bytes without an end are cut into several lines.
#[derive(Debug, Default)]
pub struct LineSplitter {
    buffer: BytesMut,
    /// Bytes at the front of `buffer` known to hold no newline.
    scanned: usize,
}

impl LineSplitter {
    /// Appends bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line.
    pub fn next_line(&mut self) -> Option<Bytes> {
        let end = self.buffer[self.scanned..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map(|at| at + self.scanned);
        match end {
            Some(end) if end <= MAX_LINE => {
                self.scanned = 0;
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                if line.last() == Some(&b'\r') {
                    line.truncate(end - 1);
                }
                Some(line.freeze())
            }
            _ if self.buffer.len() > MAX_LINE => {
                self.scanned = 0;
                Some(self.buffer.split_to(MAX_LINE).freeze())
            }
            _ => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }

    /// What the stream ended with, if it did not end with a newline.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.scanned = 0;
        let rest = self.buffer.split();
        (!rest.is_empty()).then(|| rest.freeze())
    }
}

/// One output of a child.
#[derive(Debug)]
struct Source {
    stream: Stream,
    /// `None` once it has ended.
    pipe: Option<pipe::Receiver>,
    splitter: LineSplitter,
}

impl Source {
    fn new(stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stream,
            pipe: Some(pipe::Receiver::from_owned_fd(fd)?),
            splitter: LineSplitter::default(),
        })
    }

    /// A line that is complete, or the incomplete last one.
    fn buffered(&mut self) -> Option<Line> {
        let stream = self.stream;
        let line = self.splitter.next_line();
        let line = match self.pipe {
            Some(_) => line,
            None => line.or_else(|| self.splitter.finish()),
        };
        line.map(|bytes| Line { stream, bytes })
    }

    /// Reads once. Cancel safe: a read that was not finished took nothing.
    async fn fill(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match pipe.read_buf(&mut chunk).await {
            Ok(0) => self.pipe = None,
            Ok(_) => self.splitter.push(&chunk),
            Err(error) => {
                tracing::warn!(%error, "output of a child cannot be read any further");
                self.pipe = None;
            }
        }
    }
}

/// The lines of a child's stdout and stderr, in the order in which they were read.
///
/// Reading is up to the caller: what it leaves unread fills the pipe, and then the
/// child waits. Dropping this makes the child's further writes fail.
#[derive(Debug)]
pub struct Lines {
    stdout: Source,
    stderr: Source,
}

impl Lines {
    pub(super) fn new(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stdout: Source::new(Stream::Stdout, stdout)?,
            stderr: Source::new(Stream::Stderr, stderr)?,
        })
    }

    /// The next bytes of one of the outputs just as they are, for what is not text in
    /// lines; otherwise like [`Lines::next`], which it is not to be mixed with.
    pub async fn next_chunk(&mut self) -> Option<(Stream, Bytes)> {
        loop {
            for source in [&mut self.stdout, &mut self.stderr] {
                if let Some(bytes) = source.splitter.finish() {
                    return Some((source.stream, bytes));
                }
            }
            if self.stdout.pipe.is_none() && self.stderr.pipe.is_none() {
                return None;
            }
            tokio::select! {
                () = self.stdout.fill() => {}
                () = self.stderr.fill() => {}
            }
        }
    }

    /// The next line; `None` once both outputs have ended. That is when the last
    /// process that holds them has closed them, which may be later than the child's
    /// exit: there is no deadline. Cancel safe.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.stdout.buffered().or_else(|| self.stderr.buffered()) {
                return Some(line);
            }
            if self.stdout.pipe.is_none() && self.stderr.pipe.is_none() {
                return None;
            }
            tokio::select! {
                () = self.stdout.fill() => {}
                () = self.stderr.fill() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Bytes> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            lines.extend(std::iter::from_fn(|| splitter.next_line()));
        }
        lines.extend(splitter.finish());
        lines
    }

    #[test]
    fn an_unfinished_last_line_is_a_line() {
        assert_eq!(split(&[b"a\n\nb"]), ["a", "", "b"]);
        assert_eq!(split(&[b"a\n"]), ["a"]);
        assert!(split(&[b""]).is_empty());
    }

    #[test]
    fn both_line_ends_are_taken_off() {
        assert_eq!(split(&[b"a\r\nb\n", b"c\r", b"\n"]), ["a", "b", "c"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_split_and_loses_nothing() {
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        let lines = split(&[&long, b"\nnext\n"]);
        let lengths: Vec<usize> = lines.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 5, 4]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_cut(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(split(&chunks), split(&[&text]));
        }
    }
}
