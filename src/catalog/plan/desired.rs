//! The catalog as a spec wants it: names checked, options read, passwords settled.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Object;
use super::database_options::DatabaseOptions;
use super::observed::Observed;
use super::role_options::RoleOptions;
use crate::catalog::password::{PasswordError, Verifier};
use crate::catalog::quote::{check_name, check_role_name};
use crate::id::TimelineId;
use crate::secret::Secret;
use crate::spec::{
    AuditLevel, ComputeSpec, Database, DeltaOperation, Flavor, PRIVILEGED_ROLE, RemovedObjects,
    Role,
};

/// What a plan leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Name of the privileged role.
    pub privileged_role: String,
    /// Neon's postgres, or any.
    pub flavor: Flavor,
    /// Roles, each name once.
    pub roles: Vec<DesiredRole>,
    /// Databases, each name once.
    pub databases: Vec<DesiredDatabase>,
    /// Names of all roles in the spec, also of those that cannot be had.
    pub listed_roles: BTreeSet<String>,
    /// Names of all databases in the spec, also of those that cannot be had.
    pub listed_databases: BTreeSet<String>,
    /// Renames and deletions.
    pub deltas: Vec<DeltaOperation>,
    /// What happens to what the spec no longer has.
    pub removed_objects: RemovedObjects,
    /// How much is audited.
    pub audit: AuditLevel,
    /// The timeline on which logical replication subscriptions must be dropped once.
    pub drop_subscriptions_on: Option<TimelineId>,
    /// Leave alone what is not indispensable.
    pub skips: bool,
    /// Parts of the spec that cannot be carried out.
    pub refusals: Vec<Refusal>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredRole {
    /// Its name.
    pub name: String,
    /// What should stand for its password.
    pub verifier: Option<Verifier>,
    /// Whether it is a member of the privileged role, and gets attributes to match.
    pub is_privileged: bool,
    /// What the spec says about it, memberships included.
    pub options: RoleOptions,
}

/// A database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredDatabase {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// What the spec says about it.
    pub options: DatabaseOptions,
}

/// A part of a spec that cannot be carried out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The object it is about.
    pub object: Object,
    /// Why, and what to do.
    pub reason: String,
}

impl Refusal {
    pub(super) fn role(name: &str, reason: impl Into<String>) -> Self {
        Self {
            object: Object::Role(name.to_owned()),
            reason: reason.into(),
        }
    }

    pub(super) fn database(name: &str, reason: impl Into<String>) -> Self {
        Self {
            object: Object::Database(name.to_owned()),
            reason: reason.into(),
        }
    }
}

/// A verifier, or why there is none, of each role with a password.
pub type Verifiers = BTreeMap<String, Result<Verifier, PasswordError>>;

/// What postgres stores for a role's password, or will when the spec's renames are
/// through.
pub fn stored_verifier<'a>(
    role: &str,
    deltas: &[DeltaOperation],
    observed: &'a Observed,
) -> Option<&'a Secret> {
    let renamed = || {
        deltas.iter().find_map(|delta| match delta {
            DeltaOperation::RenameRole { from, to } if to == role => observed.roles.get(from),
            _ => None,
        })
    };
    let role = observed.roles.get(role).or_else(renamed)?;
    role.verifier.as_ref()
}

impl Desired {
    /// Reads the catalog part of `spec`. What cannot be read is in `refusals`.
    pub fn new(spec: &ComputeSpec, privileged_role: &str, verifiers: &Verifiers) -> Self {
        let mut desired = Self {
            privileged_role: privileged_role.to_owned(),
            flavor: spec.postgres.flavor,
            roles: Vec::with_capacity(spec.roles.len()),
            databases: Vec::with_capacity(spec.databases.len()),
            listed_roles: spec.roles.iter().map(|role| role.name.clone()).collect(),
            listed_databases: spec.databases.iter().map(|db| db.name.clone()).collect(),
            deltas: Vec::new(),
            removed_objects: spec.removed_objects,
            audit: spec.neon.audit_log_level,
            drop_subscriptions_on: spec
                .neon
                .drop_subscriptions_before_start
                .then_some(spec.timeline_id),
            skips: spec.skip_catalog_updates,
            refusals: Vec::new(),
        };
        desired.take_roles(&spec.roles, verifiers);
        desired.take_databases(&spec.databases);
        for delta in &spec.delta_operations {
            match check_delta(delta) {
                Ok(()) => desired.deltas.push(delta.clone()),
                Err(refusal) => desired.refusals.push(refusal),
            }
        }
        desired
    }

    fn take_roles(&mut self, roles: &[Role], verifiers: &Verifiers) {
        let mut first: BTreeMap<&str, &Role> = BTreeMap::new();
        for role in roles {
            let same_name = *first.entry(&role.name).or_insert(role);
            if !std::ptr::eq(same_name, role) {
                if same_name != role {
                    self.refusals.push(Refusal::role(&role.name, LISTED_TWICE));
                }
                continue;
            }
            match self.role(role, verifiers.get(&role.name)) {
                Ok(role) => self.roles.push(role),
                Err(reason) => self.refusals.push(Refusal::role(&role.name, reason)),
            }
        }
    }

    fn role(
        &self,
        role: &Role,
        verifier: Option<&Result<Verifier, PasswordError>>,
    ) -> Result<DesiredRole, String> {
        check_role_name(&role.name).map_err(|error| error.to_string())?;
        let mut options = RoleOptions::parse(&role.options).map_err(|error| error.to_string())?;
        if role.password.is_some() && verifier.is_none() {
            return Err("its password was not processed".to_owned());
        }
        let verifier = verifier
            .cloned()
            .transpose()
            .map_err(|error| error.to_string())?;
        // Unless the spec has a role of this name, it means the privileged one.
        let stands_for = !self.listed_roles.contains(PRIVILEGED_ROLE);
        let mut groups: Vec<String> = Vec::new();
        for group in role.member_of.iter().chain(&options.member_of) {
            let group = if stands_for && group == PRIVILEGED_ROLE {
                &self.privileged_role
            } else {
                group
            };
            if !groups.contains(group) {
                check_name(group).map_err(|error| format!("memberOf {group:?}: {error}"))?;
                groups.push(group.clone());
            }
        }
        options.member_of = groups;
        Ok(DesiredRole {
            name: role.name.clone(),
            verifier,
            is_privileged: options.member_of.contains(&self.privileged_role),
            options,
        })
    }

    fn take_databases(&mut self, databases: &[Database]) {
        let mut first: BTreeMap<&str, &Database> = BTreeMap::new();
        for database in databases {
            let same_name = *first.entry(&database.name).or_insert(database);
            if !std::ptr::eq(same_name, database) {
                if same_name != database {
                    self.refusals
                        .push(Refusal::database(&database.name, LISTED_TWICE));
                }
                continue;
            }
            match desired_database(database) {
                Ok(database) => self.databases.push(database),
                Err(reason) => self
                    .refusals
                    .push(Refusal::database(&database.name, reason)),
            }
        }
    }
}

const LISTED_TWICE: &str = "the spec lists it twice, differently; the first entry is used";

fn desired_database(database: &Database) -> Result<DesiredDatabase, String> {
    check_name(&database.name).map_err(|error| error.to_string())?;
    check_name(&database.owner).map_err(|error| format!("owner {:?}: {error}", database.owner))?;
    let options = DatabaseOptions::parse(&database.options).map_err(|error| error.to_string())?;
    Ok(DesiredDatabase {
        name: database.name.clone(),
        owner: database.owner.clone(),
        options,
    })
}

/// Only new names are checked: an object of an impossible name does not exist, and
/// then there is nothing to do.
fn check_delta(delta: &DeltaOperation) -> Result<(), Refusal> {
    match delta {
        DeltaOperation::RenameRole { from, to } => check_role_name(to)
            .map_err(|error| Refusal::role(from, format!("cannot be renamed to {to:?}: {error}"))),
        DeltaOperation::RenameDatabase { from, to } => check_name(to).map_err(|error| {
            Refusal::database(from, format!("cannot be renamed to {to:?}: {error}"))
        }),
        DeltaOperation::DeleteRole(_) | DeltaOperation::DeleteDatabase(_) => Ok(()),
    }
}
