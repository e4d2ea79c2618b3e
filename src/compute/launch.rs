//! Puts a compute together: its owner, the HTTP servers, and who tells its status.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::ComputeConfig;
use super::ending::Ending;
use super::{Inputs, LookAgain, Outputs, StopSignal, extension_census, local, owner};
use crate::access::Access;
use crate::http::{self, LocalPostgres, ServersConfig};
use crate::process::Spawner;
use crate::report::events::{self, Publisher};
use crate::report::sink::Sink;
use crate::report::{Snapshot, status_writer};
use crate::spec::revision::SourceEvent;
use crate::telemetry::correlation::{self, Correlation};
use crate::telemetry::metrics::Metrics;

/// Requests that may wait for the owner.
const REQUEST_QUEUE: usize = 32;
/// Events that may wait to be told; more are lost, their causes stay in conditions.
const EVENT_QUEUE: usize = 128;

/// What a compute is made of.
pub struct Launch {
    /// Paths, names, limits.
    pub config: ComputeConfig,
    /// Owns the child processes.
    pub spawner: Spawner,
    /// The spec's source.
    pub source: mpsc::Receiver<SourceEvent>,
    /// Has a source that is asked rather than watched looked at again.
    pub look_again: Option<mpsc::Sender<LookAgain>>,
    /// Signals to the process.
    pub signals: mpsc::Receiver<StopSignal>,
    /// Addresses and keys of the HTTP servers.
    pub servers: ServersConfig,
    /// The process' metric families.
    pub metrics: Arc<Metrics>,
    /// For the storage controller and the pageservers' metrics.
    pub http: reqwest::Client,
    /// How storage is reached; follows the spec.
    pub access: Access,
    /// Publishes Events; without it they are only logged.
    pub publisher: Option<Publisher>,
}

/// A compute whose servers listen and whose owner has not begun.
pub struct Launched {
    owner: OwnerParts,
    serving: http::Serving,
    tellers: TaskTracker,
    cancel: CancellationToken,
    snapshots: tokio::sync::watch::Receiver<Arc<Snapshot>>,
}

struct OwnerParts {
    config: ComputeConfig,
    first: Snapshot,
    spawner: Spawner,
    inputs: Inputs,
    outputs: Outputs,
}

impl Launch {
    /// Listens, and prepares everything else. A port that is taken is an error at once.
    pub async fn prepare(self) -> Result<Launched, http::Error> {
        let mut first = Snapshot::new(&self.config.compute_id, jiff::Timestamp::now());
        first.insecure = self.servers.authorizer.is_insecure();
        let (snapshot, snapshots) = owner::snapshot_channel(&first);
        let (control_sender, control) = mpsc::channel(REQUEST_QUEUE);
        let (event_sender, event_receiver) = mpsc::channel(EVENT_QUEUE);
        let cancel = CancellationToken::new();
        let serving = http::serve(
            self.servers,
            local_postgres(&self.config, &self.spawner),
            control_sender,
            snapshots.clone(),
            self.metrics.clone(),
            cancel.clone(),
        )
        .await?;
        let tellers = TaskTracker::new();
        tellers.spawn(events::run(self.publisher, event_receiver, cancel.clone()));
        tellers.spawn(extension_census::run(
            self.config.clone(),
            snapshots.clone(),
            self.metrics.upstream.installed_extensions.clone(),
            cancel.clone(),
        ));
        let inputs = Inputs {
            source: self.source,
            control,
            signals: self.signals,
        };
        let outputs = Outputs {
            snapshot,
            events: event_sender,
            http: self.http,
            metrics: self.metrics,
            access: self.access,
            look_again: self.look_again,
        };
        let owner = OwnerParts {
            config: self.config,
            first,
            spawner: self.spawner,
            inputs,
            outputs,
        };
        Ok(Launched {
            owner,
            serving,
            tellers,
            cancel,
            snapshots,
        })
    }
}

/// How the HTTP servers reach postgres, and run its programs.
fn local_postgres(config: &ComputeConfig, spawner: &Spawner) -> LocalPostgres {
    let reach = config.clone();
    LocalPostgres {
        connect: Arc::new(move |spec| local::sql_config(&reach, spec)),
        privileged_role: config.privileged_role.clone(),
        bin_dir: config.pg_bin_dir.clone(),
        pgdata: config.pgdata.clone(),
        run_as: config.run_as.clone(),
        spawner: spawner.clone(),
    }
}

/// What log events say of the compute.
fn fields(snapshot: &Snapshot) -> correlation::Fields {
    let mut fields = vec![("compute_id", snapshot.compute_id.clone())];
    fields.extend(snapshot.tenant_id().map(|id| ("tenant_id", id.to_string())));
    fields.extend(
        snapshot
            .timeline_id()
            .map(|id| ("timeline_id", id.to_string())),
    );
    fields.push(("state", snapshot.state.to_string()));
    fields
}

impl Launched {
    /// What is true of the compute, as it changes.
    pub fn snapshots(&self) -> tokio::sync::watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Where the HTTP servers listen.
    pub const fn serving(&self) -> &http::Serving {
        &self.serving
    }

    /// Has the status written to one more place.
    pub fn tell<S: Sink + 'static>(&self, sink: S, options: status_writer::Options) {
        let writer = status_writer::run(sink, options, self.snapshots.clone(), self.cancel.clone());
        self.tellers.spawn(writer);
    }

    /// Has log events say which compute they are about.
    pub fn correlate(&self, correlation: Correlation) {
        let (mut snapshots, cancel) = (self.snapshots.clone(), self.cancel.clone());
        correlation.set(fields(&snapshots.borrow_and_update()));
        self.tellers.spawn(async move {
            let changes = async {
                while snapshots.changed().await.is_ok() {
                    correlation.set(fields(&snapshots.borrow_and_update()));
                }
            };
            cancel.run_until_cancelled(changes).await;
        });
    }

    /// Runs the compute until it ends. The last status has been written by then, or its
    /// time was up.
    pub async fn run(self) -> Ending {
        let OwnerParts {
            config,
            first,
            spawner,
            inputs,
            outputs,
        } = self.owner;
        let ending = owner::run(config, first, spawner, inputs, outputs).await;
        self.cancel.cancel();
        self.tellers.close();
        self.tellers.wait().await;
        self.serving.finished().await;
        ending
    }
}
