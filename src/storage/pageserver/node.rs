//! What the tasks of one pageserver share.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::locations::Locations;
use super::metrics::Metrics;
use crate::secret::Secret;
use crate::storage::knobs::Knobs;
use crate::storage::pgwire_server::ServerConfig;
use crate::storage::timelines::Timelines;

/// A pageserver as its connections see it.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) token: Option<Secret>,
    pub(super) server: ServerConfig,
    /// How long to wait for WAL that a command asks for.
    pub(super) wait_lsn_timeout: Duration,
    pub(super) timelines: Timelines,
    pub(super) locations: Arc<Locations>,
    pub(super) metrics: Metrics,
    pub(super) knobs: Arc<Knobs>,
    /// Tasks that outlive the call that began them.
    pub(super) tasks: TaskTracker,
}
