//! Metrics of a safekeeper in Prometheus' text form, under upstream's names
//! (`safekeeper/src/metrics.rs`).

use std::fmt::Write;

use super::timeline::{Timeline, TimelineStatus};

type Value = fn(&TimelineStatus) -> u64;

const FAMILIES: [(&str, &str, Value); 5] = [
    ("safekeeper_term", "Current term", |s| s.control.term),
    (
        "safekeeper_epoch_start_lsn",
        "Start of the last term's WAL",
        |s| s.control.term_history.last().map_or(0, |entry| entry.lsn.0),
    ),
    ("safekeeper_commit_lsn", "Current commit LSN", |s| {
        s.control.commit_lsn.0
    }),
    ("safekeeper_flush_lsn", "Current flush LSN", |s| {
        s.flush_lsn.0
    }),
    (
        "safekeeper_peer_horizon_lsn",
        "WAL that all safekeepers have",
        |s| s.control.peer_horizon_lsn.0,
    ),
];

/// All families, each with one line for each timeline.
pub(super) fn render(node_id: u64, timelines: &[Timeline]) -> String {
    let statuses: Vec<_> = timelines.iter().map(|t| (t.key, t.status())).collect();
    let mut out = String::new();
    let mut family = |name: &str, help: &str, lines: &dyn Fn(&mut String)| {
        writeln!(out, "# HELP {name} {help}").ok();
        writeln!(out, "# TYPE {name} gauge").ok();
        lines(&mut out);
    };
    family("safekeeper_node_id", "Id of this safekeeper", &|out| {
        writeln!(out, "safekeeper_node_id {node_id}").ok();
    });
    for (name, help, value) in FAMILIES {
        family(name, help, &|out| {
            for (key, status) in &statuses {
                let (tenant, timeline) = (key.tenant_id, key.timeline_id);
                let labels = format!("tenant_id=\"{tenant}\",timeline_id=\"{timeline}\"");
                writeln!(out, "{name}{{{labels}}} {}", value(status)).ok();
            }
        });
    }
    out
}
