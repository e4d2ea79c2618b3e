//! What a text in the syntax of postgresql.conf assigns, as far as one can tell without
//! postgres: enough to find a port, to name the settings that two texts differ in, and to
//! take out what glowplug sets itself.

use std::fmt::Write as _;

use super::neon_json::split_safekeepers;
use super::{ComputeMode, ComputeSpec, Flavor, OwnedSetting, owned_setting};

/// The assignments of a text, in order: name in lower case, and value without quotes.
pub fn assignments(text: &str) -> impl DoubleEndedIterator<Item = (String, String)> {
    text.lines().filter_map(assignment)
}

/// The text with each line commented out that assigns what a spec may not: the text can
/// say no more than the list of settings can.
pub fn without_owned(text: &str, flavor: Flavor) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let _ = match contradicts(line, flavor) {
            Some((_, _, owned)) => writeln!(kept, "# set by {}: {line}", owned.owner),
            None => writeln!(kept, "{line}"),
        };
    }
    kept
}

/// Lines of the spec's text without effect, for people: those that [`without_owned`] takes
/// out, unless glowplug sets the same. `path` is the text's.
pub(super) fn notes(spec: &ComputeSpec, path: &str) -> Vec<String> {
    let text = spec.postgres.verbatim_conf.as_deref().unwrap_or_default();
    let mut notes = Vec::new();
    for (line, number) in text.lines().zip(1_usize..) {
        if let Some((name, value, owned)) = contradicts(line, spec.postgres.flavor)
            && !is_set_so(spec, &name, &value)
        {
            notes.push(format!(
                "{path}, line {number}: {name} is ignored; {}",
                owned.advice()
            ));
        }
    }
    notes
}

/// The name and value of a setting that the line may not assign.
fn contradicts(line: &str, flavor: Flavor) -> Option<(String, String, &'static OwnedSetting)> {
    let (name, value) = assignment(line)?;
    let owned = owned_setting(flavor, &name).filter(|owned| !owned.allows(Some(&value)))?;
    Some((name, value, owned))
}

/// Whether the fields of `spec` amount to this very assignment. Neon's own local control
/// plane says everything twice, and that is no reason for a note.
fn is_set_so(spec: &ComputeSpec, name: &str, value: &str) -> bool {
    match name {
        "port" => value.parse() == Ok(spec.postgres.port),
        "neon.tenant_id" => value.parse() == Ok(spec.tenant_id),
        "neon.timeline_id" => value.parse() == Ok(spec.timeline_id),
        "neon.safekeepers" => split_safekeepers(value).1 == spec.safekeepers.endpoints,
        "neon.stripe_size" => value.parse().ok() == spec.pageservers.stripe_size,
        "neon.pageserver_connstring" => {
            let shards = spec.pageservers.shards.iter();
            let addresses = shards.map(|shard| shard.libpq.as_deref().unwrap_or_default());
            value.split(',').eq(addresses)
        }
        "recovery_target_lsn" => match spec.mode {
            ComputeMode::Static(lsn) => value.parse() == Ok(lsn),
            ComputeMode::Primary | ComputeMode::Replica => value.is_empty(),
        },
        _ => false,
    }
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

    #[test]
    fn what_glowplug_sets_is_taken_out_of_a_text() {
        let text = "work_mem = 8MB\r\n\tINCLUDE 'x'\nfsync = off\n Port=1 # mine\n\nfsync on";
        assert_eq!(
            without_owned(text, Flavor::Vanilla),
            "work_mem = 8MB\n\
             # set by the directory's layout: \tINCLUDE 'x'\n\
             fsync = off\n\
             # set by the field postgres.port:  Port=1 # mine\n\
             \n\
             # set by the supervisor: fsync on\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,200}") {
            let _ = assignments(&text).count();
        }
    }
}
