//! Where a compute's write-ahead log and pages live, as the resource has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;
use super::formats::{ABSOLUTE_PATH, GRPC_ADDRESS, HOST_PORT, HTTP_ADDRESS, LIBPQ_ADDRESS};

/// Where the write-ahead log and the pages live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Where the write-ahead log is written to. Only a Primary needs them.
    #[serde(default)]
    pub safekeepers: Safekeepers,
    /// Where the pages are read from.
    pub pageservers: Pageservers,
    /// Who knows where the shards are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_controller: Option<StorageController>,
    /// The token that safekeepers, pageservers and storage controller ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
    /// How connections to safekeepers and pageservers are encrypted. Without it, as they
    /// insist, and whoever they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<StorageTls>,
}

/// How connections to safekeepers and pageservers are encrypted. What a pageserver's
/// libpq address says (`sslmode`, `sslrootcert`) counts more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.caSecretRef) || !has(self.caFile)",
    "message": "name the authority's certificate by caSecretRef or by caFile",
    "fieldPath": ".caFile"
}]))]
pub struct StorageTls {
    /// When to encrypt, and how far to look at the certificate.
    #[serde(default)]
    pub mode: TlsMode,
    /// Certificates of the authorities to trust, in PEM form; without it and `caFile` the
    /// system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// The same in a file of the compute's container, read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = ABSOLUTE_PATH))]
    pub ca_file: Option<String>,
}

/// When to encrypt, and how far to look at the certificate: libpq's sslmode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// Only where the other side insists.
    Allow,
    /// Where the other side offers it.
    Prefer,
    /// Always. Whose certificate it is, is looked at only if an authority is named.
    Require,
    /// Always, with a certificate of a trusted authority.
    VerifyCa,
    /// Always, with a certificate of a trusted authority for the other side's name.
    #[default]
    VerifyFull,
}

/// The safekeepers of the timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Safekeepers {
    /// Generation of their membership, where the storage controller manages it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub generation: Option<i32>,
    /// `host:port` of each.
    #[serde(default)]
    #[schemars(
        length(max = 31),
        inner(length(max = 255), regex(pattern = HOST_PORT)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub endpoints: Vec<String>,
}

/// The pageservers of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "size(self.shards) == 1 || has(self.stripeSize)",
        "message": "a tenant of several shards needs its stripeSize",
        "reason": "FieldValueRequired",
        "fieldPath": ".stripeSize"
    },
    {
        "rule": "self.shards.all(s, s.number < size(self.shards))",
        "message": "number the shards from 0, without a gap",
        "fieldPath": ".shards"
    },
    {
        "rule": "self.preferProtocol != 'Libpq' || self.shards.all(s, has(s.libpq))",
        "message": "preferProtocol Libpq needs the libpq address of each shard",
        "fieldPath": ".shards"
    },
    {
        "rule": "self.preferProtocol != 'Grpc' || self.shards.all(s, has(s.grpc))",
        "message": "preferProtocol Grpc needs the grpc address of each shard",
        "fieldPath": ".shards"
    }
]))]
pub struct Pageservers {
    /// Pages of 8 KiB in a stripe of a sharded tenant. With a single shard it says
    /// that the tenant counts as sharded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub stripe_size: Option<i32>,
    /// How to fetch basebackups and renew leases.
    #[serde(default)]
    pub prefer_protocol: Protocol,
    /// The shards of the tenant; an unsharded one has number 0 only.
    #[schemars(
        length(min = 1, max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"])
    )]
    pub shards: Vec<Shard>,
}

/// How to speak to a pageserver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// The page service on the PostgreSQL protocol.
    #[default]
    Libpq,
    /// The page service on gRPC.
    Grpc,
}

/// Where one shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// Which shard, from 0.
    #[schemars(range(min = 0, max = 127))]
    pub number: i32,
    /// Id of the pageserver's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub node_id: Option<i64>,
    /// `postgresql://host:6400`, or `host=… port=…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = LIBPQ_ADDRESS))]
    pub libpq: Option<String>,
    /// `grpc://host:51051`; `grpcs://` where a proxy before the pageserver serves TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = GRPC_ADDRESS))]
    pub grpc: Option<String>,
    /// `http://host:9898`: the management API and the metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = HTTP_ADDRESS))]
    pub http: Option<String>,
}

/// Who knows where the shards are now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageController {
    /// Its address, like `http://storage-controller.neon:1234`.
    #[schemars(length(max = 255), regex(pattern = HTTP_ADDRESS))]
    pub url: String,
}
