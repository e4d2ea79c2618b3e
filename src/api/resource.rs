//! The ComputeSpec resource: what a user writes in Kubernetes, and the rules that
//! the API server checks by itself.
//!
//! Shape, patterns, limits, defaults and CEL rules stand at the fields they are
//! about. Each text has a longest length and each list a largest size, so that the
//! API server can bound the cost of the rules. `spec::crd` adds the rules that are
//! generated from tables, and gives the whole definition; `spec::resolve` turns a
//! resource into the internal specification.

#![expect(
    clippy::duplicated_attributes,
    reason = "each printer column has a type of its own"
)]

mod catalog;
mod companions;
mod formats;
mod pod;
mod storage;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ComputeSpecStatus;
pub use catalog::*;
pub use companions::*;
pub use formats::*;
pub use pod::*;
pub use storage::*;

/// One compute: a stateless Postgres on Neon storage, as it should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "glowplug.dev",
    version = "v1alpha1",
    kind = "ComputeSpec",
    plural = "computespecs",
    shortname = "compute",
    category = "glowplug",
    category = "all",
    namespaced,
    status = "ComputeSpecStatus",
    derive = "PartialEq",
    doc = "A compute: one stateless Postgres on Neon storage, as it should be, and how it is.",
    selectable = ".spec.tenantId",
    selectable = ".spec.timelineId",
    selectable = ".spec.mode",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "LSN",
        type_ = "string",
        json_path = ".status.lsn.commit",
        description = "End of the write-ahead log that a quorum of safekeepers has"
    ),
    printcolumn(
        name = "PG",
        type_ = "string",
        json_path = ".status.postgres.version",
        priority = 1
    ),
    printcolumn(
        name = "Flavor",
        type_ = "string",
        json_path = ".spec.postgres.flavor",
        priority = 1
    ),
    printcolumn(
        name = "Restarts",
        type_ = "integer",
        json_path = ".status.postgres.restarts",
        priority = 1
    ),
    printcolumn(
        name = "Start",
        type_ = "integer",
        json_path = ".status.startupDurations.totalMs",
        description = "Milliseconds from the accepted spec to Running, at the last start",
        priority = 1
    ),
    printcolumn(
        name = "Tenant",
        type_ = "string",
        json_path = ".spec.tenantId",
        priority = 1
    ),
    printcolumn(
        name = "Timeline",
        type_ = "string",
        json_path = ".spec.timelineId",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(self.mode == 'Static') == has(self.lsn)",
        "message": "mode Static needs an lsn, the other modes have none",
        "fieldPath": ".lsn"
    },
    {
        "rule": "self.mode != 'Primary' || !has(self.storage) || size(self.storage.safekeepers.endpoints) > 0",
        "message": "a Primary writes to safekeepers: list at least one",
        "fieldPath": ".storage.safekeepers.endpoints"
    },
    {
        "rule": "self.postgres.flavor != 'Neon' || !has(self.storage) || self.storage.pageservers.shards.all(s, has(s.libpq))",
        "message": "flavor Neon reads pages by libpq: give each shard its libpq address",
        "fieldPath": ".storage.pageservers.shards"
    }
]))]
pub struct ComputeSpecSpec {
    /// The tenant whose data this compute serves: 32 hex digits. It cannot change.
    #[schemars(
        length(max = 32),
        regex(pattern = HEX_ID),
        extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "a compute keeps its tenant: make another ComputeSpec",
            "reason": "FieldValueForbidden"
        }])
    )]
    pub tenant_id: String,

    /// The timeline (branch) of the tenant: 32 hex digits. It cannot change.
    #[schemars(
        length(max = 32),
        regex(pattern = HEX_ID),
        extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "a compute keeps its timeline: make another ComputeSpec",
            "reason": "FieldValueForbidden"
        }])
    )]
    pub timeline_id: String,

    /// Primary reads and writes, Replica follows the primary, Static serves the
    /// timeline as it was at `lsn`.
    #[serde(default)]
    pub mode: Mode,

    /// Where a Static compute stands, like `0/16B9188`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 17),
        regex(pattern = LSN),
        extend("x-kubernetes-validations" = [{
            "rule": "!self.matches('^0+/0+$')",
            "message": "0/0 is no position in the write-ahead log"
        }])
    )]
    pub lsn: Option<String>,

    /// The postgres to run.
    #[serde(default)]
    pub postgres: Postgres,

    /// Where the write-ahead log and the pages live. Only `glowplug dev`, which
    /// brings its own storage, does without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// Roles that must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 10_000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub roles: Vec<Role>,

    /// Databases that must exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 10_000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub databases: Vec<Database>,

    /// What happens to roles and databases that were listed here once and no longer
    /// are. Those that others created are never touched.
    #[serde(default)]
    pub removed_objects: RemovedObjects,

    /// Renames and deletions that comparing names cannot express, carried out before
    /// roles and databases are compared, each as often as it finds its object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub delta_operations: Vec<DeltaOperation>,

    /// Leave roles, databases and grants as they are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skip_catalog_updates: bool,

    /// Drop the subscriptions of logical replication before the first start on a
    /// branch, so that parent and branch do not both consume them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drop_subscriptions_before_start: bool,

    /// Databases that are worked on side by side when a running compute is
    /// reconfigured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub reconfigure_concurrency: Option<i32>,

    /// Names of this compute in Neon's control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neon: Option<NeonIdentity>,

    /// Feature flags, such as `tls_experimental`; unknown ones have no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 63)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub features: Vec<String>,

    /// What the audit log records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,

    /// Where the logs go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<Logs>,

    /// The local file cache of Neon's postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_file_cache: Option<LocalFileCache>,

    /// Extensions that are downloaded when they are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_extensions: Option<RemoteExtensions>,

    /// The connection pooler beside postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgbouncer: Option<Pgbouncer>,

    /// The proxy beside postgres that lets clients in by JWT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_proxy: Option<LocalProxy>,

    /// Files that a Databricks workspace mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databricks: Option<Databricks>,

    /// Limits of the virtual machine that the compute runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,

    /// When the operator suspends the compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<Suspend>,

    /// The pod that the operator makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// How a compute uses its timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The one that writes.
    #[default]
    Primary,
    /// Follows the primary.
    Replica,
    /// Serves the timeline as it was at an LSN.
    Static,
}

/// The postgres to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Major version. If it is left out, any version may run that fits the timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        range(min = 14, max = 18),
        extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "a timeline keeps its major version: make another one and move the data",
            "reason": "FieldValueForbidden"
        }])
    )]
    pub version: Option<i32>,

    /// Neon is Neon's patched postgres. Vanilla is any unmodified one, whose
    /// write-ahead log glowplug pushes to the safekeepers.
    #[serde(default)]
    pub flavor: Flavor,

    /// TCP port that postgres listens on.
    #[serde(default)]
    pub port: Port,

    /// Settings of postgresql.conf. Those that glowplug sets itself are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 512),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub settings: Vec<Setting>,

    /// Text put verbatim at the top of postgresql.conf: everything else wins over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub postgresql_conf: Option<String>,
}

/// Which postgres runs on the storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Flavor {
    /// Neon's patched postgres.
    #[default]
    Neon,
    /// Any unmodified PostgreSQL.
    Vanilla,
}

/// A TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Port(#[schemars(range(min = 1, max = 65_535))] pub i32);

impl Default for Port {
    fn default() -> Self {
        Self(5432)
    }
}

/// One setting of postgresql.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Its name.
    #[schemars(length(max = 127), regex(pattern = SETTING_NAME))]
    pub name: String,
    /// Its value. Write numbers and booleans in quotes: "200", "on".
    #[schemars(length(max = 4096), regex(pattern = ONE_LINE))]
    pub value: String,
    /// How the value is written into the file. Every setting takes a String.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub value_type: Option<ValueType>,
}

/// How a value is written where SQL or postgresql.conf is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValueType {
    /// In quotes.
    String,
    /// As it is: a number, a boolean, a name.
    Keyword,
}

/// A key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}
