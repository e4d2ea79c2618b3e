//! A PostgreSQL cluster that a test makes, runs, kills and takes apart.
//!
//! [`programs`] says which server. As root, it runs as another user, since it refuses
//! to run as root.

#[path = "../postgres/programs.rs"]
pub(crate) mod programs;

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glowplug::process::{Child, Command, RunAs, Signal, Spawner};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

const LIMIT: Duration = Duration::from_mins(5);

/// The superuser, as on Neon's storage.
pub(crate) const SUPERUSER: &str = "cloud_admin";

/// Directories of one test, and its children.
pub(crate) struct Bench {
    bin_dir: PathBuf,
    directory: TempDir,
    spawner: Spawner,
    pub(crate) owner: Option<RunAs>,
}

impl Bench {
    /// With the machine's own PostgreSQL.
    pub(crate) fn new() -> Self {
        Self::with(programs::newest())
    }

    /// With one of [`programs::MAJORS`].
    pub(crate) fn of_major(major: u32) -> Self {
        Self::with(programs::of(major))
    }

    fn with(bin_dir: PathBuf) -> Self {
        let directory = TempDir::with_prefix("glowplug-pgdata").unwrap();
        let owner = RunAs::for_postgres();
        give(directory.path(), owner.as_ref());
        Self {
            bin_dir,
            directory,
            spawner: Spawner::start().unwrap(),
            owner,
        }
    }

    pub(crate) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where sockets go.
    pub(crate) fn socket_dir(&self) -> String {
        self.directory.path().display().to_string()
    }

    async fn run(&self, command: Command) {
        let output = self.spawner.run(command, LIMIT).await.unwrap();
        output.require_success().unwrap();
    }

    /// A cluster that was never started.
    pub(crate) async fn initdb(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let command = Command::new(self.bin_dir.join("initdb"))
            .arg("-D")
            .arg(&path)
            .args(["-U", SUPERUSER, "-E", "UTF8", "--locale", "C.UTF-8"])
            .args(["--auth", "trust", "--no-sync"])
            .run_as(self.owner.clone());
        self.run(command).await;
        path
    }

    /// Mounts a small file system in memory; `None` where that is not allowed.
    pub(crate) async fn mount(&self, on: &Path) -> Option<Mounted> {
        let command = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(on);
        let output = self.spawner.run(command, LIMIT).await.unwrap();
        output.exit.success().then(|| Mounted(on.to_owned()))
    }

    /// A copy with owners and modes.
    pub(crate) async fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        self.run(Command::new("cp").arg("-a").arg(from).arg(&to))
            .await;
        to
    }

    /// Starts postgres and waits until it takes connections. The port only names the
    /// socket: each server of a test needs its own.
    pub(crate) async fn start(&self, pgdata: &Path, port: u16, options: &[&str]) -> Postgres {
        let mut command = Command::new(self.bin_dir.join("postgres"))
            .arg("-D")
            .arg(pgdata)
            .arg("-k")
            .arg(self.directory.path())
            .args(["-p", &port.to_string()])
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB"])
            .run_as(self.owner.clone())
            .lines();
        for option in options {
            command = command.args(["-c", option]);
        }
        let mut child = self.spawner.spawn(command).await.unwrap();
        let mut lines = child.take_lines().unwrap();
        let mut log = String::new();
        let ready = async {
            while let Some(line) = lines.next().await {
                log.push_str(&line.text());
                log.push('\n');
                if line.text().contains("ready to accept") {
                    return;
                }
            }
        };
        let ready = tokio::time::timeout(LIMIT, ready).await;
        assert!(ready.is_ok(), "postgres did not start: {log}");
        assert_eq!(child.exit(), None, "{log}");
        // The server must not block on a full pipe.
        tokio::spawn(async move { while lines.next().await.is_some() {} });
        Postgres {
            child,
            log,
            directory: self.directory.path().to_owned(),
            port,
        }
    }
}

/// A running server.
pub(crate) struct Postgres {
    child: Child,
    /// What it logged until it was ready.
    pub(crate) log: String,
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    pub(crate) async fn connect(&self) -> Client {
        let mut config = Config::new();
        config
            .host_path(&self.directory)
            .port(self.port)
            .user(SUPERUSER)
            .dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// As a crash of the machine would end it.
    pub(crate) async fn kill(self) {
        self.child.kill_tree().await.unwrap();
        self.child.wait().await;
    }

    /// A fast shutdown.
    pub(crate) async fn stop(self) {
        self.child.signal(Signal::INT).await.unwrap();
        let exit = tokio::time::timeout(LIMIT, self.child.wait()).await;
        assert!(exit.unwrap().success());
    }
}

/// A mounted file system, gone when dropped.
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    #[expect(clippy::disallowed_methods, reason = "no runtime when a test panics")]
    fn drop(&mut self) {
        let mut command = std::process::Command::new("umount");
        assert!(command.arg("-l").arg(&self.0).status().unwrap().success());
    }
}

fn give(path: &Path, owner: Option<&RunAs>) {
    if let Some(owner) = owner {
        chown(path, Some(owner.uid), Some(owner.gid)).unwrap();
    }
}
