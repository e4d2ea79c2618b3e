//! The internal compute specification: what every source's form resolves to.
//!
//! All secrets are resolved, all locations are in one place, all defaults are
//! filled in. Nothing below `spec` reads any other form.

use url::Url;

use super::NeonFields;
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire::TlsMode;
use crate::secret::Secret;

/// One compute, as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputeSpec {
    /// The tenant whose data this compute serves.
    pub tenant_id: TenantId,
    /// The timeline of the tenant.
    pub timeline_id: TimelineId,
    /// Reads and writes, follows, or stands still.
    pub mode: ComputeMode,
    /// The postgres to run.
    pub postgres: PostgresSpec,
    /// Where the write-ahead log lives.
    pub safekeepers: SafekeeperSet,
    /// Where the pages live.
    pub pageservers: ShardMap,
    /// Where to ask for the shards' current locations.
    pub storage_controller: Option<Url>,
    /// The token that pageservers, safekeepers and the storage controller ask for.
    pub storage_token: Option<Secret>,
    /// How connections to pageservers and safekeepers are encrypted, where their
    /// addresses do not say.
    pub storage_tls: StorageTls,
    /// Roles that must exist.
    pub roles: Vec<Role>,
    /// Databases that must exist.
    pub databases: Vec<Database>,
    /// Renames and deletions to carry out before roles and databases are compared
    /// (`delta_operations` of Neon's JSON).
    pub delta_operations: Vec<DeltaOperation>,
    /// What happens to a role or database that glowplug created and the spec no
    /// longer has.
    pub removed_objects: RemovedObjects,
    /// Leave the catalog alone (`skip_pg_catalog_updates`).
    pub skip_catalog_updates: bool,
    /// Fields that only Neon's JSON has.
    pub neon: NeonFields,
}

impl ComputeSpec {
    /// A specification that says nothing: every field at its default, and no identity.
    pub(super) fn silent() -> Self {
        Self {
            tenant_id: TenantId([0; 16]),
            timeline_id: TimelineId([0; 16]),
            mode: ComputeMode::Primary,
            postgres: PostgresSpec {
                version: None,
                flavor: Flavor::Neon,
                port: 5432,
                settings: Vec::new(),
                verbatim_conf: None,
            },
            safekeepers: SafekeeperSet::default(),
            pageservers: ShardMap::default(),
            storage_controller: None,
            storage_token: None,
            storage_tls: StorageTls::default(),
            roles: Vec::new(),
            databases: Vec::new(),
            delta_operations: Vec::new(),
            removed_objects: RemovedObjects::Keep,
            skip_catalog_updates: false,
            neon: NeonFields::default(),
        }
    }
}

/// How a compute uses its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeMode {
    /// The one that writes.
    Primary,
    /// Follows the primary.
    Replica,
    /// Serves the timeline as it was at an LSN.
    Static(Lsn),
}

/// Which postgres runs on the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Neon's patched postgres: reads pages lazily, pushes its own WAL.
    Neon,
    /// Any unmodified PostgreSQL: starts from a complete directory, and glowplug
    /// pushes its WAL.
    Vanilla,
}

/// The postgres to run.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresSpec {
    /// Major version, if the spec insists on one.
    pub version: Option<u32>,
    /// Neon's or any.
    pub flavor: Flavor,
    /// TCP port that postgres listens on.
    pub port: u16,
    /// Settings of the spec, in order; a later one wins.
    pub settings: Vec<Setting>,
    /// Text put verbatim at the top of postgresql.conf
    /// (`cluster.postgresql_conf` of Neon's JSON).
    pub verbatim_conf: Option<String>,
}

/// One `name = value` of postgresql.conf, or one option of a role or database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Name of the setting.
    pub name: String,
    /// Its value; `None` writes the bare name.
    pub value: Option<String>,
    /// Whether the value is text that needs quoting, rather than a number,
    /// a boolean or a keyword (`vartype` of Neon's JSON).
    pub is_string: bool,
}

/// The safekeepers of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SafekeeperSet {
    /// Generation of the membership; `None` where storage does not manage it.
    pub generation: Option<u32>,
    /// `host:port` of each.
    pub endpoints: Vec<String>,
}

/// Which pageserver serves which shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardMap {
    /// Pages of 8 KiB in a stripe; `None` if unsharded.
    pub stripe_size: Option<u32>,
    /// Which transport to prefer for basebackups and leases.
    pub prefer_protocol: PageserverProtocol,
    /// The shards, in order of their number.
    pub shards: Vec<ShardLocation>,
}

/// How to speak to a pageserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageserverProtocol {
    /// The page service on the PostgreSQL protocol.
    #[default]
    Libpq,
    /// The page service on gRPC.
    Grpc,
}

/// Where one shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardLocation {
    /// Which shard.
    pub index: ShardIndex,
    /// Id of the pageserver node, if known.
    pub node_id: Option<u64>,
    /// `postgresql://host:6400`, or a libpq `host=… port=…` string.
    pub libpq: Option<String>,
    /// `grpc://host:51051`.
    pub grpc: Option<String>,
    /// `http://host:9898`: management API and metrics.
    pub http: Option<String>,
}

/// How connections to storage are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageTls {
    /// When, and how far the peer's certificate is looked at; `None` leaves it open.
    pub mode: Option<TlsMode>,
    /// The authorities that are trusted; `None` for the system's.
    pub roots: Option<TlsRoots>,
}

/// Certificates of authorities, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsRoots {
    /// The certificates themselves.
    Pem(String),
    /// A file of them, read again for every connection.
    File(String),
}

impl StorageTls {
    /// The mode in force: whoever names an authority wants it checked, and the name with
    /// it.
    pub fn mode(&self) -> TlsMode {
        match (self.mode, &self.roots) {
            (Some(mode), _) => mode,
            (None, Some(_)) => TlsMode::VerifyFull,
            (None, None) => TlsMode::Allow,
        }
    }
}

/// In [`Role::member_of`], stands for the privileged role, whatever this compute calls
/// it (`--privileged-role-name`). Its members get the attributes that Neon's control
/// plane gives to roles, and nearly all privileges.
pub const PRIVILEGED_ROLE: &str = "neon_superuser";

/// A role that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name, any text that postgres accepts.
    pub name: String,
    /// Its password; `None` for a role that cannot log in by password.
    pub password: Option<Password>,
    /// Roles that it is a member of.
    pub member_of: Vec<String>,
    /// Role options such as `CONNECTION LIMIT`.
    pub options: Vec<Setting>,
}

/// How a role's password is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself; postgres stores a verifier that is made of it.
    Cleartext(Secret),
    /// `SCRAM-SHA-256$…`, or `md5…` (also without its prefix).
    Verifier(Secret),
}

/// A database that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Options of `CREATE DATABASE`, such as `TEMPLATE` or `LC_COLLATE`.
    pub options: Vec<Setting>,
}

/// A change that comparing names cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeltaOperation {
    /// Drop a database.
    DeleteDatabase(String),
    /// Rename a database.
    RenameDatabase {
        /// Its name before.
        from: String,
        /// Its name afterwards.
        to: String,
    },
    /// Drop a role, its objects reassigned first.
    DeleteRole(String),
    /// Rename a role.
    RenameRole {
        /// Its name before.
        from: String,
        /// Its name afterwards.
        to: String,
    },
}

/// What happens to roles and databases that glowplug created once and the spec
/// no longer lists. Objects that others created are never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RemovedObjects {
    /// They stay (`compute_ctl` does this).
    #[default]
    Keep,
    /// They are dropped.
    Drop,
}

impl ComputeSpec {
    /// The value of the last setting of this name that has one, as postgres reads it.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let same = |s: &&Setting| s.name.eq_ignore_ascii_case(name);
        self.postgres
            .settings
            .iter()
            .rev()
            .find(same)?
            .value
            .as_deref()
    }
}
