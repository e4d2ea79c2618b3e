//! Plans databases as a whole: which exist, who owns them, who may use them.

use super::change::Change;
use super::database_options::{CreationValue, DatabaseChange};
use super::desired::{DesiredDatabase, Refusal};
use super::observed::ObservedDatabase;
use super::{Planner, Stage};
use crate::spec::{DeltaOperation, Flavor};

/// From this version on, `CREATE DATABASE` writes the new database to the WAL page by page
/// unless it is told to copy files.
const STRATEGY_SINCE: u32 = 15;
/// From this many databases on, copying files is worth the checkpoint that it takes before
/// and after: those of several sessions are shared, and without `fsync` they are cheap.
const MANY: usize = 8;

/// Databases that postgres itself relies on.
const TEMPLATES: [&str; 2] = ["template0", "template1"];

impl<'a> Planner<'a> {
    /// Plans drops and renames. Afterwards, `databases` has what is left, under the
    /// names that they will have.
    pub(super) fn move_databases(&mut self) {
        let invalid: Vec<&str> = self
            .databases
            .iter()
            .filter(|(_, now)| now.observed.is_invalid())
            .map(|(name, _)| *name)
            .collect();
        for name in invalid {
            self.databases.remove(name);
            let name = name.to_owned();
            self.step(
                Stage::InvalidDatabases,
                Change::DropInvalidDatabase { name },
            );
        }
        for delta in self.deltas() {
            match delta {
                DeltaOperation::DeleteDatabase(name) => self.drop_database(name),
                DeltaOperation::RenameDatabase { from, to } => self.rename_database(from, to),
                DeltaOperation::DeleteRole(_) | DeltaOperation::RenameRole { .. } => {}
            }
        }
        if !self.drops_removed() {
            return;
        }
        let unlisted: Vec<&str> = self
            .databases
            .iter()
            .filter(|(name, now)| {
                now.observed.managed && !self.desired.listed_databases.contains(**name)
            })
            .map(|(name, _)| *name)
            .collect();
        for name in unlisted {
            self.drop_database(name);
        }
    }

    fn drop_database(&mut self, name: &'a str) {
        let Some(now) = self.databases.get(name) else {
            return;
        };
        if self.is_protected_database(now.observed_name) {
            let reason = "it cannot be dropped, since glowplug and postgres rely on it";
            self.refuse(Refusal::database(name, reason));
            return;
        }
        if self.desired.listed_databases.contains(name) {
            let reason = "the spec deletes it and lists it as well; it stays";
            self.refuse(Refusal::database(name, reason));
            return;
        }
        let (observed_name, observed) = (now.observed_name, now.observed);
        if observed.has_subscriptions {
            if !observed.allows_connections {
                let reason = "it cannot be dropped: it has subscriptions, which can be dropped only \
                              inside it, and it allows no connections";
                self.refuse(Refusal::database(name, reason));
                return;
            }
            // Databases are renamed after this, so its name is still the observed one.
            let database = observed_name.to_owned();
            self.step_in(
                Stage::Subscriptions,
                Some(observed_name),
                Change::DropSubscriptions { database },
            );
        }
        self.databases.remove(name);
        self.step(
            Stage::MoveDatabases,
            Change::DropDatabase {
                name: name.to_owned(),
                is_template: observed.is_template,
            },
        );
    }

    fn rename_database(&mut self, from: &'a str, to: &'a str) {
        let Some(now) = self.databases.get(from).filter(|_| from != to) else {
            return;
        };
        if self.is_protected_database(now.observed_name) {
            let reason = "it cannot be renamed, since glowplug and postgres rely on its name";
            self.refuse(Refusal::database(from, reason));
        } else if self.databases.contains_key(to) {
            let reason = format!("it cannot be renamed to {to:?}, since that exists");
            self.refuse(Refusal::database(from, reason));
        } else if let Some(now) = self.databases.remove(from) {
            self.databases.insert(to, now);
            let (from, to) = (from.to_owned(), to.to_owned());
            self.step(Stage::MoveDatabases, Change::RenameDatabase { from, to });
        }
    }

    fn is_protected_database(&self, name: &str) -> bool {
        name == self.observed.system_database || TEMPLATES.contains(&name)
    }

    pub(super) fn plan_databases(&mut self) {
        let copies_files = self.copies_files();
        if copies_files {
            self.warm_template();
        }
        for database in &self.desired.databases {
            match self.databases.get(database.name.as_str()) {
                Some(now) => {
                    let (owner, observed) = (self.owner_now(now), now.observed);
                    self.change_database(database, owner, observed);
                }
                None => self.create_database(database, copies_files),
            }
        }
        self.disown_databases();
    }

    /// Whether to copy files for the databases that are made. What is replayed from the WAL
    /// is then the copying, of the template as it was at that point: safe where nothing but
    /// a base that was shut down cleanly is ever replayed onto, as with this flavor.
    fn copies_files(&self) -> bool {
        let listed = self.desired.databases.iter();
        let missing =
            listed.filter(|database| !self.databases.contains_key(database.name.as_str()));
        self.desired.flavor == Flavor::Vanilla
            && !self.observed.forces_files
            && self.observed.major() >= STRATEGY_SINCE
            && missing.count() >= MANY
    }

    fn warm_template(&mut self) {
        let [_, template] = TEMPLATES;
        let observed = self.databases.get(template).map(|now| now.observed);
        if observed.is_some_and(|observed| observed.allows_connections) {
            let name = template.to_owned();
            self.step_in(
                Stage::Template,
                Some(template),
                Change::WarmTemplate { name },
            );
        }
    }

    fn create_database(&mut self, database: &DesiredDatabase, copies_files: bool) {
        let mut options = database.options.clone();
        if copies_files
            && !options
                .at_creation
                .iter()
                .any(|(word, _)| *word == "STRATEGY")
        {
            let strategy = CreationValue::Text("file_copy".to_owned());
            options.at_creation.push(("STRATEGY", strategy));
        }
        self.step(
            Stage::Databases,
            Change::CreateDatabase {
                name: database.name.clone(),
                owner: database.owner.clone(),
                options,
            },
        );
        self.grant_database(&database.name);
    }

    fn change_database(
        &mut self,
        database: &DesiredDatabase,
        owner: Option<&str>,
        observed: &ObservedDatabase,
    ) {
        if owner != Some(database.owner.as_str()) {
            self.change_owner(&database.name, &database.owner);
        }
        let stated = &database.options.alterable;
        let mut with = DatabaseChange {
            connection_limit: stated
                .connection_limit
                .filter(|limit| *limit != observed.connection_limit),
            allow_connections: stated
                .allow_connections
                .filter(|allow| *allow != observed.allows_connections),
            is_template: stated
                .is_template
                .filter(|is_template| *is_template != observed.is_template),
        };
        let closing = DatabaseChange {
            allow_connections: with.allow_connections.take_if(|allow| !*allow),
            ..DatabaseChange::default()
        };
        if !closing.is_empty() && database.name == self.observed.system_database {
            let reason = "it has to allow connections: glowplug connects to it";
            self.refuse(Refusal::database(&database.name, reason));
            return;
        }
        for (stage, with) in [(Stage::Databases, with), (Stage::CloseDatabases, closing)] {
            if !with.is_empty() {
                let name = database.name.clone();
                self.step(stage, Change::AlterDatabase { name, with });
            }
        }
        if !observed.is_granted && database.name != self.observed.system_database {
            self.grant_database(&database.name);
        }
    }

    fn grant_database(&mut self, database: &str) {
        self.step(
            Stage::Databases,
            Change::GrantDatabase {
                database: database.to_owned(),
                to: self.desired.privileged_role.clone(),
            },
        );
    }

    fn change_owner(&mut self, database: &str, owner: &str) {
        self.step(
            Stage::Databases,
            Change::ChangeOwner {
                database: database.to_owned(),
                owner: owner.to_owned(),
            },
        );
    }

    /// Databases outside the spec whose owner leaves go to the superuser. Left to
    /// `REASSIGN OWNED`, they would go to whoever inherits from the first database in
    /// which that runs.
    fn disown_databases(&mut self) {
        let orphans: Vec<&str> = self
            .databases
            .iter()
            .filter(|(name, _)| !self.desired_databases.contains_key(**name))
            .filter(|(_, now)| {
                self.owner_now(now)
                    .is_some_and(|o| self.leaving.contains(o))
            })
            .map(|(name, _)| *name)
            .collect();
        for name in orphans {
            self.change_owner(name, &self.observed.superuser);
        }
    }
}
