//! Runs a throwaway PostgreSQL for a test: a cluster of its own, on a Unix-domain
//! socket in a directory of its own, gone when the test is over.
//!
//! [`programs`] says which server: the machine's own, or one of PostgreSQL 14 to 18. As
//! root, it runs as `postgres` (or `nobody`), since it refuses to run as root.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that has no server has failed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the server must end with the test, also when that panics: no runtime then"
)]

pub(crate) mod programs;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

/// The superuser that `initdb` makes, as on Neon's storage.
pub(crate) const SUPERUSER: &str = "cloud_admin";

const START_LIMIT: Duration = Duration::from_mins(5);

/// A running server.
pub(crate) struct Postgres {
    bin_dir: PathBuf,
    directory: TempDir,
    server: Child,
    settings: Vec<String>,
}

impl Postgres {
    /// Starts a fresh cluster.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a fresh cluster with settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_programs(programs::newest(), settings).await
    }

    /// Starts a fresh cluster of one of [`programs::MAJORS`].
    pub(crate) async fn start_major(major: u32, settings: &[(&str, &str)]) -> Self {
        Self::start_programs(programs::of(major), settings).await
    }

    async fn start_programs(bin_dir: PathBuf, settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("glowplug-pg").unwrap();
        if let Some(user) = server_user() {
            let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
            chown(directory.path(), uid, gid).unwrap();
        }
        let data = directory.path().join("data");
        copy(&template(&bin_dir), &data);
        let defaults = [
            ("listen_addresses", ""),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
        ];
        let all = defaults.iter().chain(settings);
        let settings: Vec<_> = all.map(|(name, value)| format!("{name}={value}")).collect();
        let mut postgres = Self {
            server: launch(&bin_dir, directory.path(), &settings),
            bin_dir,
            directory,
            settings,
        };
        postgres.wait_until_ready().await;
        postgres
    }

    /// Stops it as `pg_ctl stop -m fast` does.
    pub(crate) async fn shut_down(&mut self) {
        let pid = i32::try_from(self.server.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        while self.server.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it again after [`Postgres::shut_down`].
    pub(crate) async fn start_again(&mut self) {
        self.server = launch(&self.bin_dir, self.directory.path(), &self.settings);
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&mut self) {
        let pid_file = self.directory.path().join("data/postmaster.pid");
        let ready = async {
            // The server tells nobody; its last line becomes "ready".
            while !fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("\nready")) {
                assert!(self.server.try_wait().unwrap().is_none(), "{}", self.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let started = tokio::time::timeout(START_LIMIT, ready).await;
        assert!(started.is_ok(), "postgres did not start: {}", self.log());
    }

    /// How to connect as the superuser, to the database `postgres`.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.directory.path())
            .user(SUPERUSER)
            .dbname("postgres");
        config
    }

    /// Connects as the superuser.
    pub(crate) async fn connect(&self, database: &str) -> Client {
        self.connect_as(SUPERUSER, database).await.unwrap()
    }

    /// Connects as any role.
    pub(crate) async fn connect_as(
        &self,
        role: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = self.config();
        config.user(role).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The directory of the cluster.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Once it has ended, its process id may be another's.
        if let Ok(None) = self.server.try_wait() {
            let pid = i32::try_from(self.server.id()).unwrap();
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            let _ = self.server.wait();
        }
    }
}

/// The user that the server runs as, if not this one.
fn server_user() -> Option<User> {
    let named = |name| User::from_name(name).ok().flatten();
    Uid::effective().is_root().then(|| {
        named("postgres")
            .or_else(|| named("nobody"))
            .expect("an unprivileged user")
    })
}

fn launch(bin_dir: &Path, directory: &Path, settings: &[String]) -> Child {
    let log = fs::File::create(directory.join("log")).unwrap();
    let mut command = as_server_user(&bin_dir.join("postgres"));
    let data = directory.join("data");
    command.arg("-D").arg(data).arg("-k").arg(directory);
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// The server dies with the thread of its test, however that ends.
fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if let Some(user) = server_user() {
        command.arg("--clear-groups");
        command.arg("--reuid").arg(user.uid.to_string());
        command.arg("--regid").arg(user.gid.to_string());
    }
    command.arg(program).stdin(Stdio::null());
    command
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// A cluster of these programs that nobody has started yet. Made once for all tests:
/// `initdb` takes a second, a copy next to nothing.
pub(crate) fn template(bin_dir: &Path) -> PathBuf {
    let name = bin_dir.to_string_lossy().replace('/', "-");
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster{name}"));
    if template.exists() {
        return template;
    }
    let directory = TempDir::with_prefix("glowplug-initdb").unwrap();
    if let Some(user) = server_user() {
        let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        chown(directory.path(), uid, gid).unwrap();
    }
    let data = directory.path().join("data");
    let made = as_server_user(&bin_dir.join("initdb"))
        .arg("-D")
        .arg(&data)
        .args(["-U", SUPERUSER, "-E", "UTF8", "--locale", "C.UTF-8"])
        .args(["--auth", "trust", "--no-sync"])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    // Tests in other processes may be doing the same: the first to rename wins.
    let unfinished = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copied = unfinished.path().join("data");
    copy(&data, &copied);
    if fs::rename(&copied, &template).is_err() {
        assert!(template.exists());
    }
    template
}
