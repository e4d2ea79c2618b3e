//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;

/// Turns a ComputeSpec into a running, stateless Postgres on Neon storage, and keeps
/// it running.
#[derive(Debug, Parser)]
#[command(name = "glowplug", version, max_term_width = 100)]
pub struct Cli {
    /// How the process logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// What the process is.
    #[command(subcommand)]
    pub role: Role,
}

/// How the process logs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Form of the log on stderr: `text` for people, `json` for machines [default: text on a
    /// terminal and for `dev`, json elsewhere]
    #[arg(
        long,
        global = true,
        env = "GLOWPLUG_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub log_format: Option<LogFormat>,
    /// What is logged, as in RUST_LOG: `info`, `glowplug=debug,postgres=info`, … [default: info;
    /// `error` for `dev`]
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    pub log_level: Option<String>,
}

#[cfg(feature = "storage")]
impl LogArgs {
    /// The same, but without a flag that says otherwise text, and errors only.
    #[must_use]
    pub fn for_people(&self) -> Self {
        Self {
            log_format: Some(self.log_format.unwrap_or(LogFormat::Text)),
            log_level: Some(self.log_level.clone().unwrap_or_else(|| "error".to_owned())),
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What the process is.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Run one compute: the entrypoint of its pod (also when started as `compute_ctl`)
    ///
    /// Watches one source of the spec, syncs the safekeepers, fetches a basebackup, starts
    /// postgres, makes roles and databases match, and keeps all of it so. Give exactly one source:
    /// --resource, --config-map, --spec-path, --config or --control-plane-uri.
    Compute(Box<ComputeArgs>),
    /// Run storage and a compute on this machine: no cluster, no download
    ///
    /// Without FILE a built-in example is used. Editing FILE while it runs is reconciled live.
    #[cfg(feature = "storage")]
    Dev(DevArgs),
    /// Run the development storage alone: safekeepers, a pageserver, a storage controller
    ///
    /// For development and tests: it keeps everything under one directory on this machine.
    #[cfg(feature = "storage")]
    Storage(StorageArgs),
    /// Check specs: each problem with the path of its field and what to do
    Validate(ValidateArgs),
    /// Show what applying a spec would do, without doing it
    Plan(PlanArgs),
    /// Ask each shard's pageserver whether it serves the shard
    ///
    /// Of the tenant that FILE, a resource, or --connstr, --tenant and --timeline name. The
    /// probe is one cheap request of the pagestream, which waits for no WAL. The storage token is
    /// the spec's, or that of the environment variable NEON_AUTH_TOKEN. Ends with 0 if every shard
    /// is served, 69 if one is not, 77 if the token was refused.
    Probe(ProbeArgs),
    /// Print the CustomResourceDefinition of ComputeSpec, or apply it to a cluster
    Crd(CrdArgs),
}

/// Arguments of `glowplug compute`.
#[derive(Debug, Clone, Args)]
pub struct ComputeArgs {
    /// Watch this ComputeSpec resource
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        env = "GLOWPLUG_RESOURCE",
        group = "source",
        help_heading = "Source of the spec"
    )]
    pub resource: Option<String>,
    /// Watch this ConfigMap: its key `compute.yaml` (a ComputeSpec) or `spec.json` (Neon's JSON)
    #[arg(
        long,
        value_name = "NAMESPACE/NAME[/KEY]",
        env = "GLOWPLUG_CONFIG_MAP",
        group = "source",
        help_heading = "Source of the spec"
    )]
    pub config_map: Option<String>,
    /// Watch this file: a ComputeSpec in YAML, or Neon's JSON
    #[arg(
        short = 'S',
        long,
        value_name = "FILE",
        group = "source",
        help_heading = "Source of the spec"
    )]
    pub spec_path: Option<PathBuf>,
    /// Read Neon's config file: spec and compute_ctl_config
    #[arg(
        short = 'c',
        long,
        value_name = "FILE",
        group = "source",
        help_heading = "Source of the spec"
    )]
    pub config: Option<PathBuf>,
    /// Ask this control plane for the spec
    #[arg(
        short = 'p',
        long,
        value_name = "URL",
        group = "source",
        help_heading = "Source of the spec"
    )]
    pub control_plane_uri: Option<String>,
    /// Directory of mounted Secrets, NAME/KEY, that file sources refer to
    #[arg(
        long,
        value_name = "DIR",
        env = "GLOWPLUG_SECRETS_DIR",
        help_heading = "Source of the spec"
    )]
    pub secrets_dir: Option<PathBuf>,
    /// Directory (mode 0700) that keeps the last good spec, for starts while the API server is away
    #[arg(
        long,
        value_name = "DIR",
        env = "GLOWPLUG_LAST_GOOD_DIR",
        help_heading = "Source of the spec"
    )]
    pub last_good_dir: Option<PathBuf>,
    /// Write the status document to this file on each change
    #[arg(
        long,
        value_name = "FILE",
        env = "GLOWPLUG_STATUS_FILE",
        help_heading = "Source of the spec"
    )]
    pub status_file: Option<PathBuf>,

    /// Id of this compute [default: the host's name]
    #[arg(
        short = 'i',
        long,
        value_name = "ID",
        env = "GLOWPLUG_COMPUTE_ID",
        help_heading = "Postgres"
    )]
    pub compute_id: Option<String>,
    /// Data directory; emptied and filled anew at every start
    #[arg(short = 'D', long, value_name = "DIR", help_heading = "Postgres")]
    pub pgdata: PathBuf,
    /// How this process reaches postgres
    #[arg(
        short = 'C',
        long,
        value_name = "URL",
        default_value = "postgresql://cloud_admin@127.0.0.1:5432/postgres",
        help_heading = "Postgres"
    )]
    pub connstr: String,
    /// The postgres program
    #[arg(
        short = 'b',
        long,
        value_name = "FILE",
        env = "POSTGRES_PATH",
        default_value = "postgres",
        help_heading = "Postgres"
    )]
    pub pgbin: PathBuf,
    /// Address that postgres listens on
    #[arg(
        long,
        value_name = "ADDRESSES",
        env = "GLOWPLUG_LISTEN_ADDRESSES",
        default_value = "*",
        help_heading = "Postgres"
    )]
    pub listen_addresses: String,
    /// Directory of the Unix-domain socket [default: beside PGDATA]
    #[arg(long, value_name = "DIR", help_heading = "Postgres")]
    pub socket_dir: Option<PathBuf>,
    /// Name of the role that owns what superusers may not hand out
    #[arg(long, value_name = "ROLE", default_value = "neon_superuser", value_parser = privileged_role,
        help_heading = "Postgres")]
    pub privileged_role_name: String,

    /// Address of the external HTTP server
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "::",
        help_heading = "HTTP"
    )]
    pub external_http_address: IpAddr,
    /// Port of the external HTTP server
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 3080,
        help_heading = "HTTP"
    )]
    pub external_http_port: u16,
    /// Address of the internal HTTP server
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        help_heading = "HTTP"
    )]
    pub internal_http_address: IpAddr,
    /// Port of the internal HTTP server
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 3081,
        help_heading = "HTTP"
    )]
    pub internal_http_port: u16,
    /// Address of the probes
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "::",
        help_heading = "HTTP"
    )]
    pub probe_address: IpAddr,
    /// Port of the probes
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 3082,
        help_heading = "HTTP"
    )]
    pub probe_port: u16,
    /// Old name: the external port; the internal one is the next
    #[arg(long, value_name = "PORT", hide = true,
        conflicts_with_all = ["external_http_port", "internal_http_port"])]
    pub http_port: Option<u16>,
    /// Keys (JWKS or PEM) that tokens of the external HTTP server are checked with; read again
    /// when the file changes. Keys of compute_ctl_config count as well
    #[arg(
        long,
        value_name = "FILE",
        env = "GLOWPLUG_JWKS_FILE",
        help_heading = "HTTP"
    )]
    pub jwks_file: Option<PathBuf>,
    /// Seconds for which a key that was replaced is still accepted; 0 revokes it at once
    #[arg(
        long,
        value_name = "SECONDS",
        env = "GLOWPLUG_KEY_OVERLAP",
        default_value_t = 60,
        help_heading = "HTTP"
    )]
    pub key_overlap: u64,
    /// Serve the external API to anyone who reaches it; the status shows it
    #[arg(long, conflicts_with = "jwks_file", help_heading = "HTTP")]
    pub insecure_no_auth: bool,

    /// Give up (exit code 69) when storage was unavailable this many seconds during a start
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        help_heading = "Limits"
    )]
    pub storage_wait: u64,
    /// Seconds from exec to postgres' first accepted connection
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        help_heading = "Limits"
    )]
    pub pg_init_timeout: u64,
    /// Seconds between two probes of each shard's pageserver; 0: only at a start and after changes
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        help_heading = "Limits"
    )]
    pub probe_interval: u64,
    /// Seconds that a failed start keeps answering status
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        help_heading = "Limits"
    )]
    pub failed_linger: u64,
    /// Seconds within which a stop must be done
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        help_heading = "Limits"
    )]
    pub stop_timeout: u64,
    /// Storage counts as out of reach when pagestream errors have kept coming for this many
    /// seconds
    #[arg(
        long,
        value_name = "SECONDS",
        env = "GLOWPLUG_PAGESTREAM_ERRORS_AFTER",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Limits"
    )]
    pub pagestream_errors_after: u64,
    /// … and as in reach again after this many seconds without any
    #[arg(
        long,
        value_name = "SECONDS",
        env = "GLOWPLUG_PAGESTREAM_QUIET_AFTER",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Limits"
    )]
    pub pagestream_quiet_after: u64,

    /// Base URL of the remote extensions' store
    #[arg(short = 'r', long, alias = "remote-ext-config", value_name = "URL",
        value_parser = base_url, help_heading = "Neon")]
    pub remote_ext_base_url: Option<String>,
    /// cgroup of postgres, for the VM monitor
    #[arg(
        long,
        value_name = "NAME",
        default_value = "neon-postgres",
        help_heading = "Neon"
    )]
    pub cgroup: String,
    /// How the VM monitor reaches the file cache
    #[arg(
        long,
        value_name = "CONNSTR",
        help_heading = "Neon",
        default_value = "host=localhost port=5432 dbname=postgres user=cloud_admin sslmode=disable application_name=vm-monitor"
    )]
    pub filecache_connstr: String,
    /// Address of the VM monitor
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:10301",
        help_heading = "Neon"
    )]
    pub vm_monitor_addr: String,
    /// Resize swap before postgres starts
    #[arg(long, help_heading = "Neon")]
    pub resize_swap_on_bind: bool,
    /// Set a disk quota for this mount point before postgres starts
    #[arg(long, value_name = "MOUNTPOINT", help_heading = "Neon")]
    pub set_disk_quota_for_fs: Option<String>,
    /// Seconds between collections of installed extensions
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3600,
        help_heading = "Neon"
    )]
    pub installed_extensions_collection_interval: u64,
    /// Do not stop processes outside of this one's control
    #[arg(long, help_heading = "Neon")]
    pub dev: bool,
    /// Lakebase mode
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = false,
        help_heading = "Neon")]
    pub lakebase_mode: bool,
}

/// Upstream accepts only names that need no quoting.
fn privileged_role(name: &str) -> Result<String, String> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if plain {
        Ok(name.to_owned())
    } else {
        Err("use only a-z and _".to_owned())
    }
}

/// Paths are appended to it: it ends with one slash, and has no query.
fn base_url(text: &str) -> Result<String, String> {
    let text = format!("{}/", text.trim_end_matches('/'));
    let url = url::Url::parse(&text).map_err(|error| error.to_string())?;
    if url.query().is_some() {
        return Err("parameters detected in remote extensions base URL".to_owned());
    }
    Ok(text)
}

/// Arguments of `glowplug dev`.
#[cfg(feature = "storage")]
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// A ComputeSpec in YAML; its storage block may be left out
    pub file: Option<PathBuf>,
    /// Where storage, PGDATA and status are kept [default: $XDG_STATE_HOME/glowplug/dev]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Port of postgres [default: the spec's, or a free one]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Run the whole story unattended and say what was checked: rows written, SIGKILL, fresh
    /// start, every acknowledged row found, a changed spec applied
    #[arg(long)]
    pub check: bool,
    /// Folder of the postgres programs [default: the newest of the distribution's]
    #[arg(long, value_name = "DIR", env = "GLOWPLUG_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
    /// Directory of Secrets, NAME/KEY, beside those that FILE holds
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// Port of the external HTTP server
    #[arg(long, value_name = "PORT", default_value_t = 3080)]
    pub external_http_port: u16,
    /// Port of the internal HTTP server
    #[arg(long, value_name = "PORT", default_value_t = 3081)]
    pub internal_http_port: u16,
    /// Port of the probes
    #[arg(long, value_name = "PORT", default_value_t = 3082)]
    pub probe_port: u16,
}

/// Arguments of `glowplug storage`.
#[cfg(feature = "storage")]
#[derive(Debug, Clone, Args)]
pub struct StorageArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Number of safekeepers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=31))]
    pub safekeepers: u8,
    /// Timelines to make if they do not exist
    #[arg(long, value_name = "TENANT/TIMELINE")]
    pub timeline: Vec<String>,
    /// Folder of the postgres programs [default: the newest of the distribution's]
    #[arg(long, value_name = "DIR", env = "GLOWPLUG_PG_BIN_DIR")]
    pub pg_bin_dir: Option<PathBuf>,
}

/// Arguments of `glowplug crd`.
#[derive(Debug, Clone, Args)]
pub struct CrdArgs {
    /// Apply it to the cluster that the environment or kubeconfig names, and wait until it is
    /// established
    #[arg(long)]
    pub apply: bool,
}

/// Arguments of `glowplug validate`.
#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// ComputeSpecs in YAML, or Neon's JSON; - for standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Directory of Secrets, NAME/KEY; without it references to Secrets are not followed
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
}

/// Arguments of `glowplug plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// A ComputeSpec in YAML, or Neon's JSON
    pub file: PathBuf,
    /// The running postgres to compare with, reached as a superuser; a fresh one without this
    #[arg(long, value_name = "URL")]
    pub connstr: Option<String>,
    /// The spec that is in force: show what the change from it takes
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Role that members of get wide privileges from
    #[arg(long, value_name = "ROLE", default_value = "neon_superuser")]
    pub privileged_role_name: String,
    /// Directory of Secrets, NAME/KEY
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
}

/// Arguments of `glowplug probe`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "resource", "connstr"]))]
pub struct ProbeArgs {
    /// A ComputeSpec in YAML, or Neon's JSON; - for standard input
    pub file: Option<PathBuf>,
    /// The spec of this ComputeSpec resource
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub resource: Option<String>,
    /// Where the shards are, in order, separated by commas
    #[arg(long, value_name = "URL[,URL…]", requires_all = ["tenant", "timeline"])]
    pub connstr: Option<String>,
    /// The tenant, with --connstr
    #[arg(long, value_name = "ID", requires = "connstr")]
    pub tenant: Option<TenantId>,
    /// Its timeline, with --connstr
    #[arg(long, value_name = "ID", requires = "connstr")]
    pub timeline: Option<TimelineId>,
    /// Pages in a stripe, for --connstr with more than one shard
    #[arg(long, value_name = "PAGES", requires = "connstr")]
    pub stripe_size: Option<u32>,
    /// The LSN that must be readable [default: that of a Static spec, else the latest]
    #[arg(long, value_name = "LSN")]
    pub lsn: Option<Lsn>,
    /// Seconds that each pageserver may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    pub timeout: u64,
    /// Form of the answer
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "table")]
    pub output: ProbeOutput,
    /// Directory of Secrets, NAME/KEY
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
}

/// Form of what `glowplug probe` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProbeOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[cfg(feature = "storage")]
impl From<DevArgs> for crate::dev::Settings {
    fn from(args: DevArgs) -> Self {
        Self {
            file: args.file,
            state_dir: args.state_dir,
            port: args.port,
            check: args.check,
            pg_bin_dir: args.pg_bin_dir,
            secrets_dir: args.secrets_dir,
            http_ports: [
                args.external_http_port,
                args.internal_http_port,
                args.probe_port,
            ],
        }
    }
}

#[cfg(feature = "storage")]
impl From<StorageArgs> for crate::dev::StorageSettings {
    fn from(args: StorageArgs) -> Self {
        Self {
            state_dir: args.state_dir,
            listen: args.listen,
            safekeepers: usize::from(args.safekeepers),
            timelines: args.timeline,
            pg_bin_dir: args.pg_bin_dir,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn upstreams_launch_lines_are_understood() {
        let lines = [
            "glowplug compute --pgdata /var/db/postgres/compute -C postgresql://cloud_admin@localhost:55433/postgres \
             -b /usr/local/bin/postgres --compute-id compute-1 --config /tmp/config.json",
            "glowplug compute --external-http-port 1 --internal-http-port 2 --pgdata d --connstr \
             postgresql://cloud_admin@127.0.0.1:5/postgres --config c.json --pgbin p --compute-id ep \
             --remote-ext-base-url http://x/ --dev --privileged-role-name databricks_superuser",
            "glowplug compute -D d -C postgresql://a@b/c -i x -p http://cp:8081 --lakebase-mode true",
            "glowplug compute --pgdata /.neon/data/pgdata --connstr=postgresql://cloud_admin:@0.0.0.0:55433/postgres \
             --compute-id main -p http://neon-controlplane.neon:8081 --pgbin /usr/local/bin/postgres",
            "glowplug compute -D d -C postgresql://a@b/c -b p -r http://gateway/ext -c f -i x --cgroup g \
             --filecache-connstr host=localhost --vm-monitor-addr 0.0.0.0:10301 --resize-swap-on-bind \
             --set-disk-quota-for-fs /var/db --installed-extensions-collection-interval 60 --dev \
             --pg-init-timeout 60 --external-http-port 1 --internal-http-port 2",
            "glowplug compute -D d -C postgresql://a@b/c -i x -S spec.json --http-port 3080 --remote-ext-config http://x",
        ];
        for line in lines {
            Cli::try_parse_from(line.split_whitespace()).unwrap();
        }
    }

    /// The error of a line that is refused.
    fn refused(line: &str) -> String {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        error.render().to_string()
    }

    #[test]
    fn what_is_refused_comes_with_a_hint() {
        let error = refused("glowplug compute -D d -c f --extrenal-http-port 1");
        assert!(
            error.contains("a similar argument exists: '--external-http-port'"),
            "{error}"
        );
        let error = refused("glowplug compute -D d -c f --remote-ext-base-url http://x/?a=b");
        assert!(
            error.contains("parameters detected in remote extensions base URL"),
            "{error}"
        );
        let error = refused("glowplug compute -D d -c f --privileged-role-name Neon-Superuser");
        assert!(error.contains("use only a-z and _"), "{error}");
        let error = refused("glowplug compute -D d -c f --insecure-no-auth --jwks-file k");
        assert!(error.contains("cannot be used with"), "{error}");
    }

    #[test]
    fn the_base_url_of_extensions_ends_with_one_slash() {
        for url in ["http://x/ext", "http://x/ext/", "http://x/ext//"] {
            assert_eq!(base_url(url).unwrap(), "http://x/ext/");
        }
    }

    #[test]
    fn the_help_of_a_compute_is_as_people_see_it() {
        let mut command = Cli::command().term_width(100);
        let compute = command.find_subcommand_mut("compute").unwrap();
        // What the environment of this test holds is not part of it.
        let compute = compute.clone().mut_args(|arg| arg.hide_env_values(true));
        insta::assert_snapshot!(compute.term_width(100).render_help().to_string());
    }

    #[test]
    fn two_sources_are_one_too_many() {
        let line = "glowplug compute -D d -c a.json -p http://cp";
        assert!(Cli::try_parse_from(line.split_whitespace()).is_err());
    }
}
