//! Asks the pageservers now and then whether they serve the tenant's shards, and looks
//! for those that moved: nobody may have told, and postgres notices only when a query
//! hangs.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Owner;
use crate::api::status::ComputeState;
use crate::compute::facts::Fact;
use crate::compute::shards;
use crate::compute::state::Event;
use crate::pageserver::{ShardProbe, shard_probe};
use crate::report::{EventKind, Snapshot};

impl Owner {
    /// Starts one round over the shards. It runs beside everything else.
    pub(super) fn probe_shards(&mut self) {
        while self.rounds.try_join_next().is_some() {}
        let interval = self.config.limits.probe_interval;
        self.timers.probe = interval.map(|interval| Instant::now() + jittered(interval));
        let (Some(current), Some(_)) = (&self.current, &self.running) else {
            return;
        };
        let (spec, access) = (current.spec.clone(), self.outputs.access.clone());
        let facts = self.fact_sender.clone();
        self.rounds.spawn(async move {
            let probed = shards::probe(&spec, &access).await;
            // The owner outlives this task; a closed channel means that the process ends.
            let _ = facts.send(Fact::Probed(probed)).await;
        });
    }

    /// What the last round found has changed the snapshot: tells people, and looks for
    /// shards that may have moved.
    pub(super) fn on_probed(&mut self, before: &str) {
        let Some(probed) = &self.snapshot.pagestream.probed else {
            return;
        };
        let now = lost(&self.snapshot);
        let moved = probed.shards.iter().any(ShardProbe::may_have_moved);
        if now.is_empty() {
            self.lookups.reset();
            self.timers.lookup = None;
            if !before.is_empty() {
                self.event(
                    EventKind::Normal,
                    "StorageReachable",
                    "every shard is served",
                );
            }
            return;
        }
        if before.is_empty() {
            self.event(EventKind::Warning, "StorageUnreachable", now);
        }
        if moved && self.timers.lookup.is_none() {
            self.look_for_shards();
        }
    }

    /// Begins a refresh that nobody asked for, if somebody can say where shards are. Less
    /// and less often, while it does not help.
    pub(super) fn look_for_shards(&mut self) {
        let Some(current) = &self.current else { return };
        if current.spec.storage_controller.is_none() || self.snapshot.state != ComputeState::Running
        {
            return;
        }
        self.timers.lookup = Some(Instant::now() + self.lookups.next(rand::random()));
        info!("a shard may have moved: asking the storage controller");
        if self.transition(Event::RefreshRequested) {
            self.next_job();
        }
    }
}

/// The shards that are not served, for people; empty if all are.
pub(super) fn lost(snapshot: &Snapshot) -> String {
    let probed = snapshot.pagestream.probed.as_ref();
    probed.map_or_else(String::new, |probed| shard_probe::report(&probed.shards))
}

/// Spreads the rounds of many computes.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.8 + 0.4 * rand::random::<f64>())
}
