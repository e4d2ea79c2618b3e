//! The metric families of a pageserver that a compute manager looks at.
//!
//! Names, help and labels: `pageserver/src/metrics.rs` of Neon.

use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::storage::timelines::Timeline;

/// Milliseconds.
const BACKUP_BUCKETS: [f64; 28] = [
    5.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 120.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0,
    450.0, 500.0, 600.0, 800.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0, 5000.0, 10000.0, 20000.0,
    40000.0, 60000.0,
];

/// The counters of one pageserver.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    /// Counts every failed search for a tenant's shard, whatever the command.
    pub(super) misrouted: IntCounter,
    pub(super) commands: IntCounterVec,
    pub(super) backup_seconds: HistogramVec,
    handler_results: IntCounterVec,
    last_record_lsn: IntGaugeVec,
}

/// How a pagestream request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    InternalError,
    OtherError,
}

impl Metrics {
    #[expect(
        clippy::expect_used,
        reason = "names and labels are constants that a test registers"
    )]
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let counter = |name, help, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a valid family")
        };
        let backup = HistogramOpts::new(
            "pageserver_basebackup_query_seconds",
            "Histogram of basebackup queries durations, by result type",
        );
        let metrics = Self {
            misrouted: IntCounter::new(
                "pageserver_misrouted_pagestream_requests_total",
                "Number of pageserver pagestream requests that were routed to the wrong pageserver",
            )
            .expect("a valid family"),
            commands: counter(
                "pageserver_compute_commands",
                "Number of compute -> pageserver commands processed",
                &["command"],
            ),
            handler_results: counter(
                "pageserver_pagestream_handler_results_total",
                "Number of pageserver pagestream handler results by outcome (success, \
                 internal_error, other_error)",
                &["outcome"],
            ),
            backup_seconds: HistogramVec::new(
                backup.buckets(BACKUP_BUCKETS.map(|ms| ms / 1000.0).to_vec()),
                &["result"],
            )
            .expect("a valid family"),
            last_record_lsn: IntGaugeVec::new(
                Opts::new(
                    "pageserver_last_record_lsn",
                    "Last record LSN grouped by timeline",
                ),
                &["tenant_id", "shard_id", "timeline_id"],
            )
            .expect("a valid family"),
            registry,
        };
        let families: [Box<dyn Collector>; 5] = [
            Box::new(metrics.misrouted.clone()),
            Box::new(metrics.commands.clone()),
            Box::new(metrics.handler_results.clone()),
            Box::new(metrics.backup_seconds.clone()),
            Box::new(metrics.last_record_lsn.clone()),
        ];
        for family in families {
            metrics
                .registry
                .register(family)
                .expect("a family of its own");
        }
        metrics
    }

    pub(super) fn request_ended(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Success => "success",
            Outcome::InternalError => "internal_error",
            Outcome::OtherError => "other_error",
        };
        self.handler_results.with_label_values(&[outcome]).inc();
    }

    /// All families as text.
    pub(super) fn render<'a>(
        &self,
        timelines: impl Iterator<Item = (String, &'a Timeline)>,
    ) -> String {
        self.last_record_lsn.reset();
        for (shard, timeline) in timelines {
            let (tenant_id, timeline_id) = (timeline.tenant_id(), timeline.timeline_id());
            let labels = [&tenant_id.to_string(), &shard, &timeline_id.to_string()];
            let lsn = timeline.end().last_record_lsn.0 as i64;
            self.last_record_lsn.with_label_values(&labels).set(lsn);
        }
        let mut text = Vec::new();
        // Fails only if writing does, and a vector takes everything.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_misroute_counter_is_there_from_the_start() {
        let text = Metrics::new().render(std::iter::empty());
        let counter = "pageserver_misrouted_pagestream_requests_total 0\n";
        assert!(text.contains(counter), "{text}");
    }
}
