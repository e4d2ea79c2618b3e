//! Joins the lines that postgres writes on stderr into messages, and tells how
//! severe each is.
//!
//! Pure: the caller passes lines, and says when none came for [`QUIET`].
//!
//! Postgres writes one message as several lines: the primary line `PREFIX
//! SEVERITY:  text`, then `PREFIX DETAIL:  text` and its like, and continues a text
//! of several lines with a tab (`src/backend/utils/error/elog.c:
//! send_message_to_server_log`). With the prefix of [`log_origin`] a line says for sure
//! what it is; under another prefix its form is guessed. What other programs and
//! libraries write to the same stream has no such form; their neighbouring lines are
//! taken for one message.

use std::time::Duration;

use super::log_origin::{self, Origin};

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
    /// Its lines, joined by newlines; the prefix, or at least the time that a line begins
    /// with, is cut off.
    pub text: String,
    /// Where it came from, where the prefix says so.
    pub origin: Option<Origin>,
}

/// The parts of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sections {
    /// As postgres names the severity; empty if it does not.
    pub severity: String,
    /// The primary text.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The query inside of a function that failed.
    pub query: Option<String>,
    /// Where it happened: functions, lines.
    pub context: Option<String>,
    /// The statement of the client.
    pub statement: Option<String>,
}

impl Message {
    /// Takes the text apart. Only a message with an origin is sure to have the labels
    /// where postgres put them; another one is its own primary text.
    pub fn sections(&self) -> Sections {
        if self.origin.is_none() {
            return Sections {
                message: self.text.clone(),
                ..Sections::default()
            };
        }
        let mut sections = Sections::default();
        let mut rest = self.text.as_str();
        while !rest.is_empty() {
            let (label, from) = leading_label(rest).unwrap_or(("", rest));
            let end = next_section(from);
            let text = from[..end].trim_end_matches('\n').replace("\n\t", "\n");
            rest = &from[end..];
            match label {
                "DETAIL" => sections.detail = Some(text),
                "HINT" => sections.hint = Some(text),
                "QUERY" => sections.query = Some(text),
                "CONTEXT" => sections.context = Some(text),
                "STATEMENT" => sections.statement = Some(text),
                // Where in postgres' source, and its stack: for its developers.
                "LOCATION" | "BACKTRACE" => {}
                severity => {
                    severity.clone_into(&mut sections.severity);
                    sections.message = text;
                }
            }
        }
        sections
    }
}

/// Where the next labelled line begins; the end if there is none.
fn next_section(text: &str) -> usize {
    text.match_indices('\n')
        .map(|(at, _)| at + 1)
        .find(|at| leading_label(&text[*at..]).is_some_and(|(label, _)| SECONDARY.contains(&label)))
        .unwrap_or(text.len())
}

/// `LABEL:  text`, as postgres writes it after the prefix; a localized label too.
fn leading_label(text: &str) -> Option<(&str, &str)> {
    let (label, rest) = text.split_once(":  ")?;
    let plain = !label.is_empty() && label.chars().all(char::is_alphanumeric);
    plain.then_some((label, rest))
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
        let Classified { form, text, origin } = classify(line);
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
            origin,
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

/// A line, by its form.
struct Classified<'a> {
    form: Form,
    /// Without what stands before it.
    text: &'a str,
    origin: Option<Origin>,
}

fn classify(line: &str) -> Classified<'_> {
    if let Some((origin, text)) = log_origin::split(line) {
        let form = match leading_label(text) {
            Some((label, _)) if SECONDARY.contains(&label) => Form::Continuation,
            Some((label, _)) => severity(label).map_or(Form::Unlabelled, Form::Primary),
            None => Form::Unlabelled,
        };
        let origin = Some(origin);
        return Classified { form, text, origin };
    }
    let (form, text) = guess(line);
    let origin = None;
    Classified { form, text, origin }
}

/// The form of a line under a prefix that is not ours, and the line without the time at
/// its front.
fn guess(line: &str) -> (Form, &str) {
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

    fn prefixed(pid: u32, text: &str) -> String {
        format!(
            "\u{1e}2026-01-31 12:34:56.789 UTC\u{1f}{pid}\u{1f}client backend\u{1f}app\u{1f}shop\u{1f}psql\u{1f}[local]\u{1f}42P01\u{1f}{text}"
        )
    }

    #[test]
    fn a_prefixed_message_has_sections() {
        let messages = join(&[
            &prefixed(9, "ERROR:  relation \"x\" does not exist: ERROR:  no"),
            &prefixed(9, "DETAIL:  It was"),
            "\tHINT:  never created.",
            &prefixed(9, "STATEMENT:  select *"),
            "\tfrom x",
            &prefixed(7, "FEHLER:  Relation fehlt"),
        ]);
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].severity, Some(Severity::Error));
        assert_eq!(messages[0].origin.as_ref().unwrap().database, "shop");
        let sections = messages[0].sections();
        assert_eq!(
            sections,
            Sections {
                severity: "ERROR".into(),
                message: "relation \"x\" does not exist: ERROR:  no".into(),
                detail: Some("It was\nHINT:  never created.".into()),
                statement: Some("select *\nfrom x".into()),
                ..Sections::default()
            }
        );
        assert_eq!(messages[1].severity, Some(Severity::Log));
        assert_eq!(messages[1].sections().message, "Relation fehlt");
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
                    "(ERROR|HINT|FEHLER): {1,2}[a-z:]{0,9}".prop_map(|text| prefixed(1, &text)),
                ],
                0..20,
            ),
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let messages = join(&lines);
            for message in &messages {
                let _ = message.sections();
            }
            let joined: Vec<String> = messages.into_iter().map(|m| m.text).collect();
            let expected: Vec<&str> = lines.iter().map(|line| classify(line).text).collect();
            prop_assert_eq!(joined.join("\n"), expected.join("\n"));
        }
    }
}
