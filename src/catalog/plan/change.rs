//! The changes that plans are made of.
//!
//! Their `Display` is for people, and shows no password and no verifier.

mod text;

use std::fmt;

use super::database_options::{DatabaseChange, DatabaseOptions};
use super::role_options::{Flag, ValidUntil};
use crate::catalog::password::Verifier;

/// Something that a change is about, or needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A role.
    Role(String),
    /// A database.
    Database(String),
    /// The subscriptions of a database.
    Subscriptions(String),
    /// An extension.
    Extension(String),
    /// A table, by its written name.
    Table(&'static str),
    /// A migration.
    Migration(u32),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role {name:?}"),
            Self::Database(name) => write!(f, "database {name:?}"),
            Self::Subscriptions(name) => write!(f, "subscriptions of database {name:?}"),
            Self::Extension(name) => write!(f, "extension {name:?}"),
            Self::Table(name) => write!(f, "table {name}"),
            Self::Migration(number) => write!(f, "migration {number}"),
        }
    }
}

/// Counts migrations.
const MIGRATIONS: Object = Object::Table("neon_migration.migration_id");

/// What becomes of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordChange {
    /// There is none any more.
    Clear,
    /// This verifier is stored.
    Set(Verifier),
}

/// Changes of a role's own properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleChange {
    /// Attributes given and taken.
    pub flags: Vec<(Flag, bool)>,
    /// A new limit of connections.
    pub connection_limit: Option<i32>,
    /// A new time of expiry.
    pub valid_until: Option<ValidUntil>,
    /// Another password.
    pub password: Option<PasswordChange>,
}

impl RoleChange {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One change of the catalog. Each is carried out wholly or not at all, except where
/// postgres has no such way (databases are not created or dropped in transactions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Create the privileged role as `compute_ctl` does.
    CreatePrivilegedRole {
        /// Its name.
        name: String,
    },
    /// Rename a role.
    RenameRole {
        /// Its name before.
        from: String,
        /// Its name afterwards.
        to: String,
    },
    /// Keep a role that is about to go from logging in, and end its sessions.
    LockOutRole {
        /// Its name.
        name: String,
    },
    /// Create a role, and mark it as glowplug's.
    CreateRole {
        /// Its name.
        name: String,
        /// All that it gets.
        with: RoleChange,
    },
    /// Change a role.
    AlterRole {
        /// Its name.
        name: String,
        /// What changes.
        with: RoleChange,
    },
    /// Make a role a member of another.
    GrantRole {
        /// The other.
        role: String,
        /// The member.
        to: String,
    },
    /// End a membership.
    RevokeRole {
        /// The other.
        role: String,
        /// The member.
        from: String,
    },
    /// Free a database from all that depends on a role.
    ReleaseRole {
        /// The role.
        name: String,
        /// The database.
        database: String,
        /// Who gets its objects.
        heir: String,
    },
    /// Drop a role.
    DropRole {
        /// Its name.
        name: String,
    },
    /// Drop what is left of a database whose dropping was interrupted.
    DropInvalidDatabase {
        /// Its name.
        name: String,
    },
    /// Drop the logical replication subscriptions of a database, and leave the
    /// publishers' slots alone.
    DropSubscriptions {
        /// The database.
        database: String,
    },
    /// Drop a database, whoever is connected to it.
    DropDatabase {
        /// Its name.
        name: String,
        /// Whether it is a template, which must end first.
        is_template: bool,
    },
    /// Rename a database, ending the sessions in it.
    RenameDatabase {
        /// Its name before.
        from: String,
        /// Its name afterwards.
        to: String,
    },
    /// Open a session in a template, which leaves behind in its directory what later
    /// sessions start from (`pg_internal.init`); copies of its files have that, too.
    WarmTemplate {
        /// Its name.
        name: String,
    },
    /// Create a database, and mark it as glowplug's.
    CreateDatabase {
        /// Its name.
        name: String,
        /// Its owner.
        owner: String,
        /// All else.
        options: DatabaseOptions,
    },
    /// Give a database to another owner.
    ChangeOwner {
        /// The database.
        database: String,
        /// The new owner.
        owner: String,
    },
    /// Change a database.
    AlterDatabase {
        /// Its name.
        name: String,
        /// What changes.
        with: DatabaseChange,
    },
    /// Grant all privileges on a database.
    GrantDatabase {
        /// The database.
        database: String,
        /// To whom.
        to: String,
    },
    /// Set up the schema `public` of a database, and take note that it is done.
    PrepareDatabase {
        /// The database.
        database: String,
        /// Its owner, who gets the schema.
        owner: String,
        /// The role that gets privileges on tables and sequences to come.
        privileged_role: String,
        /// A role that may create objects in the schema.
        creator: Option<String>,
        /// Stands for all of the above.
        fingerprint: String,
    },
    /// Create an extension.
    CreateExtension {
        /// Its name.
        name: String,
        /// The schema for it, created if it is not there.
        schema: String,
    },
    /// Move an extension to another schema, even one that says it cannot be.
    MoveExtension {
        /// Its name.
        name: String,
        /// The schema, created if it is not there.
        schema: String,
    },
    /// Bring an extension to the version that is installed on disk.
    UpdateExtension {
        /// Its name.
        name: String,
    },
    /// Create the table that availability checks write to.
    CreateHealthCheck,
    /// Keep what happens in a database out of the audit log.
    ExemptFromAudit {
        /// The database.
        database: String,
    },
    /// Create the table that counts migrations.
    PrepareMigrations,
    /// Carry out a migration, and count it.
    Migrate {
        /// Its number.
        number: u32,
        /// Its statement, if there is anything to do.
        sql: Option<String>,
    },
    /// Take note of the last migration where the next process sees it at once.
    NoteMigrations {
        /// The database.
        database: String,
        /// The last migration.
        last: u32,
    },
    /// Take note that subscriptions were dropped on this timeline.
    RecordSubscriptionsDropped {
        /// The timeline.
        timeline: String,
        /// The databases that had some.
        databases: Vec<String>,
    },
}

impl Change {
    /// What it is about.
    pub fn object(&self) -> Object {
        match self {
            Self::CreatePrivilegedRole { name }
            | Self::LockOutRole { name }
            | Self::CreateRole { name, .. }
            | Self::AlterRole { name, .. }
            | Self::RenameRole { from: name, .. }
            | Self::GrantRole { to: name, .. }
            | Self::RevokeRole { from: name, .. }
            | Self::ReleaseRole { name, .. }
            | Self::DropRole { name } => Object::Role(name.clone()),
            Self::DropInvalidDatabase { name }
            | Self::WarmTemplate { name }
            | Self::DropDatabase { name, .. }
            | Self::RenameDatabase { from: name, .. }
            | Self::CreateDatabase { name, .. }
            | Self::AlterDatabase { name, .. }
            | Self::ChangeOwner { database: name, .. }
            | Self::GrantDatabase { database: name, .. }
            | Self::ExemptFromAudit { database: name }
            | Self::PrepareDatabase { database: name, .. } => Object::Database(name.clone()),
            Self::DropSubscriptions { database } => Object::Subscriptions(database.clone()),
            Self::CreateExtension { name, .. }
            | Self::MoveExtension { name, .. }
            | Self::UpdateExtension { name } => Object::Extension(name.clone()),
            Self::PrepareMigrations | Self::NoteMigrations { .. } => MIGRATIONS,
            Self::Migrate { number, .. } => Object::Migration(*number),
            Self::CreateHealthCheck => Object::Table("public.health_check"),
            Self::RecordSubscriptionsDropped { .. } => {
                Object::Table("neon.drop_subscriptions_done")
            }
        }
    }

    /// Objects that later changes cannot do without, and that are not as they should
    /// be if this change fails.
    pub fn provides(&self) -> Option<Object> {
        match self {
            Self::CreatePrivilegedRole { .. }
            | Self::CreateRole { .. }
            | Self::ReleaseRole { .. }
            | Self::DropInvalidDatabase { .. }
            | Self::CreateDatabase { .. }
            | Self::DropSubscriptions { .. }
            | Self::PrepareMigrations
            | Self::Migrate { .. } => Some(self.object()),
            Self::RenameRole { to, .. } => Some(Object::Role(to.clone())),
            Self::RenameDatabase { to, .. } => Some(Object::Database(to.clone())),
            _ => None,
        }
    }

    /// Objects that it cannot do without. The database that it runs in is not among them.
    pub fn needs(&self) -> Vec<Object> {
        let role = |name: &String| Object::Role(name.clone());
        let database = |name: &String| Object::Database(name.clone());
        match self {
            Self::AlterRole { name, .. } | Self::DropRole { name } => vec![role(name)],
            Self::GrantRole { role: group, to } => vec![role(to), role(group)],
            Self::ReleaseRole { heir, .. } => vec![role(heir)],
            Self::CreateDatabase { owner, name, .. } => vec![role(owner), database(name)],
            Self::ChangeOwner {
                database: name,
                owner,
            } => vec![role(owner), database(name)],
            Self::AlterDatabase { name, .. } => vec![database(name)],
            Self::GrantDatabase { database: name, to } => vec![database(name), role(to)],
            Self::PrepareDatabase {
                database: name,
                owner,
                privileged_role,
                ..
            } => {
                vec![database(name), role(owner), role(privileged_role)]
            }
            Self::DropDatabase { name, .. } => vec![Object::Subscriptions(name.clone())],
            Self::Migrate { number: 1, .. } => vec![MIGRATIONS],
            Self::Migrate { number, .. } => vec![MIGRATIONS, Object::Migration(number - 1)],
            Self::NoteMigrations { last, .. } => vec![Object::Migration(*last)],
            Self::RecordSubscriptionsDropped { databases, .. } => databases
                .iter()
                .cloned()
                .map(Object::Subscriptions)
                .collect(),
            _ => Vec::new(),
        }
    }
}
