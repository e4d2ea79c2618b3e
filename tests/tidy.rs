//! The house's own rules: rooms use only rooms below them, pure rooms stay pure,
//! every file is reachable and says what it is for.

#![allow(
    clippy::unwrap_used,
    reason = "a file that cannot be read fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from top to bottom. A room may use itself and what comes after it.
const ROOMS: &[&str] = &[
    "main",
    "cli",
    "operator",
    "dev",
    "source",
    "compute",
    "http",
    "report",
    "services",
    "catalog",
    "pgdata",
    "safekeeper",
    "pageserver",
    "storage",
    "access",
    "spec",
    "api",
    "pgwire",
    "process",
    "telemetry",
    "tls",
    "wire",
    "backoff",
    "secret",
    "id",
    "lsn",
    "error",
];

/// Files and folders that do no I/O, read no clock and no environment, and draw no
/// random numbers.
const PURE: &[&str] = &[
    "wire",
    "wire.rs",
    "spec",
    "spec.rs",
    "api",
    "api.rs",
    "backoff.rs",
    "error.rs",
    "id.rs",
    "lsn.rs",
    "secret.rs",
    "compute/activity.rs",
    "compute/pagestream_health.rs",
    "compute/state.rs",
    "compute/facts.rs",
    "report/conditions.rs",
    "report/status.rs",
    "report/write_policy.rs",
    "safekeeper/proposer.rs",
    "safekeeper/proposer",
    "storage/acceptor.rs",
    "storage/acceptor",
    "catalog/plan.rs",
    "catalog/plan",
    "catalog/password.rs",
    "catalog/quote.rs",
    "catalog/sql.rs",
    "pgdata/conf.rs",
    "pgdata/conf",
    "pgdata/hba.rs",
    "pgdata/vanilla/checkpoint_record.rs",
    "pageserver/archive.rs",
    "pageserver/archive",
    "pageserver/refusal.rs",
    "pageserver/relocation.rs",
    "pageserver/shard_probe.rs",
    "process/log_joiner.rs",
    "process/log_origin.rs",
    "telemetry/redact.rs",
];

/// What a pure file must not contain.
const IMPURE: &[&str] = &[
    "tokio::",
    "kube::Client",
    "std::net",
    "std::env",
    "std::thread",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "rand::random",
    "rand::rng",
];

/// Folder and file names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "manager", "misc",
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The text without its test module, which may do as it likes.
    fn code(&self) -> &str {
        self.text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default()
    }

    fn is_test(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self
                .path
                .components()
                .any(|part| part.as_os_str() == "tests")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<Source> {
    fn walk(folder: &Path, base: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, base, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: path.strip_prefix(base).unwrap().to_owned(),
                    text,
                });
            }
        }
    }
    let base = root().join(folder);
    let mut found = Vec::new();
    walk(&base, &base, &mut found);
    found
}

fn room(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let rank: BTreeMap<&str, usize> = ROOMS.iter().enumerate().map(|(i, r)| (*r, i)).collect();
    let mut problems = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        let room = room(&source.path);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some(own) = rank.get(room.as_str()) else {
            problems.push(format!("{room} is not a room that ROOMS lists"));
            continue;
        };
        for (number, line) in source.code().lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for used in line.split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if rank.get(used.as_str()).is_some_and(|other| other < own) {
                    let at = format!("src/{}:{}", source.path.display(), number + 1);
                    problems.push(format!("{at}: {room} uses {used}, which is above it"));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn pure_files_stay_pure() {
    let mut problems = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        if !PURE.iter().any(|pure| source.path.starts_with(pure)) {
            continue;
        }
        for (number, line) in source.code().lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                problems.push(format!(
                    "src/{}:{}: {word}",
                    source.path.display(),
                    number + 1
                ));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is_for() {
    let all = ["src", "tests", "benches"];
    let missing: Vec<_> = all
        .iter()
        .filter(|folder| root().join(folder).is_dir())
        .flat_map(|folder| {
            sources(folder)
                .into_iter()
                .map(move |source| (folder, source))
        })
        .filter(|(_, source)| !source.text.starts_with("//!"))
        .map(|(folder, source)| format!("{folder}/{} has no module doc", source.path.display()))
        .collect();
    report(&missing);
}

#[test]
fn no_file_or_folder_has_a_name_that_says_nothing() {
    let empty: Vec<_> = sources("src")
        .iter()
        .filter(|source| {
            let parts = source
                .path
                .iter()
                .map(|part| part.to_string_lossy().replace(".rs", ""));
            parts
                .into_iter()
                .any(|part| EMPTY_NAMES.contains(&part.as_str()))
        })
        .map(|source| source.path.display().to_string())
        .collect();
    report(&empty);
}

#[test]
fn no_file_is_longer_than_a_thousand_lines() {
    let long: Vec<_> = sources("src")
        .iter()
        .map(|source| {
            (
                source.text.lines().count(),
                source.path.display().to_string(),
            )
        })
        .filter(|(lines, _)| *lines > 1000)
        .map(|(lines, path)| format!("{path} has {lines} lines"))
        .collect();
    report(&long);
}

#[test]
fn every_file_is_reachable_from_a_mod_line() {
    let all = sources("src");
    let declared: BTreeSet<PathBuf> = all.iter().flat_map(declarations).collect();
    let lost: Vec<_> = all
        .iter()
        .map(|source| &source.path)
        .filter(|path| {
            !["main.rs", "lib.rs"]
                .iter()
                .any(|root| path.ends_with(root))
        })
        .filter(|path| !declared.contains(*path))
        .map(|path| format!("src/{} is declared nowhere", path.display()))
        .collect();
    report(&lost);
}

/// The files that the `mod` lines of a file name.
fn declarations(source: &Source) -> Vec<PathBuf> {
    let folder = match source.path.to_str() {
        Some("lib.rs" | "main.rs") => PathBuf::new(),
        _ => source.path.with_extension(""),
    };
    let names = source.text.lines().filter_map(|line| {
        let line = line
            .trim()
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ");
        let name = line
            .trim_start_matches("pub ")
            .strip_prefix("mod ")?
            .strip_suffix(';')?;
        Some(name.to_owned())
    });
    names
        .map(|name| folder.join(format!("{name}.rs")))
        .collect()
}

#[test]
fn no_todo_is_left_without_an_issue() {
    let mut problems = Vec::new();
    for source in sources("src") {
        for (number, line) in source.text.lines().enumerate() {
            let unowned = ["TODO", "FIXME", "XXX"]
                .iter()
                .any(|word| line.contains(word));
            if unowned && !line.contains('#') {
                problems.push(format!("src/{}:{}", source.path.display(), number + 1));
            }
        }
    }
    report(&problems);
}
