//! Takes secrets out of text that others wrote: postgres' log, answers of servers,
//! events of libraries. Pure.
//!
//! Our own code keeps secrets in [`crate::secret::Secret`], which cannot be printed.
//! Postgres does not: it logs statements as they came, `ALTER ROLE … PASSWORD '…'`
//! included. What is known by its form is replaced:
//!
//! | form | example |
//! |---|---|
//! | a value named by a password's word | `PASSWORD 'x'`, `password=x`, `"password":"x"` |
//! | a verifier | `SCRAM-SHA-256$4096:…`, `md5` and 32 hexadecimal digits |
//! | a token | `Bearer …`, a JWT (`eyJ….….…`) |
//! | a password in a URL | `postgresql://user:x@host` |

use std::borrow::Cow;

/// What stands where a secret stood.
pub const REDACTED: &str = "<redacted>";

/// Words that name a secret. They may be the end of a longer word, such as
/// `sslpassword`.
const WORDS: [&str; 4] = ["password", "passwd", "passphrase", "neon_auth_token"];

const SCRAM: &str = "SCRAM-SHA-256$";
const MD5_DIGITS: usize = 32;
/// Shorter ones after `Bearer` are words of a sentence.
const SHORTEST_TOKEN: usize = 8;

/// The text with its secrets replaced. Borrowed, and cheap, where there are none.
pub fn redact(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut clean = String::new();
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        // All matches begin and end between ASCII characters.
        let Some((start, end)) = secret_at(text, at) else {
            at += 1;
            continue;
        };
        clean.push_str(&text[copied..start]);
        clean.push_str(REDACTED);
        (copied, at) = (end, end.max(at + 1));
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[copied..]);
    Cow::Owned(clean)
}

/// The secret that is announced at this byte, if one is: from where to where.
fn secret_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    match bytes[at] {
        b'p' | b'P' | b'n' | b'N' => named(text, at),
        b'S' => verifier(text, at),
        b'm' => md5(bytes, at),
        b'e' => web_token(bytes, at),
        b'b' | b'B' => bearer(bytes, at),
        b':' => url_password(text, at),
        _ => None,
    }
}

fn starts_with_word(bytes: &[u8], at: usize, word: &str) -> bool {
    bytes
        .get(at..at + word.len())
        .is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

/// The first byte at or after `at` for which the test fails.
fn skip(bytes: &[u8], at: usize, test: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| test(**byte)).count()
}

/// A value that a word names.
fn named(text: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let word = WORDS
        .into_iter()
        .find(|word| starts_with_word(bytes, at, word))?;
    let blank = |byte: u8| byte.is_ascii_whitespace();
    // The end of a quoted key, escaped or not: "password": or \"password\":
    let mut next = skip(bytes, at + word.len(), |byte| matches!(byte, b'"' | b'\\'));
    next = skip(bytes, next, blank);
    let sign = skip(bytes, next, |byte| matches!(byte, b'=' | b':' | b'>'));
    let assigned = sign > next;
    next = skip(bytes, sign, blank);
    let value = value(text, next, assigned)?;
    let already = text[value.0..].starts_with(REDACTED);
    (!already && value.0 < value.1).then_some(value)
}

/// A value: in quotes of any kind, or bare where a sign came before it.
fn value(text: &str, at: usize, assigned: bool) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let first = *bytes.get(at)?;
    match first {
        b'\'' => Some(quoted(bytes, at, b"'")),
        // E'…', U&'…', B'…'
        b'e' | b'E' if bytes.get(at + 1) == Some(&b'\'') => Some(quoted(bytes, at + 1, b"'")),
        b'u' | b'U' if bytes.get(at + 1..at + 3) == Some(b"&'") => {
            Some(quoted(bytes, at + 2, b"'"))
        }
        b'"' if assigned => Some(quoted(bytes, at, b"\"")),
        b'\\' if assigned && bytes.get(at + 1) == Some(&b'"') => Some(quoted(bytes, at, b"\\\"")),
        b'$' => dollar_quoted(text, at),
        _ if assigned => {
            let ends = |byte: u8| {
                byte.is_ascii_whitespace()
                    || matches!(
                        byte,
                        b'&' | b';' | b',' | b')' | b'\'' | b'"' | b'}' | b'\\'
                    )
            };
            Some((at, skip(bytes, at, |byte| !ends(byte))))
        }
        _ => None,
    }
}

/// What stands between quotes; a text that was cut off has none at its end.
fn quoted(bytes: &[u8], at: usize, quote: &[u8]) -> (usize, usize) {
    let start = at + quote.len();
    let mut end = start;
    while end < bytes.len() {
        let rest = &bytes[end..];
        if rest.starts_with(quote) {
            // A doubled quote is part of the text.
            if quote == b"'" && rest.get(1) == Some(&b'\'') {
                end += 2;
                continue;
            }
            return (start, end);
        }
        let escaped = rest[0] == b'\\' && rest.len() > 1 && rest[1].is_ascii();
        end += if escaped { 2 } else { 1 };
    }
    (start, bytes.len())
}

/// `$tag$…$tag$`; `$1` is a parameter, and no secret.
fn dollar_quoted(text: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let end_of_tag = skip(bytes, at + 1, name);
    let is_tag =
        bytes.get(end_of_tag) == Some(&b'$') && !bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
    if !is_tag {
        return None;
    }
    let start = end_of_tag + 1;
    let tag = &text[at..start];
    let end = text[start..]
        .find(tag)
        .map_or(text.len(), |end| start + end);
    Some((start, end))
}

fn verifier(text: &str, at: usize) -> Option<(usize, usize)> {
    if !text.as_bytes()[at..].starts_with(SCRAM.as_bytes()) {
        return None;
    }
    let start = at + SCRAM.len();
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=:$".contains(&byte);
    let end = skip(text.as_bytes(), start, part);
    (start < end).then_some((start, end))
}

fn md5(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    if !starts_with_word(bytes, at, "md5") {
        return None;
    }
    let end = skip(bytes, at + 3, |byte| byte.is_ascii_hexdigit());
    (end == at + 3 + MD5_DIGITS).then_some((at + 3, end))
}

fn web_token(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    if !bytes[at..].starts_with(b"eyJ") {
        return None;
    }
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let header = skip(bytes, at, part);
    let claims = skip(bytes, header + 1, part);
    let is_token = header > at + SHORTEST_TOKEN
        && bytes.get(header) == Some(&b'.')
        && claims > header + 1
        && bytes.get(claims) == Some(&b'.');
    is_token.then(|| (at, skip(bytes, claims + 1, part)))
}

fn bearer(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    if !starts_with_word(bytes, at, "bearer ") {
        return None;
    }
    let start = skip(bytes, at + 6, |byte| byte == b' ');
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let end = skip(bytes, start, part);
    let is_word = !bytes[start..end]
        .iter()
        .any(|byte| byte.is_ascii_digit() || b"._+/=".contains(byte));
    (end - start >= SHORTEST_TOKEN && !is_word).then_some((start, end))
}

/// `scheme://user:password@host`. Passwords of people hold anything but what ends the
/// part of a URL that names the host.
fn url_password(text: &str, at: usize) -> Option<(usize, usize)> {
    let authority = text[at..].strip_prefix("://")?;
    let end = authority
        .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`' | ','))
        .unwrap_or(authority.len());
    let user_info = &authority[..authority[..end].rfind('@')?];
    let password = user_info.find(':')? + 1;
    let start = at + "://".len();
    let found = &user_info[password..];
    let (from, to) = (start + password, start + user_info.len());
    (!found.is_empty() && !found.contains(REDACTED)).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_known_by_their_form() {
        for (text, expected) in [
            (
                "ALTER ROLE a PASSWORD 'it''s\\'x' VALID UNTIL 'y'",
                "ALTER ROLE a PASSWORD '<redacted>' VALID UNTIL 'y'",
            ),
            (
                "create role a encrypted password E'x\\'y'",
                "create role a encrypted password E'<redacted>'",
            ),
            (
                "PASSWORD $q$x$y$q$ LOGIN",
                "PASSWORD $q$<redacted>$q$ LOGIN",
            ),
            ("PASSWORD $$x", "PASSWORD $$<redacted>"),
            (
                "OPTIONS (user 'u', password 'x')",
                "OPTIONS (user 'u', password '<redacted>')",
            ),
            (
                "host=h password=x sslpassword = y port=5",
                "host=h password=<redacted> sslpassword = <redacted> port=5",
            ),
            (
                r#"{"password":"x","b":1}"#,
                r#"{"password":"<redacted>","b":1}"#,
            ),
            (
                r#"{"m":"{\"password\":\"x\"}"}"#,
                r#"{"m":"{\"password\":\"<redacted>\"}"}"#,
            ),
            ("NEON_AUTH_TOKEN=abc def", "NEON_AUTH_TOKEN=<redacted> def"),
            (
                "is SCRAM-SHA-256$4096:c2FsdA==$a+/=:b= here",
                "is SCRAM-SHA-256$<redacted> here",
            ),
            ("'md50123456789abcdef0123456789abcdef'", "'md5<redacted>'"),
            (
                "authorization: Bearer abc.def-123 ok",
                "authorization: Bearer <redacted> ok",
            ),
            (
                "got eyJhbGciOiJFZERTQSJ9.eyJleHAiOjF9.c2ln, which",
                "got <redacted>, which",
            ),
            (
                "postgresql://u:p@ss:w@h:5/d?sslmode=require",
                "postgresql://u:<redacted>@h:5/d?sslmode=require",
            ),
            ("PASSWORD 'cut of", "PASSWORD '<redacted>"),
        ] {
            assert_eq!(redact(text), expected);
            assert_eq!(
                redact(expected),
                expected,
                "redacting twice changes nothing"
            );
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in [
            "password authentication failed for user \"app\"",
            "set password_encryption = 'scram-sha-256'",
            "PASSWORD NULL",
            "PASSWORD $1",
            "md5 of 0123456789abcdef0123456789abcdef",
            "a bearer credentials header is missing",
            "http://[::1]:9898/metrics",
            "postgresql://u@h:5/d",
            "eyJust a word. really. yes",
            "SCRAM-SHA-256$",
            "ein Paßwort: ü",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_twice_is_once(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("password".to_owned()), Just("PASSWORD '".to_owned()),
                    Just("=".to_owned()), Just("$t$".to_owned()), Just("\\".to_owned()),
                    Just("eyJ".to_owned()), Just(".".to_owned()), Just("://a:".to_owned()),
                    Just("@".to_owned()), Just("Bearer ".to_owned()),
                    Just(SCRAM.to_owned()), Just("md5".to_owned()), "\\PC{0,6}", "[a-f0-9]{32}",
                ],
                0..12,
            ),
        ) {
            let text = parts.concat();
            let once = redact(&text).into_owned();
            let twice = redact(&once).into_owned();
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn a_quoted_password_never_comes_through(password in "[a-zA-Z0-9 \\\\ä;$=]{1,20}") {
            let marked = format!("MARK{password}MARK");
            let literal = marked.replace('\\', "\\\\").replace('\'', "''");
            let text = format!("ALTER ROLE x PASSWORD '{literal}'; SELECT 1");
            prop_assert!(!redact(&text).contains("MARK"));
        }
    }
}
