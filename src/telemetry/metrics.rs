//! The metric families that count events and measure durations: upstream's own
//! ([`Upstream`]), and what upstream does not tell.
//!
//! What stands in the snapshot is not counted a second time here: the HTTP server
//! renders it at each scrape.

mod upstream;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use upstream::Upstream;

use super::Error;

/// Bounds of the histograms of work that takes from milliseconds to minutes.
const WORK_SECONDS: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0,
];

/// Result label of work that was done.
pub const SUCCESS: &str = "success";

/// The metric families of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// The families that upstream has.
    pub upstream: Upstream,
    /// `glowplug_reaped_orphans_total`.
    pub reaped_orphans: IntCounter,
    /// `glowplug_http_requests_total{server,route,code}`.
    pub http_requests: IntCounterVec,
    /// `glowplug_http_request_seconds{server,route}`.
    pub http_request_seconds: HistogramVec,
    job_seconds: HistogramVec,
    phase_seconds: HistogramVec,
    retries: IntCounterVec,
}

impl Metrics {
    /// Registers all families with a registry of their own.
    pub fn new() -> Result<Self, Error> {
        let metrics = Self {
            registry: Registry::new(),
            upstream: Upstream::new()?,
            reaped_orphans: family(
                IntCounter::with_opts,
                "glowplug_reaped_orphans_total",
                "Orphaned processes that were reaped",
            )?,
            http_requests: vector(
                IntCounterVec::new,
                "glowplug_http_requests_total",
                "HTTP requests answered, by server, route and status code",
                &["server", "route", "code"],
            )?,
            http_request_seconds: vector(
                |opts, labels| HistogramVec::new(HistogramOpts::from(opts), labels),
                "glowplug_http_request_seconds",
                "Time to answer an HTTP request",
                &["server", "route"],
            )?,
            job_seconds: vector(
                work_histogram,
                "glowplug_job_duration_seconds",
                "Duration of start-ups, reconfigurations, refreshes and stops, by result",
                &["job", "result"],
            )?,
            phase_seconds: vector(
                work_histogram,
                "glowplug_startup_phase_duration_seconds",
                "Duration of the phases of start-ups",
                &["phase"],
            )?,
            retries: vector(
                IntCounterVec::new,
                "glowplug_retries_total",
                "Attempts that failed and were repeated, by operation and reason of the failure",
                &["operation", "reason"],
            )?,
        };
        metrics.upstream.register(&metrics)?;
        metrics.register(metrics.reaped_orphans.clone())?;
        metrics.register(metrics.http_requests.clone())?;
        metrics.register(metrics.http_request_seconds.clone())?;
        metrics.register(metrics.job_seconds.clone())?;
        metrics.register(metrics.phase_seconds.clone())?;
        metrics.register(metrics.retries.clone())?;
        metrics.register(build_info()?)?;
        metrics.register(prometheus::process_collector::ProcessCollector::for_self())?;
        Ok(metrics)
    }

    /// A job of the compute ended: [`SUCCESS`], or the category of its error.
    pub fn job_done(&self, job: &'static str, result: &'static str, took: Duration) {
        self.job_seconds
            .with_label_values(&[job, result])
            .observe(took.as_secs_f64());
    }

    /// A phase of a start-up ended.
    pub fn phase_done(&self, phase: &'static str, took: Duration) {
        self.phase_seconds
            .with_label_values(&[phase])
            .observe(took.as_secs_f64());
    }

    /// An attempt at an operation failed, and is repeated. The reason is the category of
    /// the error.
    pub fn retried(&self, operation: &'static str, reason: &'static str) {
        self.retries.with_label_values(&[operation, reason]).inc();
    }

    /// Adds a family, for rooms above that count things of their own.
    pub fn register(&self, family: impl Collector + 'static) -> Result<(), Error> {
        let name = family
            .desc()
            .first()
            .map_or_else(String::new, |desc| desc.fq_name.clone());
        self.registry
            .register(Box::new(family))
            .map_err(|source| Error::Register { name, source })
    }

    /// All families in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .map_err(Error::Render)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn work_histogram(opts: Opts, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(
        HistogramOpts::from(opts).buckets(WORK_SECONDS.to_vec()),
        labels,
    )
}

/// Always 1; its labels tell which build this is.
fn build_info() -> Result<IntGaugeVec, Error> {
    let info = vector(
        IntGaugeVec::new,
        "glowplug_build_info",
        "Which build this is",
        &["version", "revision", "rustc"],
    )?;
    info.with_label_values(&[
        env!("CARGO_PKG_VERSION"),
        option_env!("GLOWPLUG_REVISION").unwrap_or("unknown"),
        env!("CARGO_PKG_RUST_VERSION"),
    ])
    .set(1);
    Ok(info)
}

fn family<F>(
    make: impl FnOnce(Opts) -> prometheus::Result<F>,
    name: &str,
    help: &str,
) -> Result<F, Error> {
    make(Opts::new(name, help)).map_err(|source| Error::Register {
        name: name.to_owned(),
        source,
    })
}

fn vector<F>(
    make: impl FnOnce(Opts, &[&str]) -> prometheus::Result<F>,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<F, Error> {
    make(Opts::new(name, help), labels).map_err(|source| Error::Register {
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_without_labels_are_exposed_before_any_event() {
        let metrics = Metrics::new().unwrap();
        let text = metrics.render().unwrap();
        for line in [
            "# HELP pg_cctl_pagestream_request_errors_total Number of PageStream request errors reported by the postgres process",
            "# TYPE pg_cctl_pagestream_request_errors_total counter",
            "pg_cctl_pagestream_request_errors_total 0",
            "glowplug_reaped_orphans_total 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "{line}\nis missing in\n{text}"
            );
        }
        assert!(text.contains("glowplug_build_info{"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    fn a_name_is_registered_once() {
        let metrics = Metrics::new().unwrap();
        let again = IntCounter::new("glowplug_reaped_orphans_total", "x").unwrap();
        let error = metrics.register(again).unwrap_err();
        assert_eq!(
            error.to_string(),
            "metric family glowplug_reaped_orphans_total cannot be registered"
        );
    }
}
