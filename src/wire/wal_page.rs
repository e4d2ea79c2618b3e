//! The header that starts each page of the write-ahead log.
//!
//! Layout: PostgreSQL's `src/include/access/xlog_internal.h`
//! (`XLogPageHeaderData`, `XLogLongPageHeaderData`), in the byte order of a
//! little-endian machine, the only one that Neon's storage runs on.

use crate::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};

/// Size of the header of every page but a segment's first, in bytes.
pub const SHORT_HEADER_SIZE: usize = 24;
/// Size of the header of a segment's first page, in bytes.
pub const LONG_HEADER_SIZE: usize = 40;

/// The page starts with the rest of a record (`XLP_FIRST_IS_CONTRECORD`).
pub const FIRST_IS_CONTRECORD: u16 = 1;
/// The header is a long one (`XLP_LONG_HEADER`).
pub const LONG_HEADER: u16 = 2;

/// `XLOG_PAGE_MAGIC` of a PostgreSQL major version; `None` for one that is not
/// known here.
pub const fn page_magic(major: u32) -> Option<u16> {
    match major {
        14 => Some(0xD10D),
        15 => Some(0xD110),
        16 => Some(0xD113),
        17 => Some(0xD116),
        18 => Some(0xD118),
        _ => None,
    }
}

/// Size of the header of the page that holds `lsn`, in bytes.
pub const fn header_size(lsn: Lsn) -> usize {
    if lsn.segment_offset() < WAL_PAGE_SIZE {
        LONG_HEADER_SIZE
    } else {
        SHORT_HEADER_SIZE
    }
}

/// The fields of a page header that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Which PostgreSQL wrote it, see [`page_magic`].
    pub magic: u16,
    /// Flags.
    pub info: u16,
    /// PostgreSQL's timeline number.
    pub tli: u32,
    /// Position of the page.
    pub address: Lsn,
    /// Bytes that are left of the record that the previous page began.
    pub remaining_len: u32,
}

impl PageHeader {
    /// Reads the part that all headers have.
    pub fn decode(bytes: &[u8; SHORT_HEADER_SIZE]) -> Self {
        let [m0, m1, i0, i1, t0, t1, t2, t3, rest @ ..] = *bytes;
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, ..] = rest;
        Self {
            magic: u16::from_le_bytes([m0, m1]),
            info: u16::from_le_bytes([i0, i1]),
            tli: u32::from_le_bytes([t0, t1, t2, t3]),
            address: Lsn(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            remaining_len: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }

    /// Appends a short header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.magic.to_le_bytes());
        out.extend_from_slice(&self.info.to_le_bytes());
        out.extend_from_slice(&self.tli.to_le_bytes());
        out.extend_from_slice(&self.address.0.to_le_bytes());
        out.extend_from_slice(&self.remaining_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]); // padding to 8 bytes
    }

    /// Appends a long header: this one with [`LONG_HEADER`] set, then the identity
    /// of the cluster that wrote the WAL.
    pub fn encode_long(&self, system_id: u64, out: &mut Vec<u8>) {
        let info = self.info | LONG_HEADER;
        Self { info, ..*self }.encode(out);
        out.extend_from_slice(&system_id.to_le_bytes());
        out.extend_from_slice(&(WAL_SEGMENT_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(WAL_PAGE_SIZE as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_round_trip(magic: u16, info: u16, tli: u32, address: u64, remaining_len: u32) {
            let header = PageHeader { magic, info, tli, address: Lsn(address), remaining_len };
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            prop_assert_eq!(PageHeader::decode(&bytes.try_into().unwrap()), header);
        }
    }

    #[test]
    fn only_the_first_page_of_a_segment_has_a_long_header() {
        assert_eq!(header_size(Lsn(WAL_SEGMENT_SIZE + 8191)), LONG_HEADER_SIZE);
        assert_eq!(header_size(Lsn(WAL_SEGMENT_SIZE + 8192)), SHORT_HEADER_SIZE);
        assert_eq!(header_size(Lsn(WAL_SEGMENT_SIZE - 1)), SHORT_HEADER_SIZE);
    }
}
