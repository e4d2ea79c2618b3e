//! Counts the installed extensions now and then, for the metric and for the pipelines
//! that read the log (`compute_tools/src/installed_extensions.rs`). Unlike upstream's,
//! the metric forgets an extension that is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::ComputeConfig;
use super::local;
use crate::api::status::ComputeState;
use crate::catalog::CatalogTarget;
use crate::catalog::visit::extensions::{Installed, census};
use crate::error::chain;
use crate::report::Snapshot;

/// How long one database may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Counts whenever the compute runs and the interval has passed, until `cancel`.
pub(super) async fn run(
    config: ComputeConfig,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    gauge: IntGaugeVec,
    cancel: CancellationToken,
) {
    let interval = config.limits.extension_census;
    let counting = async {
        // The sender outlives this, or the process ends.
        while let Ok(snapshot) = running(&mut snapshots).await {
            if let Some(facts) = &snapshot.spec {
                let target = CatalogTarget {
                    connect: local::sql_config(&config, &facts.spec),
                    privileged_role: config.privileged_role.clone(),
                    application_name: "glowplug:extensions".to_owned(),
                };
                match census(&target, LIMIT).await {
                    Ok(counted) => tell(&counted, &gauge),
                    Err(error) => warn!("extensions cannot be counted: {}", chain(&error)),
                }
            }
            tokio::time::sleep(interval).await;
        }
    };
    cancel.run_until_cancelled(Box::pin(counting)).await;
}

async fn running(
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
) -> Result<Arc<Snapshot>, watch::error::RecvError> {
    let is_running = |snapshot: &Arc<Snapshot>| snapshot.state == ComputeState::Running;
    let snapshot = snapshots.wait_for(is_running).await?;
    Ok(snapshot.clone())
}

fn tell(counted: &BTreeMap<Installed, usize>, gauge: &IntGaugeVec) {
    gauge.reset();
    let mut listed = Vec::new();
    for (extension, databases) in counted {
        let owned = if extension.owned_by_superuser {
            "1"
        } else {
            "0"
        };
        let Installed { name, version, .. } = extension;
        gauge
            .with_label_values(&[name.as_str(), version, owned])
            .set(*databases as i64);
        listed.push(
            json!({"extname": name, "version": version, "n_databases": databases,
                           "owned_by_superuser": owned}),
        );
    }
    info!("[NEON_EXT_STAT] {}", json!({"extensions": listed}));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn an_extension_that_is_gone_is_forgotten() {
        let metrics = Metrics::new().unwrap();
        let gauge = &metrics.upstream.installed_extensions;
        let installed = |name: &str| Installed {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            owned_by_superuser: true,
        };
        tell(&BTreeMap::from([(installed("hstore"), 2)]), gauge);
        tell(&BTreeMap::from([(installed("plpgsql"), 3)]), gauge);
        let text = metrics.render().unwrap();
        let series: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("compute_installed_extensions{"))
            .collect();
        assert_eq!(
            series,
            ["compute_installed_extensions{extension_name=\"plpgsql\",\
               owned_by_superuser=\"1\",version=\"1.0\"} 3"]
        );
    }
}
