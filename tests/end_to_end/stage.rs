//! A stage for a whole compute: storage in this process, `glowplug compute` as a real
//! process beside it, and a client of its postgres.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use glowplug::id::{TenantId, TimelineId};
use glowplug::process::{Child, Command, Exit, RunAs, Signal, Spawner};
use glowplug::secret::Secret;
use glowplug::spec::ShardMap;
use glowplug::storage::{self, Storage, StorageConfig, StorageOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::loopback::own_address;
use crate::programs;

/// Everything awaited in these tests comes about long before.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);
/// Between two looks at something that cannot be awaited.
const POLL: Duration = Duration::from_millis(10);

pub(crate) const TENANT: &str = "9ef87a5bf0d92544f6fafeeb3239695c";
pub(crate) const TIMELINE: &str = "de200bd42b49cc1814412c7e592dd6e9";

/// Storage with one timeline, and a directory for what computes need.
pub(crate) struct Stage {
    pub(crate) directory: TempDir,
    pub(crate) spawner: Spawner,
    pub(crate) storage: Storage,
    pub(crate) bin_dir: PathBuf,
    run_as: Option<RunAs>,
}

/// What the storage of a stage is like.
pub(crate) struct StageOptions {
    pub(crate) safekeepers: usize,
    /// Of the tenant; 0 for an unsharded one.
    pub(crate) shards: u8,
    pub(crate) token: Option<String>,
    pub(crate) storage: StorageOptions,
}

impl Default for StageOptions {
    fn default() -> Self {
        Self {
            safekeepers: 3,
            shards: 0,
            token: None,
            storage: StorageOptions::default(),
        }
    }
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::set_with(programs::newest()).await
    }

    /// With these PostgreSQL programs.
    pub(crate) async fn set_with(bin_dir: PathBuf) -> Self {
        Self::set_as(bin_dir, StageOptions::default()).await
    }

    /// With nodes that ask for this token.
    pub(crate) async fn set_with_token(token: &str) -> Self {
        let options = StageOptions {
            token: Some(token.to_owned()),
            ..StageOptions::default()
        };
        Self::set_as(programs::newest(), options).await
    }

    /// With several pageservers. The tenant of so many shards (0: unsharded) is on the
    /// first.
    pub(crate) async fn sharded(pageservers: usize, shards: u8) -> Self {
        let storage = StorageOptions {
            pageservers,
            ..StorageOptions::default()
        };
        let options = StageOptions {
            shards,
            storage,
            ..StageOptions::default()
        };
        Self::set_as(programs::newest(), options).await
    }

    /// With another storage than most tests need.
    pub(crate) async fn set_as(bin_dir: PathBuf, options: StageOptions) -> Self {
        let directory = TempDir::with_prefix("glowplug-e2e").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let spawner = Spawner::start().unwrap();
        let run_as = RunAs::for_postgres();
        let config = StorageConfig {
            state_dir: directory.path().join("storage"),
            pg_bin_dir: bin_dir.clone(),
            safekeepers: options.safekeepers,
            listen: own_address().into(),
            run_as: run_as.clone(),
            token: options.token.map(Secret::new),
        };
        let cancel = CancellationToken::new();
        let started = storage::start_with(config, options.storage, &spawner, cancel);
        let storage = Box::pin(started).await.unwrap();
        let (tenant, timeline): (TenantId, TimelineId) =
            (TENANT.parse().unwrap(), TIMELINE.parse().unwrap());
        storage.create_tenant(tenant, options.shards).await.unwrap();
        storage.create_timeline(tenant, timeline).await.unwrap();
        Self {
            directory,
            spawner,
            storage,
            bin_dir,
            run_as,
        }
    }

    /// A spec for this storage, with one role and its database.
    pub(crate) fn spec(&self, port: u16) -> Value {
        let map = self.shard_map();
        let shards: Vec<_> = map
            .shards
            .iter()
            .map(|shard| {
                json!({
                    "number": shard.index.number,
                    "libpq": shard.libpq,
                    "grpc": shard.grpc,
                    "http": shard.http,
                })
            })
            .collect();
        json!({
            "apiVersion": "glowplug.dev/v1alpha1",
            "kind": "ComputeSpec",
            "metadata": {"name": "main"},
            "spec": {
                "tenantId": TENANT,
                "timelineId": TIMELINE,
                "mode": "Primary",
                "postgres": {"flavor": "Vanilla", "port": port},
                "storage": {
                    "safekeepers": {"endpoints": self.storage.safekeeper_endpoints()},
                    "pageservers": {"shards": shards, "stripeSize": map.stripe_size},
                    "storageController": {"url": self.storage.controller_url()},
                },
                "roles": [{"name": "app"}],
                "databases": [{"name": "shop", "owner": "app"}],
            },
        })
    }

    /// Where the tenant's shards are now.
    pub(crate) fn shard_map(&self) -> ShardMap {
        self.storage.shard_map_of(TENANT.parse().unwrap()).unwrap()
    }

    /// The machine's user for postgres, if that is not this one.
    pub(crate) fn run_as(&self) -> Option<&RunAs> {
        self.run_as.as_ref()
    }

    /// A compute that is not started yet.
    pub(crate) fn compute(&self, name: &str, spec: &Value) -> Compute<'_> {
        let home = self.directory.path().join(name);
        fs::create_dir_all(&home).unwrap();
        if let Some(run_as) = &self.run_as {
            chown(&home, Some(run_as.uid), Some(run_as.gid)).unwrap();
        }
        let compute = Compute {
            stage: self,
            source: vec![
                "--spec-path".to_owned(),
                home.join("spec.yaml").display().to_string(),
            ],
            home,
            port: 0,
            address: own_address(),
            arguments: Vec::new(),
            postgres: self.bin_dir.join("postgres"),
            kubeconfig: None,
            wrapper: Vec::new(),
            log_format: "text",
            log_level: "info",
            environment: Vec::new(),
            child: None,
            log: None,
        };
        let port = spec["spec"]["postgres"]["port"]
            .as_u64()
            .unwrap_or_default() as u16;
        compute.write_spec(&spec.to_string());
        Compute { port, ..compute }
    }
}

/// A port that is free now, and stays so: computes have addresses of their own.
pub(crate) fn free_port() -> u16 {
    rand::random_range(1024..=u16::MAX)
}

/// One `glowplug compute`.
pub(crate) struct Compute<'a> {
    stage: &'a Stage,
    pub(crate) home: PathBuf,
    pub(crate) port: u16,
    /// Where its postgres listens.
    address: std::net::Ipv4Addr,
    /// Where the spec comes from; the file that is written here by default.
    pub(crate) source: Vec<String>,
    /// For sources on an API server.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A program that starts the compute, with its arguments.
    pub(crate) wrapper: Vec<String>,
    pub(crate) log_format: &'static str,
    pub(crate) log_level: &'static str,
    /// Variables beyond those of the test's own process.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The program that it runs.
    pub(crate) postgres: PathBuf,
    /// Arguments beyond those that every test needs.
    pub(crate) arguments: Vec<String>,
    child: Option<Child>,
    log: Option<AbortOnDropHandle<()>>,
}

impl Compute<'_> {
    pub(crate) fn pgdata(&self) -> PathBuf {
        self.home.join("pgdata")
    }

    pub(crate) fn write_spec(&self, text: &str) {
        let path = self.home.join("spec.yaml");
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// Starts the process; its log goes to a file that failures print.
    pub(crate) async fn start(&mut self) {
        let _ = fs::remove_file(self.home.join("status.yaml"));
        let path = |name: &str| self.home.join(name).display().to_string();
        let mut line = self.wrapper.clone();
        line.push(env!("CARGO_BIN_EXE_glowplug").to_owned());
        let command = Command::new(line.remove(0))
            .args(line)
            .args([
                "compute",
                "--insecure-no-auth",
                "--listen-addresses",
                &self.address.to_string(),
            ])
            .args([
                "--external-http-address",
                "127.0.0.1",
                "--probe-address",
                "127.0.0.1",
            ])
            .args(["--external-http-port", "0", "--internal-http-port", "0"])
            .args(["--probe-port", "0", "--compute-id", "test"])
            .args([
                "--log-format",
                self.log_format,
                "--log-level",
                self.log_level,
            ])
            .args(&self.source)
            .args(["--pgdata".to_owned(), path("pgdata")])
            .args(["--socket-dir".to_owned(), path("s")])
            .args(["--status-file".to_owned(), path("status.yaml")])
            .arg("--pgbin")
            .arg(&self.postgres)
            .args(&self.arguments)
            .lines();
        let command = match &self.kubeconfig {
            Some(kubeconfig) => command.env("KUBECONFIG", kubeconfig),
            None => command,
        };
        let variables = self.environment.iter();
        let command = variables.fold(command, |command, (name, value)| command.env(*name, value));
        let mut child = self.stage.spawner.spawn(command).await.unwrap();
        let mut lines = child.take_lines().unwrap();
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.join("log"))
            .unwrap();
        let log = tokio::spawn(async move {
            while let Some(line) = lines.next().await {
                let _ = std::io::Write::write_all(&mut file, &line.bytes);
                let _ = std::io::Write::write_all(&mut file, b"\n");
            }
        });
        self.child = Some(child);
        self.log = Some(AbortOnDropHandle::new(log));
    }

    pub(crate) fn status(&self) -> String {
        fs::read_to_string(self.home.join("status.yaml")).unwrap_or_default()
    }

    /// All that it has logged.
    pub(crate) fn whole_log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<_> = log.lines().rev().take(60).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Waits until the status document says all of these.
    pub(crate) async fn says(&self, wanted: &[&str]) {
        let give_up = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if wanted.iter().all(|text| status.contains(text)) {
                return;
            }
            assert!(
                Instant::now() < give_up,
                "the status never said {wanted:?}:\n{status}\nlog:\n{}",
                self.log()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn running(&self) {
        self.says(&["state: Running"]).await;
    }

    /// Waits until the log says this, and returns the line.
    pub(crate) async fn logs(&self, wanted: &str) -> String {
        let give_up = Instant::now() + LIMIT;
        loop {
            let log = self.whole_log();
            if let Some(line) = log.lines().rev().find(|line| line.contains(wanted)) {
                return line.to_owned();
            }
            assert!(
                Instant::now() < give_up,
                "the log never said '{wanted}':\n{}",
                self.log()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where the HTTP server of this name listens: `external`, `internal` or `probes`.
    pub(crate) async fn address_of(&self, server: &str) -> String {
        let line = self.logs("HTTP servers listen").await;
        let field = format!("{server}=");
        let rest = line.split(&field).nth(1).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// SIGKILL to the compute and all that it started.
    pub(crate) async fn kill(&mut self) {
        let child = self.child.take().unwrap();
        child.kill_tree().await.unwrap();
        child.wait().await;
    }

    pub(crate) async fn signal(&self, signal: Signal) {
        self.child.as_ref().unwrap().signal(signal).await.unwrap();
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> Exit {
        let child = self.child.take().unwrap();
        let ended = tokio::time::timeout(LIMIT, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end; log:\n{}", self.log()))
    }

    /// Connects as the superuser, if postgres accepts connections now.
    pub(crate) async fn try_connect(&self) -> Option<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.home.join("s")).port(self.port);
        config.user("cloud_admin").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    pub(crate) async fn connect(&self) -> Client {
        match self.try_connect().await {
            Some(client) => client,
            None => panic!("cannot connect; log:\n{}", self.log()),
        }
    }
}
