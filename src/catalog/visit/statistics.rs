//! Reads what `pg_stat_statements` collected.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::{Error, Visit};
use crate::catalog::CatalogTarget;
use crate::catalog::quote::literal;

/// Rows that are read.
const ROWS: u32 = 100;

/// The slowest statements on average, each as a JSON object; our own are left out. None
/// where the extension is missing or not loaded.
pub async fn slowest_statements(
    target: &CatalogTarget,
    limit: Duration,
) -> Result<Vec<String>, Error> {
    let own = literal(target.connect.get_user().unwrap_or_default()).to_string();
    let sql = format!(
        "SELECT pg_catalog.row_to_json(s) FROM public.pg_stat_statements s \
         WHERE pg_catalog.pg_get_userbyid(s.userid) <> {own} \
         ORDER BY s.mean_exec_time + s.mean_plan_time DESC LIMIT {ROWS}"
    );
    let visit = Visit::begin(target, None, limit).await?;
    let rows = visit.rows("tell statistics of statements", &sql).await;
    let rows = match visit.end(rows).await {
        Err(error) if error.code().is_some_and(is_missing) => Vec::new(),
        rows => rows?,
    };
    Ok(rows
        .into_iter()
        .filter_map(|[row]: [Option<String>; 1]| row)
        .collect())
}

fn is_missing(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        // Created, but not in shared_preload_libraries.
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ]
    .contains(code)
}
