//! The runtime that roles run on, and the process-wide things they need before.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;

use super::args::{LogArgs, LogFormat};
use crate::compute::ending::Ending;
use crate::telemetry::logs;
use crate::telemetry::terminal::Terminal;

/// Threads of the runtime: a compute waits more than it computes.
const WORKERS: usize = 2;
/// Threads for blocking work, such as unpacking.
const BLOCKING_THREADS: usize = 8;
/// Kept small: the default of 2 MiB a thread adds up in a sidecar.
const STACK_BYTES: usize = 1024 * 1024;
/// How long blocking work may go on after a role has ended.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Sets up logs and TLS, and runs a role to its end.
pub(super) fn block_on(
    log: &LogArgs,
    terminal: &Terminal,
    role: impl Future<Output = anyhow::Result<Ending>>,
) -> anyhow::Result<Ending> {
    let format = match log.log_format {
        Some(LogFormat::Text) => logs::LogFormat::Text,
        Some(LogFormat::Json) => logs::LogFormat::Json,
        None if std::io::stderr().is_terminal() => logs::LogFormat::Text,
        None => logs::LogFormat::Json,
    };
    let filter = log.log_level.as_deref().unwrap_or("info");
    logs::init(format, filter, terminal.clone()).context("cannot set up the log")?;
    // Fails only if there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(role);
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    result
}
