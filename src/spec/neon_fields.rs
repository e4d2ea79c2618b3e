//! The part of a specification that plain PostgreSQL has no counterpart for: names in
//! Neon's control plane, and what runs beside postgres.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use crate::secret::Secret;

/// Fields of Neon's JSON without a counterpart in plain PostgreSQL.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NeonFields {
    /// Identifies the operation in Neon's control plane; logged.
    pub operation_uuid: Option<String>,
    /// Id of the project.
    pub project_id: Option<String>,
    /// Id of the branch.
    pub branch_id: Option<String>,
    /// Id of the endpoint.
    pub endpoint_id: Option<String>,
    /// Id of the cluster; logged.
    pub cluster_id: Option<String>,
    /// Name of the cluster; logged.
    pub cluster_name: Option<String>,
    /// State of the cluster when the spec was written; logged.
    pub cluster_state: Option<String>,
    /// Feature flags, unknown ones included.
    pub features: Vec<String>,
    /// Seconds of idleness after which the control plane suspends: -1 never,
    /// 0 its default.
    pub suspend_timeout_seconds: i64,
    /// Parallel per-database connections when a running compute is reconfigured.
    pub reconfigure_concurrency: Option<usize>,
    /// Drop logical replication subscriptions before the first start on a branch.
    pub drop_subscriptions_before_start: bool,
    /// Swap of the virtual machine, in bytes.
    pub swap_size_bytes: Option<u64>,
    /// What the compute's files may use, in bytes.
    pub disk_quota_bytes: Option<u64>,
    /// Keep the local file cache's size when the machine's memory changes.
    pub disable_lfc_resizing: Option<bool>,
    /// Fill the local file cache right after the start.
    pub autoprewarm: bool,
    /// Seconds between two savings of what the local file cache holds.
    pub offload_lfc_interval_seconds: Option<NonZeroU64>,
    /// `host:port` of the server that keeps the local file cache's state.
    pub endpoint_storage_addr: Option<String>,
    /// The token that it asks for.
    pub endpoint_storage_token: Option<Secret>,
    /// Extensions that are downloaded when they are asked for.
    pub remote_extensions: Option<RemoteExtensions>,
    /// Settings of pgbouncer.ini, in order.
    pub pgbouncer_settings: Option<Vec<(String, String)>>,
    /// The proxy that lets clients in by JWT.
    pub local_proxy: Option<LocalProxy>,
    /// What the audit log records.
    pub audit_log_level: AuditLevel,
    /// `host:port` of the syslog server that gets postgres' log.
    pub logs_export_host: Option<String>,
    /// Files that a Databricks workspace mounts.
    pub databricks: Option<Databricks>,
}

impl NeonFields {
    /// Whether the role is one that a JWT opens. Such a role gets no privileges when it
    /// is made.
    pub fn is_jwt_role(&self, name: &str) -> bool {
        let issuers = self.local_proxy.iter().flat_map(|proxy| &proxy.jwks);
        let mut names = issuers.flatten().flat_map(|jwks| &jwks.role_names);
        names.any(|role| role == name)
    }
}

/// Extensions that are downloaded when they are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteExtensions {
    /// Extensions that every compute may load; `None` allows all.
    pub public_extensions: Option<Vec<String>>,
    /// Extensions that this compute may load as well; `None` allows all.
    pub custom_extensions: Option<Vec<String>>,
    /// Extension of each library.
    pub library_index: BTreeMap<String, String>,
    /// Files of each extension.
    pub extension_data: BTreeMap<String, ExtensionData>,
}

/// The files of one extension.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtensionData {
    /// Control files by name.
    pub control_data: BTreeMap<String, String>,
    /// Path of its archive in the store of extensions.
    pub archive_path: String,
}

/// The proxy that lets clients in by JWT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalProxy {
    /// Who signs the tokens, and which roles they open.
    pub jwks: Option<Vec<JwksSettings>>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSettings {
    /// Names this entry.
    pub id: String,
    /// Roles that its tokens open.
    pub role_names: Vec<String>,
    /// Where its keys are.
    pub jwks_url: String,
    /// Who it is, for people.
    pub provider_name: String,
    /// The audience that its tokens must name.
    pub jwt_audience: Option<String>,
}

/// How much the audit log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditLevel {
    /// Nothing.
    #[default]
    Disabled,
    /// Changes of the schema and of roles (`Base`, and its older name `Log`).
    Base,
    /// All statements but the miscellaneous ones, without parameters (`Extended`, and
    /// its older name `Hipaa`).
    Extended,
    /// All statements, with parameters.
    Full,
}

/// Files that a Databricks workspace mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Databricks {
    /// Certificate of postgres' TLS.
    pub cert_file: String,
    /// Its private key.
    pub key_file: String,
    /// Certificates that clients' certificates are checked against.
    pub ca_file: String,
    /// Lines that pg_hba.conf includes.
    pub hba_file: String,
    /// Lines that pg_ident.conf includes.
    pub ident_file: String,
    /// Host name of the workspace; may be empty.
    pub workspace_host: String,
}
