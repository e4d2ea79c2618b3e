//! Finds out whether postgres answers, and whether it can write.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::{Error, Visit};
use crate::catalog::CatalogTarget;

/// The table is made when the spec is applied.
const WRITE: &str = "INSERT INTO public.health_check AS h (id, updated_at) \
     VALUES (1, pg_catalog.now()) ON CONFLICT (id) DO UPDATE SET updated_at = pg_catalog.now()";

/// Whether postgres lets anybody in.
pub async fn accepts_connections(target: &CatalogTarget, limit: Duration) -> Result<(), Error> {
    let visit = Visit::begin(target, None, limit).await?;
    visit.end(Ok(())).await
}

/// Writes a row, and waits until it is committed. A full disk counts as success, as
/// upstream has it: it is the user's, and restarting the compute would not help.
pub async fn write(target: &CatalogTarget, limit: Duration) -> Result<(), Error> {
    let visit = Visit::begin(target, None, limit).await?;
    let written = visit.run("write", WRITE).await;
    match visit.end(written).await {
        Err(error) if error.code() == Some(&SqlState::DISK_FULL) => {
            tracing::warn!("the write of the check met a full disk, which is the tenant's");
            Ok(())
        }
        written => written,
    }
}
