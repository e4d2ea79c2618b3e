//! Metric families of what the monitor sees of postgres.
//!
//! Names are upstream's where upstream has them: downtime as in
//! `compute_tools/src/metrics.rs`, the counters of Neon's extension as in
//! `compute/etc/sql_exporter/`.

use std::time::Instant;

use prometheus::{Counter, Gauge, IntGaugeVec, Opts};

use super::Family;
use crate::report::{MonitorFacts, NeonCounters, Sessions, Snapshot};

pub(super) fn families(snapshot: &Snapshot) -> prometheus::Result<Vec<Family>> {
    let facts = &snapshot.monitor;
    let mut families = downtime(facts)?;
    if let Some(at) = snapshot.last_active_at {
        families.push(gauge(
            "glowplug_last_activity_timestamp_seconds",
            "When postgres was last active, in seconds of the epoch",
            at.as_microsecond() as f64 / 1e6,
        )?);
    }
    families.push(sessions(&facts.sessions)?);
    families.push(gauge(
        "glowplug_commits_waiting",
        "Sessions whose commit waits for a quorum of safekeepers",
        facts.waits.commits as f64,
    )?);
    families.push(gauge(
        "glowplug_oldest_commit_wait_seconds",
        "How long the commit that waits longest has been in its statement",
        facts.waits.oldest_commit.as_secs_f64(),
    )?);
    families.push(gauge(
        "glowplug_page_reads_waiting",
        "Sessions that wait for a pageserver, by the wait events of Neon's extension",
        facts.waits.page_reads as f64,
    )?);
    if let Some(disk) = &facts.disk {
        families.push(gauge(
            "glowplug_pgdata_size_bytes",
            "Size of the file system of PGDATA",
            disk.size_bytes as f64,
        )?);
        families.push(gauge(
            "glowplug_pgdata_available_bytes",
            "What postgres may still write to the file system of PGDATA",
            disk.available_bytes as f64,
        )?);
    }
    if let Some(counters) = &facts.waits.neon {
        families.extend(neon(counters)?);
    }
    Ok(families)
}

fn downtime(facts: &MonitorFacts) -> prometheus::Result<Vec<Family>> {
    let current = facts.downtime.current(Instant::now()).as_secs_f64() * 1e3;
    Ok(vec![
        gauge(
            "compute_pg_current_downtime_ms",
            "Non-cumulative duration of Postgres downtime in ms; resets after successful check",
            current,
        )?,
        counter(
            "compute_pg_downtime_ms_total",
            "Cumulative duration of Postgres downtime in ms",
            (facts.downtime.past.as_secs_f64() * 1e3 + current).floor(),
        )?,
    ])
}

fn sessions(sessions: &Sessions) -> prometheus::Result<Family> {
    let family = IntGaugeVec::new(
        Opts::new(
            "glowplug_postgres_sessions",
            "What postgres is busy with, by kind; all but idle is activity",
        ),
        &["kind"],
    )?;
    for (kind, count) in [
        ("active", sessions.active),
        ("idle", sessions.idle),
        ("walsender", sessions.walsenders),
        ("subscription", sessions.subscriptions),
        ("autovacuum", sessions.autovacuum_workers),
        ("prepared_transaction", sessions.prepared_transactions),
    ] {
        family.with_label_values(&[kind]).set(count);
    }
    Ok(Box::new(family))
}

fn neon(counters: &NeonCounters) -> prometheus::Result<Vec<Family>> {
    Ok(vec![
        counter(
            "compute_getpage_stuck_requests_total",
            "Total number of Getpage requests left without an answer for more than \
             pageserver_response_log_timeout but less than pageserver_response_disconnect_timeout",
            counters.stuck_requests,
        )?,
        gauge(
            "compute_getpage_max_inflight_stuck_time_ms",
            "Max wait time for stuck requests among all backends. Includes only active stuck \
             requests, terminated or disconnected ones are not accounted for",
            counters.oldest_stuck.as_secs_f64() * 1e3,
        )?,
        gauge(
            "pageserver_open_requests",
            "Number of open requests to PageServer",
            counters.open_requests,
        )?,
        counter(
            "pageserver_disconnects_total",
            "Number of times that the connection to the pageserver was lost",
            counters.disconnects,
        )?,
        counter(
            "glowplug_getpage_requests_total",
            "Pages that postgres waited for",
            counters.getpages,
        )?,
        counter(
            "glowplug_getpage_wait_seconds_total",
            "Time that postgres waited for pages",
            counters.getpage_wait.as_secs_f64(),
        )?,
        counter(
            "compute_backpressure_throttling_seconds_total",
            "Time compute has spent throttled",
            counters.throttled.as_secs_f64(),
        )?,
    ])
}

fn gauge(name: &str, help: &str, value: f64) -> prometheus::Result<Family> {
    let gauge = Gauge::new(name, help)?;
    gauge.set(value);
    Ok(Box::new(gauge))
}

fn counter(name: &str, help: &str, value: f64) -> prometheus::Result<Family> {
    let counter = Counter::new(name, help)?;
    counter.inc_by(value.max(0.0));
    Ok(Box::new(counter))
}
