//! Finds the server programs of a PostgreSQL installation.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Where Debian and its relatives, the PGDG packages of Fedora, and Homebrew put them.
const ROOTS: [(&str, &str); 3] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/opt/homebrew/opt", "bin"),
];

/// The folder that was named, or that of the newest installation.
pub(super) fn find(wanted: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = wanted {
        if !is_installation(&folder) {
            bail!(
                "{} holds no postgres and initdb: check --pg-bin-dir",
                folder.display()
            );
        }
        return Ok(folder);
    }
    let mut found: Vec<(u32, PathBuf)> = ROOTS.into_iter().flat_map(installations).collect();
    found.sort();
    match found.pop() {
        Some((_, folder)) => Ok(folder),
        None => bail!(
            "no PostgreSQL server programs found: install them (Debian: apt-get install \
             postgresql), or name their folder by --pg-bin-dir"
        ),
    }
}

fn installations((root, bin): (&str, &str)) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name
            .trim_start_matches("postgresql@")
            .trim_start_matches("pgsql-");
        Some((version.parse().ok()?, entry.path().join(bin)))
    });
    folders
        .filter(|(_, folder)| is_installation(folder))
        .collect()
}

fn is_installation(folder: &Path) -> bool {
    folder.join("postgres").is_file() && folder.join("initdb").is_file()
}
