//! Roles, databases and grants: observe, plan (pure), apply.

mod error;

use std::fmt;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use error::Error;

use crate::spec::ComputeSpec;

/// Name of the role whose members may do almost everything, unless told otherwise
/// (`--privileged-role-name`).
pub const DEFAULT_PRIVILEGED_ROLE: &str = "neon_superuser";

/// The postgres whose catalog is to match a spec.
#[derive(Debug, Clone)]
pub struct CatalogTarget {
    /// Host (directory of the Unix-domain socket, or an address), port, superuser,
    /// and the database that objects of the cluster are handled from (`postgres`).
    pub connect: tokio_postgres::Config,
    /// The role that members of get wide privileges from.
    pub privileged_role: String,
    /// `application_name` of every connection.
    pub application_name: String,
}

/// Limits of one application.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// Most connections at a time. The server's `max_connections` limits it further.
    pub concurrency: usize,
    /// Longest that one statement may run.
    pub statement_timeout: Duration,
    /// Longest that one statement may wait for a lock.
    pub lock_timeout: Duration,
    /// Longest that the whole application may take.
    pub deadline: Duration,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            concurrency: 10,
            statement_timeout: Duration::from_mins(2),
            lock_timeout: Duration::from_secs(10),
            deadline: Duration::from_mins(10),
        }
    }
}

/// What an application did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Statements sent that change something.
    pub statements: usize,
    /// Objects changed, in the order in which that happened: `create role "app"`.
    pub changes: Vec<String>,
    /// Databases of the spec that were left as they are inside, since they allow no
    /// connections.
    pub skipped_databases: Vec<String>,
    /// What could not be done. All else was done.
    pub failures: Vec<ObjectFailure>,
}

/// A change that postgres refused, or that was refused before it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFailure {
    /// The database in which it was to happen.
    pub database: String,
    /// The object: `role "app"`.
    pub object: String,
    /// The five characters of postgres' error code; `None` if postgres was not asked.
    pub sqlstate: Option<String>,
    /// What went wrong.
    pub message: String,
}

impl fmt::Display for ObjectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in database {:?}: {}",
            self.object, self.database, self.message
        )?;
        match &self.sqlstate {
            Some(code) => write!(f, " (SQLSTATE {code})"),
            None => Ok(()),
        }
    }
}

/// Makes roles, databases and grants match `spec`, and does nothing where they do.
///
/// A failure of one object is in [`Applied::failures`], and the others go on.
#[expect(clippy::unused_async, reason = "the planner lands next")]
pub async fn apply(
    _target: &CatalogTarget,
    _spec: &ComputeSpec,
    _options: &ApplyOptions,
    _cancel: &CancellationToken,
) -> Result<Applied, Error> {
    Ok(Applied::default())
}
