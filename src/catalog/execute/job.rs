//! Splits stages into what one connection does. Pure.

use std::collections::BTreeMap;

use crate::catalog::plan::change::Object;
use crate::catalog::plan::{Stage, Step};

/// Roles in one message. Postgres spends 3 ms on each verifier, so messages of this
/// size keep several connections evenly busy.
pub(super) const BATCH: usize = 25;

/// Steps that one connection carries out in order.
pub(super) struct Job<'a> {
    /// `None` for the database of the main session.
    pub(super) database: Option<&'a str>,
    pub(super) steps: Vec<&'a Step>,
}

/// Splits a stage into jobs, which run side by side if the stage may.
pub(super) fn jobs<'s>(steps: &'s [Step]) -> Vec<Job<'s>> {
    let Some(stage) = steps.first().map(|step| step.stage) else {
        return Vec::new();
    };
    if !stage.is_parallel() {
        let of_one_database = steps.chunk_by(|a, b| a.database == b.database);
        return of_one_database
            .map(|steps| Job {
                database: steps.first().and_then(|step| step.database.as_deref()),
                steps: steps.iter().collect(),
            })
            .collect();
    }
    if stage == Stage::Roles {
        let batch = |steps: &'s [Step]| Job {
            database: None,
            steps: steps.iter().collect(),
        };
        return steps.chunks(BATCH).map(batch).collect();
    }
    by_object(steps)
}

/// Steps about one object, or in one database, stay in order on one connection.
fn by_object(steps: &[Step]) -> Vec<Job<'_>> {
    let mut order = Vec::new();
    let mut by_place: BTreeMap<(Option<&str>, Object), Vec<&Step>> = BTreeMap::new();
    for step in steps {
        let object = match &step.database {
            Some(database) => Object::Database(database.clone()),
            None => step.change.object(),
        };
        let place = (step.database.as_deref(), object);
        let steps = by_place.entry(place.clone()).or_default();
        if steps.is_empty() {
            order.push(place);
        }
        steps.push(step);
    }
    order
        .into_iter()
        .filter_map(|place| {
            let steps = by_place.remove(&place)?;
            let (database, _) = place;
            Some(Job { database, steps })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::plan::change::Change;

    fn step(stage: Stage, database: Option<&str>, change: Change) -> Step {
        Step {
            stage,
            database: database.map(str::to_owned),
            change,
        }
    }

    fn grant(name: &str) -> Step {
        let change = Change::GrantDatabase {
            database: name.to_owned(),
            to: "r".to_owned(),
        };
        step(Stage::Databases, None, change)
    }

    fn drop_subscriptions(stage: Stage, name: &str) -> Step {
        let database = name.to_owned();
        step(stage, Some(name), Change::DropSubscriptions { database })
    }

    fn sizes(steps: &[Step]) -> Vec<(Option<&str>, usize)> {
        let size = |job: Job<'_>| job.steps.len();
        jobs(steps)
            .into_iter()
            .map(|job| (job.database, size(job)))
            .collect()
    }

    #[test]
    fn steps_of_one_object_stay_together() {
        let steps = [grant("a"), grant("b"), grant("a")];
        assert_eq!(sizes(&steps), [(None, 2), (None, 1)]);
    }

    #[test]
    fn steps_in_one_database_stay_together() {
        let steps = ["a", "b", "a"].map(|name| drop_subscriptions(Stage::Inside, name));
        assert_eq!(sizes(&steps), [(Some("a"), 2), (Some("b"), 1)]);
    }

    #[test]
    fn steps_that_need_each_other_stay_in_order() {
        let steps = ["a", "b", "a"].map(|name| drop_subscriptions(Stage::ReleaseShared, name));
        assert_eq!(
            sizes(&steps),
            [(Some("a"), 1), (Some("b"), 1), (Some("a"), 1)]
        );
    }

    #[test]
    fn roles_come_in_batches() {
        let name = "r".to_owned();
        let role = step(Stage::Roles, None, Change::DropRole { name });
        let steps = vec![role; 2 * BATCH + 1];
        assert_eq!(sizes(&steps), [(None, BATCH), (None, BATCH), (None, 1)]);
    }
}
