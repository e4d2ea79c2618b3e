//! The catalog as it is, as far as plans are made of it.

use std::collections::{BTreeMap, BTreeSet};

use super::role_options::{Flag, Flags, Moment};
use crate::secret::Secret;

/// The catalog of a running postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// `server_version_num`: 150018 is 15.18.
    pub version_num: u32,
    /// The role that this session logged in as.
    pub superuser: String,
    /// The database of this session.
    pub system_database: String,
    /// Connections that the server takes.
    pub max_connections: usize,
    /// Whether files are forced to disk (`fsync`).
    pub forces_files: bool,
    /// `shared_preload_libraries`.
    pub preload_libraries: Vec<String>,
    /// Every role.
    pub roles: BTreeMap<String, ObservedRole>,
    /// Roles that a role is a member of, by member.
    pub memberships: BTreeMap<String, Vec<Membership>>,
    /// Every database.
    pub databases: BTreeMap<String, ObservedDatabase>,
    /// What is in the database of this session.
    pub system: SystemDatabase,
    /// For roles that are to go: databases with objects that depend on them, and
    /// `None` for objects that all databases share.
    pub dependencies: BTreeMap<String, BTreeSet<Option<String>>>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRole {
    /// Its attributes.
    pub flags: Flags,
    /// -1 is no limit.
    pub connection_limit: i32,
    /// When its password expires, if ever.
    pub valid_until: Option<Moment>,
    /// What stands for its password.
    pub verifier: Option<Secret>,
    /// Whether glowplug created it.
    pub managed: bool,
}

/// One role's being a member of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The role whose member it is.
    pub role: String,
    /// Whether a superuser granted it, rather than a user.
    pub by_superuser: bool,
}

/// A database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedDatabase {
    /// Its owner; `None` if the catalog is damaged there.
    pub owner: Option<String>,
    /// Whether anybody may connect.
    pub allows_connections: bool,
    /// Whether everybody may copy it.
    pub is_template: bool,
    /// -1 is no limit, [`INVALID`] a database that was being dropped.
    pub connection_limit: i32,
    /// Whether the privileged role has all privileges on it.
    pub is_granted: bool,
    /// Whether logical replication subscriptions exist in it.
    pub has_subscriptions: bool,
    /// Whether glowplug created it.
    pub managed: bool,
    /// Fingerprint of what was last done inside it.
    pub prepared: Option<String>,
}

/// `datconnlimit` of a database whose `DROP DATABASE` was interrupted
/// (`src/include/catalog/pg_database.h: DATCONNLIMIT_INVALID_DB`).
pub const INVALID: i32 = -2;

impl ObservedDatabase {
    /// Whether all that can be done with it is to drop it.
    pub const fn is_invalid(&self) -> bool {
        self.connection_limit == INVALID
    }
}

/// What is in the database that the session is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemDatabase {
    /// The extensions installed.
    pub extensions: BTreeMap<String, InstalledExtension>,
    /// The version of the `neon` extension that could be installed; looked for only
    /// where it is wanted.
    pub neon_available: Option<String>,
    /// Whether the table `public.health_check` exists.
    pub has_health_check: bool,
    /// Whether the table `neon.drop_subscriptions_done` exists.
    pub has_subscriptions_record: bool,
    /// The timeline that the table names.
    pub subscriptions_dropped_on: Option<String>,
    /// The last migration that glowplug noted among the database's settings; 0 if none.
    pub migrations_noted: u32,
    /// Whether the table `neon_migration.migration_id` exists.
    pub has_migration_table: bool,
    /// The number in that table. Looked for only where nothing is noted.
    pub migration: Option<i64>,
    /// Whether statements in this database are kept out of the audit log.
    pub is_unaudited: bool,
}

/// An extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledExtension {
    /// Its version.
    pub version: String,
    /// The schema that its objects are in.
    pub schema: String,
}

impl Observed {
    /// A cluster as `initdb` leaves it, for plans without a server.
    pub fn fresh(superuser: &str, major: u32) -> Self {
        let role = ObservedRole {
            flags: Flags::of(&Flag::ALL),
            connection_limit: -1,
            valid_until: None,
            verifier: None,
            managed: false,
        };
        let database = |is_template: bool, allows_connections: bool| ObservedDatabase {
            owner: Some(superuser.to_owned()),
            allows_connections,
            is_template,
            connection_limit: -1,
            is_granted: false,
            has_subscriptions: false,
            managed: false,
            prepared: None,
        };
        Self {
            version_num: major * 10_000,
            superuser: superuser.to_owned(),
            system_database: "postgres".to_owned(),
            max_connections: 100,
            forces_files: true,
            preload_libraries: Vec::new(),
            roles: BTreeMap::from([(superuser.to_owned(), role)]),
            memberships: BTreeMap::new(),
            databases: BTreeMap::from([
                ("postgres".to_owned(), database(false, true)),
                ("template0".to_owned(), database(true, false)),
                ("template1".to_owned(), database(true, true)),
            ]),
            system: SystemDatabase::default(),
            dependencies: BTreeMap::new(),
        }
    }

    /// `15` of 15.18.
    pub const fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}
