//! Which PostgreSQL programs a test runs: the machine's own, or those of one of the
//! versions that glowplug serves.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that has no server has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The versions that glowplug serves.
pub(crate) const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

/// Directory of `postgres` and `initdb`: `GLOWPLUG_TEST_PG_BIN`, or the newest of
/// `/usr/lib/postgresql`.
pub(crate) fn newest() -> PathBuf {
    if let Some(named) = std::env::var_os("GLOWPLUG_TEST_PG_BIN") {
        return PathBuf::from(named);
    }
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: run deploy/setup.sh");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version of PostgreSQL is installed: run deploy/setup.sh");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// Directory of `postgres`, `initdb` and `pg_ctl` (there are no clients) of one of
/// [`MAJORS`]. `make test` has fetched them; without it, they are fetched now.
pub(crate) fn of(major: u32) -> PathBuf {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    let programs = FETCHED
        .get_or_init(fetch)
        .join(major.to_string())
        .join("bin");
    assert!(
        programs.join("postgres").exists(),
        "PostgreSQL {major} is not in {}: run tests/tools/postgres.sh",
        programs.display()
    );
    programs
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing outlives this, and there may be no runtime"
)]
fn fetch() -> PathBuf {
    if let Some(named) = std::env::var_os("GLOWPLUG_TEST_POSTGRES") {
        return PathBuf::from(named);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/postgres.sh");
    let output = std::process::Command::new(&script)
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{} failed", script.display());
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
