//! Forwards the log of postgres into our own, with its secrets taken out and its parts
//! as fields, and remembers the end of it.

use std::borrow::Cow;
use std::collections::VecDeque;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::truncate;
use crate::process::Lines;
use crate::process::log_joiner::{LogJoiner, Message, QUIET, Severity};
use crate::process::log_origin::Origin;
use crate::telemetry::redact::redact;

/// How many messages are remembered.
const REMEMBERED: usize = 30;

/// Longest remembered message, in bytes.
const MAX_REMEMBERED: usize = 1000;

/// How many messages [`LogTail::last_words`] quotes.
const QUOTED: usize = 3;

/// The end of postgres' log.
#[derive(Debug, Clone, Default)]
pub struct LogTail {
    messages: VecDeque<Message>,
}

impl LogTail {
    fn push(&mut self, mut message: Message) {
        message.text = truncate(&message.text, MAX_REMEMBERED);
        if self.messages.len() == REMEMBERED {
            self.messages.pop_front();
        }
        self.messages.push_back(message);
    }

    /// The last messages that tell why postgres stands as it does, on one line: those
    /// worse than a warning and those that name a refused setting, or else whatever came
    /// last.
    pub fn last_words(&self) -> String {
        let quote = |wanted: fn(&Message) -> bool| {
            let matching = self.messages.iter().rev().filter(|m| wanted(m));
            let mut texts: Vec<String> = matching.take(QUOTED).map(one_line).collect();
            texts.reverse();
            texts.join(" | ")
        };
        let grave = quote(|message| {
            // What a library or the dynamic linker says has no severity.
            matches!(
                message.severity,
                None | Some(Severity::Error | Severity::Fatal | Severity::Panic)
            ) || names_refused_setting(&message.text)
        });
        if grave.is_empty() {
            quote(|_| true)
        } else {
            grave
        }
    }
}

fn one_line(message: &Message) -> String {
    let lines = message.text.lines().map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}

/// Whether the end of a log says that the configuration cannot be used
/// (`src/backend/utils/misc/guc-file.l`, `guc.c`).
pub(super) fn refuses_configuration(last_words: &str) -> bool {
    names_refused_setting(last_words)
        || ["contains errors", "could not access file"]
            .iter()
            .any(|text| last_words.contains(text))
}

/// Whether this says which setting is refused: postgres does so at level LOG, before the
/// error that ends it.
fn names_refused_setting(text: &str) -> bool {
    [
        "invalid value for parameter",
        "unrecognized configuration parameter",
        "is outside the valid range for parameter",
    ]
    .iter()
    .any(|refusal| text.contains(refusal))
}

/// Forwards until the log ends. `tail` is dropped then.
pub(super) async fn forward(mut lines: Lines, tail: watch::Sender<LogTail>) {
    let mut joiner = LogJoiner::default();
    loop {
        let next = if joiner.is_pending() {
            timeout(QUIET, lines.next()).await
        } else {
            Ok(lines.next().await)
        };
        let complete = match &next {
            Ok(Some(line)) => joiner.push(&line.text()),
            Ok(None) | Err(_) => joiner.flush(),
        };
        if let Some(mut message) = complete {
            // Statements come as clients wrote them, passwords included.
            if let Cow::Owned(clean) = redact(&message.text) {
                message.text = clean;
            }
            emit(&message);
            tail.send_modify(|tail| tail.push(message));
        }
        if matches!(next, Ok(None)) && !joiner.is_pending() {
            return;
        }
    }
}

/// One event; what does not apply is left out.
macro_rules! event {
    ($level:expr, $sections:expr, $origin:expr) => {{
        let (sections, origin) = ($sections, $origin);
        tracing::event!(
            target: "postgres",
            $level,
            severity = filled(&sections.severity),
            pid = origin.pid.parse::<u32>().ok(),
            backend_type = filled(&origin.backend_type),
            user = filled(&origin.user),
            database = filled(&origin.database),
            application = filled(&origin.application),
            client = filled(&origin.host),
            sqlstate = filled(&origin.sqlstate).filter(|state| *state != NO_ERROR),
            logged_at = filled(&origin.at),
            detail = sections.detail.as_deref(),
            hint = sections.hint.as_deref(),
            query = sections.query.as_deref(),
            context = sections.context.as_deref(),
            statement = sections.statement.as_deref(),
            "{}",
            sections.message
        )
    }};
}

/// SQLSTATE of a success.
const NO_ERROR: &str = "00000";

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Sessions end with ERROR and FATAL for reasons of their clients; only a PANIC is
/// always for us to look at.
fn emit(message: &Message) {
    let sections = &message.sections();
    let nowhere = Origin::default();
    let origin = message.origin.as_ref().unwrap_or(&nowhere);
    match message.severity {
        Some(Severity::Debug) => event!(tracing::Level::DEBUG, sections, origin),
        Some(Severity::Info | Severity::Notice | Severity::Log) | None => {
            event!(tracing::Level::INFO, sections, origin);
        }
        Some(Severity::Warning | Severity::Error | Severity::Fatal) => {
            event!(tracing::Level::WARN, sections, origin);
        }
        Some(Severity::Panic) => event!(tracing::Level::ERROR, sections, origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(messages: &[(Option<Severity>, &str)]) -> LogTail {
        let mut tail = LogTail::default();
        for (severity, text) in messages {
            tail.push(Message {
                severity: *severity,
                text: (*text).to_owned(),
                origin: None,
            });
        }
        tail
    }

    #[test]
    fn last_words_are_the_grave_ones() {
        let tail = tail(&[
            (
                Some(Severity::Log),
                "[1] LOG:  redirecting log output to nowhere",
            ),
            (
                Some(Severity::Log),
                "[1] LOG:  unrecognized configuration parameter \"x\"",
            ),
            (
                Some(Severity::Fatal),
                "[1] FATAL:  configuration file contains errors\n\tagain",
            ),
            (
                Some(Severity::Log),
                "[1] LOG:  database system is shut down",
            ),
        ]);
        let words = tail.last_words();
        assert_eq!(
            words,
            "[1] LOG:  unrecognized configuration parameter \"x\" | \
             [1] FATAL:  configuration file contains errors again"
        );
        assert!(refuses_configuration(&words));
    }

    #[test]
    fn without_grave_ones_the_last_are_quoted() {
        let tail = tail(&[(Some(Severity::Log), "a"); 40]);
        assert_eq!(tail.last_words(), "a | a | a");
        assert_eq!(LogTail::default().last_words(), "");
    }
}
