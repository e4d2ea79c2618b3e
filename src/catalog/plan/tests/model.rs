//! A catalog in memory that changes as postgres' does, as strict about it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Plan;
use super::super::change::{Change, PasswordChange, RoleChange};
use super::super::database_options::DatabaseChange;
use super::super::observed::{
    InstalledExtension, Membership, Observed, ObservedDatabase, ObservedRole,
};
use super::super::role_options::{Flag, Flags};
use crate::secret::Secret;

/// Carries out every step of `plan`, and panics where postgres would refuse.
pub(super) fn carry_out(observed: &mut Observed, plan: &Plan) {
    for step in &plan.steps {
        if let Some(database) = &step.database {
            assert!(
                observed.databases[database].allows_connections,
                "{}",
                step.change
            );
        }
        carry_out_change(observed, &step.change);
    }
}

/// What would keep each role from being dropped, were there tables of every role in
/// every database that it owns.
pub(super) fn dependencies(observed: &Observed) -> BTreeMap<String, BTreeSet<Option<String>>> {
    let mut dependencies: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
    for (name, database) in &observed.databases {
        if let Some(owner) = &database.owner {
            let places = dependencies.entry(owner.clone()).or_default();
            places.extend([None, Some(name.clone())]);
        }
    }
    dependencies
}

fn role<'a>(observed: &'a mut Observed, name: &str) -> &'a mut ObservedRole {
    observed
        .roles
        .get_mut(name)
        .unwrap_or_else(|| panic!("role {name:?} does not exist"))
}

fn database<'a>(observed: &'a mut Observed, name: &str) -> &'a mut ObservedDatabase {
    let database = observed.databases.get_mut(name);
    database.unwrap_or_else(|| panic!("database {name:?} does not exist"))
}

fn carry_out_change(observed: &mut Observed, change: &Change) {
    match change {
        Change::CreatePrivilegedRole { name } => {
            let flags = [
                Flag::Inherit,
                Flag::CreateDb,
                Flag::CreateRole,
                Flag::Replication,
                Flag::BypassRls,
            ];
            create_role(observed, name, Flags::of(&flags), false);
            for group in ["pg_read_all_data", "pg_write_all_data"] {
                grant(observed, group, name);
            }
        }
        Change::RenameRole { from, to } => rename_role(observed, from, to),
        Change::LockOutRole { name } => {
            let role = role(observed, name);
            role.flags = role.flags.with(Flag::Login, false);
        }
        Change::CreateRole { name, with } => {
            create_role(observed, name, Flags::of(&[Flag::Inherit]), true);
            alter_role(role(observed, name), with);
        }
        Change::AlterRole { name, with } => {
            assert!(!with.is_empty(), "{change}");
            alter_role(role(observed, name), with);
        }
        Change::GrantRole { role: group, to } => {
            role(observed, to);
            if !group.starts_with("pg_") {
                role(observed, group);
            }
            grant(observed, group, to);
        }
        Change::RevokeRole { role: group, from } => {
            let memberships = observed.memberships.get_mut(from).unwrap();
            memberships.retain(|membership| membership.role != *group);
        }
        Change::ReleaseRole {
            name,
            database,
            heir,
        } => {
            role(observed, heir);
            let places = observed.dependencies.get_mut(name).unwrap();
            places.remove(&None);
            places.remove(&Some(database.clone()));
        }
        Change::DropRole { name } => drop_role(observed, name),
        change => carry_out_database_change(observed, change),
    }
}

fn carry_out_database_change(observed: &mut Observed, change: &Change) {
    match change {
        Change::DropSubscriptions { database: name } => {
            database(observed, name).has_subscriptions = false;
        }
        Change::DropInvalidDatabase { name } | Change::DropDatabase { name, .. } => {
            assert!(
                observed.databases.remove(name).is_some(),
                "{name} does not exist"
            );
            for places in observed.dependencies.values_mut() {
                places.remove(&Some(name.clone()));
            }
        }
        Change::RenameDatabase { from, to } => rename_database(observed, from, to),
        Change::WarmTemplate { name } => {
            database(observed, name);
        }
        Change::CreateDatabase {
            name,
            owner,
            options,
        } => {
            role(observed, owner);
            let mut created = ObservedDatabase {
                owner: Some(owner.clone()),
                allows_connections: true,
                is_template: false,
                connection_limit: -1,
                is_granted: false,
                has_subscriptions: false,
                managed: true,
                prepared: None,
            };
            alter_database(&mut created, &options.alterable);
            assert!(
                observed.databases.insert(name.clone(), created).is_none(),
                "{name} exists"
            );
        }
        Change::ChangeOwner {
            database: name,
            owner,
        } => {
            role(observed, owner);
            database(observed, name).owner = Some(owner.clone());
        }
        Change::AlterDatabase { name, with } => {
            assert!(!with.is_empty(), "{change}");
            alter_database(database(observed, name), with);
        }
        Change::GrantDatabase { database: name, to } => {
            role(observed, to);
            database(observed, name).is_granted = true;
        }
        Change::PrepareDatabase {
            database: name,
            owner,
            fingerprint,
            creator,
            ..
        } => {
            role(observed, owner);
            if let Some(creator) = creator {
                role(observed, creator);
            }
            database(observed, name).prepared = Some(fingerprint.clone());
        }
        Change::CreateExtension { name, .. } | Change::UpdateExtension { name } => {
            let extension = InstalledExtension {
                version: "1".to_owned(),
                schema: "public".to_owned(),
            };
            observed.system.extensions.insert(name.clone(), extension);
        }
        Change::MoveExtension { name, schema } => {
            let extension = observed.system.extensions.get_mut(name).unwrap();
            extension.schema.clone_from(schema);
        }
        Change::ExemptFromAudit { .. } => observed.system.is_unaudited = true,
        Change::PrepareMigrations => {
            observed.system.has_migration_table = true;
            observed.system.migration = Some(0);
        }
        Change::Migrate { number, .. } => {
            let before = observed.system.migration.replace(i64::from(*number));
            assert_eq!(before, Some(i64::from(number - 1)));
        }
        Change::NoteMigrations { last, .. } => observed.system.migrations_noted = *last,
        Change::CreateHealthCheck => observed.system.has_health_check = true,
        Change::RecordSubscriptionsDropped { timeline, .. } => {
            observed.system.has_subscriptions_record = true;
            observed.system.subscriptions_dropped_on = Some(timeline.clone());
        }
        change => panic!("no change of a database: {change}"),
    }
}

fn create_role(observed: &mut Observed, name: &str, flags: Flags, managed: bool) {
    let role = ObservedRole {
        flags,
        connection_limit: -1,
        valid_until: None,
        verifier: None,
        managed,
    };
    assert!(
        observed.roles.insert(name.to_owned(), role).is_none(),
        "role {name:?} exists"
    );
}

fn alter_role(role: &mut ObservedRole, with: &RoleChange) {
    for (flag, on) in &with.flags {
        role.flags = role.flags.with(*flag, *on);
    }
    if let Some(limit) = with.connection_limit {
        role.connection_limit = limit;
    }
    if let Some(until) = &with.valid_until {
        role.valid_until = until.moment;
    }
    match &with.password {
        Some(PasswordChange::Clear) => role.verifier = None,
        Some(PasswordChange::Set(verifier)) => role.verifier = Some(Secret::new(verifier.reveal())),
        None => {}
    }
}

fn grant(observed: &mut Observed, group: &str, member: &str) {
    let memberships = observed.memberships.entry(member.to_owned()).or_default();
    memberships.push(Membership {
        role: group.to_owned(),
        by_superuser: true,
    });
}

fn rename_role(observed: &mut Observed, from: &str, to: &str) {
    let mut role = observed.roles.remove(from).unwrap();
    if role
        .verifier
        .as_ref()
        .is_some_and(|verifier| verifier.reveal().starts_with("md5"))
    {
        role.verifier = None;
    }
    assert!(
        observed.roles.insert(to.to_owned(), role).is_none(),
        "role {to:?} exists"
    );
    if let Some(memberships) = observed.memberships.remove(from) {
        observed.memberships.insert(to.to_owned(), memberships);
    }
    for membership in observed.memberships.values_mut().flatten() {
        if membership.role == from {
            to.clone_into(&mut membership.role);
        }
    }
    for database in observed.databases.values_mut() {
        if database.owner.as_deref() == Some(from) {
            database.owner = Some(to.to_owned());
        }
    }
    if let Some(places) = observed.dependencies.remove(from) {
        observed.dependencies.insert(to.to_owned(), places);
    }
}

fn drop_role(observed: &mut Observed, name: &str) {
    let owns = |database: &&ObservedDatabase| database.owner.as_deref() == Some(name);
    assert!(
        observed.databases.values().find(owns).is_none(),
        "role {name:?} owns a database"
    );
    let left = observed.dependencies.remove(name).unwrap_or_default();
    let left: Vec<_> = left.into_iter().flatten().collect();
    assert!(left.is_empty(), "role {name:?} has objects in {left:?}");
    assert!(
        observed.roles.remove(name).is_some(),
        "role {name:?} does not exist"
    );
    observed.memberships.remove(name);
    for memberships in observed.memberships.values_mut() {
        memberships.retain(|membership| membership.role != name);
    }
}

fn rename_database(observed: &mut Observed, from: &str, to: &str) {
    let database = observed.databases.remove(from).unwrap();
    assert!(
        observed.databases.insert(to.to_owned(), database).is_none(),
        "{to} exists"
    );
    for places in observed.dependencies.values_mut() {
        if places.remove(&Some(from.to_owned())) {
            places.insert(Some(to.to_owned()));
        }
    }
}

fn alter_database(database: &mut ObservedDatabase, with: &DatabaseChange) {
    if let Some(limit) = with.connection_limit {
        database.connection_limit = limit;
    }
    if let Some(allow) = with.allow_connections {
        database.allows_connections = allow;
    }
    if let Some(is_template) = with.is_template {
        database.is_template = is_template;
    }
}
