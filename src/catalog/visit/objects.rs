//! Lists roles and databases.

use std::time::Duration;

use super::{Error, Visit};
use crate::catalog::CatalogTarget;
use crate::secret::Secret;

const ROLES: &str = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid ORDER BY rolname";

/// `datconnlimit` is -2 for a database whose `DROP` was interrupted
/// (`src/include/catalog/pg_database.h`, `DATCONNLIMIT_INVALID_DB`).
const DATABASES: &str = "SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba), d.datallowconn, \
     d.datconnlimit = -2 FROM pg_catalog.pg_database d ORDER BY d.datname";

/// A role that exists.
#[derive(Debug)]
pub struct RoleEntry {
    /// Its name.
    pub name: String,
    /// The verifier of its password.
    pub verifier: Option<Secret>,
}

/// A database that exists.
#[derive(Debug)]
pub struct DatabaseEntry {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Whether it lets nobody in.
    pub closed: bool,
    /// Whether it is left over from an interrupted `DROP DATABASE`.
    pub invalid: bool,
}

/// Every role and every database, the built-in ones too.
pub async fn list(
    target: &CatalogTarget,
    limit: Duration,
) -> Result<(Vec<RoleEntry>, Vec<DatabaseEntry>), Error> {
    let visit = Visit::begin(target, None, limit).await?;
    let listed = async {
        let roles = visit.rows("list its roles", ROLES).await?;
        let databases = visit.rows("list its databases", DATABASES).await?;
        Ok((roles, databases))
    };
    let listed = listed.await;
    let (roles, databases) = visit.end(listed).await?;
    let role = |[name, verifier]: [Option<String>; 2]| RoleEntry {
        name: name.unwrap_or_default(),
        verifier: verifier.map(Secret::new),
    };
    let is = |flag: Option<String>| flag.as_deref() == Some("t");
    let database = |[name, owner, open, invalid]: [Option<String>; 4]| DatabaseEntry {
        name: name.unwrap_or_default(),
        owner: owner.unwrap_or_default(),
        closed: !is(open),
        invalid: is(invalid),
    };
    Ok((
        roles.into_iter().map(role).collect(),
        databases.into_iter().map(database).collect(),
    ))
}
