//! The runtime that roles run on, and the process-wide things they need before.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;

use super::args::{LogArgs, LogFormat};
use super::log_level;
use crate::compute::ending::Ending;
use crate::telemetry::correlation::Correlation;
use crate::telemetry::logs::{self, LogConfig};
use crate::telemetry::terminal::Terminal;
use crate::telemetry::traces::Traces;

/// Threads of the runtime: a compute waits more than it computes.
const WORKERS: usize = 2;
/// Threads for blocking work, such as unpacking.
const BLOCKING_THREADS: usize = 8;
/// Kept small: the default of 2 MiB a thread adds up in a sidecar.
const STACK_BYTES: usize = 1024 * 1024;
/// How long blocking work may go on after a role has ended.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);
/// How long the last spans may take, as upstream gives them
/// (`compute_tools/src/bin/compute_ctl.rs`).
const TRACES_LIMIT: Duration = Duration::from_secs(2);

/// Sets up logs, traces and TLS, and runs a role to its end. Log events have the fields
/// of `correlation`.
pub(super) fn block_on(
    log: &LogArgs,
    terminal: &Terminal,
    correlation: Correlation,
    role: impl Future<Output = anyhow::Result<Ending>>,
) -> anyhow::Result<Ending> {
    // Fails only if there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let inside = runtime.enter();
    let format = match log.log_format {
        Some(LogFormat::Text) => logs::LogFormat::Text,
        Some(LogFormat::Json) => logs::LogFormat::Json,
        None if std::io::stderr().is_terminal() => logs::LogFormat::Text,
        None => logs::LogFormat::Json,
    };
    let filter = log.log_level.as_deref().unwrap_or("info").to_owned();
    let config = LogConfig {
        format,
        filter: filter.clone(),
        correlation,
    };
    // A collector that cannot be reached, or named, is no reason not to serve.
    let (traces, refused) = match Traces::from_environment() {
        Ok(traces) => (traces, None),
        Err(error) => (Traces::off(), Some(error)),
    };
    let handle = logs::init(config, &traces, terminal.clone()).context("cannot set up the log")?;
    if let Some(error) = refused {
        tracing::warn!("traces are not exported: {}", crate::error::chain(&error));
    }
    let _log_level =
        log_level::follow(handle, filter).context("cannot listen to SIGUSR1 and SIGUSR2")?;
    let result = runtime.block_on(role);
    traces.finish(TRACES_LIMIT);
    drop(inside);
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    result
}
