//! Has the running postgres read its configuration again, and asks what came of it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::config::ComputeConfig;
use super::error::Error;
use super::local;
use crate::spec::ComputeSpec;

/// How long postgres may take to read its configuration again.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// How often postgres is asked whether it has.
const POLL: Duration = Duration::from_millis(10);

/// A connection to the local postgres for as long as this lives.
pub(super) struct Sql {
    client: Client,
    /// Ends the connection's task when this is dropped.
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

impl Sql {
    pub(super) async fn connect(
        config: &ComputeConfig,
        started_with: &ComputeSpec,
    ) -> Result<Self, Error> {
        let sql_config = local::sql_config(config, started_with);
        let connected = sql_config.connect(tokio_postgres::NoTls).await;
        let (client, connection) = connected.map_err(Error::Query)?;
        let task = tokio::spawn(async move {
            // Its error reaches the queries that wait on it.
            let _ = connection.await;
        });
        Ok(Self {
            client,
            _connection: tokio_util::task::AbortOnDropHandle::new(task),
        })
    }

    /// The first column of each row.
    async fn column(&self, query: &str) -> Result<Vec<String>, Error> {
        let answer = self.client.simple_query(query);
        let rows = tokio::time::timeout(LIMIT, answer)
            .await
            .map_err(|_| Error::ReloadTimeout(LIMIT))?
            .map_err(Error::Query)?;
        let texts = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(texts.collect())
    }

    /// What postgres would refuse of the files as they are now, and whether anything else
    /// needs a restart to be tried. Of a setting that needs one, postgres says the same
    /// whether its value is good or not.
    pub(super) async fn refused_settings(&self) -> Result<(Vec<String>, bool), Error> {
        let error_of = |context: &str| {
            format!(
                "SELECT pg_catalog.format('%s%s', f.name || ': ', f.error) \
                 FROM pg_catalog.pg_file_settings f \
                 LEFT JOIN pg_catalog.pg_settings s \
                   ON pg_catalog.lower(s.name) = pg_catalog.lower(f.name) \
                 WHERE f.error IS NOT NULL AND (s.context IS NOT DISTINCT FROM 'postmaster') = {context}"
            )
        };
        let refused = self.column(&error_of("false")).await?;
        let at_restart = self.column(&error_of("true")).await?;
        Ok((refused, !at_restart.is_empty()))
    }

    /// Has postgres read its configuration again, and waits until it has.
    pub(super) async fn reload(&self) -> Result<(), Error> {
        const LOADED: &str = "SELECT pg_catalog.pg_conf_load_time()";
        let before = self.column(LOADED).await?;
        self.column("SELECT pg_catalog.pg_reload_conf()").await?;
        let give_up = Instant::now() + LIMIT;
        while self.column(LOADED).await? == before {
            if Instant::now() >= give_up {
                return Err(Error::ReloadTimeout(LIMIT));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(super) async fn pending_restart(&self) -> Result<Vec<String>, Error> {
        self.column("SELECT name FROM pg_catalog.pg_settings WHERE pending_restart ORDER BY 1")
            .await
    }
}
