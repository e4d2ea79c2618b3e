//! What the monitor asks postgres, and how it reads the answers.
//!
//! Times are asked for as numbers: the session's time zone and date style have no say.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{Client, Error, Row, Statement};

use crate::compute::activity::Look;
use crate::report::{NeonCounters, Sessions, StorageWaits};

/// Settings that a spec, or somebody by `ALTER ROLE`, may have made otherwise: one query
/// a second would fill the log, and a search path could name other tables.
pub(super) const SESSION: &str = "-c search_path=pg_catalog -c statement_timeout=5s \
    -c lock_timeout=2s -c idle_session_timeout=0 -c log_statement=none \
    -c log_min_duration_statement=-1 -c log_duration=off -c pgaudit.log=none";

/// One pass over the sessions, and four counts that are next to free. The superuser's
/// sessions are this program's and its companions'.
const LOOK: &str = "
SELECT
    (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now,
    count(*) FILTER (WHERE client AND state <> 'idle') AS active,
    count(*) FILTER (WHERE client AND state = 'idle') AS idle,
    (extract(epoch FROM max(state_change) FILTER (WHERE client AND state = 'idle'))
        * 1000000)::int8 AS last_idle,
    count(*) FILTER (WHERE backend_type = 'autovacuum worker') AS autovacuum_workers,
    count(*) FILTER (WHERE wait_event = 'SyncRep') AS commits,
    (extract(epoch FROM clock_timestamp()
        - min(query_start) FILTER (WHERE wait_event = 'SyncRep')) * 1000000)::int8 AS oldest_commit,
    count(*) FILTER (WHERE wait_event LIKE 'Neon/PS%') AS page_reads,
    (SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'walproposer')
        AS walsenders,
    (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL) AS subscriptions,
    (SELECT count(*) FROM pg_prepared_xacts) AS prepared_transactions
FROM (
    SELECT *, coalesce(backend_type = 'client backend' AND pid <> pg_backend_pid()
        AND usename <> current_user, false) AS client
    FROM pg_stat_activity
) AS session";

/// Databases that maintenance connects to do not count.
const OPENED: &str = "
SELECT coalesce(sum(sessions), 0)::int8 AS opened FROM pg_stat_database
WHERE datname NOT IN ('postgres', 'template0', 'template1')";

/// Neon's extension is made in the database `postgres` (`pgxn/neon/neon--1.4--1.5.sql`).
const HAS_COUNTERS: &str = "
SELECT to_regclass('neon.neon_perf_counters') IS NOT NULL
    AND to_regprocedure('neon.backpressure_throttling_time()') IS NOT NULL";

const COUNTERS: &str = "
SELECT metric::text, value::float8 FROM neon.neon_perf_counters WHERE bucket_le IS NULL
UNION ALL SELECT 'throttled_us', neon.backpressure_throttling_time()::float8";

/// The prepared statements of one connection.
pub(super) struct Queries {
    look: Statement,
    opened: Option<Statement>,
}

impl Queries {
    pub(super) async fn prepare(client: &Client, count_opened: bool) -> Result<Self, Error> {
        let opened = if count_opened {
            Some(client.prepare(OPENED).await?)
        } else {
            None
        };
        let look = client.prepare(LOOK).await?;
        Ok(Self { look, opened })
    }

    pub(super) async fn look(&mut self, client: &Client) -> Result<(Look, StorageWaits), Error> {
        let row = client.query_one(&self.look, &[]).await?;
        let opened = match &self.opened {
            Some(opened) => Some(client.query_one(opened, &[]).await?.try_get("opened")?),
            None => None,
        };
        read(&row, opened)
    }

    /// The counters of Neon's extension; `None` where it is not, or not yet.
    pub(super) async fn neon_counters(&self, client: &Client) -> Option<NeonCounters> {
        let has = client.query_one(HAS_COUNTERS, &[]).await.ok()?;
        if !has.try_get(0).unwrap_or(false) {
            return None;
        }
        let rows = client.query(COUNTERS, &[]).await.ok()?;
        let counters = rows.iter().filter_map(|row| {
            let (name, value) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
            Some((name, value))
        });
        Some(counters.fold(NeonCounters::default(), add))
    }
}

fn read(row: &Row, opened: Option<i64>) -> Result<(Look, StorageWaits), Error> {
    let look = Look {
        at: timestamp(row.try_get("now")?),
        sessions: Sessions {
            active: row.try_get("active")?,
            idle: row.try_get("idle")?,
            walsenders: row.try_get("walsenders")?,
            subscriptions: row.try_get("subscriptions")?,
            autovacuum_workers: row.try_get("autovacuum_workers")?,
            prepared_transactions: row.try_get("prepared_transactions")?,
        },
        last_idle: row.try_get::<_, Option<i64>>("last_idle")?.map(timestamp),
        opened,
    };
    let oldest: Option<i64> = row.try_get("oldest_commit")?;
    let waits = StorageWaits {
        commits: row.try_get("commits")?,
        oldest_commit: Duration::from_micros(oldest.unwrap_or(0).try_into().unwrap_or(0)),
        page_reads: row.try_get("page_reads")?,
        neon: None,
    };
    Ok((look, waits))
}

/// Microseconds of the epoch; what no clock shows is its beginning.
fn timestamp(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Takes one row of the counters. Names are those of the view; others may come.
fn add(mut counters: NeonCounters, (name, value): (&str, f64)) -> NeonCounters {
    let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    match name {
        "compute_getpage_stuck_requests_total" => counters.stuck_requests = value,
        "compute_getpage_max_inflight_stuck_time_ms" => {
            counters.oldest_stuck = duration(value / 1e3);
        }
        "pageserver_open_requests" => counters.open_requests = value,
        "pageserver_disconnects_total" => counters.disconnects = value,
        "getpage_wait_seconds_count" => counters.getpages = value,
        "getpage_wait_seconds_sum" => counters.getpage_wait = duration(value),
        "throttled_us" => counters.throttled = duration(value / 1e6),
        _ => {}
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name_and_others_are_ignored() {
        let rows = [
            ("compute_getpage_max_inflight_stuck_time_ms", 61_500.0),
            ("getpage_wait_seconds_sum", -1.0),
            ("pageserver_open_requests", 3.0),
            ("throttled_us", 2_000_000.0),
            ("of the future", f64::NAN),
        ];
        let counters = rows.into_iter().fold(NeonCounters::default(), add);
        let expected = NeonCounters {
            oldest_stuck: Duration::from_millis(61_500),
            open_requests: 3.0,
            throttled: Duration::from_secs(2),
            ..NeonCounters::default()
        };
        assert_eq!(counters, expected);
    }
}
