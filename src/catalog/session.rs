//! Connections to the database server on which users' settings have no say.
//!
//! Users may attach settings to databases and roles (`ALTER DATABASE … SET role`,
//! `search_path`, `statement_timeout`). Options of the startup packet win over those,
//! so every setting that could change what a statement means, how long it may take, or
//! who gets to read the verifiers in it, is pinned there.
//!
//! `tokio-postgres` writes statements to the `log` facade at level debug. glowplug logs
//! by `tracing` and does not collect what goes to `log`; whoever changes that must
//! leave `tokio_postgres` out.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{ApplyOptions, CatalogTarget, Error};
use crate::backoff::Backoff;

/// Time to say goodbye, or to ask the server to cancel a statement.
const PARTING: Duration = Duration::from_secs(1);

/// How often to try again what only the moment refuses, at most.
pub(super) const RETRIES: u32 = 6;
/// The first wait of such a retry, and the longest.
pub(super) const RETRY_WAITS: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(1));

/// From this version on there are `transaction_timeout` and event triggers at login.
const LOGIN_TRIGGERS_SINCE: u32 = 17;

/// When to stop, finished or not.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    cancel: CancellationToken,
    limit: Duration,
    until: Instant,
}

/// Why it was time to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupted {
    Cancelled,
    Deadline,
}

impl Stop {
    pub(super) fn new(cancel: &CancellationToken, limit: Duration) -> Self {
        Self {
            cancel: cancel.clone(),
            limit,
            until: Instant::now() + limit,
        }
    }

    /// Waits for `future`, but not after the time to stop.
    pub(super) async fn race<F: Future>(&self, future: F) -> Result<F::Output, Interrupted> {
        let bounded = timeout_at(self.until, future);
        match self.cancel.run_until_cancelled(bounded).await {
            None => Err(Interrupted::Cancelled),
            Some(Err(_)) => Err(Interrupted::Deadline),
            Some(Ok(output)) => Ok(output),
        }
    }

    /// Waits, but not beyond the time to stop.
    pub(super) async fn sleep(&self, wait: Duration) -> Result<(), RunError> {
        let slept = self.race(tokio::time::sleep(wait)).await;
        slept.map_err(RunError::Interrupted)
    }

    /// The error to end with. `done` of `total` changes were dealt with.
    pub(super) fn error(&self, why: Interrupted, done: usize, total: usize) -> Error {
        match why {
            Interrupted::Cancelled => Error::Cancelled,
            Interrupted::Deadline => Error::Deadline {
                limit: self.limit,
                done,
                total,
            },
        }
    }
}

/// Why a statement did not succeed.
#[derive(Debug)]
pub(super) enum RunError {
    /// Postgres says no, or is gone.
    Sql(tokio_postgres::Error),
    /// It was time to stop.
    Interrupted(Interrupted),
}

/// Whether the same may succeed a moment later: nothing is wrong with it, but others take
/// connections, locks or the row for themselves right now. A lock that was waited for as
/// long as the options allow is not among them.
pub(super) fn is_transient(error: &tokio_postgres::Error) -> bool {
    const CODES: [SqlState; 5] = [
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        // The template of a new database, or a role that is being altered.
        SqlState::OBJECT_IN_USE,
    ];
    let concurrent = |error: &DbError| error.message().starts_with("tuple concurrently ");
    error.code().is_some_and(|code| CODES.contains(code))
        || error.as_db_error().is_some_and(concurrent)
}

/// One connection.
pub(super) struct Session {
    client: Client,
    driver: AbortOnDropHandle<()>,
    pub(super) database: String,
}

impl Session {
    /// Connects to `database`, or to the one that the target names. `major` is the
    /// server's version, where it is known.
    pub(super) async fn connect(
        target: &CatalogTarget,
        database: Option<&str>,
        options: &ApplyOptions,
        major: u32,
        stop: &Stop,
    ) -> Result<Self, RunError> {
        let mut config = target.connect.clone();
        let default = config.get_dbname().unwrap_or("postgres").to_owned();
        let database = database.map_or(default, str::to_owned);
        config.dbname(&database);
        config.application_name(&target.application_name);
        config.options(startup_options(&target.connect, options, major));
        let mut backoff = Backoff::new(RETRY_WAITS.0, RETRY_WAITS.1);
        let (client, connection) = loop {
            match stop.race(config.connect(NoTls)).await {
                Ok(Ok(connected)) => break connected,
                Ok(Err(error)) if is_transient(&error) && backoff.attempts() < RETRIES => {
                    stop.sleep(backoff.next(rand::random())).await?;
                }
                Ok(Err(error)) => return Err(RunError::Sql(error)),
                Err(why) => return Err(RunError::Interrupted(why)),
            }
        };
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer gets the error.
            let _ = connection.await;
        });
        Ok(Self {
            client,
            driver: AbortOnDropHandle::new(driver),
            database,
        })
    }

    /// Runs statements, in one transaction if they are several.
    pub(super) async fn run(&self, sql: &str, stop: &Stop) -> Result<(), RunError> {
        match stop.race(self.client.batch_execute(sql)).await {
            Ok(done) => done.map_err(RunError::Sql),
            Err(why) => {
                self.cancel_statement().await;
                Err(RunError::Interrupted(why))
            }
        }
    }

    /// Runs statements, and gathers what they answer.
    pub(super) async fn simple_query(
        &self,
        sql: &str,
        stop: &Stop,
    ) -> Result<Vec<SimpleQueryMessage>, RunError> {
        match stop.race(self.client.simple_query(sql)).await {
            Ok(answered) => answered.map_err(RunError::Sql),
            Err(why) => {
                self.cancel_statement().await;
                Err(RunError::Interrupted(why))
            }
        }
    }

    /// Asks for the rows of several queries. The caller races the rows with its [`Stop`].
    pub(super) async fn query(
        &self,
        sql: &str,
    ) -> Result<SimpleQueryStream, tokio_postgres::Error> {
        self.client.simple_query_raw(sql).await
    }

    /// Keeps the server from working on for nobody.
    pub(super) async fn cancel_statement(&self) {
        let _ = timeout(PARTING, self.client.cancel_token().cancel_query(NoTls)).await;
    }

    /// Ends the session as the protocol wants it.
    pub(super) async fn close(self) {
        let Self { client, driver, .. } = self;
        drop(client);
        let _ = timeout(PARTING, driver).await;
    }
}

fn startup_options(config: &Config, options: &ApplyOptions, major: u32) -> String {
    let milliseconds = |time: Duration| time.as_millis().to_string();
    let mut pins: Vec<(&str, String)> = vec![
        // What statements mean.
        ("search_path", "pg_catalog,pg_temp".to_owned()),
        ("default_transaction_read_only", "off".to_owned()),
        ("default_transaction_deferrable", "off".to_owned()),
        ("default_transaction_isolation", "read committed".to_owned()),
        ("session_replication_role", "origin".to_owned()),
        ("standard_conforming_strings", "on".to_owned()),
        ("default_tablespace", String::new()),
        ("TimeZone", "UTC".to_owned()),
        // How long they may take.
        ("statement_timeout", milliseconds(options.statement_timeout)),
        ("lock_timeout", milliseconds(options.lock_timeout)),
        ("idle_in_transaction_session_timeout", "0".to_owned()),
        ("idle_session_timeout", "0".to_owned()),
        // Who gets to read them.
        ("client_min_messages", "warning".to_owned()),
        ("log_statement", "none".to_owned()),
        ("log_min_duration_statement", "-1".to_owned()),
        ("log_min_duration_sample", "-1".to_owned()),
        ("log_transaction_sample_rate", "0".to_owned()),
        ("log_min_error_statement", "panic".to_owned()),
        ("track_activities", "off".to_owned()),
        ("pgaudit.log", "none".to_owned()),
        ("pg_stat_statements.track", "none".to_owned()),
        // Neon's postgres would report them to its control plane, where they come from.
        ("neon.forward_ddl", "false".to_owned()),
    ];
    if let Some(user) = config.get_user() {
        pins.insert(0, ("role", user.to_owned()));
    }
    if major >= LOGIN_TRIGGERS_SINCE {
        pins.push(("transaction_timeout", "0".to_owned()));
        pins.push(("event_triggers", "off".to_owned()));
    }
    let mut text = String::new();
    for (name, value) in pins {
        text.push_str("-c ");
        text.push_str(name);
        text.push('=');
        for character in value.chars() {
            if character.is_ascii_whitespace() || character == '\\' {
                text.push('\\');
            }
            text.push(character);
        }
        text.push(' ');
    }
    // What the caller says wins.
    text.push_str(config.get_options().unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_come_first_and_values_are_escaped() {
        let mut config = Config::new();
        config.user("cloud admin\\x").options("-c work_mem=1MB");
        let text = startup_options(&config, &ApplyOptions::default(), 15);
        assert!(text.starts_with(r"-c role=cloud\ admin\\x -c search_path=pg_catalog,pg_temp "));
        assert!(text.contains(r" -c default_transaction_isolation=read\ committed "));
        assert!(text.contains(" -c statement_timeout=120000 "));
        assert!(text.ends_with(" -c work_mem=1MB"));
        assert!(!text.contains("transaction_timeout=0 -c event"));
    }

    #[test]
    fn settings_of_newer_versions_go_to_newer_versions_only() {
        let text = startup_options(&Config::new(), &ApplyOptions::default(), 17);
        assert!(text.ends_with("-c transaction_timeout=0 -c event_triggers=off "));
    }
}
