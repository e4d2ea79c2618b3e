//! The metric families that count events, under upstream's names where upstream has
//! them (`compute_tools/src/metrics.rs`, `compute_tools/src/hadron_metrics.rs`).
//!
//! What stands in the snapshot is not counted a second time here: the HTTP server
//! renders it at each scrape.

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::Error;

/// The metric families of one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// `pg_cctl_pagestream_request_errors_total`: one for each refresh request from
    /// postgres, whatever the answer.
    pub pagestream_request_errors: IntCounter,
    /// `compute_ctl_cplane_requests_total{rpc,http_status}`. The status has its reason
    /// phrase, as in `503 Service Unavailable`, or is `unknown`.
    pub control_plane_requests: IntCounterVec,
    /// `glowplug_reaped_orphans_total`.
    pub reaped_orphans: IntCounter,
    /// `glowplug_http_requests_total{server,route,code}`.
    pub http_requests: IntCounterVec,
    /// `glowplug_http_request_seconds{server,route}`.
    pub http_request_seconds: HistogramVec,
}

impl Metrics {
    /// Registers all families with a registry of their own.
    pub fn new() -> Result<Self, Error> {
        let metrics = Self {
            registry: Registry::new(),
            pagestream_request_errors: family(
                IntCounter::with_opts,
                "pg_cctl_pagestream_request_errors_total",
                "Number of PageStream request errors reported by the postgres process",
            )?,
            control_plane_requests: vector(
                IntCounterVec::new,
                "compute_ctl_cplane_requests_total",
                "Total number of control plane requests made by compute_ctl by status",
                &["rpc", "http_status"],
            )?,
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
        };
        metrics.register(metrics.pagestream_request_errors.clone())?;
        metrics.register(metrics.control_plane_requests.clone())?;
        metrics.register(metrics.reaped_orphans.clone())?;
        metrics.register(metrics.http_requests.clone())?;
        metrics.register(metrics.http_request_seconds.clone())?;
        metrics.register(build_info()?)?;
        metrics.register(prometheus::process_collector::ProcessCollector::for_self())?;
        Ok(metrics)
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
