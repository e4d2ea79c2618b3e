//! Reads which PostgreSQL a data directory belongs to.

use std::fs;
use std::path::Path;

use super::{Error, io_error};

/// Oldest major version that is known here.
const OLDEST: u32 = 13;

/// The major version that a `PG_VERSION` file names: `15`, with or without a line
/// end (Neon's pageserver writes none up to 15). `None` for anything else.
pub fn parse_pg_version(text: &str) -> Option<u32> {
    let digits = text.trim_end_matches(['\n', '\r']);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let major = plain.then(|| digits.parse().ok())??;
    (major >= OLDEST).then_some(major)
}

/// The major version of a data directory. Blocks.
///
/// # Errors
///
/// [`Error::Io`], [`Error::Version`].
pub fn read_pg_version(pgdata: &Path) -> Result<u32, Error> {
    let path = pgdata.join("PG_VERSION");
    let text = fs::read(&path).map_err(io_error("read", &path))?;
    let text = String::from_utf8_lossy(&text);
    parse_pg_version(&text).ok_or_else(|| Error::Version {
        text: crate::error::truncate(text.trim(), 32),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_a_line_end() {
        assert_eq!(parse_pg_version("15"), Some(15));
        assert_eq!(parse_pg_version("17\n"), Some(17));
        assert_eq!(parse_pg_version("18\r\n"), Some(18));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "\n", "9.6\n", "12", "+15", "15 ", "x", "99999999999"] {
            assert_eq!(parse_pg_version(text), None, "{text}");
        }
    }
}
