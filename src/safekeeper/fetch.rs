//! WAL read back for safekeepers that lag: from another safekeeper, or from the
//! local postgres. At most one stream for each laggard, read only as fast as the
//! laggard takes it.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::address::Introduction;
use super::proposer::{Slot, Source};
use crate::error;
use crate::lsn::Lsn;
use crate::pgwire::{self, ConnectConfig, Connection, CopyReader};
use crate::wire::replication::SenderMessage;

/// A stream that brings nothing for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// What happened on a stream.
pub(super) enum FetchEvent {
    /// WAL arrived.
    Fetched {
        slot: Slot,
        start_lsn: Lsn,
        wal: Bytes,
    },
    /// The stream is gone.
    Failed { slot: Slot, message: String },
}

/// All streams, by the safekeeper that they are for.
pub(super) struct Fetches {
    introduction: Introduction,
    /// The local postgres, where there is one.
    local: Option<ConnectConfig>,
    streams: BTreeMap<Slot, Fetch>,
}

struct Fetch {
    stage: Stage,
    until: Lsn,
    /// Whether a keepalive names the end of the WAL that there is. A safekeeper's
    /// does, postgres' names the end of what it has sent.
    keepalive_tells_end: bool,
    stalled: Pin<Box<tokio::time::Sleep>>,
}

enum Stage {
    Connecting(Connecting),
    Reading(CopyReader),
}

type Connecting = Pin<Box<dyn Future<Output = Result<CopyReader, pgwire::Error>> + Send>>;

impl Fetches {
    pub(super) fn new(introduction: Introduction, local: Option<ConnectConfig>) -> Self {
        Self {
            introduction,
            local,
            streams: BTreeMap::new(),
        }
    }

    pub(super) fn start(&mut self, slot: Slot, from: Lsn, until: Lsn, source: Source) {
        let keepalive_tells_end = matches!(source, Source::Donor { .. });
        let connecting: Connecting = match source {
            Source::Donor { endpoint, term } => {
                // The term must follow the LSN after one blank, or it is not seen
                // (`safekeeper/src/handler.rs: parse_cmd`).
                let command = format!("START_REPLICATION PHYSICAL {from} (term='{term}')");
                let introduction = self.introduction.clone();
                Box::pin(async move {
                    let read = |config| connect(config, command.clone());
                    introduction.connect(&endpoint, read).await
                })
            }
            Source::Local => {
                let command = format!("START_REPLICATION PHYSICAL {from} TIMELINE 1");
                let local = self.local.clone();
                Box::pin(async move {
                    let local = local.ok_or(pgwire::Error::ConnectionString(None))?;
                    connect(local, command).await
                })
            }
        };
        let fetch = Fetch {
            stage: Stage::Connecting(connecting),
            until,
            keepalive_tells_end,
            stalled: Box::pin(tokio::time::sleep(STALL_LIMIT)),
        };
        self.streams.insert(slot, fetch);
    }

    pub(super) fn stop(&mut self, slot: Slot) {
        self.streams.remove(&slot);
    }

    /// Waits for WAL for those who want some. Waits for ever if nobody does. Cancel
    /// safe.
    pub(super) async fn next(&mut self, wanted: impl Fn(Slot) -> bool) -> FetchEvent {
        let (slot, result) = poll_fn(|cx| {
            let wanting = self.streams.iter_mut().filter(|(slot, _)| wanted(**slot));
            for (slot, fetch) in wanting {
                if let Poll::Ready(result) = fetch.poll(cx) {
                    return Poll::Ready((*slot, result));
                }
            }
            Poll::Pending
        })
        .await;
        match result {
            Ok((start_lsn, wal)) => FetchEvent::Fetched {
                slot,
                start_lsn,
                wal,
            },
            Err(message) => {
                self.streams.remove(&slot);
                FetchEvent::Failed { slot, message }
            }
        }
    }
}

impl Fetch {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Lsn, Bytes), String>> {
        match self.poll_stream(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => {
                ready!(self.stalled.as_mut().poll(cx));
                Poll::Ready(Err(format!("no WAL came for {STALL_LIMIT:?}")))
            }
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Lsn, Bytes), String>> {
        loop {
            let reader = match &mut self.stage {
                Stage::Reading(reader) => reader,
                Stage::Connecting(connecting) => {
                    match ready!(connecting.as_mut().poll(cx)) {
                        Ok(reader) => self.stage = Stage::Reading(reader),
                        Err(error) => return Poll::Ready(Err(error::chain(&error))),
                    }
                    continue;
                }
            };
            let body = match ready!(pin!(reader.next()).poll(cx)) {
                Ok(Some(body)) => body,
                Ok(None) => return Poll::Ready(Err("the stream ended early".to_owned())),
                Err(error) => return Poll::Ready(Err(error::chain(&error))),
            };
            if let Some(result) = self.take(body) {
                return Poll::Ready(result);
            }
        }
    }

    fn take(&mut self, body: Bytes) -> Option<Result<(Lsn, Bytes), String>> {
        match SenderMessage::decode(body) {
            Ok(SenderMessage::XLogData {
                start_lsn, mut wal, ..
            }) => {
                self.stalled
                    .as_mut()
                    .reset(tokio::time::Instant::now() + STALL_LIMIT);
                wal.truncate(self.until.bytes_since(start_lsn) as usize);
                Some(Ok((start_lsn, wal)))
            }
            Ok(SenderMessage::KeepAlive { end_lsn, .. })
                if self.keepalive_tells_end && end_lsn < self.until =>
            {
                let message = format!("the WAL there ends at {end_lsn}, before {}", self.until);
                Some(Err(message))
            }
            Ok(SenderMessage::KeepAlive { .. }) => None,
            Err(error) => Some(Err(format!("a message that does not decode: {error}"))),
        }
    }
}

async fn connect(config: ConnectConfig, command: String) -> Result<CopyReader, pgwire::Error> {
    let connection = Connection::connect(&config).await?;
    Ok(connection.copy_both(&command).await?.reader)
}
