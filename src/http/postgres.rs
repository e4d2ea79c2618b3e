//! How handlers reach the compute's own postgres: a few at a time, each within limits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::control::Refusal;
use super::owner::Owner;
use super::respond;
use crate::api::status::ComputeState;
use crate::catalog::CatalogTarget;
use crate::catalog::visit;
use crate::error::chain;
use crate::process::{RunAs, Spawner};
use crate::spec::ComputeSpec;

/// Connections that the HTTP servers make at once. Postgres keeps few for superusers.
const AT_ONCE: usize = 3;

/// How long a request may wait for its turn.
const TURN: Duration = Duration::from_secs(5);

/// How long the statements of one request may take.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// How postgres is reached as its superuser, given the spec in force.
pub type Connect = Arc<dyn Fn(&ComputeSpec) -> tokio_postgres::Config + Send + Sync>;

/// The compute's own postgres, and its programs.
#[derive(Clone)]
pub struct LocalPostgres {
    /// How it is reached.
    pub connect: Connect,
    /// The role that owns what superusers may not hand out.
    pub privileged_role: String,
    /// Directory of `pg_dump`.
    pub bin_dir: PathBuf,
    /// Data directory.
    pub pgdata: PathBuf,
    /// The user that may enter the directory of the socket.
    pub run_as: Option<RunAs>,
    /// Starts the programs.
    pub spawner: Spawner,
}

/// Lets requests through to postgres.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) local: LocalPostgres,
    owner: Owner,
    turns: Arc<Semaphore>,
}

/// A request whose turn it is. Its turn ends with it.
pub(super) struct Admitted {
    pub(super) target: CatalogTarget,
    _turn: OwnedSemaphorePermit,
}

impl Gate {
    pub(super) fn new(local: LocalPostgres, owner: Owner) -> Self {
        Self {
            local,
            owner,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Waits for a turn, if the compute is running.
    pub(super) async fn when_running(&self, request: &'static str) -> Result<Admitted, Response> {
        let state = self.owner.snapshot().state;
        if state != ComputeState::Running {
            return Err(respond::refused(&Refusal {
                request,
                state,
                advice: "wait until the compute is running: watch GET /status",
            }));
        }
        self.in_any_state().await
    }

    /// Waits for a turn, if there may be a postgres.
    pub(super) async fn in_any_state(&self) -> Result<Admitted, Response> {
        let snapshot = self.owner.snapshot();
        let Some(facts) = &snapshot.spec else {
            return Err(respond::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "there is no postgres: the compute has no spec yet",
            ));
        };
        let connect = (self.local.connect)(&facts.spec);
        match timeout(TURN, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Admitted {
                target: CatalogTarget {
                    connect,
                    privileged_role: self.local.privileged_role.clone(),
                    application_name: "glowplug:api".to_owned(),
                },
                _turn: turn,
            }),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(respond::busy(
                "other requests keep the connections to postgres that there are for this",
            )),
        }
    }
}

/// The answer to a request that postgres did not do. Upstream has 500 for all; but what
/// the request asks for and cannot be is the client's to mend.
pub(super) fn failed(error: &visit::Error, what: Option<&str>) -> Response {
    let status = match error {
        visit::Error::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
        visit::Error::Unusable { .. } => StatusCode::BAD_REQUEST,
        _ => error
            .code()
            .map_or(StatusCode::INTERNAL_SERVER_ERROR, status),
    };
    let text = chain(error);
    match what {
        Some(what) => respond::error(status, &format!("{what}: {text}")),
        None => respond::error(status, &text),
    }
}

fn status(code: &SqlState) -> StatusCode {
    /// Classes of errors that a statement brings about (PostgreSQL manual, appendix A):
    /// feature not supported, invalid grantor, data exception, invalid transaction state
    /// (read-only), unknown schema, syntax or access rule, object in use.
    const CALLERS: [&str; 7] = ["0A", "0L", "22", "25", "3F", "42", "55"];
    if *code == SqlState::INVALID_CATALOG_NAME {
        StatusCode::NOT_FOUND
    } else if CALLERS.iter().any(|class| code.code().starts_with(class)) {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_can_mend_is_not_a_fault_of_the_server() {
        assert_eq!(
            status(&SqlState::INVALID_CATALOG_NAME),
            StatusCode::NOT_FOUND
        );
        for code in [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::UNDEFINED_OBJECT,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::INVALID_GRANT_OPERATION,
        ] {
            assert_eq!(status(&code), StatusCode::UNPROCESSABLE_ENTITY, "{code:?}");
        }
        assert_eq!(
            status(&SqlState::ADMIN_SHUTDOWN),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }
}
