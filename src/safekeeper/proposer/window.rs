//! The end of the log, kept in memory for safekeepers that have not got it yet.
//!
//! Pieces are shared, not copied: what a slow safekeeper still has to be sent is a
//! reference to the bytes that came from postgres.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::lsn::Lsn;

/// WAL that does not follow the WAL before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap;

/// Contiguous WAL from `start` to `end`.
#[derive(Debug)]
pub(super) struct WalWindow {
    chunks: VecDeque<(Lsn, Bytes)>,
    end: Lsn,
    size: usize,
}

impl WalWindow {
    /// Nothing, and it goes on at `end`.
    pub(super) fn empty_at(end: Lsn) -> Self {
        Self {
            chunks: VecDeque::new(),
            end,
            size: 0,
        }
    }

    /// The first position held.
    pub(super) fn start(&self) -> Lsn {
        self.chunks.front().map_or(self.end, |(start, _)| *start)
    }

    /// Behind the last position held.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Adds WAL at the end. What is held already is skipped: a stream that was
    /// resumed may repeat it.
    pub(super) fn append(&mut self, start: Lsn, mut wal: Bytes) -> Result<(), Gap> {
        if start > self.end {
            return Err(Gap);
        }
        let known = self.end.bytes_since(start) as usize;
        if known >= wal.len() {
            return Ok(());
        }
        let wal = wal.split_off(known);
        self.size += wal.len();
        let start = self.end;
        self.end = Lsn(start.0 + wal.len() as u64);
        self.chunks.push_back((start, wal));
        Ok(())
    }

    /// Up to `limit` bytes from `position` on; `None` if they are not held. Small
    /// pieces are joined, large ones are not copied.
    pub(super) fn read(&self, position: Lsn, limit: usize) -> Option<Bytes> {
        if position < self.start() || position >= self.end {
            return None;
        }
        let index = self
            .chunks
            .partition_point(|(start, wal)| start.0 + wal.len() as u64 <= position.0);
        let (start, wal) = self.chunks.get(index)?;
        let first = wal.slice(position.bytes_since(*start) as usize..);
        let following = self.chunks.range(index + 1..).map(|(_, wal)| wal);
        Some(join(first, following, limit))
    }

    /// Forgets the pieces that end at or before `position`.
    pub(super) fn forget_until(&mut self, position: Lsn) {
        while let Some((start, wal)) = self.chunks.front() {
            if start.0 + wal.len() as u64 > position.0 {
                break;
            }
            self.size -= wal.len();
            self.chunks.pop_front();
        }
    }

    /// Forgets the oldest pieces that end at or before `position` until at most
    /// `limit` bytes are held.
    pub(super) fn shrink(&mut self, limit: usize, position: Lsn) {
        while self.size > limit {
            let Some((start, wal)) = self.chunks.front() else {
                break;
            };
            if start.0 + wal.len() as u64 > position.0 {
                break;
            }
            self.size -= wal.len();
            self.chunks.pop_front();
        }
    }
}

/// One piece of at most `limit` bytes out of `first` and what follows it.
pub(super) fn join<'a>(
    first: Bytes,
    following: impl Iterator<Item = &'a Bytes>,
    limit: usize,
) -> Bytes {
    if first.len() >= limit {
        return first.slice(..limit);
    }
    let mut following = following.peekable();
    if following.peek().is_none() {
        return first;
    }
    let mut joined = BytesMut::from(first);
    for piece in following {
        let room = limit - joined.len();
        if room == 0 {
            break;
        }
        joined.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(chunks: &[&'static [u8]]) -> WalWindow {
        let mut window = WalWindow::empty_at(Lsn(100));
        for chunk in chunks {
            window
                .append(window.end(), Bytes::from_static(chunk))
                .unwrap();
        }
        window
    }

    #[test]
    fn wal_is_read_from_any_position_that_is_held() {
        let mut window = window(&[b"abc", b"defg"]);
        assert_eq!(window.read(Lsn(100), 100).unwrap(), "abcdefg");
        assert_eq!(window.read(Lsn(101), 3).unwrap(), "bcd");
        assert_eq!(window.read(Lsn(104), 100).unwrap(), "efg");
        assert_eq!(window.read(Lsn(107), 100), None);
        window.forget_until(Lsn(105));
        assert_eq!((window.start(), window.size()), (Lsn(103), 4));
        assert_eq!(window.read(Lsn(101), 100), None);
    }

    #[test]
    fn repeated_wal_is_skipped_and_a_gap_is_refused() {
        let mut window = window(&[b"abc"]);
        assert_eq!(window.append(Lsn(101), Bytes::from_static(b"bcd")), Ok(()));
        assert_eq!(window.append(Lsn(100), Bytes::from_static(b"ab")), Ok(()));
        assert_eq!(window.append(Lsn(105), Bytes::from_static(b"x")), Err(Gap));
        assert_eq!(window.read(Lsn(100), 100).unwrap(), "abcd");
    }

    #[test]
    fn shrinking_stops_at_what_is_still_wanted() {
        let mut window = window(&[b"abc", b"def", b"ghi"]);
        window.shrink(4, Lsn(104));
        assert_eq!(window.start(), Lsn(103));
        window.shrink(4, Lsn(109));
        assert_eq!((window.start(), window.size()), (Lsn(106), 3));
    }

    proptest! {
        #[test]
        fn reads_give_the_log_itself(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 1..20),
            at: prop::sample::Index,
            limit in 1_usize..40,
        ) {
            let log = chunks.concat();
            let mut window = WalWindow::empty_at(Lsn(5));
            for chunk in chunks {
                window.append(window.end(), chunk.into()).unwrap();
            }
            let at = at.index(log.len());
            let read = window.read(Lsn(5 + at as u64), limit).unwrap();
            prop_assert_eq!(&read[..], &log[at..log.len().min(at + limit)]);
        }
    }
}
