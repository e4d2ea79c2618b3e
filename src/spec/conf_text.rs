//! What a text in the syntax of postgresql.conf assigns, as far as one can tell without
//! postgres: enough to find a port and to name the settings that two texts differ in.

/// The assignments of a text, in order: name in lower case, and value without quotes.
pub(super) fn assignments(text: &str) -> impl DoubleEndedIterator<Item = (String, String)> {
    text.lines().filter_map(assignment)
}

fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    let end = line.find(|c: char| !is_name(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some((name.to_ascii_lowercase(), unquoted(value)))
}

/// A value without its quotes and the comment behind it.
fn unquoted(text: &str) -> String {
    let Some(quoted) = text.strip_prefix('\'') else {
        let value = text.split('#').next().unwrap_or_default();
        return value.trim_end().to_owned();
    };
    let mut value = String::new();
    let mut letters = quoted.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.peek() == Some(&'\'') => value.extend(letters.next()),
            '\'' => break,
            '\\' => value.extend(letters.next()),
            letter => value.push(letter),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_values_are_found() {
        let text = "# a comment\n\
            port = 55433\n\
            fsync off # by hand\n\
            Work_Mem='8MB'\n\
            \n\
            log_line_prefix = 'it''s \\'%m\\' # '\n\
            my.thing=\n\
            =nonsense";
        let found: Vec<_> = assignments(text).collect();
        let expected = [
            ("port", "55433"),
            ("fsync", "off"),
            ("work_mem", "8MB"),
            ("log_line_prefix", "it's '%m' # "),
            ("my.thing", ""),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,200}") {
            let _ = assignments(&text).count();
        }
    }
}
