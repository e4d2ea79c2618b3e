//! The structs of Neon's JSON, field by field.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::fields::{OrderedMap, not_null, reveal};
use super::{Audit, Mode, PageserverProtocol, TlsConfig};
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::secret::Secret;

/// One compute (`ComputeSpec` upstream).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Version of the format; nobody looks at it.
    pub format_version: f32,
    /// The operation of the control plane.
    pub operation_uuid: Option<String>,
    /// Feature flags.
    #[serde(default)]
    pub features: Vec<String>,
    /// Swap of the virtual machine, in bytes.
    pub swap_size_bytes: Option<u64>,
    /// What the compute's files may use, in bytes.
    pub disk_quota_bytes: Option<u64>,
    /// Keep the local file cache's size.
    pub disable_lfc_resizing: Option<bool>,
    /// Roles, databases and settings.
    pub cluster: Cluster,
    /// Renames and deletions.
    pub delta_operations: Option<Vec<DeltaOp>>,
    /// Leave the catalog alone.
    #[serde(default)]
    pub skip_pg_catalog_updates: bool,
    /// The tenant.
    pub tenant_id: Option<TenantId>,
    /// The timeline.
    pub timeline_id: Option<TimelineId>,
    /// Where the pages are.
    pub pageserver_connection_info: Option<PageserverConnectionInfo>,
    /// Where the pages were, before `pageserver_connection_info`: one connection string
    /// for each shard.
    pub pageserver_connstring: Option<String>,
    /// Companion of `pageserver_connstring`: pages in a stripe.
    pub shard_stripe_size: Option<u32>,
    /// Id of the project.
    pub project_id: Option<String>,
    /// Id of the branch.
    pub branch_id: Option<String>,
    /// Id of the endpoint.
    pub endpoint_id: Option<String>,
    /// Generation of the safekeepers' membership.
    pub safekeepers_generation: Option<u32>,
    /// `host:port` of each safekeeper.
    #[serde(default)]
    pub safekeeper_connstrings: Vec<String>,
    /// How the compute uses its timeline.
    #[serde(default)]
    pub mode: Mode,
    /// The token that storage asks for.
    #[serde(serialize_with = "reveal", default)]
    pub storage_auth_token: Option<Secret>,
    /// Extensions that are downloaded when they are asked for.
    pub remote_extensions: Option<RemoteExtSpec>,
    /// Settings of pgbouncer.ini.
    pub pgbouncer_settings: Option<OrderedMap>,
    /// The proxy that lets clients in by JWT.
    pub local_proxy_config: Option<LocalProxySpec>,
    /// Parallel per-database connections; upstream's default is 1.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub reconfigure_concurrency: Option<usize>,
    /// Drop subscriptions before the first start on a branch.
    #[serde(default)]
    pub drop_subscriptions_before_start: bool,
    /// What the audit log records.
    #[serde(default)]
    pub audit_log_level: Audit,
    /// `host:port` of the syslog server.
    pub logs_export_host: Option<String>,
    /// `host:port` of the server that keeps the local file cache's state.
    pub endpoint_storage_addr: Option<String>,
    /// The token that it asks for.
    #[serde(serialize_with = "reveal", default)]
    pub endpoint_storage_token: Option<Secret>,
    /// Fill the local file cache right after the start.
    #[serde(default)]
    pub autoprewarm: bool,
    /// Seconds between two savings of what the local file cache holds.
    pub offload_lfc_interval_seconds: Option<NonZeroU64>,
    /// Seconds of idleness after which the control plane suspends.
    pub suspend_timeout_seconds: i64,
    /// Files that a Databricks workspace mounts.
    pub databricks_settings: Option<DatabricksSettings>,
    /// What glowplug adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glowplug: Option<SpecExtras>,
}

/// Roles, databases and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Id of the cluster; logged.
    pub cluster_id: Option<String>,
    /// Name of the cluster.
    pub name: Option<String>,
    /// State of the cluster.
    pub state: Option<String>,
    /// Roles that must exist.
    pub roles: Vec<Role>,
    /// Databases that must exist.
    pub databases: Vec<Database>,
    /// Text at the top of postgresql.conf.
    pub postgresql_conf: Option<String>,
    /// Settings of postgresql.conf, which win over that text and over the fields.
    pub settings: Option<Vec<GenericOption>>,
}

/// A role. `GET /dbs_and_roles` answers with it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// `SCRAM-SHA-256$…`, or an MD5 hash without the prefix `md5`.
    #[serde(serialize_with = "reveal", default)]
    pub encrypted_password: Option<Secret>,
    /// Options of CREATE ROLE.
    pub options: Option<Vec<GenericOption>>,
    /// What glowplug adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glowplug: Option<RoleExtras>,
}

/// A database. `GET /dbs_and_roles` answers with it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Options of CREATE DATABASE.
    pub options: Option<Vec<GenericOption>>,
    /// Whether it takes no connections; ignored on input.
    #[serde(default, skip_deserializing)]
    pub restrict_conn: bool,
    /// Whether a crash left it half dropped; ignored on input.
    #[serde(default, skip_deserializing)]
    pub invalid: bool,
}

/// A setting of postgresql.conf, or an option of a role or database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenericOption {
    /// Its name.
    pub name: String,
    /// Its value, where it has one.
    pub value: Option<String>,
    /// `string` if the value needs quotes; anything else is written as it is.
    pub vartype: String,
}

/// A change that comparing names cannot express.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaOp {
    /// `delete_db`, `rename_db`, `delete_role` or `rename_role`; others are ignored.
    pub action: String,
    /// The object's name before.
    pub name: String,
    /// The object's name afterwards.
    pub new_name: Option<String>,
}

/// Where the pages are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageserverConnectionInfo {
    /// Number of shards; 0 for an unsharded tenant.
    pub shard_count: u8,
    /// Pages in a stripe; none for an unsharded tenant.
    pub stripe_size: Option<u32>,
    /// The shards.
    pub shards: BTreeMap<ShardIndex, PageserverShardInfo>,
    /// Transport for basebackups and leases.
    #[serde(default)]
    pub prefer_protocol: PageserverProtocol,
}

/// Where one shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageserverShardInfo {
    /// Its pageservers; only the first is used.
    pub pageservers: Vec<PageserverShardConnectionInfo>,
}

/// One pageserver of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PageserverShardConnectionInfo {
    /// Id of the node.
    pub id: Option<u64>,
    /// Its address for libpq.
    pub libpq_url: Option<String>,
    /// Its address for gRPC.
    pub grpc_url: Option<String>,
    /// What glowplug adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glowplug: Option<PageserverExtras>,
}

/// Extensions that are downloaded when they are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteExtSpec {
    /// Extensions that every compute may load.
    pub public_extensions: Option<Vec<String>>,
    /// Extensions that this compute may load as well.
    pub custom_extensions: Option<Vec<String>>,
    /// Extension of each library.
    pub library_index: BTreeMap<String, String>,
    /// Files of each extension.
    pub extension_data: BTreeMap<String, ExtensionData>,
}

/// The files of one extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionData {
    /// Control files by name.
    pub control_data: BTreeMap<String, String>,
    /// Path of its archive.
    pub archive_path: String,
}

/// The configuration of local_proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LocalProxySpec {
    /// Who signs the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Vec<JwksSettings>>,
    /// Its certificate; whoever writes the file for local_proxy puts the effective one
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwksSettings {
    /// Names this entry.
    pub id: String,
    /// Roles that its tokens open.
    pub role_names: Vec<String>,
    /// Where its keys are.
    pub jwks_url: String,
    /// Who it is.
    pub provider_name: String,
    /// The audience that its tokens must name.
    pub jwt_audience: Option<String>,
}

/// Files that a Databricks workspace mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabricksSettings {
    /// Files of postgres' TLS.
    pub pg_compute_tls_settings: PgComputeTlsSettings,
    /// Lines that pg_hba.conf includes.
    pub databricks_pg_hba: String,
    /// Lines that pg_ident.conf includes.
    pub databricks_pg_ident: String,
    /// Host name of the workspace; may be empty.
    pub databricks_workspace_host: String,
}

/// Files of postgres' TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgComputeTlsSettings {
    /// The certificate.
    pub cert_file: String,
    /// The private key.
    pub key_file: String,
    /// The certificates that clients' certificates are checked against.
    pub ca_file: String,
}

/// What glowplug adds to a specification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpecExtras {
    /// `Vanilla` for any unmodified postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Flavor>,
    /// Major version that postgres must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Who knows where the shards are now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_controller: Option<url::Url>,
    /// Whether objects that the spec no longer lists are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_objects: Option<RemovedObjects>,
    /// How connections to storage are encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_tls: Option<StorageTlsExtras>,
}

/// How connections to storage are encrypted, in libpq's words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageTlsExtras {
    /// `disable` to `verify-full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Certificates of the authorities to trust, in PEM form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The same in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// What glowplug adds to a role.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleExtras {
    /// The password itself.
    #[serde(serialize_with = "reveal", skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Roles that it is a member of. Upstream makes each role, unless a JWT opens it, a
    /// member of the privileged role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_of: Option<Vec<String>>,
}

/// What glowplug adds to a pageserver.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PageserverExtras {
    /// Its address for HTTP: management API and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_url: Option<String>,
}

/// Which postgres runs on the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flavor {
    /// Neon's patched postgres.
    Neon,
    /// Any unmodified PostgreSQL.
    Vanilla,
}

/// Whether objects that the spec no longer lists are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemovedObjects {
    /// They stay.
    Keep,
    /// They are dropped.
    Drop,
}
