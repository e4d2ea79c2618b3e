//! What the owner does when a time has come.

use tokio::time::Instant;

use crate::backoff::Backoff;

/// Points in time at which the owner wakes by itself.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Postgres is started again.
    pub(super) restart: Option<Instant>,
    /// The part of the catalog that failed is tried again.
    pub(super) catalog_retry: Option<Instant>,
    /// How long the next such wait is; `None` before the first.
    pub(super) catalog_backoff: Option<Backoff>,
    /// The pageservers' counters are read.
    pub(super) scrape: Option<Instant>,
    /// The rule over the counters of pagestream errors is asked.
    pub(super) pagestream: Option<Instant>,
    /// The shards' pageservers are asked whether they serve.
    pub(super) probe: Option<Instant>,
    /// Until then, shards that are not served are not looked for again.
    pub(super) lookup: Option<Instant>,
    /// A refresh that learned nothing is tried again.
    pub(super) refresh: Option<Instant>,
    /// The process ends.
    pub(super) end: Option<Instant>,
}

impl Timers {
    /// The earliest of them.
    pub(super) fn next(&self) -> Option<Instant> {
        [
            self.restart,
            self.catalog_retry,
            self.scrape,
            self.pagestream,
            self.probe,
            self.lookup,
            self.refresh,
            self.end,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes a timer that is due.
    pub(super) fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
        timer.take_if(|at| *at <= now).is_some()
    }
}
