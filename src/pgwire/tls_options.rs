//! Takes what a connection string says of TLS out of it, in both of libpq's forms, and
//! puts it in.
//!
//! The parser of `tokio-postgres` refuses most of these options, and postgres is to be
//! given the same ones.

use std::fmt::Write as _;

use super::TlsMode;

const MODE: &str = "sslmode";
const ROOT_CERTIFICATE: &str = "sslrootcert";

/// What a connection string says of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// `sslmode`.
    pub mode: Option<TlsMode>,
    /// `sslrootcert`: a file of certificates, or `system`.
    pub root_certificate: Option<String>,
}

impl TlsOptions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `None` if the value is not one that libpq knows.
    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        if name == MODE {
            self.mode = Some(value.parse().ok()?);
        } else {
            self.root_certificate = Some(value.to_owned());
        }
        Some(())
    }

    /// What a text in the form `keyword=value …` says of TLS, whatever else it says.
    pub fn of_conninfo(text: &str) -> Option<Self> {
        split_keywords(text).map(|(options, _)| options)
    }

    /// In the form `keyword=value …`.
    pub fn to_conninfo(&self) -> String {
        let mut text = String::new();
        if let Some(mode) = self.mode {
            let _ = write!(text, "{MODE}={mode}");
        }
        if let Some(path) = &self.root_certificate {
            let blank = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{blank}{ROOT_CERTIFICATE}={}", quoted(path));
        }
        text
    }

    /// A connection string with these options, in the form that it has.
    pub fn add_to(&self, text: &str) -> String {
        if self.is_empty() {
            return text.to_owned();
        }
        if !is_url(text) {
            return format!("{text} {}", self.to_conninfo());
        }
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(mode) = self.mode {
            query.append_pair(MODE, mode.as_str());
        }
        if let Some(path) = &self.root_certificate {
            query.append_pair(ROOT_CERTIFICATE, path);
        }
        let join = if text.contains('?') { '&' } else { '?' };
        // libpq does not read a plus sign as a blank.
        format!("{text}{join}{}", query.finish().replace('+', "%20"))
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

fn is_ours(name: &str) -> bool {
    name == MODE || name == ROOT_CERTIFICATE
}

/// Splits a connection string into what it says of TLS and the rest. `None` if it names
/// a mode that there is none of, or is malformed.
pub(super) fn split(text: &str) -> Option<(TlsOptions, String)> {
    if is_url(text) {
        split_url(text)
    } else {
        split_keywords(text)
    }
}

fn split_url(text: &str) -> Option<(TlsOptions, String)> {
    let mut options = TlsOptions::default();
    let Some((front, query)) = text.split_once('?') else {
        return Some((options, text.to_owned()));
    };
    let mut rest = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if is_ours(name) {
            options.take(name, &percent_decoded(value)?)?;
        } else {
            rest.push(pair);
        }
    }
    let mut kept = front.to_owned();
    if !rest.is_empty() {
        kept.push('?');
        kept.push_str(&rest.join("&"));
    }
    Some((options, kept))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).ok()?;
            bytes.extend(byte);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Walks through `keyword = value` pairs as `conninfo_parse` of libpq does: blanks
/// around the equals sign, values in single quotes, backslashes in both.
fn split_keywords(text: &str) -> Option<(TlsOptions, String)> {
    let mut options = TlsOptions::default();
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        let (value, length) = value(after)?;
        if is_ours(name) {
            options.take(name, &value)?;
        } else {
            let _ = write!(kept, "{name}={} ", quoted(&value));
        }
        rest = after[length..].trim_start();
    }
    Some((options, kept.trim_end().to_owned()))
}

/// A value, and where the text behind it begins. `None` if a quote is not closed.
fn value(text: &str) -> Option<(String, usize)> {
    let begin = text.len() - text.trim_start().len();
    let is_quoted = text[begin..].starts_with('\'');
    let mut value = String::new();
    let mut chars = text[begin..].char_indices().skip(usize::from(is_quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if is_quoted => return Some((value, begin + at + 1)),
            c if c.is_ascii_whitespace() && !is_quoted => return Some((value, begin + at)),
            c => value.push(c),
        }
    }
    (!is_quoted).then_some((value, text.len()))
}

/// A value as libpq reads it back.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| !c.is_ascii_whitespace() && c != '\'' && c != '\\';
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.to_owned();
    }
    let mut text = String::from("'");
    for c in value.chars() {
        if c == '\'' || c == '\\' {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(mode: Option<TlsMode>, root_certificate: Option<&str>) -> TlsOptions {
        TlsOptions {
            mode,
            root_certificate: root_certificate.map(str::to_owned),
        }
    }

    #[test]
    fn options_are_taken_out_of_both_forms() {
        let full = options(Some(TlsMode::VerifyFull), Some("/etc/a b.pem"));
        for (text, rest) in [
            (
                "postgresql://u@ps-0:6400/db?sslmode=verify-full&x=1&sslrootcert=/etc/a%20b.pem",
                "postgresql://u@ps-0:6400/db?x=1",
            ),
            (
                "host=ps-0 sslmode = verify-full  sslrootcert='/etc/a b.pem' port=6400",
                "host=ps-0 port=6400",
            ),
        ] {
            assert_eq!(split(text), Some((full.clone(), rest.to_owned())), "{text}");
        }
        let plain = "postgresql://u@ps-0:6400";
        assert_eq!(
            split(plain),
            Some((TlsOptions::default(), plain.to_owned()))
        );
    }

    #[test]
    fn an_unknown_mode_and_an_open_quote_are_refused() {
        for text in [
            "postgresql://ps-0?sslmode=always",
            "host=ps-0 sslmode=verify_full",
            "host='ps-0",
            "host",
            "postgresql://ps-0?sslrootcert=%2",
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_added_is_found_again(
            mode in proptest::sample::select(&TlsMode::ALL[..]),
            path in proptest::option::of("[ -~äö]{1,20}"),
            url: bool,
        ) {
            let base = if url { "postgresql://ps-0:6400" } else { "host=ps-0 port=6400" };
            let added = options(Some(mode), path.as_deref());
            let found = split(&added.add_to(base));
            prop_assert_eq!(found, Some((added, base.to_owned())));
        }

        #[test]
        fn hostile_text_never_panics(text in ".{0,60}", url: bool) {
            let prefix = if url { "postgres://a?" } else { "" };
            let _ = split(&format!("{prefix}{text}"));
        }
    }
}
