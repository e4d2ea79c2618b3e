//! Positions in the acceptor's WAL: received, whole records, durable.

use crate::lsn::Lsn;
use crate::storage::acceptor::Refusal;
use crate::wire::wal_record::RecordDecoder;

/// Where the log ends, in three senses.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pg_major: u32,
    /// End of the bytes received, also in the middle of a record.
    write_lsn: Lsn,
    /// End of the last whole record received. May be above `write_lsn`: rounded up
    /// to 8, and to the next segment behind an `XLOG_SWITCH`.
    record_lsn: Lsn,
    /// End of the last whole record that a sync has covered.
    flush_lsn: Lsn,
    decoder: Option<RecordDecoder>,
    /// Whether something may stand behind the end. Writing must then wait for the
    /// next `Elected`, which cuts it off.
    unclean: bool,
    unsynced: bool,
}

impl Log {
    /// The log as it was found on disk.
    pub(super) fn found(flush_lsn: Lsn, pg_version: u32) -> Self {
        Self {
            pg_major: pg_version / 10_000,
            write_lsn: flush_lsn,
            record_lsn: flush_lsn,
            flush_lsn,
            decoder: None,
            unclean: true,
            unsynced: false,
        }
    }

    pub(super) fn write_lsn(&self) -> Lsn {
        self.write_lsn
    }

    pub(super) fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    /// WAL must come without gap and overlap. An empty request is held to it too.
    pub(super) fn check_position(&self, begin_lsn: Lsn) -> Result<(), Refusal> {
        let write_lsn = self.write_lsn;
        if begin_lsn < write_lsn {
            return Err(Refusal::Rewrite {
                write_lsn,
                begin_lsn,
            });
        }
        if begin_lsn > write_lsn && write_lsn.is_valid() {
            return Err(Refusal::Gap {
                write_lsn,
                begin_lsn,
            });
        }
        Ok(())
    }

    /// Whether bytes may be written now.
    pub(super) fn check_writable(&self, begin_lsn: Lsn) -> Result<(), Refusal> {
        if self.unclean {
            let write_lsn = self.write_lsn;
            return Err(Refusal::PendingTruncation {
                write_lsn,
                begin_lsn,
            });
        }
        Ok(())
    }

    /// Accounts for bytes written at the write position.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotWal`]. The whole records before the bad place count; nothing
    /// more is taken before the next truncation.
    pub(super) fn write(&mut self, wal: &[u8]) -> Result<(), Refusal> {
        let start = self.write_lsn;
        self.write_lsn = Lsn(start.0.wrapping_add(wal.len() as u64));
        self.unsynced = true;
        let decoded = self.decode(start, wal);
        self.unclean = decoded.is_err();
        decoded.map_err(Refusal::NotWal)
    }

    fn decode(&mut self, start: Lsn, wal: &[u8]) -> Result<(), crate::wire::wal_record::Error> {
        let continues = self.decoder.take().filter(|d| d.position() == start);
        let mut decoder = match continues {
            Some(decoder) => decoder,
            None => RecordDecoder::new(start, self.pg_major)?,
        };
        let mut input = wal;
        while let Some(record) = decoder.next(&mut input)? {
            self.record_lsn = record.next;
        }
        self.decoder = Some(decoder);
        Ok(())
    }

    /// Counts all that was received as durable; tells whether that takes a sync.
    pub(super) fn sync(&mut self) -> bool {
        self.flush_lsn = self.record_lsn;
        std::mem::replace(&mut self.unsynced, false)
    }

    /// Ends the log at `end`; tells whether the disk has to be changed.
    pub(super) fn truncate(&mut self, end: Lsn) -> Result<bool, Refusal> {
        let record_lsn = self.record_lsn;
        if record_lsn.is_valid() && end > record_lsn {
            return Err(Refusal::TruncatesUnwritten { record_lsn, end });
        }
        if !self.unclean && end == self.write_lsn && end == self.flush_lsn {
            return Ok(false);
        }
        self.write_lsn = end;
        self.record_lsn = end;
        self.flush_lsn = end;
        self.decoder = None;
        self.unclean = false;
        self.unsynced = false;
        Ok(true)
    }
}
