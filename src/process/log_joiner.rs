//! Joins the lines that postgres writes on stderr into messages, and tells how
//! severe each is.
//!
//! Pure: the caller passes lines, and says when none came for [`QUIET`].
//!
//! Postgres writes one message as several lines: the primary line `PREFIX
//! SEVERITY:  text`, then `PREFIX DETAIL:  text` and its like, and continues a text
//! of several lines with a tab (`src/backend/utils/error/elog.c:
//! send_message_to_server_log`). What other programs and libraries write to the same
//! stream has no such form; their neighbouring lines are taken for one message.

use std::time::Duration;

/// A message is complete when no line has followed it for this long.
pub const QUIET: Duration = Duration::from_millis(100);

/// A message of this many bytes is complete, whatever follows.
const MAX_MESSAGE: usize = 64 * 1024;

/// How severe a message of postgres is (elog.h, `error_severity`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// `DEBUG1` to `DEBUG5`, or `DEBUG`.
    Debug,
    /// Asked for by a client.
    Info,
    /// A hint to a client.
    Notice,
    /// A likely problem.
    Warning,
    /// A statement failed.
    Error,
    /// Of interest to administrators.
    Log,
    /// A session ended, or the server did not start.
    Fatal,
    /// All sessions ended.
    Panic,
}

const SEVERITIES: [(&str, Severity); 13] = [
    ("DEBUG", Severity::Debug),
    ("DEBUG1", Severity::Debug),
    ("DEBUG2", Severity::Debug),
    ("DEBUG3", Severity::Debug),
    ("DEBUG4", Severity::Debug),
    ("DEBUG5", Severity::Debug),
    ("INFO", Severity::Info),
    ("NOTICE", Severity::Notice),
    ("WARNING", Severity::Warning),
    ("ERROR", Severity::Error),
    ("LOG", Severity::Log),
    ("FATAL", Severity::Fatal),
    ("PANIC", Severity::Panic),
];

/// Labels of the lines that follow the primary one.
const SECONDARY: [&str; 7] = [
    "DETAIL",
    "HINT",
    "QUERY",
    "CONTEXT",
    "STATEMENT",
    "LOCATION",
    "BACKTRACE",
];

/// One message, all its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How severe it is; `None` if it does not have the form of a message of postgres.
    pub severity: Option<Severity>,
    /// Its lines, joined by newlines; the time that a line begins with is cut off.
    pub text: String,
}

/// What a line is, by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Begins a message.
    Primary(Severity),
    /// Belongs to the message before.
    Continuation,
    /// Begins a message whose severity has no name that is known: a localized one.
    Unlabelled,
    /// Not of postgres' logger.
    Foreign,
}

/// Collects lines until they are a message.
#[derive(Debug, Default)]
pub struct LogJoiner {
    pending: Option<Message>,
}

impl LogJoiner {
    /// Takes the next line; returns the message before it if that is complete now.
    pub fn push(&mut self, line: &str) -> Option<Message> {
        let (form, text) = classify(line);
        if let Some(pending) = &mut self.pending {
            let belongs = match form {
                Form::Continuation => true,
                Form::Foreign => pending.severity.is_none(),
                Form::Primary(_) | Form::Unlabelled => false,
            };
            if belongs && pending.text.len() + text.len() < MAX_MESSAGE {
                pending.text.push('\n');
                pending.text.push_str(text);
                return None;
            }
        }
        let severity = match form {
            Form::Primary(severity) => Some(severity),
            Form::Unlabelled => Some(Severity::Log),
            Form::Continuation | Form::Foreign => None,
        };
        self.pending.replace(Message {
            severity,
            text: text.to_owned(),
        })
    }

    /// Whether lines wait for what follows: call [`LogJoiner::flush`] after [`QUIET`].
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// No line followed for [`QUIET`], or the stream has ended.
    pub const fn flush(&mut self) -> Option<Message> {
        self.pending.take()
    }
}

/// The form of a line, and the line without the time at its front.
fn classify(line: &str) -> (Form, &str) {
    if line.starts_with('\t') {
        return (Form::Continuation, line);
    }
    let (timed, text) = match without_time(line) {
        Some(text) => (true, text),
        None => (false, line),
    };
    let form = match label(text) {
        Some(label) if SECONDARY.contains(&label) => Form::Continuation,
        Some(label) => severity(label).map_or(Form::Unlabelled, Form::Primary),
        None if timed => Form::Unlabelled,
        None => Form::Foreign,
    };
    (form, text)
}

fn severity(label: &str) -> Option<Severity> {
    let found = SEVERITIES.iter().find(|(name, _)| *name == label);
    found.map(|(_, severity)| *severity)
}

/// The first known label: a word before a colon and two blanks.
fn label(text: &str) -> Option<&str> {
    let known = |word: &&str| SECONDARY.contains(word) || severity(word).is_some();
    text.match_indices(":  ")
        .map(|(end, _)| {
            let word = text[..end].rfind(|c: char| !c.is_ascii_alphanumeric());
            let start = word.map_or(0, |at| {
                at + text[at..].chars().next().map_or(1, char::len_utf8)
            });
            &text[start..end]
        })
        .find(known)
}

/// What follows `2026-01-31 12:34:56.789 UTC ` at the front of a line
/// (`log_line_prefix` of `%m` or `%t`); `None` if no time is there.
fn without_time(line: &str) -> Option<&str> {
    let (date, rest) = line.split_once(' ')?;
    let (time, rest) = rest.split_once(' ')?;
    let (zone, rest) = rest.split_once(' ')?;
    let date_fits = digits(date, '-', &[4, 2, 2]);
    let time_fits = digits(time.split('.').next()?, ':', &[2, 2, 2]);
    let zone_fits = !zone.is_empty() && zone.len() <= 9 && !zone.starts_with('[');
    (date_fits && time_fits && zone_fits).then_some(rest)
}

/// Whether `text` is numbers of these lengths, separated by `separator`.
fn digits(text: &str, separator: char, lengths: &[usize]) -> bool {
    let mut parts = text.split(separator);
    let all = lengths.iter().all(|&length| {
        parts.next().is_some_and(|part| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    });
    all && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(lines: &[&str]) -> Vec<Message> {
        let mut joiner = LogJoiner::default();
        let mut messages: Vec<Message> =
            lines.iter().filter_map(|line| joiner.push(line)).collect();
        messages.extend(joiner.flush());
        assert!(!joiner.is_pending());
        messages
    }

    #[test]
    fn lines_of_one_message_are_joined() {
        let messages = join(&[
            "2026-01-31 12:34:56.789 UTC [7] LOG:  starting PostgreSQL 15.18",
            "2026-01-31 12:34:56.800 UTC [9] app@shop ERROR:  relation \"x\" does not exist at character 15",
            "2026-01-31 12:34:56.800 UTC [9] app@shop DETAIL:  It was",
            "\tnever created.",
            "2026-01-31 12:34:56.800 UTC [9] app@shop STATEMENT:  select *",
            "\tfrom x",
            "2026-01-31 12:34:57.000 UTC [7] FATAL:  lock file \"postmaster.pid\" already exists",
        ]);
        insta::assert_debug_snapshot!(messages);
    }

    #[test]
    fn lines_of_other_programs_are_joined_among_themselves() {
        let messages = join(&[
            "LOG:  no prefix at all",
            "thread 'main' panicked at lib.rs:1",
            "stack backtrace:",
            "2026-01-31 12:34:57 CET [7] LOG:  next",
        ]);
        let texts: Vec<_> = messages
            .iter()
            .map(|m| (m.severity, m.text.as_str()))
            .collect();
        assert_eq!(
            texts,
            [
                (Some(Severity::Log), "LOG:  no prefix at all"),
                (None, "thread 'main' panicked at lib.rs:1\nstack backtrace:"),
                (Some(Severity::Log), "[7] LOG:  next"),
            ]
        );
    }

    #[test]
    fn a_localized_severity_still_begins_a_message() {
        let messages = join(&[
            "2026-01-31 12:34:57 UTC [7] FEHLER:  Relation fehlt",
            "2026-01-31 12:34:57 UTC [7] LOG:  next",
        ]);
        assert_eq!(messages.len(), 2);
    }

    #[test]
    fn a_label_inside_a_text_does_not_count() {
        let messages = join(&["2026-01-31 12:34:57 UTC [7] LOG:  said ERROR:  no"]);
        assert_eq!(messages[0].severity, Some(Severity::Log));
    }

    #[test]
    fn an_endless_message_is_cut() {
        let line = format!("\t{}", "x".repeat(1000));
        let messages = join(&vec![line.as_str(); 200]);
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|m| m.text.len() <= MAX_MESSAGE));
    }

    proptest! {
        #[test]
        fn no_line_is_lost_and_none_panics(
            lines in proptest::collection::vec(
                prop_oneof![
                    "[\t ]?[A-Z0-9:ä ]{0,20}",
                    "2026-0[0-9]-31 12:34:5[0-9] UTC (LOG|ERROR|HINT|ä):  [a-z]{0,5}",
                    "\\PC{0,40}",
                ],
                0..20,
            ),
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let joined: Vec<String> = join(&lines).into_iter().map(|m| m.text).collect();
            let expected: Vec<&str> = lines.iter().map(|line| classify(line).1).collect();
            prop_assert_eq!(joined.join("\n"), expected.join("\n"));
        }
    }
}
