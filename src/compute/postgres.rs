//! Supervises one postgres: starts it, tells when it accepts connections, forwards
//! its log, and stops it within a budget.
//!
//! It decides nothing about restarts: when postgres ends, [`Postgres::exited`] says
//! how, with its last words, and the owner decides.

mod leftover;
mod log;
mod pid_file_watch;
mod readiness;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use leftover::stop_leftover;
pub use log::LogTail;
pub use readiness::Accepting;

use crate::error::{Category, Retry};
use crate::pgwire::ConnectConfig;
use crate::process::log_origin::LOG_LINE_PREFIX;
use crate::process::{self, Child, Command, Exit, RunAs, Signal, Spawner};
use crate::secret::Secret;

/// How long the log of an ended postgres is awaited: backends may hold it open.
const LOG_DRAIN: Duration = Duration::from_millis(500);

/// How long the kernel may take to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// Directory of the `postgres` binary.
    pub bin_dir: PathBuf,
    /// The data directory, configuration included.
    pub pgdata: PathBuf,
    /// Who runs it; `None` for who we are.
    pub run_as: Option<RunAs>,
    /// Whether its log is told to say where each message comes from. Not where the spec has
    /// a `log_line_prefix` of its own.
    pub structured_log: bool,
    /// The token that Neon's extension shows to pageservers and safekeepers.
    pub storage_token: Option<Secret>,
}

/// How long each step of a stop may take; after the last postgres is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopBudget {
    /// For a fast shutdown (SIGINT): sessions are ended, a checkpoint is written, and
    /// the log is sent on to who pushes it.
    pub fast: Duration,
    /// For an immediate shutdown (SIGQUIT): processes leave at once.
    pub immediate: Duration,
}

impl Default for StopBudget {
    /// Fits in the 60 s that a pod has by this project's default.
    fn default() -> Self {
        Self {
            fast: Duration::from_secs(25),
            immediate: Duration::from_secs(5),
        }
    }
}

/// The step that ended postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep {
    /// Fast shutdown.
    Fast,
    /// Immediate shutdown.
    Immediate,
    /// SIGKILL to it and all that it started.
    Kill,
}

/// How postgres was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// How the postmaster ended.
    pub exit: Exit,
    /// Which step it took.
    pub step: StopStep,
}

/// How postgres ended, with the end of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// How the postmaster ended.
    pub exit: Exit,
    /// The last of its log that matters, on one line.
    pub last_words: String,
}

impl fmt::Display for Exited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.exit)?;
        if !self.last_words.is_empty() {
            write!(f, "; it wrote: {}", self.last_words)?;
        }
        Ok(())
    }
}

/// What can go wrong with a postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("postgres did not start on {}", pgdata.display())]
    Start {
        /// The data directory.
        pgdata: PathBuf,
        /// Why.
        #[source]
        source: process::Error,
    },
    /// It ended before it accepted a connection.
    #[error("postgres ended before it accepted a connection: {exited}")]
    Exited {
        /// How.
        exited: Exited,
    },
    /// It does not accept connections in time. It still runs.
    #[error(
        "postgres (pid {pid}) does not accept connections at {peer} after {limit:?}{}",
        last(last_words)
    )]
    NotReady {
        /// Process id of the postmaster.
        pid: i32,
        /// Where connections were tried.
        peer: String,
        /// The limit.
        limit: Duration,
        /// The last of its log that matters.
        last_words: String,
    },
    /// The caller does not wait any longer.
    #[error("waiting for postgres was cancelled")]
    Cancelled,
    /// It could not be told to reload its configuration.
    #[error("postgres could not be told to reload its configuration")]
    Reload(#[source] process::Error),
    /// It does not end even though it was killed.
    #[error(
        "postgres (pid {pid}) was killed and does not end within {limit:?}: \
         a disk or network file system may hang"
    )]
    Unkillable {
        /// Process id of the postmaster.
        pid: i32,
        /// The limit.
        limit: Duration,
    },
}

fn last(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!("; it wrote: {words}")
    }
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Exited { exited } if log::refuses_configuration(&exited.last_words) => {
                "ConfigurationRefused"
            }
            Self::Start { .. } | Self::Exited { .. } => "PostgresStartFailed",
            Self::NotReady { .. } => "Timeout",
            Self::Cancelled => "ShuttingDown",
            Self::Reload(_) => "ReloadFailed",
            Self::Unkillable { .. } => "PostgresHangs",
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Exited { exited } if log::refuses_configuration(&exited.last_words) => {
                Retry::Never
            }
            Self::Exited { .. } | Self::NotReady { .. } => Retry::Backoff,
            Self::Start { source, .. } => source.retry(),
            Self::Cancelled | Self::Reload(_) | Self::Unkillable { .. } => Retry::Never,
        }
    }
}

/// A running postgres. Dropping it kills it and all its backends.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    pgdata: PathBuf,
    log: watch::Receiver<LogTail>,
    _forwarding: AbortOnDropHandle<()>,
}

impl Postgres {
    /// Starts postgres. It does not accept connections yet: see [`Postgres::ready`].
    pub async fn start(spawner: &Spawner, config: &PostgresConfig) -> Result<Self, Error> {
        let mut child = spawner
            .spawn(command(config))
            .await
            .map_err(|source| Error::Start {
                pgdata: config.pgdata.clone(),
                source,
            })?;
        let (tail, log) = watch::channel(LogTail::default());
        let lines = child.take_lines();
        let forwarding = tokio::spawn(async move {
            if let Some(lines) = lines {
                log::forward(lines, tail).await;
            }
        });
        Ok(Self {
            child,
            pgdata: config.pgdata.clone(),
            log,
            _forwarding: AbortOnDropHandle::new(forwarding),
        })
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Its data directory.
    pub fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    /// Waits until it accepts connections at `connect`. On an error it is left as it
    /// is: stop it, or drop it. Cancel safe.
    pub async fn ready(
        &self,
        connect: &ConnectConfig,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<Accepting, Error> {
        tokio::select! {
            exited = self.exited() => Err(Error::Exited { exited }),
            () = cancel.cancelled() => Err(Error::Cancelled),
            ready = timeout(limit, readiness::wait(&self.pgdata, connect)) => {
                ready.map_err(|_| Error::NotReady {
                    pid: self.pid(),
                    peer: connect.peer(),
                    limit,
                    last_words: self.last_words(),
                })
            }
        }
    }

    /// Waits for its end, without a deadline. Cancel safe; may be called again.
    pub async fn exited(&self) -> Exited {
        let exit = self.child.wait().await;
        let mut log = self.log.clone();
        // The log's end closes the channel.
        let ended = async { while log.changed().await.is_ok() {} };
        let _ = timeout(LOG_DRAIN, ended).await;
        Exited {
            exit,
            last_words: self.last_words(),
        }
    }

    /// The last of its log that matters, on one line.
    pub fn last_words(&self) -> String {
        self.log.borrow().last_words()
    }

    /// Makes it read its configuration again. What it makes of it stands in its log.
    pub async fn reload(&self) -> Result<(), Error> {
        self.child.signal(Signal::HUP).await.map_err(Error::Reload)
    }

    /// Stops it: a fast shutdown, then an immediate one, then SIGKILL to it and all
    /// that it started. `hurry` skips the rest of the fast step.
    pub async fn stop(
        &self,
        budget: StopBudget,
        hurry: &CancellationToken,
    ) -> Result<Stopped, Error> {
        if !hurry.is_cancelled() {
            self.signal(Signal::INT, StopStep::Fast).await;
            tokio::select! {
                exit = self.child.wait() => return Ok(Stopped { exit, step: StopStep::Fast }),
                () = tokio::time::sleep(budget.fast) => {}
                () = hurry.cancelled() => {}
            }
        }
        self.signal(Signal::QUIT, StopStep::Immediate).await;
        if let Ok(exit) = timeout(budget.immediate, self.child.wait()).await {
            let step = StopStep::Immediate;
            return Ok(Stopped { exit, step });
        }
        tracing::warn!(pid = self.pid(), "postgres does not stop: killing it");
        let _ = self.child.kill_tree().await;
        match timeout(KILL_LIMIT, self.child.wait()).await {
            Ok(exit) => Ok(Stopped {
                exit,
                step: StopStep::Kill,
            }),
            Err(_) => Err(Error::Unkillable {
                pid: self.pid(),
                limit: KILL_LIMIT,
            }),
        }
    }

    /// A signal that cannot be delivered is one that the next step makes up for.
    async fn signal(&self, signal: Signal, step: StopStep) {
        match self.child.signal(signal).await {
            Ok(()) => tracing::debug!(pid = self.pid(), ?step, "stopping postgres"),
            Err(error) => tracing::debug!(pid = self.pid(), ?step, %error, "not signalled"),
        }
    }
}

fn command(config: &PostgresConfig) -> Command {
    let command = Command::new(config.bin_dir.join("postgres"))
        .arg("-D")
        .arg(&config.pgdata)
        // Labels in its log, which is read here, must not be translated.
        .env_remove("LC_ALL")
        .env("LC_MESSAGES", "C")
        .run_as(config.run_as.clone())
        .lines();
    let command = if config.structured_log {
        let prefix = format!("log_line_prefix={LOG_LINE_PREFIX}");
        command.arg("-c").arg(prefix)
    } else {
        command
    };
    match &config.storage_token {
        Some(token) => command.secret_env("NEON_AUTH_TOKEN", token),
        None => command,
    }
}
