//! Log sequence numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A byte position in the write-ahead log of a timeline.
///
/// Where it marks an end, it is exclusive: the next byte to write. Prints as
/// PostgreSQL's `pg_lsn` does, two upper-case hex halves without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Size of a WAL page (`XLOG_BLCKSZ`), in bytes.
pub const WAL_PAGE_SIZE: u64 = 8192;
/// Size of a WAL segment that Neon's storage uses throughout, in bytes.
pub const WAL_SEGMENT_SIZE: u64 = 16 * 1024 * 1024;

impl Lsn {
    /// `0/0`: no position. A timeline that was never written has this end.
    pub const INVALID: Self = Self(0);

    /// Whether this is a position at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Number of the segment that holds the byte at this position.
    pub const fn segment(self) -> u64 {
        self.0 / WAL_SEGMENT_SIZE
    }

    /// Offset of this position in its segment.
    pub const fn segment_offset(self) -> u64 {
        self.0 % WAL_SEGMENT_SIZE
    }

    /// This position rounded up to the next multiple of 8 (`MAXALIGN`), where a
    /// record may start.
    #[must_use]
    pub const fn align_up(self) -> Self {
        Self((self.0 + 7) & !7)
    }

    /// Where the first record at or after this position starts: behind the page
    /// header if this is the start of a page (PostgreSQL: 40 bytes at a segment's
    /// start, 24 at any other page's).
    #[must_use]
    pub const fn skip_page_header(self) -> Self {
        if self.0.is_multiple_of(WAL_SEGMENT_SIZE) {
            Self(self.0 + 40)
        } else if self.0.is_multiple_of(WAL_PAGE_SIZE) {
            Self(self.0 + 24)
        } else {
            self
        }
    }

    /// Name of the WAL file that holds this position on PostgreSQL timeline `tli`.
    pub fn segment_file_name(self, tli: u32) -> String {
        segment_file_name(tli, self.segment())
    }

    /// Bytes from `earlier` to this position; 0 if it is not earlier.
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Name of WAL segment number `segment` on PostgreSQL timeline `tli`
/// (`XLogFileName`): 24 hex digits.
pub fn segment_file_name(tli: u32, segment: u64) -> String {
    let per_id = 0x1_0000_0000 / WAL_SEGMENT_SIZE;
    format!("{tli:08X}{:08X}{:08X}", segment / per_id, segment % per_id)
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an LSN: write it as two hex numbers of up to 8 digits, like 0/16B9188")]
pub struct ParseLsnError(pub String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseLsnError(text.to_owned());
        let half = |digits: &str| {
            let plain = !digits.is_empty()
                && digits.len() <= 8
                && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if plain {
                u64::from_str_radix(digits, 16).ok()
            } else {
                None
            }
        };
        let (high, low) = text.trim().split_once('/').ok_or_else(error)?;
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Self(high << 32 | low)),
            _ => Err(error()),
        }
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_form_round_trips(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in [
            "",
            "0",
            "/",
            "0/",
            "/0",
            "0/0/0",
            "+1/2",
            "0/123456789",
            "g/1",
            "0x1/2",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
        assert_eq!(" 0/169ad58\n".parse(), Ok(Lsn(0x0169_AD58)));
    }

    #[test]
    fn segment_names_are_postgres_own() {
        assert_eq!(
            Lsn(0x16B_9188).segment_file_name(1),
            "000000010000000000000001"
        );
        assert_eq!(segment_file_name(1, 256), "000000010000000100000000");
    }

    #[test]
    fn a_record_never_starts_inside_a_page_header() {
        assert_eq!(
            Lsn(WAL_SEGMENT_SIZE).skip_page_header(),
            Lsn(WAL_SEGMENT_SIZE + 40)
        );
        assert_eq!(
            Lsn(WAL_PAGE_SIZE).skip_page_header(),
            Lsn(WAL_PAGE_SIZE + 24)
        );
        assert_eq!(
            Lsn(WAL_PAGE_SIZE + 24).skip_page_header(),
            Lsn(WAL_PAGE_SIZE + 24)
        );
        assert_eq!(Lsn(9).align_up(), Lsn(16));
    }
}
