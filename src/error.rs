//! How errors are classified and rendered, the same way in every room.
//!
//! Each room has one `thiserror` enum. Its text says what failed, on what, and
//! what to do, and never repeats its cause: the cause is the `source`, and
//! [`chain`] joins the two at the sink (log, status condition, HTTP body).

use std::error::Error;
use std::time::Duration;

/// What an error means to whoever may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again with the same input cannot help.
    Never,
    /// Trying again may help; wait as the caller's policy says.
    Backoff,
    /// The peer said when to come back.
    After(Duration),
}

/// The part of an error that machines read.
pub trait Category: Error {
    /// A PascalCase token of a closed set: condition reason, Event reason,
    /// metric label and log field alike.
    fn category(&self) -> &'static str;

    /// Whether the failed operation may be tried again.
    fn retry(&self) -> Retry;
}

/// Renders an error and its causes on one line, joined by `": "`.
///
/// A link whose text the line already ends with is skipped: some libraries
/// print their source in their own text.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

/// Cuts `text` to at most `max_bytes`, on a character boundary, marking the cut
/// with an ellipsis. Sinks have limits: an Event note holds 1,024 bytes, a
/// condition message 32,768 characters.
pub fn truncate(text: &str, max_bytes: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let mut end = max_bytes.saturating_sub(ELLIPSIS.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("connect to sk-1: refused")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Inner;

    #[test]
    fn a_cause_that_was_already_printed_is_skipped() {
        assert_eq!(
            chain(&Outer(Middle(Inner))),
            "cannot start: connect to sk-1: refused"
        );
    }

    #[test]
    fn a_cut_falls_on_a_character_boundary() {
        assert_eq!(truncate("ääää", 8), "ääää");
        assert_eq!(truncate("ääää", 7), "ää…");
        assert_eq!(truncate("abc", 3), "abc");
    }
}
