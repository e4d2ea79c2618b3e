//! A log of valid records on valid pages, made up as it goes.

use glowplug::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use glowplug::wire::wal_page::{FIRST_IS_CONTRECORD, PageHeader, page_magic};

/// The major version whose WAL this is.
pub(crate) const PG_MAJOR: u32 = 15;
/// `XLOG_NOOP`.
const NOOP: u8 = 0x20;
/// `XLOG_SWITCH`.
const SWITCH: u8 = 0x40;
const SYSTEM_ID: u64 = 7;

/// A log from the start of the timeline on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) start: Lsn,
    pub(crate) bytes: Vec<u8>,
}

impl Log {
    pub(crate) fn new(start: Lsn, bytes: Vec<u8>) -> Self {
        Self { start, bytes }
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// The bytes between two positions; what is behind the end is left out.
    pub(crate) fn read(&self, from: Lsn, until: Lsn) -> &[u8] {
        let at = |lsn: Lsn| (lsn.bytes_since(self.start) as usize).min(self.bytes.len());
        &self.bytes[at(from)..at(until).max(at(from))]
    }

    /// Appends a record that tells its writer; writers that continue the same log
    /// with records of the same size end them at the same places.
    pub(crate) fn append(&mut self, writer: u64, serial: u64, size: usize) {
        let mut data = [writer.to_le_bytes(), serial.to_le_bytes()].concat();
        data.resize(size.max(16), writer as u8);
        self.put(&record(NOOP, &data));
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Bytes that are left in the segment.
    pub(crate) fn left_in_segment(&self) -> u64 {
        WAL_SEGMENT_SIZE - self.end().segment_offset()
    }

    /// Appends a record that ends the segment. What is left of it is zeros, page
    /// headers included.
    pub(crate) fn switch_segment(&mut self) {
        self.put(&record(SWITCH, &[]));
        let left = self.left_in_segment() % WAL_SEGMENT_SIZE;
        self.bytes.resize(self.bytes.len() + left as usize, 0);
    }

    fn put(&mut self, mut record: &[u8]) {
        let mut begun = false;
        while !record.is_empty() {
            let offset = self.end().0 % WAL_PAGE_SIZE;
            if offset == 0 {
                self.put_page_header(if begun { record.len() as u32 } else { 0 });
                continue;
            }
            let room = (WAL_PAGE_SIZE - offset) as usize;
            let (now, later) = record.split_at(record.len().min(room));
            self.bytes.extend_from_slice(now);
            record = later;
            begun = true;
        }
    }

    fn put_page_header(&mut self, remaining_len: u32) {
        let header = PageHeader {
            magic: page_magic(PG_MAJOR).unwrap(),
            info: if remaining_len > 0 {
                FIRST_IS_CONTRECORD
            } else {
                0
            },
            tli: 1,
            address: self.end(),
            remaining_len,
        };
        if self.end().segment_offset() == 0 {
            header.encode_long(SYSTEM_ID, &mut self.bytes);
        } else {
            header.encode(&mut self.bytes);
        }
    }
}

fn record(info: u8, data: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(24 + data.len());
    record.extend_from_slice(&(24 + data.len() as u32).to_le_bytes());
    record.extend_from_slice(&[0; 12]); // xid, previous record
    record.extend_from_slice(&[info, 0, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(data), &record);
    record.extend_from_slice(&crc.to_le_bytes());
    record.extend_from_slice(data);
    record
}

#[test]
fn the_log_is_what_the_decoder_takes_for_wal() {
    use glowplug::wire::wal_record::RecordDecoder;

    let start = Lsn(0xFF_F000 + 0x100);
    let mut log = Log::new(start, Vec::new());
    let mut ends = Vec::new();
    for (serial, size) in [16, 40, 5000, 20_000, 8, 17].into_iter().enumerate() {
        log.append(1, serial as u64, size);
        ends.push(log.end());
    }
    log.switch_segment();
    ends.push(Lsn(2 * WAL_SEGMENT_SIZE));
    assert_eq!(log.end(), Lsn(2 * WAL_SEGMENT_SIZE));
    log.append(1, 9, 40);
    ends.push(log.end());
    let mut decoder = RecordDecoder::new(start, PG_MAJOR).unwrap();
    let mut input = &log.bytes[..];
    let mut found = Vec::new();
    while let Some(record) = decoder.next(&mut input).unwrap() {
        found.push(record.next);
    }
    assert_eq!(found, ends);
}
