//! Renders the snapshot as metric families at each scrape, so that no gauge lags
//! behind the state that it shows.

mod monitor;

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec, Opts};
use tokio::sync::watch;

use crate::api::status::ConditionStatus;
use crate::report::{Snapshot, conditions};
use crate::telemetry;

type Family = Box<dyn Collector>;

pub(super) struct SnapshotCollector {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    lakebase_instance: Option<String>,
    descriptions: Vec<Desc>,
}

impl SnapshotCollector {
    pub(super) fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        lakebase_instance: Option<String>,
    ) -> Result<Self, telemetry::Error> {
        let families = families(&snapshot.borrow(), lakebase_instance.as_deref());
        let families = families.map_err(|source| telemetry::Error::Register {
            name: "of the snapshot".to_owned(),
            source,
        })?;
        let descriptions = families
            .iter()
            .flat_map(|family| family.desc())
            .cloned()
            .collect();
        Ok(Self {
            snapshot,
            lakebase_instance,
            descriptions,
        })
    }
}

impl Collector for SnapshotCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.snapshot.borrow().clone();
        // Names and labels are fixed: what `new` could make can be made again.
        let families = families(&snapshot, self.lakebase_instance.as_deref());
        let families = families.unwrap_or_default();
        families
            .iter()
            .flat_map(|family| family.collect())
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

fn families(snapshot: &Snapshot, instance: Option<&str>) -> prometheus::Result<Vec<Family>> {
    let mut families = vec![up(snapshot)?, attached(snapshot, instance)?];
    families.extend(startup(snapshot)?);
    families.extend(storage(snapshot)?);
    families.extend(monitor::families(snapshot)?);
    families.push(condition(snapshot)?);

    let ready = conditions::readiness(snapshot).0 == ConditionStatus::True;
    let help = "Whether the compute takes clients: 1 if the condition Ready is true";
    families.push(gauge("glowplug_ready", help, i64::from(ready))?);

    let restarts = IntCounter::new(
        "glowplug_postgres_restarts_total",
        "Unplanned restarts of postgres",
    )?;
    restarts.inc_by(snapshot.postgres.restarts.into());
    families.push(Box::new(restarts));
    Ok(families)
}

/// One series per condition at any time, as `compute_ctl_up` has one per state.
fn condition(snapshot: &Snapshot) -> prometheus::Result<Family> {
    let family = IntGaugeVec::new(
        Opts::new(
            "glowplug_condition",
            "The conditions of the compute: 1 for the status and reason that hold",
        ),
        &["type", "status", "reason"],
    )?;
    // Transition times are not told here.
    for condition in conditions::conditions(snapshot, &[], jiff::Timestamp::UNIX_EPOCH) {
        let status = format!("{:?}", condition.status);
        let labels = [condition.type_.as_str(), &status, &condition.reason];
        family.with_label_values(&labels).set(1);
    }
    Ok(Box::new(family))
}

/// Upstream's gauge (`compute_tools/src/metrics.rs`), one series at any time.
fn up(snapshot: &Snapshot) -> prometheus::Result<Family> {
    let up = IntGaugeVec::new(
        Opts::new("compute_ctl_up", "Whether compute_ctl is running"),
        &["build_tag", "status"],
    )?;
    let build_tag = option_env!("BUILD_TAG").unwrap_or("latest");
    up.with_label_values(&[build_tag, &snapshot.state.to_string()])
        .set(1);
    Ok(Box::new(up))
}

/// Upstream's gauge of lakebase mode (`compute_tools/src/hadron_metrics.rs`): the tenant
/// and timeline that are served. It has no series elsewhere.
fn attached(snapshot: &Snapshot, instance: Option<&str>) -> prometheus::Result<Family> {
    let labels = [
        "pg_compute_id",
        "pg_instance_id",
        "tenant_id",
        "timeline_id",
    ];
    let help = "Compute node attached status (1 if attached)";
    let attached = IntGaugeVec::new(Opts::new("pg_cctl_attached", help), &labels)?;
    let ids = (snapshot.tenant_id(), snapshot.timeline_id());
    if let (Some(instance), (Some(tenant), Some(timeline))) = (instance, ids) {
        let (tenant, timeline) = (tenant.to_string(), timeline.to_string());
        attached
            .with_label_values(&[snapshot.compute_id.as_str(), instance, &tenant, &timeline])
            .set(1);
    }
    Ok(Box::new(attached))
}

fn startup(snapshot: &Snapshot) -> prometheus::Result<Vec<Family>> {
    let durations = &snapshot.durations;
    let phases = GaugeVec::new(
        Opts::new(
            "glowplug_startup_phase_seconds",
            "Duration of each phase of the last start-up",
        ),
        &["phase"],
    )?;
    for (phase, duration) in &durations.phases {
        phases
            .with_label_values(&[phase.name()])
            .set(duration.as_secs_f64());
    }
    let mut families: Vec<Family> = vec![Box::new(phases)];
    let total = Gauge::new(
        "glowplug_startup_seconds",
        "Duration of the last start-up, from the accepted spec to Running; 0 before",
    )?;
    total.set(durations.total.unwrap_or_default().as_secs_f64());
    families.push(Box::new(total));
    families.push(gauge(
        "glowplug_basebackup_bytes",
        "Bytes received for the last basebackup",
        durations.basebackup_bytes.unwrap_or(0) as i64,
    )?);
    Ok(families)
}

fn storage(snapshot: &Snapshot) -> prometheus::Result<Vec<Family>> {
    let mut families = Vec::new();
    if let Some(misrouted) = snapshot.pagestream.misrouted_requests {
        families.push(gauge(
            "glowplug_pageserver_misrouted_pagestream_requests",
            "Sum of pageserver_misrouted_pagestream_requests_total over this compute's pageservers",
            misrouted as i64,
        )?);
    }
    if let Some(relay) = &snapshot.relay {
        families.push(gauge(
            "glowplug_wal_relay_lag_bytes",
            "WAL that postgres wrote and no quorum of safekeepers has yet",
            relay.lag_bytes as i64,
        )?);
        families.push(gauge(
            "glowplug_wal_relay_fenced",
            "Whether a newer compute took the timeline over",
            relay.fenced.is_some().into(),
        )?);
    }
    Ok(families)
}

fn gauge(name: &str, help: &str, value: i64) -> prometheus::Result<Family> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(value);
    Ok(Box::new(gauge))
}
