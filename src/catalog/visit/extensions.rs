//! Installs an extension, and counts which are installed where.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Error, Visit, check_name, check_text};
use crate::catalog::CatalogTarget;
use crate::catalog::quote::{ident, literal};

/// Databases that are looked into, at most, as upstream has it.
const DATABASES: u32 = 500;

/// The superuser that `initdb` made has this id (`src/include/catalog/pg_authid.dat`).
const BOOTSTRAP_SUPERUSER: u32 = 10;

/// Makes `database` have this version of the extension, which is what it returns.
pub async fn install(
    target: &CatalogTarget,
    database: &str,
    extension: &str,
    version: &str,
    limit: Duration,
) -> Result<String, Error> {
    check_name("database", database)?;
    check_name("extension", extension)?;
    check_text("version", version)?;
    let visit = Visit::begin(target, Some(database), limit).await?;
    let what = "tell the version of the extension";
    let look = format!(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = {}",
        literal(extension)
    );
    let installed = async {
        let installed: Vec<[Option<String>; 1]> = visit.rows(what, &look).await?;
        let sql = match installed.as_slice() {
            [[Some(installed)]] if installed == version => return Ok(version.to_owned()),
            // A version may be any text, and is an identifier in SQL.
            [_, ..] => format!(
                "ALTER EXTENSION {} UPDATE TO {}",
                ident(extension),
                ident(version)
            ),
            [] => format!(
                "CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA public VERSION {}",
                ident(extension),
                ident(version)
            ),
        };
        visit.run("install the extension", &sql).await?;
        Ok(version.to_owned())
    };
    let installed = installed.await;
    visit.end(installed).await
}

/// An extension, as the metrics tell it apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether the superuser that `initdb` made owns it.
    pub owned_by_superuser: bool,
}

/// In how many databases each extension is. `limit` holds for each database.
pub async fn census(
    target: &CatalogTarget,
    limit: Duration,
) -> Result<BTreeMap<Installed, usize>, Error> {
    let databases = format!(
        "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 \
         ORDER BY datname LIMIT {DATABASES}"
    );
    let visit = Visit::begin(target, None, limit).await?;
    let databases = visit.rows("list its databases", &databases).await;
    let databases: Vec<[Option<String>; 1]> = visit.end(databases).await?;
    let mut counted = BTreeMap::new();
    for database in databases.into_iter().filter_map(|[name]| name) {
        for extension in look_into(target, &database, limit).await? {
            *counted.entry(extension).or_insert(0) += 1;
        }
    }
    Ok(counted)
}

async fn look_into(
    target: &CatalogTarget,
    database: &str,
    limit: Duration,
) -> Result<Vec<Installed>, Error> {
    let sql = format!(
        "SELECT extname, extversion, extowner = {BOOTSTRAP_SUPERUSER} \
         FROM pg_catalog.pg_extension"
    );
    let visit = Visit::begin(target, Some(database), limit).await?;
    let rows = visit.rows("list its extensions", &sql).await;
    let rows: Vec<[Option<String>; 3]> = visit.end(rows).await?;
    let installed = |[name, version, own]: [Option<String>; 3]| Installed {
        name: name.unwrap_or_default(),
        version: version.unwrap_or_default(),
        owned_by_superuser: own.as_deref() == Some("t"),
    };
    Ok(rows.into_iter().map(installed).collect())
}
