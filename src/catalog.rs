//! Makes roles, databases and grants of a running postgres match a spec.
//!
//! *Observe* ([`observe`]): one round trip reads, on one snapshot, all that plans are
//! made of. *Plan* ([`plan`]): a pure comparison with the spec. *Apply* ([`execute`]):
//! carries the plan out, on several connections where steps do not need each other.
//!
//! # Nothing to do takes one query
//!
//! Roles, databases, memberships and privileges on databases are shared catalogs, seen
//! from any database. What is *inside* a database (the owner of its schema `public`,
//! default privileges) is seen only from there, and connecting to each of hundreds of
//! databases to find nothing is what makes `compute_ctl` slow. So when the inside of a
//! database was set up, the same transaction writes a fingerprint of what was done into
//! the database's settings (`glowplug.applied`), and those are a shared catalog, too
//! (`pg_db_role_setting`). An equal fingerprint means no connection. The fingerprint
//! stands for the input, not for the state: what users change inside their database
//! afterwards is theirs. It follows the database through renames, is copied to branches
//! with everything else, and is not copied by `CREATE DATABASE … TEMPLATE`.
//!
//! # What glowplug created
//!
//! carries `glowplug.managed = true` among its settings, found by the same query. Only
//! that is dropped when a spec no longer lists it and says [`RemovedObjects::Drop`]. A
//! role is marked in the transaction that creates it. `CREATE DATABASE` cannot share
//! one, so a crash right after it leaves an unmarked database, which is then kept
//! rather than dropped, as is whatever a user takes the mark from (`RESET ALL`).
//!
//! # Passwords
//!
//! Sessions are set up so that neither the server's log nor `pg_stat_activity` nor
//! `pg_stat_statements` shows their statements. See [`password`] and `session`.
//!
//! # Differences from `compute_ctl`
//!
//! Options that the spec states, the privileged role's attributes and the privileged
//! role's privileges on the spec's databases are kept up, not only set at creation. An
//! MD5 verifier is compared with its prefix, so that it is not set again each time. A
//! role's renaming works. A role that leaves can no longer log in, loses privileges of
//! every kind in every database that has any, and the databases it owns go to the
//! superuser. What the spec both lists and deletes is kept and reported. A change that
//! fails is reported with its object, and the others go on.
//!
//! [`RemovedObjects::Drop`]: crate::spec::RemovedObjects::Drop

mod error;
mod execute;
mod observe;
pub mod password;
pub mod plan;
pub mod quote;
mod session;
mod sql;
pub mod visit;

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use error::Error;
use execute::execute;
use password::Salt;
pub use plan::Plan;
use plan::desired::{Desired, Verifiers, stored_verifier};
use plan::observed::Observed;
use session::{RunError, Session, Stop};

use crate::secret::Secret;
use crate::spec::{
    ComputeMode, ComputeSpec, DeltaOperation, Flavor, PRIVILEGED_ROLE, Password, Role,
};

/// Name of the role whose members may do almost everything, unless told otherwise
/// (`--privileged-role-name`).
pub const DEFAULT_PRIVILEGED_ROLE: &str = PRIVILEGED_ROLE;

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
    /// The changes made, in the order of the plan: `create database "shop" with owner "app"`.
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
/// A failure of one object is in [`Applied::failures`], and the others go on. Applying
/// again is safe after any result.
///
/// Not to be dropped half-way: cancel it, and statements that run are cancelled, too.
pub async fn apply(
    target: &CatalogTarget,
    spec: &ComputeSpec,
    options: &ApplyOptions,
    cancel: &CancellationToken,
) -> Result<Applied, Error> {
    match prepare(target, spec, options, cancel).await? {
        Some(prepared) => prepared.carry_out(target, options).await,
        None => Ok(Applied::default()),
    }
}

/// The plan that [`apply`] would carry out now.
pub async fn preview(
    target: &CatalogTarget,
    spec: &ComputeSpec,
    options: &ApplyOptions,
    cancel: &CancellationToken,
) -> Result<Plan, Error> {
    match prepare(target, spec, options, cancel).await? {
        Some(prepared) => Ok(prepared.cancel().await),
        None => Ok(Plan::default()),
    }
}

/// A plan, and the session whose view of the catalog it was made of.
pub struct Prepared {
    session: Session,
    stop: Stop,
    observed: Observed,
    plan: Plan,
}

/// Looks at the catalog and plans. `None` if there can be nothing to do: a spec may want
/// its catalog left alone, and only a primary writes.
pub async fn prepare(
    target: &CatalogTarget,
    spec: &ComputeSpec,
    options: &ApplyOptions,
    cancel: &CancellationToken,
) -> Result<Option<Prepared>, Error> {
    if !concerns(spec) {
        return Ok(None);
    }
    let stop = Stop::new(cancel, options.deadline);
    let session = connect(target, options, &stop).await?;
    match look(&session, target, spec, &stop).await {
        Ok((observed, plan)) => Ok(Some(Prepared {
            session,
            stop,
            observed,
            plan,
        })),
        Err(error) => {
            session.close().await;
            Err(error)
        }
    }
}

/// Whether `spec` may have something to say about the catalog. One that wants it left
/// alone still wants what Neon's postgres cannot do without, and subscriptions dropped.
pub fn concerns(spec: &ComputeSpec) -> bool {
    let nonetheless =
        spec.neon.drop_subscriptions_before_start || spec.postgres.flavor == Flavor::Neon;
    spec.mode == ComputeMode::Primary && (!spec.skip_catalog_updates || nonetheless)
}

impl Prepared {
    /// What will be done.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Does it, within what is left of the limits given to [`prepare`].
    pub async fn carry_out(
        self,
        target: &CatalogTarget,
        options: &ApplyOptions,
    ) -> Result<Applied, Error> {
        let Self {
            session,
            stop,
            observed,
            plan,
        } = self;
        let applied = execute(target, options, &observed, &session, &plan, &stop).await;
        session.close().await;
        applied
    }

    /// Does nothing.
    pub async fn cancel(self) -> Plan {
        self.session.close().await;
        self.plan
    }
}

async fn connect(
    target: &CatalogTarget,
    options: &ApplyOptions,
    stop: &Stop,
) -> Result<Session, Error> {
    // The version is not known yet: leave out what older ones refuse.
    let connected = Session::connect(target, None, options, 0, stop).await;
    connected.map_err(|error| match error {
        RunError::Interrupted(why) => stop.error(why, 0, 0),
        RunError::Sql(source) => Error::Connect {
            database: target.connect.get_dbname().unwrap_or("postgres").to_owned(),
            source,
        },
    })
}

/// Observes and plans.
async fn look(
    session: &Session,
    target: &CatalogTarget,
    spec: &ComputeSpec,
    stop: &Stop,
) -> Result<(Observed, Plan), Error> {
    let with_neon = spec.postgres.flavor == Flavor::Neon;
    let role = target.privileged_role.as_str();
    let mut observed = observe::observe(session, role, with_neon, stop).await?;
    let settling = settle_passwords(&spec.roles, &spec.delta_operations, &observed);
    let verifiers = stop.race(settling).await;
    let verifiers = verifiers.map_err(|why| stop.error(why, 0, 0))?;
    let desired = Desired::new(spec, role, &verifiers);
    let leaving: Vec<String> = plan::roles_that_may_leave(&observed, &desired)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let subscriptions = desired.drop_subscriptions_on.is_some();
    observe::observe_details(session, &mut observed, &leaving, subscriptions, stop).await?;
    let plan = plan::plan(&observed, &desired);
    Ok((observed, plan))
}

/// Settles the password of every role that has one.
///
/// Comparing a password with a verifier takes thousands of rounds of SHA-256, so this
/// is spread over the processors, away from the threads that serve the runtime.
async fn settle_passwords(
    roles: &[Role],
    deltas: &[DeltaOperation],
    observed: &Observed,
) -> Verifiers {
    let mut verifiers = Verifiers::new();
    let mut costly = Vec::new();
    // The first of two entries with one name counts, so it is written last.
    for role in roles.iter().rev() {
        let stored = stored_verifier(&role.name, deltas, observed);
        match &role.password {
            Some(password @ Password::Cleartext(_)) => {
                let stored = stored.cloned();
                costly.push((role.name.clone(), password.clone(), stored, rand::random()));
            }
            Some(password @ Password::Verifier(_)) => {
                let stored = stored.map(Secret::reveal);
                let settled = password::settle(&role.name, password, stored, Salt::default());
                verifiers.insert(role.name.clone(), settled);
            }
            None => {}
        }
    }
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = costly.len().div_ceil(processors).max(1);
    let mut tasks = JoinSet::new();
    for part in costly.chunks(share) {
        let part = part.to_vec();
        tasks.spawn_blocking(move || {
            let settle = |(name, password, stored, salt): (String, _, Option<Secret>, _)| {
                let stored = stored.as_ref().map(Secret::reveal);
                let settled = password::settle(&name, &password, stored, salt);
                (name, settled)
            };
            part.into_iter().map(settle).collect::<Vec<_>>()
        });
    }
    // A task that panicked leaves its roles without an entry, which is refused later.
    while let Some(part) = tasks.join_next().await {
        verifiers.extend(part.into_iter().flatten());
    }
    verifiers
}
