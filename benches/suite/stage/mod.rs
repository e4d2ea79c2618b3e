//! What benches share: a storage that holds one written timeline, computes as real
//! child processes, and tables of what was measured.

pub(crate) mod child;
pub(crate) mod compute;
pub(crate) mod delay;
pub(crate) mod process;
pub(crate) mod round_trips;
pub(crate) mod storage;
pub(crate) mod table;

use std::fs;
use std::path::PathBuf;

/// A number from the environment.
pub(crate) fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

/// A directory in memory, where there is one, open to the user that runs postgres.
pub(crate) fn memory_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let shared = PathBuf::from("/dev/shm");
    let parent = if shared.is_dir() {
        shared
    } else {
        std::env::temp_dir()
    };
    let directory = tempfile::TempDir::with_prefix_in("glowplug-bench", parent).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// Directory of `postgres` and `initdb`: the newest that is installed.
pub(crate) fn pg_bin_dir() -> PathBuf {
    if let Some(named) = std::env::var_os("GLOWPLUG_TEST_PG_BIN") {
        return PathBuf::from(named);
    }
    let found = fs::read_dir("/usr/lib/postgresql").unwrap();
    let newest = found.map(|entry| entry.unwrap().path().join("bin")).max();
    newest.expect("PostgreSQL is installed: run deploy/setup.sh")
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
