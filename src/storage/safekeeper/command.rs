//! Understands the commands of a safekeeper, as literally as upstream does.
//!
//! Commands are recognized by their beginning, in upper case; the wording of the
//! refusals is upstream's (`safekeeper/src/handler.rs`).

use crate::lsn::Lsn;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// A client's habit, answered and ignored.
    SetDatestyle,
    /// A proposer wants to push WAL.
    StartWalPush(WalPush),
    /// Somebody wants to read WAL.
    StartReplication(Replication),
    /// The system's identity and position.
    IdentifySystem,
    /// The timeline's positions.
    TimelineStatus,
}

/// Options of `START_WAL_PUSH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalPush {
    /// Not checked here: the safekeeper refuses an unknown one at the first message.
    pub(super) version: u32,
    pub(super) allow_creation: bool,
}

/// Options of `START_REPLICATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) start: Lsn,
    /// With a term the stream goes up to the flushed end, without one up to the
    /// committed end.
    pub(super) term: Option<u64>,
}

impl Command {
    /// Parses a query.
    ///
    /// # Errors
    ///
    /// The text to answer with.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        if query.to_ascii_lowercase().starts_with("set datestyle to ") {
            Ok(Self::SetDatestyle)
        } else if query.starts_with("START_WAL_PUSH") {
            wal_push(query).map(Self::StartWalPush)
        } else if query.starts_with("START_REPLICATION") {
            replication(query).map(Self::StartReplication)
        } else if query.starts_with("IDENTIFY_SYSTEM") {
            Ok(Self::IdentifySystem)
        } else if query.starts_with("TIMELINE_STATUS") {
            Ok(Self::TimelineStatus)
        } else {
            Err(format!("unsupported command {query}"))
        }
    }
}

fn wal_push(query: &str) -> Result<WalPush, String> {
    let mut push = WalPush {
        version: 2,
        allow_creation: true,
    };
    let rest = query.strip_prefix("START_WAL_PUSH").unwrap_or_default();
    // Without white space before the parenthesis the options are not seen.
    let options = rest
        .trim_start()
        .strip_prefix('(')
        .filter(|_| rest.starts_with(char::is_whitespace))
        .and_then(|rest| rest.rsplit_once(')'))
        .map_or("", |(options, _)| options);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let mut words = option.split_whitespace();
        let missing = |what| format!("failed to parse {what} in kv {option} in command {query}");
        let key = words.next().ok_or_else(|| missing("key"))?;
        let value = words.next().ok_or_else(|| missing("value"))?;
        let plain = value.trim_matches('\'');
        let bad = |error: &dyn std::error::Error| {
            format!("failed to parse {key} value {value} in command {query}: {error}")
        };
        match key {
            "proto_version" => push.version = plain.parse().map_err(|e| bad(&e))?,
            "allow_timeline_creation" => {
                push.allow_creation = plain.parse().map_err(|e| bad(&e))?;
            }
            _ => {}
        }
    }
    Ok(push)
}

fn replication(query: &str) -> Result<Replication, String> {
    let bad = || format!("failed to parse START_REPLICATION command {query}");
    let mut rest = query.strip_prefix("START_REPLICATION").unwrap_or_default();
    if let Some(slot) = rest.strip_prefix(" SLOT ") {
        let end = slot.find(' ').filter(|end| *end > 0).ok_or_else(bad)?;
        rest = slot.get(end..).unwrap_or_default();
    }
    let rest = rest.strip_prefix(" PHYSICAL").unwrap_or(rest);
    let rest = rest.strip_prefix(' ').ok_or_else(bad)?;
    let is_lsn = |c: char| c.is_ascii_hexdigit() || c == '/';
    let end = rest.find(|c| !is_lsn(c)).unwrap_or(rest.len());
    let (lsn, rest) = rest.split_at_checked(end).ok_or_else(bad)?;
    let start = lsn.parse().map_err(|_| bad())?;
    Ok(Replication {
        start,
        term: term(rest)?,
    })
}

/// A clause that is not written exactly so is not seen.
fn term(rest: &str) -> Result<Option<u64>, String> {
    let clause = rest.strip_prefix(" (term='");
    let Some((digits, _)) = clause.and_then(|clause| clause.split_once("')")) else {
        return Ok(None);
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let term = digits.parse();
    term.map(Some)
        .map_err(|error| format!("invalid term: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(query: &str) -> Result<(u32, bool), String> {
        wal_push(query).map(|push| (push.version, push.allow_creation))
    }

    #[test]
    fn options_of_wal_push_are_read_naively() {
        let full = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')";
        assert_eq!(push(full), Ok((3, false)));
        assert_eq!(push("START_WAL_PUSH"), Ok((2, true)));
        assert_eq!(push("START_WAL_PUSH(proto_version '3')"), Ok((2, true)));
        assert_eq!(
            push("START_WAL_PUSH (proto_version 3, foo 'bar')"),
            Ok((3, true))
        );
        assert_eq!(
            push("START_WAL_PUSH (proto_version)").unwrap_err(),
            "failed to parse value in kv proto_version in command START_WAL_PUSH (proto_version)"
        );
        assert_eq!(
            push("START_WAL_PUSH (proto_version 'x')").unwrap_err(),
            "failed to parse proto_version value 'x' in command \
             START_WAL_PUSH (proto_version 'x'): invalid digit found in string"
        );
        assert_eq!(
            push("START_WAL_PUSH (allow_timeline_creation 'maybe')").unwrap_err(),
            "failed to parse allow_timeline_creation value 'maybe' in command \
             START_WAL_PUSH (allow_timeline_creation 'maybe'): \
             provided string was not `true` or `false`"
        );
    }

    #[test]
    fn a_term_is_seen_only_where_it_belongs() {
        let parse = |rest: &str| {
            replication(&format!("START_REPLICATION{rest}")).map(|r| (r.start.0, r.term))
        };
        assert_eq!(
            parse(" PHYSICAL 0/15a6000 (term='3')"),
            Ok((0x15A_6000, Some(3)))
        );
        assert_eq!(parse(" SLOT foo 0/15A6000"), Ok((0x15A_6000, None)));
        for misplaced in [
            " TIMELINE 1 (term='3')",
            " ( term='3')",
            "  (term='3')",
            " (term=3)",
        ] {
            let query = format!(" PHYSICAL 0/15A6000{misplaced}");
            assert_eq!(parse(&query), Ok((0x15A_6000, None)));
        }
        assert_eq!(
            parse(" PHYSICAL 0/10 (term='99999999999999999999999')").unwrap_err(),
            "invalid term: number too large to fit in target type"
        );
        for bad in ["", " PHYSICAL x/y", " PHYSICAL", " SLOT  0/1", "0/1"] {
            let error = parse(bad).unwrap_err();
            assert_eq!(
                error,
                format!("failed to parse START_REPLICATION command START_REPLICATION{bad}")
            );
        }
    }

    #[test]
    fn commands_are_recognized_by_their_beginning() {
        assert_eq!(
            Command::parse("TIMELINE_STATUSfoo"),
            Ok(Command::TimelineStatus)
        );
        assert_eq!(
            Command::parse("IDENTIFY_SYSTEM;"),
            Ok(Command::IdentifySystem)
        );
        assert_eq!(
            Command::parse("set DateStyle to x"),
            Ok(Command::SetDatestyle)
        );
        for query in [
            "timeline_status",
            "",
            " TIMELINE_STATUS",
            "SET datestyle = ISO",
        ] {
            let expected = format!("unsupported command {query}");
            assert_eq!(Command::parse(query), Err(expected));
        }
    }
}
