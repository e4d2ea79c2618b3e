//! `glowplug compute`: the entrypoint of a compute's pod.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::args::ComputeArgs;
use crate::access::Access;
use crate::compute::config::{ComputeConfig, Limits, strict_overcommit};
use crate::compute::ending::Ending;
use crate::compute::launch::{Launch, Launched};
use crate::compute::postgres::StopBudget;
use crate::compute::signals;
use crate::http::ServersConfig;
use crate::http::auth::{Authorizer, Keys};
use crate::process::{RunAs, Spawner};
use crate::report::config_map::ConfigMapSink;
use crate::report::events::{Publisher, RegardingKind};
use crate::report::metrics::WriteMetrics;
use crate::report::resource::ResourceSink;
use crate::report::status_file::FileSink;
use crate::report::status_writer;
use crate::report::write_policy;
use crate::source;
use crate::spec::revision::SourceEvent;
use crate::spec::{ComputeSpec, Errors, Secrets, document, neon_json, validate};
use crate::telemetry::metrics::Metrics;

/// Events of the source that may wait for the owner.
const SOURCE_QUEUE: usize = 16;
/// How long the API server may be out of reach at the start before the last good spec is
/// used.
const SOURCE_START_LIMIT: Duration = Duration::from_secs(5);
/// Part of the stop's budget for an immediate shutdown.
const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

/// Where the spec comes from, with what it takes to read and to tell.
enum Place {
    File(PathBuf),
    ControlPlane(String),
    Resource {
        client: kube::Client,
        namespace: String,
        name: String,
    },
    ConfigMap {
        client: kube::Client,
        namespace: String,
        name: String,
        key: Option<String>,
    },
}

/// Runs one compute until it ends.
pub(super) async fn run(args: ComputeArgs) -> anyhow::Result<Ending> {
    let compute_id = args.compute_id.clone().unwrap_or_else(host_name);
    let metrics = Arc::new(Metrics::new()?);
    let spawner = Spawner::start_as_init(metrics.reaped_orphans.clone())?;
    let (stop, _signals) = signals::listen().context("cannot listen to signals")?;
    let place = place(&args).await?;
    let (events, source) = mpsc::channel(SOURCE_QUEUE);
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    watch(&place, &args, &compute_id, events, &cancel, &tasks)?;
    let launch = Launch {
        config: config(&args, compute_id.clone())?,
        spawner,
        source,
        signals: stop,
        servers: servers(&args, &compute_id)?,
        metrics: metrics.clone(),
        http: reqwest::Client::builder()
            .build()
            .context("cannot make an HTTP client")?,
        access: Access::default(),
        publisher: publisher(&place, &compute_id),
    };
    let launched = match launch.prepare().await {
        Ok(launched) => launched,
        Err(error) => {
            tracing::error!("{}", crate::error::chain(&error));
            return Ok(Ending::Usage);
        }
    };
    tell(&launched, &place, &args, &metrics)?;
    let ending = launched.run().await;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(ending)
}

async fn place(args: &ComputeArgs) -> anyhow::Result<Place> {
    if let Some(path) = args.spec_path.as_ref().or(args.config.as_ref()) {
        return Ok(Place::File(path.clone()));
    }
    if let Some(url) = &args.control_plane_uri {
        return Ok(Place::ControlPlane(url.clone()));
    }
    if let Some(text) = &args.resource {
        let (namespace, name) = split_name(text)?;
        return Ok(Place::Resource {
            client: source::client::client(None).await?,
            namespace,
            name,
        });
    }
    if let Some(text) = &args.config_map {
        let (namespace, rest) = split_name(text)?;
        let (name, key) = match rest.split_once('/') {
            Some((name, key)) => (name.to_owned(), Some(key.to_owned())),
            None => (rest, None),
        };
        let client = source::client::client(None).await?;
        return Ok(Place::ConfigMap {
            client,
            namespace,
            name,
            key,
        });
    }
    bail!(
        "no source of the spec: give one of --resource, --config-map, --spec-path, --config, \
         --control-plane-uri"
    )
}

fn split_name(text: &str) -> anyhow::Result<(String, String)> {
    let (namespace, name) = text
        .split_once('/')
        .with_context(|| format!("'{text}' is not NAMESPACE/NAME"))?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Starts the task that watches the place.
fn watch(
    place: &Place,
    args: &ComputeArgs,
    compute_id: &str,
    events: mpsc::Sender<SourceEvent>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let options = source::Options {
        resolve: Arc::new(resolve),
        secrets_dir: args.secrets_dir.clone(),
        last_good_dir: args.last_good_dir.clone(),
        start_limit: SOURCE_START_LIMIT,
    };
    let cancel = cancel.clone();
    match place {
        Place::File(path) => {
            tasks.spawn(source::file::run(path.clone(), options, events, cancel));
        }
        Place::ControlPlane(url) => {
            let _ = compute_id;
            bail!("{url}: a control plane as the source of the spec is not supported yet");
        }
        Place::Resource {
            client,
            namespace,
            name,
        } => {
            let (client, namespace, name) = (client.clone(), namespace.clone(), name.clone());
            tasks.spawn(source::resource::run(
                client, namespace, name, options, events, cancel,
            ));
        }
        Place::ConfigMap {
            client,
            namespace,
            name,
            key,
        } => {
            let (client, namespace) = (client.clone(), namespace.clone());
            let (name, key) = (name.clone(), key.clone());
            let run =
                source::config_map::run(client, namespace, name, key, options, events, cancel);
            tasks.spawn(run);
        }
    }
    Ok(())
}

/// Reads a document and insists on what a compute cannot do without. An envelope of
/// Neon's may hold no spec yet: the compute then waits for one.
fn resolve(text: &str, secrets: &Secrets<'_>) -> Result<Option<ComputeSpec>, Errors> {
    let spec = document::parse(text, secrets)?.spec;
    if let Some(spec) = &spec {
        validate::require_storage(spec)?;
    }
    Ok(spec)
}

fn config(args: &ComputeArgs, compute_id: String) -> anyhow::Result<ComputeConfig> {
    let run_as = RunAs::for_postgres();
    if let Some(run_as) = &run_as {
        warn!(user = %run_as.user, "started as root: postgres runs as {}", run_as.user);
    }
    let beside = args.pgdata.parent().unwrap_or(Path::new("/"));
    let superuser: tokio_postgres::Config = args
        .connstr
        .parse()
        .context("--connstr is not a connection string")?;
    Ok(ComputeConfig {
        compute_id,
        pgdata: args.pgdata.clone(),
        pg_bin_dir: bin_dir(&args.pgbin)?,
        socket_dir: args
            .socket_dir
            .clone()
            .unwrap_or_else(|| beside.join("socket")),
        listen_addresses: args.listen_addresses.clone(),
        trust_loopback: false,
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
            failed_linger: Some(Duration::from_secs(args.failed_linger)),
            // A mended file starts a new process all the same; a mended object is seen here.
            invalid_spec_linger: match args.resource.as_ref().or(args.config_map.as_ref()) {
                Some(_) => Some(Duration::from_secs(args.failed_linger)),
                None => Some(Duration::ZERO),
            },
            stop: StopBudget {
                fast: Duration::from_secs(args.stop_timeout).saturating_sub(IMMEDIATE_STOP),
                immediate: IMMEDIATE_STOP,
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

fn servers(args: &ComputeArgs, compute_id: &str) -> anyhow::Result<ServersConfig> {
    let (external, internal) = match args.http_port {
        Some(port) => (port, port + 1),
        None => (args.external_http_port, args.internal_http_port),
    };
    let authorizer = match &args.jwks_file {
        _ if args.insecure_no_auth => Authorizer::Insecure,
        Some(path) => Authorizer::Keys(Keys::from_file(path, compute_id)?),
        None => Authorizer::Keys(Keys::from_jwks(&[], compute_id)?),
    };
    Ok(ServersConfig {
        external: SocketAddr::new(args.external_http_address, external),
        internal: SocketAddr::new(args.internal_http_address, internal),
        probes: SocketAddr::new(args.probe_address, args.probe_port),
        authorizer,
        parse_spec: |json| neon_json::parse(json).map_err(|errors| errors.to_string()),
    })
}

fn publisher(place: &Place, compute_id: &str) -> Option<Publisher> {
    let (client, kind, namespace, name) = match place {
        Place::Resource {
            client,
            namespace,
            name,
        } => (client, RegardingKind::ComputeSpec, namespace, name),
        Place::ConfigMap {
            client,
            namespace,
            name,
            ..
        } => (client, RegardingKind::ConfigMap, namespace, name),
        Place::File(_) | Place::ControlPlane(_) => return None,
    };
    let pod = pod_name().map(|pod| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.clone()),
        name: Some(pod),
        ..ObjectReference::default()
    });
    Some(Publisher {
        client: client.clone(),
        kind,
        namespace: namespace.clone(),
        name: name.clone(),
        pod,
        instance: pod_name().unwrap_or_else(|| compute_id.to_owned()),
    })
}

/// Has the status written where the spec's readers look for it.
fn tell(
    launched: &Launched,
    place: &Place,
    args: &ComputeArgs,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    let options = |limits, metrics| status_writer::Options {
        limits,
        pod_name: pod_name(),
        metrics,
    };
    let api = || -> anyhow::Result<_> {
        let writes = WriteMetrics::new()?;
        metrics.register(writes.clone())?;
        Ok(options(write_policy::Limits::API_SERVER, Some(writes)))
    };
    match place {
        Place::Resource {
            client,
            namespace,
            name,
        } => {
            launched.tell(ResourceSink::new(client.clone(), namespace, name), api()?);
        }
        Place::ConfigMap {
            client,
            namespace,
            name,
            ..
        } => {
            launched.tell(ConfigMapSink::new(client.clone(), namespace, name), api()?);
        }
        Place::File(_) | Place::ControlPlane(_) => {}
    }
    if let Some(path) = &args.status_file {
        launched.tell(
            FileSink::new(path),
            options(write_policy::Limits::FILE, None),
        );
    }
    Ok(())
}

fn pod_name() -> Option<String> {
    std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "compute".to_owned(),
        name => name.to_owned(),
    }
}
