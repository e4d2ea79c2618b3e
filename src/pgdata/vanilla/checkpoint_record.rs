//! The WAL record of a shutdown checkpoint: where it ends, and its bytes on the page.
//!
//! Layout: `src/include/access/xlogrecord.h` and `src/backend/access/transam/xlog.c`
//! (`CreateCheckPoint`) of PostgreSQL. The same from 13 to 18.

use crate::lsn::{Lsn, WAL_PAGE_SIZE};
use crate::wire::control_file::CHECKPOINT_SIZE;
use crate::wire::wal_page::{FIRST_IS_CONTRECORD, PageHeader, header_size};

/// `XLogRecord` without its trailing checksum's alignment, in bytes.
const HEADER_SIZE: usize = 24;
/// `XLR_BLOCK_ID_DATA_SHORT`: the record's main data, of up to 255 bytes, follows.
const DATA_SHORT: u8 = 0xFF;
/// `xl_tot_len`.
const RECORD_SIZE: usize = HEADER_SIZE + 2 + CHECKPOINT_SIZE;

/// `XLOG_CHECKPOINT_SHUTDOWN` of `RM_XLOG_ID`.
const INFO: u8 = 0x00;
const RMGR_XLOG: u8 = 0;

/// What page headers say about the cluster.
pub(super) struct Cluster {
    pub(super) magic: u16,
    pub(super) tli: u32,
    pub(super) system_identifier: u64,
}

/// Where the record behind a checkpoint record may start.
pub(super) fn end_of(start: Lsn) -> Lsn {
    let mut position = start.skip_page_header();
    let mut left = RECORD_SIZE as u64;
    loop {
        let room = WAL_PAGE_SIZE - position.0 % WAL_PAGE_SIZE;
        if left <= room {
            return Lsn(position.0 + left).align_up();
        }
        left -= room;
        position = Lsn(position.0 + room).skip_page_header();
    }
}

/// The record. `previous` is the start of the record before it.
pub(super) fn encode(previous: Lsn, checkpoint: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_SIZE);
    record.extend_from_slice(&(RECORD_SIZE as u32).to_le_bytes());
    record.extend_from_slice(&0_u32.to_le_bytes()); // xl_xid: no transaction
    record.extend_from_slice(&previous.0.to_le_bytes());
    record.extend_from_slice(&[INFO, RMGR_XLOG, 0, 0]);
    record.extend_from_slice(&[0; 4]); // xl_crc, below
    record.extend_from_slice(&[DATA_SHORT, CHECKPOINT_SIZE as u8]);
    record.extend_from_slice(checkpoint);
    // The body first, then the header up to the checksum.
    let (header, body) = record.split_at(HEADER_SIZE);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &header[..HEADER_SIZE - 4]);
    record[HEADER_SIZE - 4..HEADER_SIZE].copy_from_slice(&crc.to_le_bytes());
    record
}

/// What to write where: the record from `at` on, and the headers of the pages it
/// goes on to. The page that holds `at` has its header already.
pub(super) fn place(at: Lsn, record: &[u8], cluster: &Cluster) -> Vec<(Lsn, Vec<u8>)> {
    let mut pieces = Vec::new();
    let mut position = at;
    let mut left = record;
    let mut header = Vec::new();
    loop {
        let start = Lsn(position.0 + header.len() as u64);
        let room = (WAL_PAGE_SIZE - start.0 % WAL_PAGE_SIZE) as usize;
        let (here, rest) = left.split_at(left.len().min(room));
        let mut bytes = header;
        bytes.extend_from_slice(here);
        pieces.push((position, bytes));
        if rest.is_empty() {
            return pieces;
        }
        left = rest;
        position = Lsn(start.0 + room as u64);
        header = continued_page(position, rest.len(), cluster);
    }
}

/// Header of a page that starts with the rest of a record.
fn continued_page(address: Lsn, remaining: usize, cluster: &Cluster) -> Vec<u8> {
    let header = PageHeader {
        magic: cluster.magic,
        info: FIRST_IS_CONTRECORD,
        tli: cluster.tli,
        address,
        remaining_len: remaining as u32,
    };
    let mut bytes = Vec::with_capacity(header_size(address));
    if address.segment_offset() == 0 {
        header.encode_long(cluster.system_identifier, &mut bytes);
    } else {
        header.encode(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lsn::WAL_SEGMENT_SIZE;
    use crate::wire::wal_page::page_magic;
    use crate::wire::wal_record::RecordDecoder;

    fn cluster() -> Cluster {
        Cluster {
            magic: page_magic(16).unwrap(),
            tli: 1,
            system_identifier: 7,
        }
    }

    proptest! {
        /// From anywhere in a segment, also where a page or the segment ends first.
        #[test]
        fn a_placed_record_is_whole_and_ends_where_it_should(
            near_end in prop_oneof![Just(WAL_PAGE_SIZE), Just(WAL_SEGMENT_SIZE)],
            back in 1_u64..40,
        ) {
            let at = Lsn(3 * WAL_SEGMENT_SIZE + near_end - back * 8).skip_page_header();
            let record = encode(Lsn(at.0 - 120), &[9; CHECKPOINT_SIZE]);
            let mut wal = Vec::new();
            for (position, bytes) in place(at, &record, &cluster()) {
                prop_assert_eq!(position.0, at.0 + wal.len() as u64);
                wal.extend(bytes);
            }
            wal.resize(wal.len().next_multiple_of(8), 0);
            let mut decoder = RecordDecoder::new(at, 16).unwrap();
            let mut input = &wal[..];
            let span = decoder.next(&mut input).unwrap().unwrap();
            prop_assert_eq!((span.start, span.next), (at, end_of(at)));
        }
    }

    #[test]
    fn a_record_that_is_not_split_takes_120_bytes() {
        assert_eq!(end_of(Lsn(0x151_1B00)), Lsn(0x151_1B00 + 120));
    }
}
