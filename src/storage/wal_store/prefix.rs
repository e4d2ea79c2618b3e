//! What stands before the first record in the segment where a timeline begins.
//!
//! A proposer sends WAL from the first record on. Without page headers before it,
//! neither `pg_waldump` nor a reader that starts with the segment would accept it,
//! so two are made up; between them are zeros
//! (`libs/postgres_ffi/src/xlog_utils.rs`, `generate_wal_segment`).

use crate::lsn::{Lsn, WAL_PAGE_SIZE};
use crate::storage::acceptor::ServerInfo;
use crate::wire::wal_page::{
    FIRST_IS_CONTRECORD, LONG_HEADER_SIZE, PageHeader, SHORT_HEADER_SIZE, page_magic,
};

/// PostgreSQL's timeline number, always 1 on Neon's storage.
const TLI: u32 = 1;

/// The non-zero bytes between the start of the segment that holds `start`, and
/// `start`, with their positions.
pub fn prefix(start: Lsn, server: &ServerInfo) -> Vec<(Lsn, Vec<u8>)> {
    let segment = Lsn(start.0 - start.segment_offset());
    let page = Lsn(start.0 - start.0 % WAL_PAGE_SIZE);
    let mut pieces = Vec::new();
    if start.segment_offset() != 0 {
        let mut first = Vec::with_capacity(LONG_HEADER_SIZE);
        header(segment, start, server, LONG_HEADER_SIZE).encode_long(server.system_id, &mut first);
        pieces.push((segment, first));
    }
    if page != segment && page != start {
        let mut short = Vec::with_capacity(SHORT_HEADER_SIZE);
        header(page, start, server, SHORT_HEADER_SIZE).encode(&mut short);
        pieces.push((page, short));
    }
    pieces
}

/// A header that pretends that a record ends at `start`, if that is on its page.
fn header(page: Lsn, start: Lsn, server: &ServerInfo, size: usize) -> PageHeader {
    let offset = start.bytes_since(page);
    let contrecord = offset > 0 && offset < WAL_PAGE_SIZE;
    let rest = offset.saturating_sub(size as u64) as u32;
    PageHeader {
        magic: page_magic(server.pg_version / 10_000).unwrap_or_default(),
        info: if contrecord { FIRST_IS_CONTRECORD } else { 0 },
        tli: TLI,
        address: page,
        remaining_len: if contrecord { rest } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::WAL_SEGMENT_SIZE;

    const SERVER: ServerInfo = ServerInfo {
        pg_version: 150_020,
        system_id: 7,
        wal_segment_size: WAL_SEGMENT_SIZE as u32,
    };

    fn headers(start: u64) -> Vec<(u64, u16, u32)> {
        let pieces = prefix(Lsn(start), &SERVER);
        let decoded = pieces.iter().map(|(at, bytes)| {
            let header = PageHeader::decode(bytes[..SHORT_HEADER_SIZE].try_into().unwrap());
            assert_eq!(header.address, *at);
            (at.0, header.info, header.remaining_len)
        });
        decoded.collect()
    }

    #[test]
    fn the_page_of_the_start_pretends_to_continue_a_record() {
        assert_eq!(
            headers(0x151_1AE0),
            [(0x100_0000, 2, 0), (0x151_0000, 1, 0x1AE0 - 24)]
        );
        assert_eq!(headers(0x100_0100), [(0x100_0000, 3, 0x100 - 40)]);
        assert_eq!(headers(0x151_2000), [(0x100_0000, 2, 0)]);
        assert_eq!(headers(0x100_0000), []);
    }
}
