//! Every metric family that `compute_ctl` has and that counts events or holds a measured
//! value, under its name, type, labels and help text (`compute_tools/src/metrics.rs`,
//! `compute_tools/src/hadron_metrics.rs`), so that dashboards and alerts go on working.
//!
//! `compute_ctl_up`, `pg_cctl_attached` and the two of postgres' downtime say what stands in
//! the snapshot; the HTTP server renders them from it.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGaugeVec};

use super::{Error, Metrics, family, vector};

/// The families. Those without labels are exposed at 0 before any event; the others are
/// left out until then, as upstream does.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// `compute_installed_extensions{extension_name,version,owned_by_superuser}`: the
    /// number of databases that have it.
    pub installed_extensions: IntGaugeVec,
    /// `compute_ctl_cplane_requests_total{rpc,http_status}`. The status has its reason
    /// phrase, as in `503 Service Unavailable`, or is `unknown`.
    pub control_plane_requests: IntCounterVec,
    /// `compute_ctl_remote_ext_requests_total{http_status,filename}`.
    pub remote_extension_requests: IntCounterVec,
    /// `compute_ctl_db_migration_failed_total{migration_id}`.
    pub failed_migrations: IntCounterVec,
    /// `compute_audit_log_dir_size`, in bytes.
    pub audit_log_dir_size: Gauge,
    /// `compute_ctl_lfc_prewarms_total`.
    pub prewarms: IntCounter,
    /// `compute_ctl_lfc_prewarm_errors_total`.
    pub prewarm_errors: IntCounter,
    /// `compute_ctl_lfc_offloads_total`.
    pub offloads: IntCounter,
    /// `compute_ctl_lfc_offload_errors_total`.
    pub offload_errors: IntCounter,
    /// `pg_cctl_pagestream_request_errors_total`: one for each refresh request from
    /// postgres, whatever the answer.
    pub pagestream_request_errors: IntCounter,
    /// `pg_cctl_configure_statement_timeout_errors_total`: one for each change of roles
    /// and databases that ran into the statement timeout (SQLSTATE 57014).
    pub statement_timeouts: IntCounter,
}

impl Upstream {
    pub(super) fn new() -> Result<Self, Error> {
        let counter = |name, help| family(IntCounter::with_opts, name, help);
        let gauge = |name, help| family(Gauge::with_opts, name, help);
        let counters = |name, help, labels: &[&str]| vector(IntCounterVec::new, name, help, labels);
        Ok(Self {
            installed_extensions: vector(
                IntGaugeVec::new,
                "compute_installed_extensions",
                "Number of databases where the version of extension is installed",
                &["extension_name", "version", "owned_by_superuser"],
            )?,
            control_plane_requests: counters(
                "compute_ctl_cplane_requests_total",
                "Total number of control plane requests made by compute_ctl by status",
                &["rpc", "http_status"],
            )?,
            remote_extension_requests: counters(
                "compute_ctl_remote_ext_requests_total",
                "Total number of requests made by compute_ctl to download extensions from S3 proxy by status",
                &["http_status", "filename"],
            )?,
            failed_migrations: counters(
                "compute_ctl_db_migration_failed_total",
                "Total number of failed database migrations",
                &["migration_id"],
            )?,
            audit_log_dir_size: gauge(
                "compute_audit_log_dir_size",
                "Size of audit log directory in bytes",
            )?,
            prewarms: counter(
                "compute_ctl_lfc_prewarms_total",
                "Total number of LFC prewarms requested by compute_ctl or autoprewarm option",
            )?,
            prewarm_errors: counter(
                "compute_ctl_lfc_prewarm_errors_total",
                "Total number of LFC prewarm errors",
            )?,
            offloads: counter(
                "compute_ctl_lfc_offloads_total",
                "Total number of LFC offloads requested by compute_ctl or lfc_offload_period_seconds option",
            )?,
            offload_errors: counter(
                "compute_ctl_lfc_offload_errors_total",
                "Total number of LFC offload errors",
            )?,
            pagestream_request_errors: counter(
                "pg_cctl_pagestream_request_errors_total",
                "Number of PageStream request errors reported by the postgres process",
            )?,
            statement_timeouts: counter(
                "pg_cctl_configure_statement_timeout_errors_total",
                "Number of compute configuration errors due to Postgres statement timeouts.",
            )?,
        })
    }

    pub(super) fn register(&self, metrics: &Metrics) -> Result<(), Error> {
        metrics.register(self.installed_extensions.clone())?;
        for counters in [
            &self.control_plane_requests,
            &self.remote_extension_requests,
            &self.failed_migrations,
        ] {
            metrics.register(counters.clone())?;
        }
        metrics.register(self.audit_log_dir_size.clone())?;
        for counter in [
            &self.prewarms,
            &self.prewarm_errors,
            &self.offloads,
            &self.offload_errors,
            &self.pagestream_request_errors,
            &self.statement_timeouts,
        ] {
            metrics.register(counter.clone())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A family as `compute_ctl` was seen to expose it.
    #[derive(serde::Deserialize)]
    struct Recorded {
        name: String,
        #[serde(rename = "type")]
        kind: String,
        labels: Vec<String>,
        help: String,
        always_present: bool,
    }

    #[test]
    fn families_are_those_that_upstream_was_seen_to_expose() {
        let recorded = include_str!("../../../tests/fixtures/http/metric-families.json");
        let recorded: Vec<Recorded> = serde_json::from_str(recorded).unwrap();
        assert_eq!(recorded.len(), 15);
        let metrics = Metrics::new().unwrap();
        let before = metrics.render().unwrap();
        let upstream = &metrics.upstream;
        let extension = ["hstore", "1.8", "1"];
        upstream
            .installed_extensions
            .with_label_values(&extension)
            .set(2);
        let request = ["GetConfig", "200 OK"];
        upstream
            .control_plane_requests
            .with_label_values(&request)
            .inc();
        let download = ["200 OK", "anon.tar.zst"];
        upstream
            .remote_extension_requests
            .with_label_values(&download)
            .inc();
        upstream.failed_migrations.with_label_values(&["4"]).inc();
        let after = metrics.render().unwrap();
        for family in recorded {
            let of_the_snapshot = [
                "compute_ctl_up",
                "pg_cctl_attached",
                "compute_pg_current_downtime_ms",
                "compute_pg_downtime_ms_total",
            ];
            if of_the_snapshot.contains(&family.name.as_str()) {
                continue;
            }
            let head = format!(
                "# HELP {0} {1}\n# TYPE {0} {2}\n",
                family.name, family.help, family.kind
            );
            assert_eq!(before.contains(&head), family.always_present, "{head}");
            let (_, sample) = after.split_once(&head).expect(&head);
            let sample = sample.lines().next().unwrap();
            for label in &family.labels {
                assert!(sample.contains(&format!("{label}=\"")), "{sample}");
            }
            assert_eq!(family.labels.is_empty(), !sample.contains('{'), "{sample}");
        }
    }
}
