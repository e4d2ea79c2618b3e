//! What runs beside postgres or reports about it, as the resource has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;
use super::formats::{ABSOLUTE_PATH, HOST_PORT, INI_KEY, NO_NUL, ONE_LINE};

/// Names of this compute in Neon's control plane; they appear in logs and in settings
/// of postgres.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NeonIdentity {
    /// Id of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub project_id: Option<String>,
    /// Id of the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub branch_id: Option<String>,
    /// Id of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub endpoint_id: Option<String>,
    /// The operation of the control plane that this spec belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub operation_uuid: Option<String>,
    /// Id of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub cluster_id: Option<String>,
    /// Name of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub cluster_name: Option<String>,
    /// State of the cluster when the control plane wrote the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub cluster_state: Option<String>,
}

/// What the audit log records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// How much.
    pub level: AuditLevel,
}

/// How much the audit log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuditLevel {
    /// Nothing.
    Disabled,
    /// Changes of the schema and of roles.
    Base,
    /// All statements but the miscellaneous ones, without parameters.
    Extended,
    /// All statements, with parameters.
    Full,
}

/// Where the logs go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// `host:port` of the syslog server that gets postgres' log.
    #[schemars(length(max = 261), regex(pattern = HOST_PORT))]
    pub export_host: String,
}

/// The local file cache of Neon's postgres.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalFileCache {
    /// Fill the cache right after the start with what it held before.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub autoprewarm: bool,
    /// Seconds between two savings of what the cache holds; never if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub offload_interval_seconds: Option<i64>,
    /// Keep the cache's size when the virtual machine's memory changes; if left out,
    /// it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_resizing: Option<bool>,
    /// Where the state of the cache is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_storage: Option<EndpointStorage>,
}

/// Where the state of a compute is kept between two starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStorage {
    /// Its `host:port`.
    #[schemars(length(max = 261), regex(pattern = HOST_PORT))]
    pub address: String,
    /// The token that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// Extensions that are downloaded when they are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteExtensions {
    /// Extensions that every compute may load. Left out, all are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(min = 1, max = 63)))]
    pub public_extensions: Option<Vec<String>>,
    /// Extensions that this compute may load as well. Left out, all are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(min = 1, max = 63)))]
    pub custom_extensions: Option<Vec<String>>,
    /// Which library belongs to which extension.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4096),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["library"])
    )]
    pub libraries: Vec<Library>,
    /// The files of each extension.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1024),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub extensions: Vec<Extension>,
}

/// Which extension a library belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Library {
    /// Name of the library, without `.so`.
    #[schemars(length(min = 1, max = 253))]
    pub library: String,
    /// Name of its extension.
    #[schemars(length(min = 1, max = 63))]
    pub extension: String,
}

/// The files of one extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Path of its archive in the store of extensions.
    #[schemars(length(max = 1024))]
    pub archive_path: String,
    /// Its control files, which must be there before the archive is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["file"])
    )]
    pub control_files: Vec<ControlFile>,
}

/// A control file of an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControlFile {
    /// Its name, without a path.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[^/\x00]+$"))]
    pub file: String,
    /// Its content.
    #[schemars(length(max = 16_384))]
    pub text: String,
}

/// The connection pooler beside postgres.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pgbouncer {
    /// Settings of pgbouncer.ini.
    #[serde(default)]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub settings: Vec<PgbouncerSetting>,
}

/// One setting of pgbouncer.ini.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PgbouncerSetting {
    /// Its key.
    #[schemars(length(max = 63), regex(pattern = INI_KEY))]
    pub name: String,
    /// Its value. Write numbers in quotes.
    #[schemars(length(max = 1024), regex(pattern = ONE_LINE))]
    pub value: String,
}

/// The proxy beside postgres that lets clients in by JWT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalProxy {
    /// Who signs the tokens, and which roles they open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub jwks: Option<Vec<Jwks>>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Jwks {
    /// Names this entry.
    #[schemars(length(min = 1, max = 253))]
    pub id: String,
    /// Roles that its tokens open. They are made without privileges.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = NO_NUL)))]
    pub role_names: Vec<String>,
    /// Where its keys are.
    #[schemars(length(min = 1, max = 2048))]
    pub jwks_url: String,
    /// Who it is, for people.
    #[schemars(length(max = 253))]
    pub provider_name: String,
    /// The audience that its tokens must name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub jwt_audience: Option<String>,
}

/// Files that a Databricks workspace mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Databricks {
    /// Certificate of postgres' TLS.
    #[schemars(length(max = 1024), regex(pattern = ABSOLUTE_PATH))]
    pub cert_file: String,
    /// Private key of postgres' TLS.
    #[schemars(length(max = 1024), regex(pattern = ABSOLUTE_PATH))]
    pub key_file: String,
    /// Certificates that clients' certificates are checked against.
    #[schemars(length(max = 1024), regex(pattern = ABSOLUTE_PATH))]
    pub ca_file: String,
    /// Lines that pg_hba.conf includes.
    #[schemars(length(max = 1024), regex(pattern = ABSOLUTE_PATH))]
    pub hba_file: String,
    /// Lines that pg_ident.conf includes.
    #[schemars(length(max = 1024), regex(pattern = ABSOLUTE_PATH))]
    pub ident_file: String,
    /// Host name of the workspace.
    #[serde(default)]
    #[schemars(length(max = 253), regex(pattern = ONE_LINE))]
    pub workspace_host: String,
}

/// Limits of the virtual machine that the compute runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Size of the swap, in bytes; takes effect at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub swap_size_bytes: Option<i64>,
    /// What the compute's files may use, in bytes; takes effect at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub disk_quota_bytes: Option<i64>,
}
