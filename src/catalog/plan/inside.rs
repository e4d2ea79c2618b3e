//! Plans what happens inside databases.

use std::iter;

use sha2::{Digest, Sha256};

use super::change::Change;
use super::desired::DesiredDatabase;
use super::{DatabaseNow, Planner, Stage};

/// A role of Neon's SQL editor, which may create objects where it exists.
const CREATOR: &str = "web_access";
/// From this version on, not everybody may create objects in the schema `public`.
const PUBLIC_IS_CLOSED_SINCE: u32 = 15;
/// Raised whenever the preparation does something else than before.
const PREPARATION: &str = "1";

impl<'a> Planner<'a> {
    pub(super) fn plan_inside(&mut self) {
        self.release_roles();
        self.prepare_databases();
        self.drop_subscriptions();
    }

    /// Frees databases from what depends on leaving roles.
    fn release_roles(&mut self) {
        for name in self.leaving.clone() {
            let observed_name = self.roles.get(name).map(|role| role.observed_name);
            let dependencies = observed_name.and_then(|name| self.observed.dependencies.get(name));
            let Some(dependencies) = dependencies else {
                continue;
            };
            let mut places: Vec<&str> = self
                .databases
                .iter()
                .filter(|(_, now)| dependencies.contains(&Some(now.observed_name.to_owned())))
                .map(|(name, _)| *name)
                .collect();
            if places.is_empty() {
                // What databases share can be freed from any of them.
                places.push(&self.observed.system_database);
            }
            // From the first one, what databases share is freed as well.
            let stages = iter::once(Stage::ReleaseShared).chain(iter::repeat(Stage::Inside));
            for (place, stage) in places.into_iter().zip(stages) {
                let change = Change::ReleaseRole {
                    name: name.to_owned(),
                    database: place.to_owned(),
                    heir: self.heir(place).to_owned(),
                };
                self.step_in(stage, Some(place), change);
            }
        }
    }

    /// Who gets what a leaving role owns in a database.
    fn heir(&self, database: &str) -> &'a str {
        if database == self.observed.system_database {
            return &self.observed.superuser;
        }
        if let Some(desired) = self.desired_databases.get(database) {
            return &desired.owner;
        }
        let owner = self
            .databases
            .get(database)
            .and_then(|now| self.owner_now(now));
        owner
            .filter(|owner| !self.leaving.contains(owner))
            .unwrap_or(&self.observed.superuser)
    }

    fn prepare_databases(&mut self) {
        let creator = self.creator();
        for database in &self.desired.databases {
            let now = self.databases.get(database.name.as_str());
            if !will_allow_connections(database, now) {
                self.plan.skipped_databases.push(database.name.clone());
                continue;
            }
            let fingerprint = self.fingerprint(&database.owner, creator.as_deref());
            let prepared = now.and_then(|now| now.observed.prepared.as_deref());
            if prepared == Some(fingerprint.as_str()) {
                continue;
            }
            let change = Change::PrepareDatabase {
                database: database.name.clone(),
                owner: database.owner.clone(),
                privileged_role: self.desired.privileged_role.clone(),
                creator: creator.clone(),
                fingerprint,
            };
            self.step_in(Stage::Inside, Some(&database.name), change);
        }
    }

    fn creator(&self) -> Option<String> {
        let wanted = self.observed.major() >= PUBLIC_IS_CLOSED_SINCE;
        let exists = self.roles.contains_key(CREATOR)
            || self.desired.roles.iter().any(|role| role.name == CREATOR);
        (wanted && exists && !self.leaving.contains(CREATOR)).then(|| CREATOR.to_owned())
    }

    /// Equal for equal preparations. Written into the database's settings, so that the
    /// next process knows without connecting to it.
    fn fingerprint(&self, owner: &str, creator: Option<&str>) -> String {
        let mut hash = Sha256::new();
        for part in [
            PREPARATION,
            owner,
            &self.desired.privileged_role,
            creator.unwrap_or_default(),
        ] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hex::encode(&hash.finalize()[..8])
    }

    /// On the first start of a branch, subscriptions inherited from the parent would
    /// compete with the parent's for its publishers' slots: in databases that the spec
    /// does not list as well.
    pub(super) fn drop_subscriptions(&mut self) {
        let Some(timeline) = self.desired.drop_subscriptions_on else {
            return;
        };
        let timeline = timeline.to_string();
        let system = &self.observed.system;
        if system.subscriptions_dropped_on.as_ref() == Some(&timeline) {
            return;
        }
        let databases: Vec<String> = self
            .databases
            .iter()
            .filter(|(name, now)| {
                let allows = match self.desired_databases.get(*name) {
                    Some(desired) => will_allow_connections(desired, Some(now)),
                    None => now.observed.allows_connections,
                };
                now.observed.has_subscriptions && allows
            })
            .map(|(name, _)| (*name).to_owned())
            .collect();
        for name in &databases {
            let database = name.clone();
            self.step_in(
                Stage::Inside,
                Some(name),
                Change::DropSubscriptions { database },
            );
        }
        self.step(
            Stage::Records,
            Change::RecordSubscriptionsDropped {
                timeline,
                databases,
            },
        );
    }
}

fn will_allow_connections(database: &DesiredDatabase, now: Option<&DatabaseNow<'_>>) -> bool {
    let observed = now.is_none_or(|now| now.observed.allows_connections);
    let stated = database.options.alterable.allow_connections;
    stated.unwrap_or(observed)
}
