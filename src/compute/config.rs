//! What a compute is told at its start and never changes: paths, names, limits.

use std::path::PathBuf;
use std::time::Duration;

use crate::compute::pagestream_health::Rule;
use crate::compute::postgres::StopBudget;
use crate::process::RunAs;
use crate::telemetry::traces::Parent;

/// Paths, names and limits of one compute.
#[derive(Debug, Clone)]
pub struct ComputeConfig {
    /// Id of the compute, for status, logs and metrics.
    pub compute_id: String,
    /// Data directory; removed and made again at every start.
    pub pgdata: PathBuf,
    /// Directory of the `postgres` program.
    pub pg_bin_dir: PathBuf,
    /// Directory of the Unix-domain socket, which only postgres' user can enter.
    pub socket_dir: PathBuf,
    /// Address that postgres listens on.
    pub listen_addresses: String,
    /// Whoever reaches loopback logs in without a password: for one's own machine only.
    pub trust_loopback: bool,
    /// The trace that the first start is part of.
    pub trace: Parent,
    /// The user that postgres runs as, where it is not ours.
    pub run_as: Option<RunAs>,
    /// The kernel hands out no more memory than it has (`vm.overcommit_memory` is 2).
    pub strict_overcommit: bool,
    /// The superuser of the basebackup.
    pub superuser: String,
    /// The role that owns what superusers may not hand out.
    pub privileged_role: String,
    /// Port of the internal HTTP server, which postgres' extension calls.
    pub internal_http_port: u16,
    /// Limits of waiting.
    pub limits: Limits,
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Storage may be unavailable this long during a start before the process gives up
    /// (exit code 69).
    pub storage_wait: Duration,
    /// A pageserver may take this long to answer: it waits for the log to arrive.
    pub basebackup_answer: Duration,
    /// A basebackup may bring no byte for this long.
    pub basebackup_stall: Duration,
    /// Postgres may take this long from exec to its first accepted connection.
    pub postgres_ready: Duration,
    /// Roles and databases may take this long at a start.
    pub catalog: Duration,
    /// A failed start keeps answering status this long before the process ends; a new
    /// spec in this time starts again. `None`: it stays.
    pub failed_linger: Option<Duration>,
    /// Without a usable spec the process ends (exit code 65) after this long. `None`: it
    /// waits for one.
    pub invalid_spec_linger: Option<Duration>,
    /// After a fast termination status is answered this long.
    pub terminated_linger: Duration,
    /// How postgres is stopped.
    pub stop: StopBudget,
    /// How often installed extensions are counted.
    pub extension_census: Duration,
    /// How often the pageservers' counters are read.
    pub misrouted_scrape: Duration,
    /// When pagestream errors are a fault.
    pub pagestream: Rule,
    /// How often each shard's pageserver is asked whether it serves. `None`: at a start and
    /// after changes alone.
    pub probe_interval: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            storage_wait: Duration::from_mins(10),
            basebackup_answer: Duration::from_secs(310),
            basebackup_stall: Duration::from_secs(30),
            postgres_ready: Duration::from_mins(5),
            catalog: Duration::from_mins(10),
            failed_linger: Some(Duration::from_secs(30)),
            invalid_spec_linger: Some(Duration::from_secs(30)),
            terminated_linger: Duration::from_secs(30),
            stop: StopBudget::default(),
            extension_census: Duration::from_hours(1),
            misrouted_scrape: Duration::from_secs(15),
            pagestream: Rule::default(),
            probe_interval: Some(Duration::from_secs(5)),
        }
    }
}

/// Whether the kernel hands out no more memory than it has, as
/// [`ComputeConfig::strict_overcommit`] wants to know. Blocks for a read of procfs.
pub fn strict_overcommit() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
    setting.is_ok_and(|text| text.trim() == "2")
}
