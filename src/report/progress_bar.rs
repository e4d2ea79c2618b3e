//! Shows long work of a compute to whoever watches the terminal.
//!
//! Work that is over within the time of one report is never shown: the first report
//! comes when it has lasted a while.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Phase, Progress, Snapshot};
use crate::telemetry::terminal::Terminal;

/// Draws until `cancel`, or until nobody tells any more. Returns at once where there is
/// no terminal.
pub async fn run(
    terminal: Terminal,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
) {
    if !terminal.draws() {
        return;
    }
    let mut shown = None;
    loop {
        let progress = snapshots.borrow_and_update().progress.clone();
        show(&terminal, &mut shown, progress.as_ref());
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { break },
            () = cancel.cancelled() => break,
        }
    }
    show(&terminal, &mut shown, None);
}

/// Brings what is drawn into line with what is under way.
fn show(terminal: &Terminal, shown: &mut Option<(Phase, ProgressBar)>, now: Option<&Progress>) {
    if let Some((phase, bar)) = shown
        && now.is_none_or(|now| now.phase != *phase)
    {
        bar.finish_and_clear();
        *shown = None;
    }
    let Some(now) = now else { return };
    let (_, bar) = shown.get_or_insert_with(|| (now.phase, terminal.add(bar(now.phase))));
    bar.set_position(now.bytes);
    bar.set_message(rate(now.bytes_per_second));
    bar.tick();
}

/// A page server does not say how large a basebackup is: there is no whole that a bar
/// could be a part of.
fn bar(phase: Phase) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:<12} {spinner} {bytes:>11} {msg:>12} {elapsed:>5}");
    let bar = ProgressBar::new_spinner().with_prefix(name(phase));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

const fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::SafekeeperSync => "safekeepers",
        Phase::Basebackup => "basebackup",
        Phase::CatalogApply => "catalog",
        _ => "start-up",
    }
}

fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", indicatif::HumanBytes(bytes_per_second))
}
