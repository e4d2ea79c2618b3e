//! Writes names and texts into SQL so that postgres reads back exactly them. Pure.
//!
//! This is the only place that quotes. What it writes means the same whatever
//! `standard_conforming_strings`, `quote_all_identifiers` or `search_path` say.
//! Texts with NUL bytes cannot be said in SQL at all; [`check_name`] and
//! [`check_text`] refuse them before they get here.

use std::fmt;

/// Bytes of a name that an ordinary build of postgres keeps (`NAMEDATALEN - 1`).
pub const NAME_BYTES: usize = 63;

/// Why a text cannot be the name of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Postgres has no zero-length names.
    #[error("the name is empty")]
    Empty,
    /// Postgres would cut it, and two names could become one.
    #[error(
        "the name has {bytes} bytes, and postgres keeps only {NAME_BYTES}; choose a shorter one"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// SQL text ends at a NUL byte.
    #[error("the name contains a NUL byte, which postgres cannot store")]
    Nul,
    /// A word with a meaning of its own where roles are named, even when quoted.
    #[error("postgres keeps this role name for itself; choose another one")]
    Reserved,
}

/// Whether `name` can name a database (or any other object) just as it is.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.contains('\0') {
        Err(NameError::Nul)
    } else if name.len() > NAME_BYTES {
        Err(NameError::TooLong { bytes: name.len() })
    } else {
        Ok(())
    }
}

/// Whether `name` can name a role that somebody creates: `pg_…`, `public` and `none`
/// are refused by postgres (`src/backend/catalog/catalog.c: IsReservedName`,
/// `src/backend/parser/gram.y: RoleId`).
pub fn check_role_name(name: &str) -> Result<(), NameError> {
    check_name(name)?;
    if name.starts_with("pg_") || name == "public" || name == "none" {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// Whether `text` can be sent as a literal.
pub fn check_text(text: &str) -> bool {
    !text.contains('\0')
}

/// Writes a name as a quoted identifier.
pub fn ident(name: &str) -> Ident<'_> {
    Ident(name)
}

/// Writes a text as a string literal.
pub fn literal(text: &str) -> Literal<'_> {
    Literal(text)
}

/// Writes the body of a `DO` statement between dollar quotes that it does not contain.
pub fn dollar(body: &str) -> String {
    const TAG: &str = "glowplug";
    let mut tag = TAG.to_owned();
    let mut number = 0_usize;
    // Without its closing dollar: a body that ends in `$glowplug` would lend it ours.
    while body.contains(&format!("${tag}")) {
        number += 1;
        tag = format!("{TAG}{number}x");
    }
    format!("${tag}${body}${tag}$")
}

/// The name that postgres reads where SQL has the word `word`: quoted parts are
/// taken as they are, other letters in lower case.
pub fn name_of_word(word: &str) -> String {
    let word = word.trim();
    match word
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => word.to_ascii_lowercase(),
    }
}

/// Splits a list of SQL words at the commas outside quotes, and reads each as
/// [`name_of_word`] does.
pub fn names_of_list(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in list.chars() {
        quoted ^= character == '"';
        if character == ',' && !quoted {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    words.iter().map(|word| name_of_word(word)).collect()
}

/// See [`ident`].
#[derive(Debug, Clone, Copy)]
pub struct Ident<'a>(&'a str);

impl fmt::Display for Ident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// See [`literal`].
#[derive(Clone, Copy)]
pub struct Literal<'a>(&'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quotes_doubled = self.0.replace('\'', "''");
        if quotes_doubled.contains('\\') {
            // A backslash means itself only in this form, whatever the settings say.
            write!(f, "E'{}'", quotes_doubled.replace('\\', "\\\\"))
        } else {
            write!(f, "'{quotes_doubled}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_and_backslashes_are_doubled() {
        assert_eq!(ident("a\"b").to_string(), r#""a""b""#);
        assert_eq!(literal("it's").to_string(), "'it''s'");
        assert_eq!(literal(r"a\'b").to_string(), r"E'a\\''b'");
    }

    #[test]
    fn dollar_quotes_differ_from_their_body() {
        assert_eq!(dollar("x"), "$glowplug$x$glowplug$");
        assert_eq!(
            dollar("a$glowplug$b"),
            "$glowplug1x$a$glowplug$b$glowplug1x$"
        );
        assert_eq!(dollar("a$glowplug"), "$glowplug1x$a$glowplug$glowplug1x$");
    }

    #[test]
    fn names_that_postgres_would_change_are_refused() {
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name("a\0b"), Err(NameError::Nul));
        assert_eq!(check_name(&"x".repeat(63)), Ok(()));
        assert_eq!(
            check_name(&"ä".repeat(32)),
            Err(NameError::TooLong { bytes: 64 })
        );
        assert_eq!(check_role_name("pg_x"), Err(NameError::Reserved));
        assert_eq!(check_role_name("public"), Err(NameError::Reserved));
        assert_eq!(check_role_name("PUBLIC"), Ok(()));
        assert_eq!(check_name("public"), Ok(()));
    }

    #[test]
    fn words_are_read_as_postgres_reads_them() {
        assert_eq!(name_of_word("Template0"), "template0");
        assert_eq!(name_of_word(r#""My ""T""""#), r#"My "T""#);
        assert_eq!(names_of_list(r#"A, "b,C" ,d"#), ["a", "b,C", "d"]);
    }

    proptest! {
        #[test]
        fn a_quoted_name_reads_back(name in "[^\0]{1,40}") {
            prop_assert_eq!(name_of_word(&ident(&name).to_string()), name);
        }

        #[test]
        fn a_literal_has_no_lone_quote(text in any::<String>()) {
            let written = literal(&text).to_string();
            let inside = written.trim_start_matches('E');
            let inside = &inside[1..inside.len() - 1];
            prop_assert!(!inside.replace("''", "").contains('\''));
            let undone = inside.replace("''", "'");
            let undone = if written.starts_with('E') { undone.replace("\\\\", "\\") } else { undone };
            prop_assert_eq!(undone, text);
        }

        #[test]
        fn a_dollar_quoted_body_ends_where_it_should(body in "[$glowpu1x ]{0,40}") {
            let written = dollar(&body);
            let tag_end = written[1..].find('$').unwrap() + 2;
            let tag = &written[..tag_end];
            let found = written[tag_end..].find(tag).unwrap();
            prop_assert_eq!(&written[tag_end..tag_end + found], body.as_str());
        }
    }
}
