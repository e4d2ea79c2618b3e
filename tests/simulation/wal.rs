//! A log of valid records on valid pages, made up as it goes.

use glowplug::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use glowplug::wire::wal_page::{FIRST_IS_CONTRECORD, PageHeader, page_magic};

/// The log of one compute, from the start of the timeline on.
#[derive(Debug, Clone)]
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

    pub(crate) fn read(&self, from: Lsn, until: Lsn) -> &[u8] {
        &self.bytes[from.bytes_since(self.start) as usize..until.bytes_since(self.start) as usize]
    }

    /// Appends one record that says who wrote it.
    pub(crate) fn append(&mut self, writer: u64, size: usize) {
        let mut data = writer.to_le_bytes().repeat(size / 8 + 1);
        data.truncate(size.max(8));
        let total = (24 + data.len()) as u32;
        let mut header = Vec::new();
        header.extend_from_slice(&total.to_le_bytes());
        header.extend_from_slice(&0_u32.to_le_bytes());
        header.extend_from_slice(&0_u64.to_le_bytes());
        // An XLOG_NOOP of the log's own resource manager.
        header.extend_from_slice(&[0x20, 0, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.extend_from_slice(&data);
        self.put(&header);
        while !self.end().0.is_multiple_of(8) {
            self.bytes.push(0);
        }
    }

    fn put(&mut self, mut record: &[u8]) {
        let mut begun = false;
        while !record.is_empty() {
            if self.end().0.is_multiple_of(WAL_PAGE_SIZE) {
                self.put_page_header(if begun { record.len() as u32 } else { 0 });
            }
            let room = WAL_PAGE_SIZE - self.end().0 % WAL_PAGE_SIZE;
            let (now, later) = record.split_at(record.len().min(room as usize));
            self.bytes.extend_from_slice(now);
            record = later;
            begun = true;
        }
    }

    fn put_page_header(&mut self, remaining_len: u32) {
        let header = PageHeader {
            magic: page_magic(15).unwrap(),
            info: if remaining_len > 0 {
                FIRST_IS_CONTRECORD
            } else {
                0
            },
            tli: 1,
            address: self.end(),
            remaining_len,
        };
        if self.end().0.is_multiple_of(WAL_SEGMENT_SIZE) {
            header.encode_long(1, &mut self.bytes);
        } else {
            header.encode(&mut self.bytes);
        }
    }
}
