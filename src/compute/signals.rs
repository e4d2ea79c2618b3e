//! Signals to the process, as messages.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::StopSignal;

/// Signals that may wait for the owner; more of them say nothing new.
const QUEUE: usize = 4;

/// Listens to SIGTERM, SIGINT and SIGQUIT for as long as the handle lives.
///
/// # Errors
///
/// The system does not let a handler be installed.
pub fn listen() -> std::io::Result<(mpsc::Receiver<StopSignal>, AbortOnDropHandle<()>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    // A hangup of the terminal must not end a supervisor.
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let task = tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                _ = terminate.recv() => StopSignal::Stop,
                _ = interrupt.recv() => StopSignal::Stop,
                _ = quit.recv() => StopSignal::Quit,
                _ = hangup.recv() => continue,
            };
            if sender.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok((receiver, AbortOnDropHandle::new(task)))
}
