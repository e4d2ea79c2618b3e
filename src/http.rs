//! The HTTP servers of a compute.
//!
//! Handlers hold no state: they read the [`Snapshot`](crate::report::Snapshot) and
//! send [`control::Request`]s to the one task that owns the compute.
//!
//! | server | upstream's port | who calls it | authorization |
//! |---|---|---|---|
//! | external | 3080 | control plane, metrics scraper | JWT, but for metrics |
//! | internal | 3081 | postgres' extension, on this machine | none: bind it to loopback |
//! | probes | 3082 | kubelet | none: it tells no data |
//!
//! Paths, codes and bodies are those of `compute_ctl` (`compute_tools/src/http/`),
//! also where glowplug does not have the thing asked for yet: it answers 501 there.
//! They differ on purpose in these points: missing credentials are 401 rather than
//! 400; `nbf` is checked, and `aud` may be a string; `/configure` takes 16 MiB and
//! does without `compute_ctl_config`; every wait ends.

mod api;
pub mod auth;
mod body;
mod collector;
pub mod control;
pub mod dev_key;
mod external;
mod heartbeat;
mod internal;
mod listener;
mod observe;
mod owner;
mod postgres;
mod probes;
mod respond;
#[cfg(test)]
mod tests;
mod trace;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use external::ParseSpec;
pub use listener::Limits;
pub use postgres::{Connect, LocalPostgres};

use self::auth::Authorizer;
use self::collector::SnapshotCollector;
use self::owner::Owner;
use self::postgres::Gate;
use crate::error::{Category, Retry};
use crate::report::Snapshot;
use crate::telemetry;
use crate::telemetry::metrics::Metrics;

/// Where to listen, and whom to let in.
pub struct ServersConfig {
    /// The external server. `[::]` also takes IPv4, and is `0.0.0.0` where the
    /// system has no IPv6.
    pub external: SocketAddr,
    /// The internal server: a loopback address, since it asks for no credentials.
    pub internal: SocketAddr,
    /// The probes.
    pub probes: SocketAddr,
    /// Who may use the external server.
    pub authorizer: Authorizer,
    /// Reads a spec in Neon's JSON; the error is for the caller.
    pub parse_spec: ParseSpec,
    /// Whether there is a store of extensions to download from.
    pub remote_extensions: bool,
    /// Upstream's instance id, in lakebase mode: a label of `pg_cctl_attached`.
    pub lakebase_instance: Option<String>,
    /// Limits of each server.
    pub limits: Limits,
}

/// What can go wrong with the servers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be listened on.
    #[error(
        "the {server} HTTP server cannot listen on {address}: \
         free the port, or choose another by its flag"
    )]
    Bind {
        /// `external`, `internal` or `probes`.
        server: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The snapshot cannot be exposed as metrics.
    #[error("the compute's metrics cannot be served")]
    Metrics(#[from] telemetry::Error),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] auth::KeyError),
    /// The probes have a thread of their own, and the system gives none.
    #[error("the probes cannot have a thread of their own")]
    Thread(#[source] std::io::Error),
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "BindFailed",
            Self::Metrics(error) => error.category(),
            Self::Keys(_) => "InvalidKeys",
            Self::Thread(_) => "ThreadFailed",
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// The running servers. They end when their token is cancelled.
pub struct Serving {
    /// Where the external server listens.
    pub external: SocketAddr,
    /// Where the internal server listens.
    pub internal: SocketAddr,
    /// Where the probes listen.
    pub probes: SocketAddr,
    tasks: TaskTracker,
}

impl Serving {
    /// Waits until all three have ended after their cancellation: requests under way
    /// are answered first, for at most two seconds.
    pub async fn finished(self) {
        self.tasks.wait().await;
    }
}

/// Listens on all three addresses, or on none.
pub async fn serve(
    config: ServersConfig,
    local: LocalPostgres,
    control: mpsc::Sender<control::Request>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
) -> Result<Serving, Error> {
    let external = bind("external", config.external).await?;
    let internal = bind("internal", config.internal).await?;
    let probes = bind("probes", config.probes).await?;
    metrics.register(SnapshotCollector::new(
        snapshot.clone(),
        config.lakebase_instance,
    )?)?;
    if !internal.1.ip().is_loopback() {
        tracing::warn!(address = %internal.1,
            "the internal HTTP server asks for no credentials and does not listen on loopback");
    }
    if config.authorizer.is_insecure() {
        tracing::warn!(address = %external.1,
            "the external HTTP server lets everybody in, as it was told to");
    }
    let limits = config.limits;
    let owner = Owner::new(control, snapshot);
    let gate = Gate::new(local, owner.clone());
    let tasks = TaskTracker::new();
    owner.watch(&tasks, cancel.clone());
    let routes = external::Routes {
        owner: owner.clone(),
        metrics: metrics.clone(),
        parse_spec: config.parse_spec,
        gate: gate.clone(),
    };
    let internal_routes = internal::Internal {
        owner: owner.clone(),
        metrics: metrics.clone(),
        gate,
        remote_extensions: config.remote_extensions,
    };
    let authorizer = Arc::new(config.authorizer);
    let served = [
        (
            "external",
            external.0,
            external::api(authorizer).into_router(routes),
        ),
        (
            "internal",
            internal.0,
            internal::api().into_router(internal_routes),
        ),
    ];
    for (server, listener, (router, answers)) in served {
        let router = trace::layer(router, server);
        let router = observe::layer(router, server, metrics.clone(), limits.requests, answers);
        tasks.spawn(listener::run(listener, router, limits, cancel.clone()));
    }
    let (router, answers) = probes::api().into_router(owner);
    let router = observe::layer(router, "probes", metrics, limits.requests, answers);
    tasks.spawn(probes::thread::run(probes.0, router, limits, cancel)?);
    tasks.close();
    let (external, internal, probes) = (external.1, internal.1, probes.1);
    tracing::info!(%external, %internal, %probes, "HTTP servers listen");
    Ok(Serving {
        external,
        internal,
        probes,
        tasks,
    })
}

async fn bind(
    server: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Bind {
        server,
        address,
        source,
    };
    let listener = match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && has_no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    let listener = listener.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn has_no_ipv6(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| missing.contains(&errno))
}
