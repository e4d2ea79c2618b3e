//! `GET /database_schema?database=NAME`: what `pg_dump --schema-only` writes, as it
//! comes (`compute_tools/src/catalog.rs`).

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::Host;

use super::Routes;
use crate::catalog::quote::check_name;
use crate::http::api::{Content, Operation};
use crate::http::postgres::{Admitted, LocalPostgres};
use crate::http::respond;
use crate::process::{Child, Command, Lines, Stream};

/// How long a dump may take, its reader included.
const LIMIT: Duration = Duration::from_mins(5);

/// Most that is kept of what `pg_dump` complains of.
const MAX_COMPLAINT: usize = 4096;

/// The query of the request.
#[derive(Deserialize)]
pub(super) struct Parameters {
    database: String,
}

pub(super) fn operation() -> Operation {
    Operation::new("getDatabaseSchema", "The schema of a database, as SQL")
        .query(
            "database",
            true,
            json!({"type": "string"}),
            "Name of the database",
        )
        .answers(
            StatusCode::OK,
            "What pg_dump writes",
            Content::Text("text/plain"),
        )
        .fails(StatusCode::BAD_REQUEST, "No database is named")
        .fails(StatusCode::NOT_FOUND, "There is no such database")
        .fails(StatusCode::INTERNAL_SERVER_ERROR, "pg_dump failed")
        .within(LIMIT)
}

pub(super) async fn database_schema(
    State(routes): State<Routes>,
    query: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let database = match query {
        Ok(Query(Parameters { database })) => database,
        Err(rejection) => {
            let text = rejection.body_text().to_lowercase();
            return respond::error(StatusCode::BAD_REQUEST, &text);
        }
    };
    if check_name(&database).is_err() {
        return not_found();
    }
    let admitted = match routes.gate.in_any_state().await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    match Dump::begin(&routes.gate.local, admitted, &database).await {
        Ok(dump) => dump.into_response(),
        Err(complaint) => {
            let missing = format!("database \"{database}\" does not exist");
            if complaint.contains(&missing) {
                return not_found();
            }
            tracing::warn!(database, "pg_dump failed: {complaint}");
            respond::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "failed to execute pg_dump",
            )
        }
    }
}

fn not_found() -> Response {
    respond::error(StatusCode::NOT_FOUND, "database does not exist")
}

/// A `pg_dump` that has written its first bytes. Dropping it kills the program.
struct Dump {
    child: Child,
    lines: Lines,
    first: Option<Bytes>,
    until: Instant,
    _admitted: Admitted,
}

impl Dump {
    /// Waits for the first bytes, so that a program that fails at once is an error.
    async fn begin(
        local: &LocalPostgres,
        admitted: Admitted,
        database: &str,
    ) -> Result<Self, String> {
        let until = Instant::now() + LIMIT;
        let command = command(local, &admitted.target.connect, database);
        let child = local.spawner.spawn(command).await;
        let mut child = child.map_err(|error| crate::error::chain(&error))?;
        let Some(mut lines) = child.take_lines() else {
            return Err("its output is not captured".to_owned());
        };
        let mut complaint = Vec::new();
        loop {
            match timeout_at(until, lines.next_chunk()).await {
                Ok(Some((Stream::Stdout, first))) => {
                    return Ok(Self {
                        child,
                        lines,
                        first: Some(first),
                        until,
                        _admitted: admitted,
                    });
                }
                Ok(Some((Stream::Stderr, text))) => {
                    let room = MAX_COMPLAINT.saturating_sub(complaint.len());
                    complaint.extend(text.iter().take(room));
                }
                Ok(None) => return Err(String::from_utf8_lossy(&complaint).into_owned()),
                Err(_) => return Err(format!("it wrote nothing within {LIMIT:?}")),
            }
        }
    }

    /// The next bytes, or an error: the answer then breaks off, and its reader sees that
    /// it is not whole.
    async fn next(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            match timeout_at(self.until, self.lines.next_chunk()).await {
                Ok(Some((Stream::Stdout, bytes))) => return Ok(Some(bytes)),
                Ok(Some((Stream::Stderr, text))) => {
                    tracing::warn!("pg_dump: {}", String::from_utf8_lossy(&text).trim_end());
                }
                Ok(None) => break,
                Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
            }
        }
        match timeout_at(self.until, self.child.wait()).await {
            Ok(exit) if exit.success() => Ok(None),
            Ok(exit) => {
                tracing::warn!("pg_dump ended early: {exit}");
                Err(std::io::ErrorKind::UnexpectedEof.into())
            }
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }

    fn into_response(self) -> Response {
        let chunks = stream::try_unfold(self, |mut dump| async move {
            Ok::<_, std::io::Error>(dump.next().await?.map(|bytes| (bytes, dump)))
        });
        let text = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        (text, Body::from_stream(chunks)).into_response()
    }
}

/// The name goes into the environment: on the command line, one with `=` in it would be
/// taken for a connection string.
fn command(local: &LocalPostgres, connect: &tokio_postgres::Config, database: &str) -> Command {
    let host = match connect.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "127.0.0.1".to_owned(),
    };
    let port = connect.get_ports().first().copied().unwrap_or(5432);
    Command::new(local.bin_dir.join("pg_dump"))
        .args(["--host", &host, "--port", &port.to_string()])
        .args(["--username", connect.get_user().unwrap_or("cloud_admin")])
        .args(["--no-password", "--schema-only"])
        .env("PGDATABASE", database)
        .env("PGAPPNAME", "glowplug:api")
        .env("PGCONNECT_TIMEOUT", "5")
        .run_as(local.run_as.clone())
        .lines()
}
