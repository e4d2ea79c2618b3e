//! Changes what is logged while the program runs: SIGUSR1 asks for more, SIGUSR2 for
//! what was asked for at the start.
//!
//! `kubectl exec POD -- kill -USR1 1` needs neither a token nor a restart, which would
//! take the trouble away that one wants to look at.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::error::chain;
use crate::telemetry::logs::LogFilter;

/// What SIGUSR1 sets. Libraries stay as they are: they would drown the rest.
const MORE: &str = "info,glowplug=debug,postgres=debug";

/// Follows the signals for as long as the handle lives.
///
/// # Errors
///
/// The system does not let a handler be installed.
pub(super) fn follow(filter: LogFilter, usual: String) -> std::io::Result<AbortOnDropHandle<()>> {
    let mut more = signal(SignalKind::user_defined1())?;
    let mut less = signal(SignalKind::user_defined2())?;
    let task = tokio::spawn(async move {
        loop {
            let wanted = tokio::select! {
                _ = more.recv() => MORE,
                _ = less.recv() => &usual,
            };
            match filter.set(wanted) {
                Ok(()) => info!(filter = wanted, "what is logged was changed"),
                Err(error) => tracing::warn!("{}", chain(&error)),
            }
        }
    });
    Ok(AbortOnDropHandle::new(task))
}
