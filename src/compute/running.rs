//! A postgres that was started, and what runs with it.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::ComputeConfig;
use super::error::Error;
use super::monitor::Monitor;
use super::postgres::{Error as PostgresError, Postgres};
use super::relay_task::RelayTask;
use crate::error::chain;
use crate::lsn::Lsn;
use crate::spec::ComputeSpec;

/// A started postgres with its relay.
pub(super) struct Running {
    pub(super) postgres: Postgres,
    /// For the Vanilla flavor in mode Primary.
    pub(super) relay: Option<RelayTask>,
    /// The spec that it was started with: how it is reached.
    pub(super) spec: Arc<ComputeSpec>,
    /// The spec whose configuration is in force: the last good one.
    pub(super) configured: Arc<ComputeSpec>,
    /// Where this postgres started.
    pub(super) start_lsn: Lsn,
    /// `150018`.
    pub(super) pg_version: u32,
    /// When the start-up began.
    pub(super) started_at: Instant,
    /// Watches it, once it serves.
    pub(super) monitor: Option<Monitor>,
}

impl Running {
    /// Waits until postgres ends by itself or its relay does, and tells why. Cancel safe.
    pub(super) async fn interrupted(&self) -> Error {
        let relay_ended = async {
            match &self.relay {
                Some(relay) => relay.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            exited = self.postgres.exited() => Error::Postgres(PostgresError::Exited { exited }),
            () = relay_ended => Error::Task("wal_relay"),
        }
    }

    /// Stops postgres without a shutdown checkpoint, then the relay.
    pub(super) async fn kill(mut self, config: &ComputeConfig) -> Option<Error> {
        self.monitor = None;
        let at_once = CancellationToken::new();
        at_once.cancel();
        if let Err(error) = self.postgres.stop(config.limits.stop, &at_once).await {
            warn!("{}", chain(&error));
        }
        match self.relay {
            Some(relay) => relay.stop().await.1.err(),
            None => None,
        }
    }
}
