//! A compute as a process of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_postgres::{Client, NoTls};

use crate::dev::run::Room;
use crate::process::{Child, Command, Exit, Signal};

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_mins(2);
/// How long a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A running `glowplug compute`.
pub(super) struct ComputeProcess {
    child: Child,
    socket_dir: PathBuf,
    port: u16,
    log: tokio_util::task::AbortOnDropHandle<()>,
}

impl ComputeProcess {
    /// Starts one, and waits until its status says `Running`.
    pub(super) async fn start(room: &Room, spec: &Path, port: u16) -> anyhow::Result<Self> {
        let status = room.state_dir.status();
        // The status of a compute before this one must not be taken for its own.
        let _ = tokio::fs::remove_file(&status).await;
        let program = std::env::current_exe().context("cannot find this program")?;
        let command = Command::new(program)
            .args([
                "compute",
                "--insecure-no-auth",
                "--listen-addresses",
                "127.0.0.1",
            ])
            .args([
                "--external-http-address",
                "127.0.0.1",
                "--probe-address",
                "127.0.0.1",
            ])
            .args(["--external-http-port", "0", "--internal-http-port", "0"])
            .args(["--probe-port", "0", "--compute-id", "dev-check"])
            .arg("--spec-path")
            .arg(spec)
            .arg("--pgdata")
            .arg(room.state_dir.pgdata())
            .arg("--socket-dir")
            .arg(room.state_dir.socket_dir())
            .arg("--pgbin")
            .arg(room.pg_bin_dir.join("postgres"))
            .arg("--status-file")
            .arg(&status)
            .lines();
        let mut child = room.spawner.spawn(command).await?;
        let log = forward(&mut child);
        let compute = Self {
            child,
            socket_dir: room.state_dir.socket_dir(),
            port,
            log,
        };
        compute.running(&status).await?;
        Ok(compute)
    }

    async fn running(&self, status: &Path) -> anyhow::Result<()> {
        let give_up = Instant::now() + START_LIMIT;
        loop {
            let text = tokio::fs::read_to_string(status).await.unwrap_or_default();
            if text
                .lines()
                .any(|line| line.trim_start() == "state: Running")
            {
                return Ok(());
            }
            if let Some(exit) = self.child.exit() {
                bail!("the compute ended during its start with {exit}; its status:\n{text}");
            }
            if Instant::now() >= give_up {
                bail!("the compute was not running after {START_LIMIT:?}; its status:\n{text}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Connects to its postgres as the superuser.
    pub(super) async fn connect(&self, database: &str) -> anyhow::Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.socket_dir)
            .port(self.port)
            .user("cloud_admin")
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await.context("cannot connect")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// SIGKILL to the compute, its postgres and all that they started.
    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        self.child.kill_tree().await?;
        self.child.wait().await;
        Ok(())
    }

    /// Asks it to stop; returns its exit code.
    pub(super) async fn stop(self) -> anyhow::Result<Option<i32>> {
        self.child.signal(Signal::TERM).await?;
        let exit = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await;
        let exit = exit.with_context(|| format!("it did not end within {STOP_LIMIT:?}"))?;
        drop(self.log);
        Ok(match exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        })
    }
}

/// Passes the compute's log on at level debug: it is shown on request.
fn forward(child: &mut Child) -> tokio_util::task::AbortOnDropHandle<()> {
    let lines = child.take_lines();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(mut lines) = lines {
            while let Some(line) = lines.next().await {
                tracing::debug!(target: "glowplug::dev::compute", "{}", line.text());
            }
        }
    }))
}
