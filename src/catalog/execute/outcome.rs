//! Tells what became of a plan. Pure.

use std::collections::BTreeMap;

use crate::catalog::plan::change::Object;
use crate::catalog::plan::{Plan, Step};
use crate::catalog::{Applied, ObjectFailure};
use crate::error::chain;

/// What became of a step.
pub(super) struct Outcome<'a> {
    pub(super) step: &'a Step,
    /// Statements that were needed, or why it failed.
    pub(super) result: Result<usize, Failure>,
}

/// Why a step failed.
pub(super) struct Failure {
    sqlstate: Option<String>,
    message: String,
    /// Whether another failure was reported that says the same.
    is_told: bool,
}

impl Failure {
    /// What postgres says.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let message = match error.as_db_error() {
            Some(error) => {
                let detail = error.detail().map(|detail| format!(" ({detail})"));
                format!("{}{}", error.message(), detail.unwrap_or_default())
            }
            None => chain(error),
        };
        Self {
            sqlstate: error.code().map(|code| code.code().to_owned()),
            is_told: false,
            message,
        }
    }

    /// A step that was not tried, since it cannot do without `blocker`.
    pub(super) fn blocked(step: &Step, blocker: Option<Object>) -> Self {
        let is_same = blocker.as_ref() == Some(&step.change.object());
        Self {
            sqlstate: None,
            // That later migrations wait for earlier ones goes without saying.
            is_told: is_same || matches!(blocker, Some(Object::Migration(_))),
            message: match blocker {
                Some(object) => format!("{object} is not ready, see there"),
                None => "not tried".to_owned(),
            },
        }
    }
}

/// Puts the outcomes in the order of the plan. `main` is the database of steps that
/// name none.
pub(super) fn summary(plan: &Plan, main: &str, outcomes: Vec<Outcome<'_>>) -> Applied {
    let mut applied = Applied {
        skipped_databases: plan.skipped_databases.clone(),
        ..Applied::default()
    };
    for refusal in &plan.refusals {
        applied.failures.push(ObjectFailure {
            database: main.to_owned(),
            object: refusal.object.to_string(),
            sqlstate: None,
            message: refusal.reason.clone(),
        });
    }
    let by_step = |Outcome { step, result }| (std::ptr::from_ref::<Step>(step), result);
    let mut results: BTreeMap<_, _> = outcomes.into_iter().map(by_step).collect();
    for step in &plan.steps {
        let Some(result) = results.remove(&std::ptr::from_ref(step)) else {
            continue;
        };
        match result {
            Ok(statements) => {
                applied.statements += statements;
                applied.changes.push(step.change.to_string());
            }
            Err(failure) if failure.is_told => {}
            Err(failure) => applied.failures.push(ObjectFailure {
                database: step.database.as_deref().unwrap_or(main).to_owned(),
                object: step.change.object().to_string(),
                sqlstate: failure.sqlstate,
                message: format!("cannot {:#}: {}", step.change, failure.message),
            }),
        }
    }
    applied
}
