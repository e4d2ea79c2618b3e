//! One-off changes that every branch gets once, in order, under the numbers and in the
//! table of `compute_ctl` (`compute_tools/src/migration.rs`), so that either program can
//! take over from the other.
//!
//! Reading the table takes a query of its own, since it may not exist. So the number
//! of the last migration is noted among the settings of the database, too, where the
//! first query finds it.

use super::change::Change;
use super::{Planner, Stage};
use crate::catalog::quote::{dollar, ident, literal};

/// The number of the last migration. Never renumber; only append.
pub const LAST: u32 = 12;

/// From this version on there are `pg_create_subscription` and a permission check on
/// snapshot functions.
const SUBSCRIPTION_ROLE_SINCE: u32 = 16;

impl Planner<'_> {
    pub(super) fn plan_migrations(&mut self) {
        let system = &self.observed.system;
        if system.migrations_noted >= LAST {
            return;
        }
        if system.migration.is_none() {
            self.step(Stage::Migrations, Change::PrepareMigrations);
        }
        let done = system.migration.unwrap_or_default();
        for number in 1..=LAST {
            if i64::from(number) <= done {
                continue;
            }
            let sql = migration(number, self.observed.major(), &self.desired.privileged_role);
            self.step(Stage::Migrations, Change::Migrate { number, sql });
        }
        self.step(
            Stage::Migrations,
            Change::NoteMigrations {
                database: self.observed.system_database.clone(),
                last: LAST,
            },
        );
    }
}

/// What a migration does (`compute_tools/src/migrations`). `None` for those that
/// upstream skips, and those without effect in this version; they are counted all the
/// same.
fn migration(number: u32, major: u32, privileged_role: &str) -> Option<String> {
    let role = ident(privileged_role);
    match number {
        1 => Some(format!("ALTER ROLE {role} BYPASSRLS")),
        2 => Some(restore_attributes(privileged_role)),
        3 if major >= SUBSCRIPTION_ROLE_SINCE => {
            Some(format!("GRANT pg_create_subscription TO {role}"))
        }
        4 => Some(format!("GRANT pg_monitor TO {role} WITH ADMIN OPTION")),
        10 if major >= SUBSCRIPTION_ROLE_SINCE => Some(format!(
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot(), \
             pg_catalog.pg_log_standby_snapshot() TO {role}"
        )),
        11 => Some(format!(
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_replication_origin_status() TO {role}"
        )),
        12 => Some(format!(
            "GRANT pg_signal_backend TO {role} WITH ADMIN OPTION"
        )),
        _ => None,
    }
}

/// Gives members of the privileged role their privileges back, and takes `BYPASSRLS`
/// from all others, who once got it by mistake.
fn restore_attributes(privileged_role: &str) -> String {
    let body = format!(
        "DECLARE role record;
BEGIN
  FOR role IN
    SELECT rolname, pg_catalog.pg_has_role(rolname, {privileged_role}, 'member') AS is_member
    FROM pg_catalog.pg_roles
  LOOP
    IF role.is_member THEN
      EXECUTE pg_catalog.format('ALTER ROLE %I INHERIT', role.rolname);
    ELSIF NOT pg_catalog.starts_with(role.rolname::pg_catalog.text, 'pg_') THEN
      EXECUTE pg_catalog.format('ALTER ROLE %I NOBYPASSRLS', role.rolname);
    END IF;
  END LOOP;
END",
        privileged_role = literal(privileged_role)
    );
    format!("DO {}", dollar(&body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_migrations_do_nothing() {
        let effective = |major: u32| -> Vec<u32> {
            let has_effect = |number: &u32| migration(*number, major, "r").is_some();
            (1..=LAST).filter(has_effect).collect()
        };
        assert_eq!(effective(15), [1, 2, 4, 11, 12]);
        assert_eq!(effective(16), [1, 2, 3, 4, 10, 11, 12]);
    }
}
