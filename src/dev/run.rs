//! `glowplug dev`: starts storage and a compute, shows what happens, says when it is
//! ready, and stays until it is asked to stop.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::display::{Display, is_ready, line};
use super::state_dir::StateDir;
use super::{LOOPBACK, Settings, check, postgres_programs, storage_role};
use crate::access::Access;
use crate::compute::config::{ComputeConfig, Limits, strict_overcommit};
use crate::compute::ending::Ending;
use crate::compute::launch::{Launch, Launched};
use crate::compute::signals;
use crate::http::auth::Authorizer;
use crate::http::dev_key;
use crate::http::{self, ServersConfig};
use crate::process::{RunAs, Spawner};
use crate::report::status_file::FileSink;
use crate::report::{Snapshot, progress_bar, status_writer, write_policy};
use crate::source;
use crate::spec::{ComputeSpec, Errors, FieldError, Secrets, document, neon_json};
use crate::storage::{self, Storage, StorageConfig};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::terminal::Terminal;
use crate::tls;

/// The built-in example.
const EXAMPLE: &str = include_str!("../../examples/compute.yaml");
/// Id of the compute, in status and tokens.
const COMPUTE_ID: &str = "dev";
/// Events of the source that may wait for the owner.
const SOURCE_QUEUE: usize = 16;
/// Superuser of the development storage's bases, as of Neon's.
const SUPERUSER: &str = "cloud_admin";

/// Runs storage and a compute until a signal asks to stop, or the check's story is over.
pub async fn run(settings: Settings, terminal: Terminal) -> anyhow::Result<Ending> {
    let done = play(settings, terminal).await;
    let ending = done.as_ref().err().and_then(ending);
    match (done, ending) {
        (Err(error), Some(ending)) => {
            tracing::error!("{error:#}");
            Ok(ending)
        }
        (done, _) => done,
    }
}

/// How an error ends the process that is no fault of glowplug's.
fn ending(error: &anyhow::Error) -> Option<Ending> {
    if error.is::<InvalidSpec>() {
        Some(Ending::SpecInvalid)
    } else if error.is::<http::Error>() || error.is::<std::io::Error>() {
        // A port, a file or a directory that was named cannot be used.
        Some(Ending::Usage)
    } else {
        None
    }
}

async fn play(settings: Settings, terminal: Terminal) -> anyhow::Result<Ending> {
    let began = Instant::now();
    let metrics = Arc::new(Metrics::new()?);
    let spawner = Spawner::start_as_init(metrics.reaped_orphans.clone())?;
    let state_dir = StateDir::open(settings.state_dir.clone())?;
    let pg_bin_dir = postgres_programs::find(settings.pg_bin_dir.clone())?;
    let run_as = RunAs::for_postgres();
    state_dir.let_in(run_as.as_ref())?;
    let who = run_as
        .as_ref()
        .map_or("this user", |run_as| run_as.user.as_str());
    say(&line(
        "state",
        &state_dir.path().display().to_string(),
        None,
    ));
    say(&line(
        "programs",
        &format!("{}, run as {who}", pg_bin_dir.display()),
        None,
    ));

    let file = spec_file(&settings, &state_dir)?;
    let wanted = first_spec(&file, &settings)?;
    let cancel = CancellationToken::new();
    let config = StorageConfig {
        state_dir: state_dir.storage(),
        pg_bin_dir: pg_bin_dir.clone(),
        safekeepers: 3,
        listen: LOOPBACK,
        run_as: run_as.clone(),
        token: None,
    };
    let storage = storage::start(config, &spawner, cancel.clone()).await?;
    storage
        .create_timeline(wanted.tenant_id, wanted.timeline_id)
        .await?;
    for text in storage_role::addresses(&storage) {
        say(&text);
    }
    say(&line(
        "storage",
        "3 safekeepers, 1 pageserver, 1 controller",
        Some(began.elapsed()),
    ));
    let room = Room {
        settings,
        state_dir,
        pg_bin_dir,
        run_as,
        spawner,
        file,
        metrics,
        terminal,
    };
    let ending = if room.settings.check {
        check::run(&room, &storage, &wanted).await?
    } else {
        serve(room, &storage, &wanted).await?
    };
    storage.shutdown().await;
    Ok(ending)
}

/// What a compute is started with.
pub(super) struct Room {
    pub(super) settings: Settings,
    pub(super) state_dir: StateDir,
    pub(super) pg_bin_dir: PathBuf,
    pub(super) run_as: Option<RunAs>,
    pub(super) spawner: Spawner,
    pub(super) file: PathBuf,
    metrics: Arc<Metrics>,
    terminal: Terminal,
}

/// Prints for people. Progress goes to stderr: stdout is for the one line that says where
/// postgres is.
pub(super) fn say(text: &str) {
    // A closed stderr must not end the compute.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn spec_file(settings: &Settings, state_dir: &StateDir) -> anyhow::Result<PathBuf> {
    let path = settings.file.clone().unwrap_or_else(|| state_dir.example());
    if settings.file.is_none() && !path.exists() {
        std::fs::write(&path, EXAMPLE)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path =
        std::fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()))?;
    say(&line(
        "spec",
        &format!("{} (edit it: changes are applied live)", path.display()),
        None,
    ));
    Ok(path)
}

/// The spec as it is now: storage needs its ids before the compute starts.
fn first_spec(file: &std::path::Path, settings: &Settings) -> anyhow::Result<ComputeSpec> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let secrets_dir = settings.secrets_dir.clone();
    let look_up = move |name: &str, key: &str| source::secret_in(secrets_dir.as_deref(), name, key);
    let parsed = document::parse(&text, &look_up);
    let spec = parsed
        .map_err(|errors| InvalidSpec {
            file: file.to_owned(),
            errors,
        })?
        .spec;
    spec.with_context(|| format!("{} holds no spec", file.display()))
}

/// The spec's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} is invalid:\n{errors}", file.display())]
struct InvalidSpec {
    file: PathBuf,
    errors: Errors,
}

async fn serve(room: Room, storage: &Storage, wanted: &ComputeSpec) -> anyhow::Result<Ending> {
    let (stop, _signals) = signals::listen().context("cannot listen to signals")?;
    let (events, source_events) = mpsc::channel(SOURCE_QUEUE);
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let port = room.settings.port.unwrap_or(wanted.postgres.port);
    let options = source::Options {
        resolve: resolver(storage, port),
        secrets_dir: room.settings.secrets_dir.clone(),
        last_good_dir: None,
        start_limit: std::time::Duration::from_secs(5),
    };
    tasks.spawn(source::file::run(
        room.file.clone(),
        options,
        events,
        cancel.clone(),
    ));
    let key = dev_key::generate(COMPUTE_ID)?;
    room.state_dir.write_token(&key.token)?;
    let [external, internal, probes] = room.settings.http_ports;
    let launch = Launch {
        config: compute_config(&room, internal),
        spawner: room.spawner.clone(),
        source: source_events,
        look_again: None,
        signals: stop,
        servers: ServersConfig {
            external: SocketAddr::new(LOOPBACK, external),
            internal: SocketAddr::new(LOOPBACK, internal),
            probes: SocketAddr::new(LOOPBACK, probes),
            authorizer: Authorizer::Keys(key.keys),
            parse_spec: |json| neon_json::parse(json).map_err(|errors| errors.to_string()),
            remote_extensions: false,
            lakebase_instance: None,
            limits: http::Limits::default(),
        },
        metrics: room.metrics.clone(),
        http: tls::http_client().context("cannot make an HTTP client")?,
        access: Access::default(),
        publisher: None,
    };
    let launched = launch.prepare().await?;
    say(&line(
        "status",
        &room.state_dir.status().display().to_string(),
        None,
    ));
    tell_status(&launched, &room);
    let (terminal, snapshots) = (&room.terminal, || launched.snapshots());
    tasks.spawn(show(terminal.clone(), snapshots(), cancel.clone()));
    tasks.spawn(progress_bar::run(
        terminal.clone(),
        snapshots(),
        cancel.clone(),
    ));
    let ending = launched.run().await;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(ending)
}

fn compute_config(room: &Room, internal_http_port: u16) -> ComputeConfig {
    ComputeConfig {
        compute_id: COMPUTE_ID.to_owned(),
        pgdata: room.state_dir.pgdata(),
        pg_bin_dir: room.pg_bin_dir.clone(),
        socket_dir: room.state_dir.socket_dir(),
        listen_addresses: LOOPBACK.to_string(),
        trust_loopback: true,
        trace: crate::telemetry::traces::Parent::default(),
        run_as: room.run_as.clone(),
        strict_overcommit: strict_overcommit(),
        superuser: SUPERUSER.to_owned(),
        privileged_role: "neon_superuser".to_owned(),
        internal_http_port,
        // A spec that fails is edited and tried again: nobody restarts a development tool.
        limits: Limits {
            failed_linger: None,
            invalid_spec_linger: None,
            ..Limits::default()
        },
    }
}

/// Reads the spec's file and fills in what only this process knows: where storage is.
pub(super) fn resolver(storage: &Storage, port: u16) -> source::Resolve {
    let safekeepers = storage.safekeeper_endpoints();
    let shards = storage.shard_map();
    let controller = storage.controller_url();
    Arc::new(move |text: &str, secrets: &Secrets<'_>| {
        let spec = document::parse(text, secrets)?.spec;
        let mut spec = spec.ok_or_else(|| {
            FieldError::new(
                "spec",
                "is missing",
                "write a ComputeSpec: see examples/compute.yaml",
            )
        })?;
        if spec.safekeepers.endpoints.is_empty() {
            spec.safekeepers.endpoints.clone_from(&safekeepers);
            spec.pageservers = shards.clone();
            spec.storage_controller = Some(controller.clone());
        }
        spec.postgres.port = port;
        Ok(Some(spec))
    })
}

fn tell_status(launched: &Launched, room: &Room) {
    let limits = write_policy::Limits::FILE;
    let options = status_writer::Options {
        limits,
        pod_name: None,
        metrics: None,
    };
    launched.tell(FileSink::new(room.state_dir.status()), options);
}

/// Shows each change; the first time that the compute is ready, says where.
async fn show(
    terminal: Terminal,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
) {
    let mut display = Display::default();
    let mut announced = false;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        for text in display.update(&snapshot) {
            terminal.line(&text);
        }
        if !announced && is_ready(&snapshot) {
            announced = true;
            announce(&snapshot);
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = cancel.cancelled() => return,
        }
    }
}

fn announce(snapshot: &Snapshot) {
    if let Some(facts) = &snapshot.spec {
        // A closed stdout must not end the compute.
        let _ = writeln!(
            std::io::stdout().lock(),
            "ready: {}",
            connection_url(&facts.spec)
        );
    }
}

/// How to reach the postgres of a spec: as the owner of its first database, if there is
/// one, else as the superuser.
pub(super) fn connection_url(spec: &ComputeSpec) -> String {
    let (user, database) = match spec.databases.first() {
        Some(database) => (database.owner.as_str(), database.name.as_str()),
        None => (SUPERUSER, "postgres"),
    };
    let encode = |text: &str| {
        let mut encoded = String::new();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    encoded.push(char::from(byte));
                }
                _ => {
                    encoded.push('%');
                    encoded.push_str(&hex::encode_upper([byte]));
                }
            }
        }
        encoded
    };
    format!(
        "postgresql://{}@{LOOPBACK}:{}/{}",
        encode(user),
        spec.postgres.port,
        encode(database)
    )
}
