//! Metric families of the status writes.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts};

/// How the writes of a status to the API server go. Clones share the families; one of
/// them is to be registered.
#[derive(Debug, Clone)]
pub struct WriteMetrics {
    patches: IntCounterVec,
    seconds: Histogram,
    pending: IntGauge,
    reachable: IntGauge,
}

impl WriteMetrics {
    /// All families at zero.
    ///
    /// # Errors
    ///
    /// Only if a name or label is malformed, which none is.
    pub fn new() -> Result<Self, prometheus::Error> {
        let patches = IntCounterVec::new(
            Opts::new(
                "glowplug_status_patches_total",
                "Writes of the status to the API server by result",
            ),
            &["result"],
        )?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "glowplug_status_patch_duration_seconds",
                "How long a write of the status to the API server took, failed ones included",
            )
            .buckets(vec![
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ]),
        )?;
        let pending = IntGauge::new(
            "glowplug_status_pending",
            "1 while the newest status is not written to the API server yet",
        )?;
        let reachable = IntGauge::new(
            "glowplug_api_reachable",
            "1 if the last request to the API server was answered",
        )?;
        Ok(Self {
            patches,
            seconds,
            pending,
            reachable,
        })
    }

    /// A write ended: `success`, or the label of a failure.
    pub(super) fn patched(&self, result: &'static str, took: Duration) {
        self.patches.with_label_values(&[result]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Whether a write is outstanding.
    pub(super) fn pending(&self, pending: bool) {
        self.pending.set(pending.into());
    }

    /// Whether the API server answered a request.
    pub fn reachable(&self, reachable: bool) {
        self.reachable.set(reachable.into());
    }

    /// Whether the last request was answered.
    #[cfg(test)]
    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.get() == 1
    }
}

impl Collector for WriteMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let families: [&dyn Collector; 4] =
            [&self.patches, &self.seconds, &self.pending, &self.reachable];
        families.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families: [&dyn Collector; 4] =
            [&self.patches, &self.seconds, &self.pending, &self.reachable];
        families.into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_have_their_names_and_stand_in_one_registration() {
        let telemetry = crate::telemetry::metrics::Metrics::new().unwrap();
        let metrics = WriteMetrics::new().unwrap();
        telemetry.register(metrics.clone()).unwrap();
        metrics.patched("success", Duration::from_millis(7));
        metrics.pending(true);
        metrics.reachable(true);
        let text = telemetry.render().unwrap();
        for line in [
            "glowplug_status_patches_total{result=\"success\"} 1",
            "glowplug_status_patch_duration_seconds_count 1",
            "glowplug_status_pending 1",
            "glowplug_api_reachable 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
