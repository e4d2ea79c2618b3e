//! The prefix that postgres is told to put before each line of its log, and what it
//! says of where a message came from. Pure.
//!
//! Postgres writes its own structured forms, jsonlog and csvlog, only to files of its
//! logging collector: a process more, and a disk to fill. The prefix carries the same
//! facts on stderr. Each message reaches the pipe by one `write`, which Linux does not
//! mix with others as long as it fits the pipe (`src/backend/utils/error/elog.c:
//! write_console`), so nothing is gained by the collector's own protocol.
//!
//! Control characters part the fields: no time, number or host name holds any, and
//! application names are stripped of them (`pg_clean_ascii`).

/// Value of `log_line_prefix`.
pub const LOG_LINE_PREFIX: &str =
    "\u{1e}%m\u{1f}%p\u{1f}%b\u{1f}%u\u{1f}%d\u{1f}%a\u{1f}%h\u{1f}%e\u{1f}";

const BEGIN: char = '\u{1e}';
const PART: char = '\u{1f}';
/// Number of fields.
const FIELDS: usize = 8;

/// Where a message of postgres came from. What does not apply is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// When, by postgres' clock and in its time zone.
    pub at: String,
    /// Process id.
    pub pid: String,
    /// `client backend`, `checkpointer`, …
    pub backend_type: String,
    /// Role of the session.
    pub user: String,
    /// Its database.
    pub database: String,
    /// Its application name.
    pub application: String,
    /// The client's host.
    pub host: String,
    /// `00000` unless something is wrong.
    pub sqlstate: String,
}

/// Splits a line that begins with the prefix. Lines of other programs, and of postgres
/// under another prefix, do not.
pub fn split(line: &str) -> Option<(Origin, &str)> {
    let mut parts = line.strip_prefix(BEGIN)?.splitn(FIELDS + 1, PART);
    let mut next = || {
        let field = parts.next()?;
        // What a session has not told yet.
        let known = field != "[unknown]";
        Some(if known { field } else { "" }.to_owned())
    };
    let origin = Origin {
        at: next()?,
        pid: next()?,
        backend_type: next()?,
        user: next()?,
        database: next()?,
        application: next()?,
        host: next()?,
        sqlstate: next()?,
    };
    Some((origin, parts.next()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefixed_line_is_taken_apart() {
        let line = "\u{1e}2026-01-31 12:34:56.789 UTC\u{1f}9\u{1f}client backend\u{1f}app\u{1f}shop\u{1f}[unknown]\u{1f}[local]\u{1f}42P01\u{1f}ERROR:  no \u{1f}";
        let (origin, text) = split(line).unwrap();
        assert_eq!(text, "ERROR:  no \u{1f}");
        assert_eq!(origin.pid, "9");
        assert_eq!(origin.database, "shop");
        assert_eq!(origin.application, "");
        assert_eq!(origin.sqlstate, "42P01");
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in ["", "LOG:  x", "\u{1e}", "\u{1e}a\u{1f}b\u{1f}", "\tx"] {
            assert_eq!(split(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[\u{1e}\u{1f}a-zä\\[\\]]{0,60}") {
            let _ = split(&line);
        }
    }
}
