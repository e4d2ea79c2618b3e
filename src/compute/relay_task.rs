//! The WAL relay as a task of the compute: started, watched, told of new memberships,
//! stopped.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, info_span};

use super::config::ComputeConfig;
use super::error::Error;
use super::local;
use super::startup::Start;
use crate::access::Access;
use crate::report::RelayFacts;
use crate::safekeeper::relay::{self, RelayCommand, RelayConfig, RelayPhase, RelayStatus};
use crate::spec::ComputeSpec;

/// Making a connection to a safekeeper, and an answer on it.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a cancelled relay may take to close its connections.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What a relay has to say.
pub(super) enum RelayNews {
    /// Its status changed.
    Changed(RelayFacts),
    /// It has ended; [`RelayTask::stop`] tells why.
    Ended,
}

/// A running relay.
pub(super) struct RelayTask {
    commands: mpsc::Sender<RelayCommand>,
    status: watch::Receiver<RelayStatus>,
    ended: watch::Receiver<bool>,
    task: JoinHandle<Result<(), relay::Error>>,
    local_accepts: watch::Sender<bool>,
    /// Ends the relay when this is dropped.
    cancel: DropGuard,
}

impl RelayTask {
    /// Starts a relay that takes the log of the local postgres from `start` on, once
    /// that [accepts connections](Self::local_accepts).
    pub(super) fn start(
        config: &ComputeConfig,
        spec: &ComputeSpec,
        access: Access,
        pg_version: u32,
        start: Start,
    ) -> Self {
        let cancel = CancellationToken::new();
        let (commands, command_receiver) = mpsc::channel(4);
        let (status_sender, status) = watch::channel(RelayStatus::default());
        let (ended_sender, ended) = watch::channel(false);
        let (local_accepts, accepts) = watch::channel(false);
        let relay_config = RelayConfig {
            tenant_id: spec.tenant_id,
            timeline_id: spec.timeline_id,
            safekeepers: spec.safekeepers.clone(),
            access,
            pg_version,
            system_id: start.system_id,
            start_lsn: start.lsn,
            local: local::connect_config(config, spec),
            local_accepts: accepts,
            connect_timeout: CONNECT_LIMIT,
            window_limit: RelayConfig::WINDOW_LIMIT,
        };
        let work = relay::relay(
            relay_config,
            command_receiver,
            status_sender,
            cancel.clone(),
        );
        let task = tokio::spawn(
            async move {
                let result = work.await;
                let _ = ended_sender.send(true);
                result
            }
            .instrument(info_span!("wal_relay")),
        );
        Self {
            commands,
            status,
            ended,
            task,
            local_accepts,
            cancel: cancel.drop_guard(),
        }
    }

    /// Postgres accepts connections: the relay may make its own.
    pub(super) fn local_accepts(&self) {
        self.local_accepts.send_replace(true);
    }

    /// Waits for the next change of the relay's status, or for its end. Cancel safe.
    pub(super) async fn news(&mut self) -> RelayNews {
        // The relay owns the sending half: a closed channel means that it has ended.
        if self.status.changed().await.is_ok() {
            return RelayNews::Changed(facts(&self.status.borrow_and_update()));
        }
        self.ended().await;
        RelayNews::Ended
    }

    /// What the relay says now.
    pub(super) fn facts(&self) -> RelayFacts {
        facts(&self.status.borrow())
    }

    /// Waits until the relay has ended. Cancel safe.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the task is gone without a word: it has ended too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Where the relay takes commands.
    pub(super) fn commands(&self) -> mpsc::Sender<RelayCommand> {
        self.commands.clone()
    }

    /// Stops the relay, if it still runs. Returns what it said last, and why it ended.
    pub(super) async fn stop(self) -> (RelayFacts, Result<(), Error>) {
        drop(self.cancel);
        let abort = self.task.abort_handle();
        let result = match tokio::time::timeout(CLOSE_LIMIT, self.task).await {
            Ok(Ok(result)) => result.map_err(|source| Error::Relay(Box::new(source))),
            Ok(Err(_)) => Err(Error::Task("wal_relay")),
            Err(_) => {
                abort.abort();
                Ok(())
            }
        };
        (facts(&self.status.borrow()), result)
    }
}

fn phase_name(phase: RelayPhase) -> &'static str {
    match phase {
        RelayPhase::Connecting => "Connecting",
        RelayPhase::Electing => "Electing",
        RelayPhase::Streaming => "Streaming",
        RelayPhase::Fenced => "Fenced",
    }
}

fn facts(status: &RelayStatus) -> RelayFacts {
    RelayFacts {
        phase: phase_name(status.phase),
        term: status.term,
        commit_lsn: status.commit_lsn,
        lag_bytes: status.lag_bytes,
        fenced: status.fenced.as_ref().map(|fenced| fenced.message.clone()),
    }
}
