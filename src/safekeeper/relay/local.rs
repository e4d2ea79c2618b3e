//! Reads the WAL of the local postgres as its synchronous standby, and confirms it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, info, warn};

use super::Error;
use crate::backoff::Backoff;
use crate::error;
use crate::lsn::Lsn;
use crate::pgwire::{self, ConnectConfig, Connection, CopyReader, CopyWriter};
use crate::wire::replication::{ReaderMessage, SenderMessage, StatusUpdate};

/// The name that `synchronous_standby_names` waits for.
const APPLICATION_NAME: &str = "walproposer";
/// The name of connections that read WAL again; they must not count as the standby.
const RECOVERY_NAME: &str = "walproposer_recovery";
/// Keeps WAL that is not confirmed from being removed at a checkpoint.
const SLOT: &str = "walproposer";
/// PostgreSQL's own timeline; a primary that was never promoted is on the first.
const TLI: &str = "1";
/// Longest time between two reports. `wal_sender_timeout` is a minute.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How often in a row postgres may say that WAL is gone before that is believed.
const REMOVED_LIMIT: u32 = 3;
/// Waits between attempts to connect: commits wait for us.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));

/// From the Unix epoch to PostgreSQL's, 2000-01-01: 30 years with 7 leap days.
const POSTGRES_EPOCH: Duration = Duration::from_hours((30 * 365 + 7) * 24);

/// What happened on the connection to postgres.
pub(super) enum LocalEvent {
    /// WAL arrived.
    Wal {
        /// Its first position.
        start_lsn: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// The connection was made, lost, or told something that needs no decision.
    Changed,
}

/// The connection to the local postgres.
pub(super) struct LocalPostgres {
    config: ConnectConfig,
    peer: String,
    state: State,
    backoff: Backoff,
    /// Where to go on reading; set while the relay leads.
    position: Option<Lsn>,
    system_id: Option<u64>,
    slot: Slot,
    removed: u32,
    confirmed_lsn: Lsn,
}

/// Whether a replication slot is used. Not all servers have room for one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Wanted,
    Refused,
}

enum State {
    /// Postgres does not accept connections yet.
    Starting(Pin<Box<dyn Future<Output = ()> + Send>>),
    Waiting(Pin<Box<Sleep>>),
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Failed>> + Send>>),
    Open(Box<Open>),
}

struct Open {
    reader: CopyReader,
    writer: CopyWriter,
    reported_lsn: Lsn,
    /// When a report is due at the latest.
    report: Pin<Box<Sleep>>,
    /// Postgres wants a report now.
    asked: bool,
}

struct Opened {
    reader: CopyReader,
    writer: CopyWriter,
    system_id: u64,
}

enum Failed {
    /// May pass.
    Connection(pgwire::Error),
    /// May pass without the slot.
    Slot(pgwire::Error),
    /// Will not pass.
    Wrong(Error),
}

impl From<pgwire::Error> for Failed {
    fn from(error: pgwire::Error) -> Self {
        Self::Connection(error)
    }
}

/// How to connect to read WAL again.
pub(super) fn recovery_config(local: &ConnectConfig) -> ConnectConfig {
    replication_config(local.clone(), RECOVERY_NAME)
}

fn replication_config(mut config: ConnectConfig, application_name: &str) -> ConnectConfig {
    let own = ["application_name", "replication"];
    config
        .parameters
        .retain(|(name, _)| !own.contains(&name.as_str()));
    config
        .parameter("application_name", application_name)
        .parameter("replication", "true")
}

impl LocalPostgres {
    pub(super) fn new(
        config: ConnectConfig,
        system_id: u64,
        mut accepts: watch::Receiver<bool>,
    ) -> Self {
        let accepting = async move {
            let _ = accepts.wait_for(|accepts| *accepts).await;
        };
        Self {
            peer: config.peer(),
            config: replication_config(config, APPLICATION_NAME),
            state: State::Starting(Box::pin(accepting)),
            backoff: BACKOFF,
            position: None,
            system_id: (system_id != 0).then_some(system_id),
            slot: Slot::Wanted,
            removed: 0,
            confirmed_lsn: Lsn::INVALID,
        }
    }

    /// Reads from `position` on, whenever a connection is made.
    pub(super) fn open_at(&mut self, position: Lsn) {
        self.position = Some(position);
    }

    /// Drops the connection and makes a new one.
    pub(super) fn reopen(&mut self) {
        self.wait();
    }

    /// Reports everything below `commit_lsn` as durable, at once if that is news.
    pub(super) fn confirm(&mut self, commit_lsn: Lsn) {
        self.confirmed_lsn = self.confirmed_lsn.max(commit_lsn);
        let confirmed_lsn = self.confirmed_lsn;
        if let State::Open(open) = &mut self.state
            && (open.asked || open.reported_lsn < confirmed_lsn)
        {
            open.report(confirmed_lsn, false);
        }
    }

    /// Waits for something to happen; reads WAL only if it is wanted. Cancel safe.
    ///
    /// # Errors
    ///
    /// What no other connection will cure.
    pub(super) async fn next(&mut self, wants_wal: bool) -> Result<LocalEvent, Error> {
        poll_fn(|cx| self.poll(wants_wal, cx)).await
    }

    fn poll(&mut self, wants_wal: bool, cx: &mut Context<'_>) -> Poll<Result<LocalEvent, Error>> {
        loop {
            match &mut self.state {
                State::Starting(accepting) => {
                    ready!(accepting.as_mut().poll(cx));
                    self.state = State::Waiting(Box::pin(sleep_until(Instant::now())));
                }
                State::Waiting(until) => {
                    let Some(position) = self.position else {
                        return Poll::Pending;
                    };
                    ready!(until.as_mut().poll(cx));
                    let opening = open(self.config.clone(), position, self.system_id, self.slot);
                    self.state = State::Opening(Box::pin(opening));
                }
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(opened) => {
                        info!(postgres = self.peer, position = ?self.position, "reading WAL");
                        self.system_id = Some(opened.system_id);
                        self.state = State::Open(Box::new(Open::new(opened)));
                        return Poll::Ready(Ok(LocalEvent::Changed));
                    }
                    Err(failed) => return Poll::Ready(self.fail(failed)),
                },
                State::Open(open) => {
                    let confirmed_lsn = self.confirmed_lsn;
                    return match ready!(open.poll(wants_wal, confirmed_lsn, cx)) {
                        Ok(Some(event)) => {
                            if matches!(event, LocalEvent::Wal { .. }) {
                                self.removed = 0;
                                self.backoff.reset();
                            }
                            Poll::Ready(Ok(event))
                        }
                        // Postgres ends the stream when it has shut down.
                        Ok(None) => {
                            info!(postgres = self.peer, "postgres has ended the stream of WAL");
                            self.wait();
                            Poll::Ready(Ok(LocalEvent::Changed))
                        }
                        Err(error) => Poll::Ready(self.fail(Failed::Connection(error))),
                    };
                }
            }
        }
    }

    fn wait(&mut self) {
        let wait = self.backoff.next(rand::random());
        self.state = State::Waiting(Box::pin(sleep_until(Instant::now() + wait)));
    }

    fn fail(&mut self, failed: Failed) -> Result<LocalEvent, Error> {
        let failure = match failed {
            Failed::Wrong(error) => return Err(error),
            Failed::Slot(failure) => {
                warn!(
                    error = error::chain(&failure),
                    "no replication slot for the relay: postgres may remove WAL that a majority does not have yet"
                );
                self.slot = Slot::Refused;
                failure
            }
            Failed::Connection(failure) => failure,
        };
        if is_removed(&failure) {
            self.removed += 1;
            if self.removed >= REMOVED_LIMIT {
                return Err(Error::WalRemoved {
                    peer: self.peer.clone(),
                    position: self.position.unwrap_or_default(),
                });
            }
        }
        debug!(error = error::chain(&failure), "no WAL from postgres");
        self.wait();
        Ok(LocalEvent::Changed)
    }
}

impl Open {
    fn new(opened: Opened) -> Self {
        Self {
            reader: opened.reader,
            writer: opened.writer,
            reported_lsn: Lsn::INVALID,
            report: Box::pin(sleep_until(Instant::now() + REPORT_INTERVAL)),
            asked: true,
        }
    }

    fn poll(
        &mut self,
        wants_wal: bool,
        confirmed_lsn: Lsn,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<LocalEvent>, pgwire::Error>> {
        while self.report.as_mut().poll(cx).is_ready() {
            self.report(confirmed_lsn, true);
        }
        if self.writer.buffered() > 0 {
            let _ = pin!(self.writer.flush()).poll(cx)?;
        }
        if !wants_wal {
            return Poll::Pending;
        }
        let Some(body) = ready!(pin!(self.reader.next()).poll(cx))? else {
            return Poll::Ready(Ok(None));
        };
        let event = match SenderMessage::decode(body) {
            Ok(SenderMessage::XLogData { start_lsn, wal, .. }) => {
                LocalEvent::Wal { start_lsn, wal }
            }
            Ok(SenderMessage::KeepAlive {
                reply_requested, ..
            }) => {
                self.asked |= reply_requested;
                LocalEvent::Changed
            }
            Err(error) => {
                return Poll::Ready(Err(pgwire::Error::Protocol {
                    peer: "postgres".to_owned(),
                    what: format!("a replication message that does not decode: {error}"),
                }));
            }
        };
        Poll::Ready(Ok(Some(event)))
    }

    /// Buffers a report. One that postgres has not read yet is followed by the next
    /// only if that says something else.
    fn report(&mut self, confirmed_lsn: Lsn, reply_requested: bool) {
        let message = ReaderMessage::StatusUpdate(StatusUpdate {
            write_lsn: confirmed_lsn,
            flush_lsn: confirmed_lsn,
            apply_lsn: confirmed_lsn,
            timestamp: postgres_timestamp(),
            reply_requested,
        });
        self.writer.buffer(|out| message.encode(out));
        self.reported_lsn = confirmed_lsn;
        self.asked = false;
        self.report.as_mut().reset(Instant::now() + REPORT_INTERVAL);
    }
}

/// Microseconds since 2000-01-01 UTC.
fn postgres_timestamp() -> i64 {
    let since_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since_unix.saturating_sub(POSTGRES_EPOCH).as_micros() as i64
}

async fn open(
    config: ConnectConfig,
    position: Lsn,
    system_id: Option<u64>,
    slot: Slot,
) -> Result<Opened, Failed> {
    let limit = config.connect_timeout;
    let timeout = || {
        let peer = config.peer();
        Failed::Connection(pgwire::Error::ConnectTimeout { peer, limit })
    };
    let opening = open_unbounded(&config, position, system_id, slot);
    tokio::time::timeout(limit, opening)
        .await
        .map_err(|_| timeout())?
}

async fn open_unbounded(
    config: &ConnectConfig,
    position: Lsn,
    expected: Option<u64>,
    slot: Slot,
) -> Result<Opened, Failed> {
    let mut connection = Connection::connect(config).await?;
    let system_id = identify(&mut connection, expected).await?;
    let mut slot_clause = String::new();
    if slot == Slot::Wanted {
        create_slot(&mut connection).await?;
        slot_clause = format!("SLOT {SLOT} ");
    }
    let command = format!("START_REPLICATION {slot_clause}PHYSICAL {position} TIMELINE {TLI}");
    let streams = connection.copy_both(&command).await?;
    Ok(Opened {
        reader: streams.reader,
        writer: streams.writer,
        system_id,
    })
}

/// Checks that this is the postgres that the relay is for.
async fn identify(connection: &mut Connection, expected: Option<u64>) -> Result<u64, Failed> {
    let rows = connection.simple_query("IDENTIFY_SYSTEM").await?;
    let text = |column| rows.first().and_then(|row| row.text(column)).unwrap_or("");
    let wrong = |what, found: &str, expected: &str| {
        Failed::Wrong(Error::WrongPostgres {
            peer: connection.peer().to_owned(),
            what,
            found: found.to_owned(),
            expected: expected.to_owned(),
        })
    };
    if text(1) != TLI {
        return Err(wrong("timeline", text(1), TLI));
    }
    match (text(0).parse(), expected) {
        (Ok(found), None) => Ok(found),
        (Ok(found), Some(expected)) if found == expected => Ok(found),
        (_, expected) => {
            let expected = expected.map_or("a number".to_owned(), |id| id.to_string());
            Err(wrong("system identifier", text(0), &expected))
        }
    }
}

/// Creates the slot if it is not there.
async fn create_slot(connection: &mut Connection) -> Result<(), Failed> {
    let command = format!("CREATE_REPLICATION_SLOT {SLOT} PHYSICAL RESERVE_WAL");
    match connection.simple_query(&command).await {
        Ok(_) => Ok(()),
        Err(failure) if has_code(&failure, DUPLICATE_OBJECT) => Ok(()),
        Err(failure @ pgwire::Error::Server { .. }) => Err(Failed::Slot(failure)),
        Err(failure) => Err(Failed::Connection(failure)),
    }
}

const DUPLICATE_OBJECT: &str = "42710";
const UNDEFINED_FILE: &str = "58P01";

fn has_code(failure: &pgwire::Error, code: &str) -> bool {
    matches!(failure, pgwire::Error::Server { error, .. } if error.code == code)
}

/// `requested WAL segment … has already been removed`
/// (`src/backend/replication/walsender.c: WalSndSegmentOpen`).
fn is_removed(failure: &pgwire::Error) -> bool {
    has_code(failure, UNDEFINED_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_standby_itself_has_the_name_that_commits_wait_for() {
        let local = ConnectConfig::tcp("127.0.0.1", 5432, "cloud_admin")
            .parameter("application_name", "walproposer");
        let names = |config: &ConnectConfig| -> Vec<String> {
            let named = config.parameters.iter();
            named
                .filter(|(name, _)| name == "application_name")
                .map(|(_, value)| value.clone())
                .collect()
        };
        assert_eq!(names(&recovery_config(&local)), ["walproposer_recovery"]);
        let standby = replication_config(local, APPLICATION_NAME);
        assert_eq!(names(&standby), ["walproposer"]);
    }
}
