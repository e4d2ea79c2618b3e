//! Makes the WAL segment of a basebackup: zeros, and as many page headers as postgres
//! and `pg_waldump` want to see before a first record. Pure.
//!
//! Layout: `libs/postgres_ffi/src/xlog_utils.rs` of Neon (`generate_wal_segment`).

use crate::lsn::{Lsn, WAL_PAGE_SIZE};
use crate::wire::wal_page::{FIRST_IS_CONTRECORD, PageHeader, header_size, page_magic};

/// The beginning of the segment that holds `lsn`, up to the last header; the rest is
/// zeros. `lsn` is not inside a page header.
pub(super) fn beginning(lsn: Lsn, pg_major: u32, system_id: u64) -> Vec<u8> {
    let page = lsn.segment_offset() - lsn.0 % WAL_PAGE_SIZE;
    let first = Lsn(lsn.0 - lsn.segment_offset());
    let mut bytes = Vec::with_capacity(page as usize + WAL_PAGE_SIZE as usize);
    header(first, lsn, pg_major).encode_long(system_id, &mut bytes);
    if page > 0 {
        bytes.resize(page as usize, 0);
        header(Lsn(first.0 + page), lsn, pg_major).encode(&mut bytes);
    }
    bytes
}

/// A header that pretends that a record ends at `lsn`, if that is on its page.
fn header(page: Lsn, lsn: Lsn, pg_major: u32) -> PageHeader {
    let offset = lsn.bytes_since(page);
    let inside = offset > 0 && offset < WAL_PAGE_SIZE;
    let rest = offset.saturating_sub(header_size(page) as u64);
    PageHeader {
        magic: page_magic(pg_major).unwrap_or_default(),
        info: if inside { FIRST_IS_CONTRECORD } else { 0 },
        tli: 1,
        address: page,
        remaining_len: if inside { rest as u32 } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a pageserver made it for PostgreSQL 17 at 0/169AD58.
    #[test]
    fn headers_are_those_of_a_pageserver() {
        let bytes = beginning(Lsn(0x169_AD58), 17, 0x1122_3344_5566_7788);
        let long = hex::decode(
            "16d1020001000000000000010000000000000000000000008877665544332211\
             0000000100200000",
        );
        assert_eq!(bytes[..40], long.unwrap());
        let short = "16d101000100000000a0690100000000400d000000000000";
        assert_eq!(bytes[0x69_A000..], hex::decode(short).unwrap());
        assert!(bytes[40..0x69_A000].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_position_on_the_first_page_needs_one_header() {
        let info = |lsn| {
            let bytes = beginning(lsn, 15, 7);
            assert_eq!(bytes.len(), 40);
            let header = PageHeader::decode(bytes[..24].try_into().unwrap());
            (header.info, header.remaining_len)
        };
        assert_eq!(info(Lsn(0x100_0028)), (3, 0));
        assert_eq!(info(Lsn(0x100_0100)), (3, 0x100 - 40));
        assert_eq!(info(Lsn(0x100_0000)), (2, 0));
    }
}
