//! Decides which entry names are paths inside the data directory.

use super::Defect;
use crate::error::truncate;

/// Longest name that is shown in an error, in bytes.
const SHOWN: usize = 128;

/// The relative path that an entry's name stands for, without `./` in front and
/// `/` behind; empty for the directory itself.
pub(super) fn relative_path(name: &[u8]) -> Result<String, Defect> {
    let refused = |problem| Defect::Entry {
        entry: shown(name),
        problem,
    };
    let name = std::str::from_utf8(name).map_err(|_| refused("is not UTF-8"))?;
    if name.contains('\0') {
        return Err(refused("contains a zero byte"));
    }
    if name.starts_with('/') {
        return Err(refused("is an absolute path"));
    }
    let mut path = String::with_capacity(name.len());
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(refused("leads out of the data directory")),
            part => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(part);
            }
        }
    }
    Ok(path)
}

/// An entry's name, fit for a message.
pub(super) fn shown(name: &[u8]) -> String {
    truncate(&name.escape_ascii().to_string(), SHOWN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_inside_the_directory_lose_their_decoration() {
        for (name, path) in [
            ("PG_VERSION", "PG_VERSION"),
            ("./global/pg_control", "global/pg_control"),
            ("base/1/", "base/1"),
            ("pg_wal//archive_status", "pg_wal/archive_status"),
            ("./", ""),
            ("pg_replslot/..a", "pg_replslot/..a"),
        ] {
            assert_eq!(relative_path(name.as_bytes()).unwrap(), path);
        }
    }

    #[test]
    fn names_that_lead_outwards_are_refused() {
        for name in [
            &b"/etc/passwd"[..],
            b"..",
            b"../x",
            b"base/../../x",
            b"base/..",
            b"base/\xff",
            b"base/a\0b",
        ] {
            assert!(relative_path(name).is_err(), "{}", name.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_never_leaves_the_directory(name in "[./a]{0,12}") {
            if let Ok(path) = relative_path(name.as_bytes()) {
                prop_assert!(!path.starts_with('/'));
                prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
            }
        }
    }
}
