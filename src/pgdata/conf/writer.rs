//! Writes lines of postgresql.conf, quoted so that no value ends its line.

use std::fmt::{Display, Write};

use crate::spec::Setting;

/// A value in single quotes, as postgres' `GUC_scanstr` reads it: quotes doubled,
/// backslashes doubled, line ends as escapes. Upstream writes those raw, which
/// breaks the file.
pub fn quote_value(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for character in value.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            character => quoted.push(character),
        }
    }
    quoted.push('\'');
    quoted
}

/// The text so far.
#[derive(Default)]
pub(super) struct Writer {
    text: String,
}

impl Writer {
    /// `name = 'value'`, quoted.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.raw(name, quote_value(value));
    }

    /// `name = value`, for numbers and words of our own.
    pub(super) fn raw(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.text, "{name} = {value}");
    }

    /// A setting of the spec. One without a value is written as its bare name, which
    /// postgres refuses to read: so does validation, long before.
    pub(super) fn setting(&mut self, setting: &Setting) {
        if !is_setting_name(&setting.name) {
            // Validation refuses it, too; here it must only not become a line.
            self.comment("a setting whose name is none was left out");
            return;
        }
        match &setting.value {
            None => {
                let _ = writeln!(self.text, "{}", setting.name);
            }
            Some(value) if setting.is_string || !is_plain(value) => {
                self.text(&setting.name, value);
            }
            Some(value) => self.raw(&setting.name, value),
        }
    }

    /// A line for readers.
    pub(super) fn comment(&mut self, text: &str) {
        let _ = writeln!(self.text, "# {text}");
    }

    /// Text that stands for itself.
    pub(super) fn verbatim(&mut self, text: &str) {
        self.text.push_str(text);
        if !text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// A name as postgres' scanner takes it: `ID` or `QUALIFIED_ID` of `guc-file.l`.
fn is_setting_name(name: &str) -> bool {
    let mut parts = name.split('.');
    let is_part = |part: &str| {
        let mut characters = part.chars();
        characters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii())
            && characters
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii())
    };
    parts.clone().count() <= 2 && parts.all(is_part)
}

/// A value that needs no quotes: a number with or without a unit, or a word.
fn is_plain(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
    !value.is_empty() && value.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, value: Option<&str>, is_string: bool) -> String {
        let mut writer = Writer::default();
        writer.setting(&Setting {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            is_string,
        });
        writer.finish()
    }

    #[test]
    fn texts_are_quoted_and_numbers_are_not() {
        assert_eq!(
            line("a", Some("here's \\ x"), true),
            "a = 'here''s \\\\ x'\n"
        );
        assert_eq!(line("a", Some(""), true), "a = ''\n");
        assert_eq!(line("a.b", Some("8MB"), false), "a.b = 8MB\n");
        assert_eq!(line("a", Some("-1.5"), false), "a = -1.5\n");
        assert_eq!(line("a", Some("🐘"), true), "a = '🐘'\n");
    }

    #[test]
    fn no_value_and_no_name_starts_a_line_of_its_own() {
        assert_eq!(
            line("a", Some("1\nfsync = on"), true),
            "a = '1\\nfsync = on'\n"
        );
        assert_eq!(
            line("a", Some("1\nfsync = on"), false),
            "a = '1\\nfsync = on'\n"
        );
        assert!(line("a\nfsync = on", Some("1"), false).starts_with('#'));
        assert!(line("a b", Some("1"), false).starts_with('#'));
        assert!(line("a.b.c", Some("1"), false).starts_with('#'));
    }

    proptest! {
        #[test]
        fn a_setting_is_one_line(name in "\\PC{0,12}", value in "[\\x00-\\x7f]{0,20}", text: bool) {
            prop_assert_eq!(line(&name, Some(&value), text).matches('\n').count(), 1);
        }

        #[test]
        fn a_quoted_value_reads_back(value in "[^\\x00]{0,30}") {
            prop_assert_eq!(unquote(&quote_value(&value)), value);
        }
    }

    /// Postgres' `GUC_scanstr`.
    fn unquote(quoted: &str) -> String {
        let inner = quoted
            .strip_prefix('\'')
            .unwrap()
            .strip_suffix('\'')
            .unwrap();
        let mut value = String::new();
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => value.push(match characters.next().unwrap() {
                    'n' => '\n',
                    'r' => '\r',
                    other => other,
                }),
                '\'' => {
                    assert_eq!(characters.next(), Some('\''));
                    value.push('\'');
                }
                other => value.push(other),
            }
        }
        value
    }
}
