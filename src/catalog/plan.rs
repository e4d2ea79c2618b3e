//! Decides what to change so that the catalog is as a spec wants it. Pure.
//!
//! [`plan`] compares [`Observed`] with [`Desired`] and gives [`Step`]s in [`Stage`]s.
//! Steps of one stage do not need each other; a stage needs the ones before it. What
//! the spec states is made so; what it is silent about is left as users made it.
//!
//! # Guarantees
//!
//! 1. A plan for a catalog that matches is empty, and carrying out a plan makes the
//!    catalog match (`tests`: `a_carried_out_plan_leaves_nothing_to_do`).
//! 2. Roles that postgres or glowplug lives on (the superuser, the privileged role,
//!    `pg_…`), the database of the session and the templates are never dropped.
//! 3. Only objects that glowplug created are dropped for being absent from the spec,
//!    and only if the spec says so ([`RemovedObjects::Drop`](crate::spec::RemovedObjects)).
//! 4. What a spec both lists and deletes is kept, and reported.

pub mod change;
pub mod database_options;
mod databases;
pub mod desired;
mod inside;
mod migrations;
pub mod observed;
pub mod role_options;
mod roles;
mod system;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use migrations::LAST as LAST_MIGRATION;

use change::Change;
use desired::{Desired, DesiredDatabase, Refusal};
use observed::{Observed, ObservedDatabase, ObservedRole};

use crate::spec::{DeltaOperation, RemovedObjects};

/// What happens together. In this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The privileged role.
    PrivilegedRole,
    /// One-off changes of the privileged role and of what earlier versions got wrong.
    Migrations,
    /// Databases that a crash left half dropped.
    InvalidDatabases,
    /// Renames of roles, in the order of the spec.
    RenameRoles,
    /// Roles that will go can no longer get in the way.
    LockOutRoles,
    /// Roles created and changed.
    Roles,
    /// Memberships.
    Memberships,
    /// Subscriptions, without which databases cannot be dropped.
    Subscriptions,
    /// Databases renamed and dropped, in the order of the spec.
    MoveDatabases,
    /// What new databases are copies of, made ready for that.
    Template,
    /// Databases created and changed.
    Databases,
    /// What databases share, freed from roles that go. One role after the other: they
    /// may have privileges on the same database.
    ReleaseShared,
    /// What is inside databases.
    Inside,
    /// Roles dropped.
    DropRoles,
    /// Databases that shall take no more connections, now that there is nothing left
    /// to do inside.
    CloseDatabases,
    /// What is written down about earlier stages.
    Records,
}

impl Stage {
    /// Whether the steps of one object or database may run beside those of others.
    pub const fn is_parallel(self) -> bool {
        match self {
            Self::InvalidDatabases
            | Self::Roles
            | Self::Subscriptions
            | Self::Databases
            | Self::Inside => true,
            // Renames may need each other. Grants of one role wait for each other anyway:
            // postgres 16 and newer lock it until the transaction ends.
            Self::PrivilegedRole
            | Self::Migrations
            | Self::RenameRoles
            | Self::LockOutRoles
            | Self::Memberships
            | Self::MoveDatabases
            | Self::Template
            | Self::ReleaseShared
            | Self::DropRoles
            | Self::CloseDatabases
            | Self::Records => false,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::PrivilegedRole => "privileged role",
            Self::Migrations => "migrations",
            Self::InvalidDatabases => "databases left half dropped",
            Self::RenameRoles => "roles renamed",
            Self::LockOutRoles => "roles on their way out",
            Self::Roles => "roles",
            Self::Memberships => "memberships",
            Self::Subscriptions => "subscriptions",
            Self::MoveDatabases => "databases renamed and dropped",
            Self::Template => "template",
            Self::Databases => "databases",
            Self::ReleaseShared => "roles parted from what they have",
            Self::Inside => "inside databases",
            Self::DropRoles => "roles dropped",
            Self::CloseDatabases => "databases closed",
            Self::Records => "records",
        }
    }
}

/// One change, and where it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its stage.
    pub stage: Stage,
    /// The database to be connected to; `None` for the one of the observing session.
    pub database: Option<String>,
    /// The change.
    pub change: Change,
}

/// All that is to be done, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes, sorted by stage.
    pub steps: Vec<Step>,
    /// What cannot be done.
    pub refusals: Vec<Refusal>,
    /// Databases of the spec that allow no connections, so that nothing can be set up
    /// inside them.
    pub skipped_databases: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Plan {
    /// In one line: a fresh cluster gets all of them.
    fn write_migrations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.steps.iter().filter_map(|step| match step.change {
            Change::Migrate { number, .. } => Some(number),
            _ => None,
        });
        match (numbers.next(), numbers.next_back()) {
            (Some(first), Some(last)) => writeln!(f, "  carry out migrations {first} to {last}"),
            (Some(only), None) => writeln!(f, "  carry out migration {only}"),
            (None, _) => writeln!(f, "  take note that all are done"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            writeln!(f, "nothing to change")?;
        }
        let mut stage = None;
        for step in &self.steps {
            if stage != Some(step.stage) {
                writeln!(f, "{}:", step.stage.title())?;
                stage = Some(step.stage);
                if step.stage == Stage::Migrations {
                    self.write_migrations(f)?;
                }
            }
            match &step.database {
                _ if step.stage == Stage::Migrations => {}
                Some(database) => writeln!(f, "  in database {database:?}: {}", step.change)?,
                None => writeln!(f, "  {}", step.change)?,
            }
        }
        if !self.skipped_databases.is_empty() {
            writeln!(f, "left alone inside, since they allow no connections:")?;
        }
        for database in &self.skipped_databases {
            writeln!(f, "  database {database:?}")?;
        }
        if !self.refusals.is_empty() {
            writeln!(f, "not possible:")?;
        }
        for refusal in &self.refusals {
            writeln!(f, "  {}: {}", refusal.object, refusal.reason)?;
        }
        Ok(())
    }
}

/// Compares, and decides.
pub fn plan(observed: &Observed, desired: &Desired) -> Plan {
    let mut planner = Planner::new(observed, desired);
    if desired.skips {
        planner.plan.refusals.clear();
        planner.drop_subscriptions();
        planner.update_neon();
        return planner.finish();
    }
    planner.plan_privileged_role();
    planner.plan_migrations();
    planner.rename_roles();
    planner.move_databases();
    planner.choose_leaving_roles();
    planner.plan_roles();
    planner.plan_databases();
    planner.plan_inside();
    planner.drop_roles();
    planner.plan_system_database();
    planner.finish()
}

/// Roles of the spec that are gone from it: those that a second query should find the
/// dependencies of, before planning.
pub fn roles_that_may_leave<'a>(observed: &'a Observed, desired: &'a Desired) -> Vec<&'a str> {
    if desired.skips {
        return Vec::new();
    }
    let mut planner = Planner::new(observed, desired);
    planner.rename_roles();
    planner.move_databases();
    planner.choose_leaving_roles();
    let original = |name: &&str| planner.roles.get(name).map(|role| role.observed_name);
    planner.leaving.iter().filter_map(original).collect()
}

/// A role as it will be when the renames are through.
struct RoleNow<'a> {
    observed_name: &'a str,
    observed: &'a ObservedRole,
    /// An MD5 verifier does not survive a rename.
    verifier_is_lost: bool,
}

/// A database as it will be when renames and drops are through.
struct DatabaseNow<'a> {
    observed_name: &'a str,
    observed: &'a ObservedDatabase,
}

struct Planner<'a> {
    observed: &'a Observed,
    desired: &'a Desired,
    desired_databases: BTreeMap<&'a str, &'a DesiredDatabase>,
    /// By current name.
    roles: BTreeMap<&'a str, RoleNow<'a>>,
    /// Current names, of roles that were renamed, by observed name.
    renamed: BTreeMap<&'a str, &'a str>,
    /// By current name.
    databases: BTreeMap<&'a str, DatabaseNow<'a>>,
    /// Current names of roles that will be dropped.
    leaving: BTreeSet<&'a str>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(observed: &'a Observed, desired: &'a Desired) -> Self {
        let role = |(name, role): (&'a String, &'a ObservedRole)| {
            let now = RoleNow {
                observed_name: name,
                observed: role,
                verifier_is_lost: false,
            };
            (name.as_str(), now)
        };
        let database = |(name, database): (&'a String, &'a ObservedDatabase)| {
            let now = DatabaseNow {
                observed_name: name,
                observed: database,
            };
            (name.as_str(), now)
        };
        let listed = desired.databases.iter();
        Self {
            observed,
            desired,
            desired_databases: listed
                .map(|database| (database.name.as_str(), database))
                .collect(),
            roles: observed.roles.iter().map(role).collect(),
            renamed: BTreeMap::new(),
            databases: observed.databases.iter().map(database).collect(),
            leaving: BTreeSet::new(),
            plan: Plan {
                refusals: desired.refusals.clone(),
                ..Plan::default()
            },
        }
    }

    fn step(&mut self, stage: Stage, change: Change) {
        self.step_in(stage, None, change);
    }

    fn step_in(&mut self, stage: Stage, database: Option<&str>, change: Change) {
        self.plan.steps.push(Step {
            stage,
            database: database.map(str::to_owned),
            change,
        });
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.plan.refusals.push(refusal);
    }

    fn finish(mut self) -> Plan {
        // Stable: within a stage, the order of planning stays.
        self.plan.steps.sort_by_key(|step| step.stage);
        self.plan
    }

    /// What a role of the observed catalog is called after the renames.
    fn current_name(&self, observed_name: &'a str) -> &'a str {
        self.renamed
            .get(observed_name)
            .copied()
            .unwrap_or(observed_name)
    }

    /// Who owns a database now, by current name.
    fn owner_now(&self, database: &DatabaseNow<'a>) -> Option<&'a str> {
        database
            .observed
            .owner
            .as_deref()
            .map(|owner| self.current_name(owner))
    }

    fn drops_removed(&self) -> bool {
        self.desired.removed_objects == RemovedObjects::Drop
    }

    fn deltas(&self) -> impl Iterator<Item = &'a DeltaOperation> + use<'a> {
        self.desired.deltas.iter()
    }
}
