//! `glowplug compute`: the entrypoint of a compute's pod.

mod key_file;
mod place;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::place::{Place, Watched};
use super::args::ComputeArgs;
use crate::access::{Access, StorageToken};
use crate::compute::StopSignal;
use crate::compute::config::{ComputeConfig, Limits, strict_overcommit};
use crate::compute::ending::Ending;
use crate::compute::launch::{Launch, Launched};
use crate::compute::pagestream_health::Rule;
use crate::compute::postgres::StopBudget;
use crate::compute::signals;
use crate::http::auth::{Authorizer, KeyRing, Keys, Origin};
use crate::http::{self, ServersConfig};
use crate::process::{RunAs, Spawner};
use crate::report::progress_bar;
use crate::source;
use crate::spec::neon_json::ComputeCtlConfig;
use crate::spec::{ComputeSpec, Errors, Secrets, document, neon_json, validate};
use crate::telemetry::correlation::Correlation;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::terminal::Terminal;
use crate::telemetry::traces::Parent;
use crate::tls;

/// How long the API server may be out of reach at the start before the last good spec is
/// used.
const SOURCE_START_LIMIT: Duration = Duration::from_secs(5);
/// Part of the stop's budget for an immediate shutdown.
const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

/// Runs one compute until it ends.
pub(super) async fn run(
    args: ComputeArgs,
    terminal: Terminal,
    correlation: Correlation,
) -> anyhow::Result<Ending> {
    let compute_id = args.compute_id.clone().unwrap_or_else(host_name);
    let metrics = Arc::new(Metrics::new()?);
    let spawner = Spawner::start_as_init(metrics.reaped_orphans.clone())?;
    let (stop, _signals) = signals::listen().context("cannot listen to signals")?;
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let prepared = prepare(&args, &compute_id, metrics, spawner, stop, &cancel, &tasks);
    let launched = match prepared.await {
        Ok(launched) => launched,
        // Nothing ran yet: the flags, or what they name, are at fault.
        Err(error) => {
            tracing::error!("{error:#}");
            return Ok(Ending::Usage);
        }
    };
    let snapshots = launched.snapshots();
    tasks.spawn(progress_bar::run(terminal, snapshots, cancel.clone()));
    launched.correlate(correlation);
    let ending = launched.run().await;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(ending)
}

/// Everything up to the first listening socket, and to the source that is watched.
async fn prepare(
    args: &ComputeArgs,
    compute_id: &str,
    metrics: Arc<Metrics>,
    spawner: Spawner,
    signals: mpsc::Receiver<StopSignal>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<Launched> {
    let http = tls::http_client().context("cannot make an HTTP client")?;
    let config = config(args, compute_id.to_owned())?;
    let overlap = Duration::from_secs(args.key_overlap);
    let ring = Arc::new(KeyRing::new(compute_id, overlap));
    let servers = servers(args, compute_id, &ring)?;
    let place = Place::of(args, compute_id, &http, &metrics).await?;
    let options = options(args, compute_id, &ring);
    let access = Access {
        token: StorageToken::from_source(place.token_reader(&options)),
        ..Access::default()
    };
    let Watched { source, look_again } = place.watch(options, cancel, tasks);
    let launch = Launch {
        config,
        spawner,
        source,
        look_again,
        signals,
        servers,
        metrics: metrics.clone(),
        http,
        access,
        publisher: place.publisher(compute_id),
    };
    let launched = launch.prepare().await?;
    if let Some(path) = &args.jwks_file {
        let (path, id) = (path.clone(), compute_id.to_owned());
        tasks.spawn(key_file::follow(path, id, ring, cancel.clone()));
    }
    place.tell(&launched, args.status_file.as_deref(), &metrics)?;
    Ok(launched)
}

fn options(args: &ComputeArgs, compute_id: &str, ring: &Arc<KeyRing>) -> source::Options {
    let (ring, id) = (ring.clone(), compute_id.to_owned());
    source::Options {
        resolve: Arc::new(move |text, secrets| resolve(text, secrets, &ring, &id)),
        secrets_dir: args.secrets_dir.clone(),
        last_good_dir: args.last_good_dir.clone(),
        start_limit: SOURCE_START_LIMIT,
    }
}

/// Reads a document and insists on what a compute cannot do without. An envelope of
/// Neon's may hold no spec yet: the compute then waits for one. Its keys are in force at
/// once.
fn resolve(
    text: &str,
    secrets: &Secrets<'_>,
    ring: &KeyRing,
    compute_id: &str,
) -> Result<Option<ComputeSpec>, Errors> {
    let document = document::parse(text, secrets)?;
    if let Some(control) = &document.control {
        take_keys(control, ring, compute_id);
    }
    if let Some(spec) = &document.spec {
        validate::require_storage(spec)?;
    }
    Ok(document.spec)
}

/// A set without a usable key does not take away those that there are: nobody could
/// mend it any more.
fn take_keys(control: &ComputeCtlConfig, ring: &KeyRing, compute_id: &str) {
    let jwks = control.jwks.keys.iter();
    let jwks: Vec<_> = jwks
        .filter_map(|key| serde_json::to_value(key).ok())
        .collect();
    match Keys::from_jwks(&jwks, compute_id) {
        Ok(keys) => ring.replace(Origin::Configuration, keys),
        Err(error) => warn!("compute_ctl_config.jwks lets nobody in: {error}"),
    }
}

fn config(args: &ComputeArgs, compute_id: String) -> anyhow::Result<ComputeConfig> {
    let run_as = RunAs::for_postgres();
    if let Some(run_as) = &run_as {
        warn!(user = %run_as.user, "started as root: postgres runs as {}", run_as.user);
    }
    // Postgres runs in another directory, so that a relative path would lead elsewhere.
    let absolute = |path: &Path| {
        std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
    };
    let pgdata = absolute(&args.pgdata)?;
    let socket_dir = match &args.socket_dir {
        Some(path) => absolute(path)?,
        None => pgdata.parent().unwrap_or(Path::new("/")).join("socket"),
    };
    let superuser: tokio_postgres::Config = args
        .connstr
        .parse()
        .context("--connstr is not a connection string")?;
    Ok(ComputeConfig {
        compute_id,
        pgdata,
        pg_bin_dir: bin_dir(&args.pgbin)?,
        socket_dir,
        listen_addresses: args.listen_addresses.clone(),
        trust_loopback: false,
        trace: Parent::from_environment(),
        run_as,
        strict_overcommit: strict_overcommit(),
        superuser: superuser.get_user().unwrap_or("cloud_admin").to_owned(),
        privileged_role: args.privileged_role_name.clone(),
        internal_http_port: args
            .http_port
            .map_or(args.internal_http_port, |port| port + 1),
        limits: Limits {
            storage_wait: Duration::from_secs(args.storage_wait),
            postgres_ready: Duration::from_secs(args.pg_init_timeout),
            probe_interval: (args.probe_interval > 0)
                .then(|| Duration::from_secs(args.probe_interval)),
            failed_linger: Some(Duration::from_secs(args.failed_linger)),
            // A mended file starts a new process all the same; a mended object is seen here.
            invalid_spec_linger: match args.resource.as_ref().or(args.config_map.as_ref()) {
                Some(_) => Some(Duration::from_secs(args.failed_linger)),
                None => Some(Duration::ZERO),
            },
            extension_census: Duration::from_secs(args.installed_extensions_collection_interval),
            stop: StopBudget {
                fast: Duration::from_secs(args.stop_timeout).saturating_sub(IMMEDIATE_STOP),
                immediate: IMMEDIATE_STOP,
            },
            pagestream: Rule {
                after: Duration::from_secs(args.pagestream_errors_after),
                quiet: Duration::from_secs(args.pagestream_quiet_after),
            },
            ..Limits::default()
        },
    })
}

/// The folder of the postgres program, which is looked for in PATH if it is a bare name.
fn bin_dir(program: &Path) -> anyhow::Result<PathBuf> {
    let found = if program.components().count() > 1 {
        Some(program.to_owned())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    };
    let missing = || {
        format!(
            "{} is not in PATH: give its path by --pgbin",
            program.display()
        )
    };
    let found = found.with_context(missing)?;
    // A link leads to the folder where the other programs are.
    let found = std::fs::canonicalize(&found)
        .with_context(|| format!("cannot find {}: check --pgbin", found.display()))?;
    Ok(found.parent().unwrap_or(Path::new("/")).to_owned())
}

fn servers(
    args: &ComputeArgs,
    compute_id: &str,
    ring: &Arc<KeyRing>,
) -> anyhow::Result<ServersConfig> {
    let (external, internal) = match args.http_port {
        Some(port) => (port, port + 1),
        None => (args.external_http_port, args.internal_http_port),
    };
    let authorizer = if args.insecure_no_auth {
        Authorizer::Insecure
    } else {
        // Keys of the configuration come with the first document of the source.
        if let Some(path) = &args.jwks_file {
            ring.replace(Origin::File, Keys::from_file(path, compute_id)?);
        }
        Authorizer::Ring(ring.clone())
    };
    Ok(ServersConfig {
        external: SocketAddr::new(args.external_http_address, external),
        internal: SocketAddr::new(args.internal_http_address, internal),
        probes: SocketAddr::new(args.probe_address, args.probe_port),
        authorizer,
        parse_spec: |json| neon_json::parse(json).map_err(|errors| errors.to_string()),
        remote_extensions: args.remote_ext_base_url.is_some(),
        lakebase_instance: std::env::var("INSTANCE_ID")
            .ok()
            .filter(|_| args.lakebase_mode),
        limits: http::Limits::default(),
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "compute".to_owned(),
        name => name.to_owned(),
    }
}
