//! Grants privileges on a schema.

use std::time::Duration;

use super::{Error, Visit, check_name};
use crate::catalog::CatalogTarget;
use crate::catalog::quote::{ident, literal};

/// Grants those of `privileges` that `role` does not have yet; none is granted twice, so
/// that this works on a replica that has them all. Privileges are SQL's words for them.
pub async fn on_schema(
    target: &CatalogTarget,
    database: &str,
    schema: &str,
    role: &str,
    privileges: &[&str],
    limit: Duration,
) -> Result<(), Error> {
    check_name("database", database)?;
    check_name("schema", schema)?;
    check_name("role", role)?;
    let visit = Visit::begin(target, Some(database), limit).await?;
    let granted = async {
        let what = "tell who may use the schema";
        let held: Vec<[Option<String>; 1]> = visit.rows(what, &held(schema, role)).await?;
        let holds = |privilege: &str| held.iter().any(|[has]| has.as_deref() == Some(privilege));
        let mut missing: Vec<&str> = privileges.iter().copied().filter(|p| !holds(p)).collect();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "GRANT {} ON SCHEMA {} TO {}",
            missing.join(", "),
            ident(schema),
            ident(role)
        );
        visit.run("grant privileges on the schema", &sql).await
    };
    let granted = granted.await;
    visit.end(granted).await
}

fn held(schema: &str, role: &str) -> String {
    format!(
        "SELECT a.privilege_type FROM pg_catalog.pg_namespace n \
         CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(n.nspacl, \
             pg_catalog.acldefault('n', n.nspowner))) a \
         JOIN pg_catalog.pg_roles r ON r.oid = a.grantee \
         WHERE n.nspname = {} AND r.rolname = {}",
        literal(schema),
        literal(role)
    )
}
