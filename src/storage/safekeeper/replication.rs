//! Serves `START_REPLICATION`: WAL out as it becomes durable or committed, reports
//! of the reader in.

use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::Node;
use super::command::Replication;
use super::faults::FaultView;
use super::push::Ending;
use super::streams::{StreamGuard, Streams};
use super::timeline::{Request, Timeline, TimelineStatus};
use crate::error::chain;
use crate::lsn::{Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE};
use crate::storage::pgwire_server::{CopyInput, CopyReceiver, CopySender, Error, Session};
use crate::storage::wal_store::{self, WalReader, prefix};
use crate::wire::replication::{MAX_CHUNK_SIZE, ReaderMessage, SenderMessage};
use crate::wire::safekeeper::HotStandbyFeedback;

/// How often an idle stream shows that it is alive, and looks whether it should end.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(1);

/// Seconds between the Unix epoch and PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH: u64 = 946_684_800;

/// Serves a reader until either side ends the connection.
pub(super) async fn serve(
    session: Session,
    timeline: Timeline,
    options: Replication,
    node: Node,
) -> Result<(), Error> {
    let application = session
        .startup()
        .parameter("application_name")
        .map(str::to_owned);
    let (receiver, sender) = session.copy_both().await?;
    if let Err(text) = check_start(&timeline.status(), options.start) {
        return Ending::refused(text).send(sender).await;
    }
    let guard = timeline
        .streams
        .reader(receiver.peer(), application.clone());
    let (caught_up, reported) = watch::channel(Lsn::INVALID);
    let stream = Stream {
        wal: Some(timeline.reader()),
        status: timeline.watch(),
        streams: timeline.streams.clone(),
        position: options.start,
        term: options.term,
        application,
        reported,
        faults: node.faults.clone(),
    };
    let (ended, ending) = oneshot::channel();
    let mut writing = pin!(stream.run(sender, ending));
    let reading = read_reports(receiver, &timeline, &guard, &caught_up, node.faults);
    tokio::select! {
        result = &mut writing => result,
        ending = reading => {
            let ending = ending.unwrap_or_else(|error| {
                info!("connection closed: {}", chain(&error));
                Ending::Silent
            });
            ended.send(ending).ok();
            writing.await
        }
    }
}

fn check_start(status: &TimelineStatus, start: Lsn) -> Result<(), String> {
    let timeline_start = status.control.timeline_start_lsn;
    if !timeline_start.is_valid() {
        return Err("state uninitialized, no data to read".to_owned());
    }
    if start < timeline_start && start.segment() != timeline_start.segment() {
        return Err(format!(
            "Requested streaming from {start}, which is before the start of the timeline \
             {timeline_start}, and also doesn't start at the first segment of that timeline"
        ));
    }
    Ok(())
}

/// Takes reports until the reader ends the stream.
async fn read_reports(
    mut receiver: CopyReceiver,
    timeline: &Timeline,
    guard: &StreamGuard,
    caught_up: &watch::Sender<Lsn>,
    mut faults: FaultView,
) -> Result<Ending, Error> {
    loop {
        let input = tokio::select! {
            () = timeline.gone.cancelled() => return Ok(Ending::Silent),
            input = receiver.next() => input?,
        };
        faults.unpaused().await;
        let CopyInput::Data(body) = input else {
            return Ok(Ending::of(&input));
        };
        let name = match body.first() {
            Some(b'r') => "StandbyReply",
            Some(b'h') => "HotStandbyFeedback",
            Some(b'z') => "PageserverFeedback",
            // Upstream ignores the rest, and so do clients' keepalives rely on it.
            _ => continue,
        };
        match ReaderMessage::decode(body) {
            Ok(ReaderMessage::StatusUpdate(status)) => guard.report_status(status),
            Ok(ReaderMessage::HotStandbyFeedback {
                timestamp,
                xmin,
                catalog_xmin,
            }) => guard.report_standby(HotStandbyFeedback {
                timestamp,
                xmin,
                catalog_xmin,
            }),
            Ok(ReaderMessage::PageserverFeedback(feedback)) => {
                guard.report_pageserver(feedback);
                caught_up.send_replace(feedback.remote_consistent_lsn);
                if timeline.send(Request::Feedback(feedback)).await.is_err() {
                    return Ok(Ending::Silent);
                }
            }
            Err(_) => {
                let text = format!("failed to deserialize {name}: deserialize error");
                return Ok(Ending::refused(text));
            }
        }
    }
}

struct Stream {
    /// `None` only while a blocking read has it.
    wal: Option<WalReader>,
    status: watch::Receiver<TimelineStatus>,
    streams: Streams,
    position: Lsn,
    term: Option<u64>,
    application: Option<String>,
    /// What a pageserver has stored for good.
    reported: watch::Receiver<Lsn>,
    faults: FaultView,
}

impl Stream {
    async fn run(
        mut self,
        mut sender: CopySender,
        mut ending: oneshot::Receiver<Ending>,
    ) -> Result<(), Error> {
        loop {
            let next = tokio::select! {
                biased;
                ending = &mut ending => Err(ending.unwrap_or(Ending::Silent)),
                next = self.next() => next,
            };
            match next {
                Ok(message) => {
                    self.faults.unpaused().await;
                    sender.data(|out| message.encode(out));
                    sender.flush().await?;
                }
                Err(ending) => return ending.send(sender).await,
            }
        }
    }

    /// The next message, as soon as there is one.
    async fn next(&mut self) -> Result<SenderMessage, Ending> {
        let deadline = Instant::now() + KEEPALIVE_PERIOD;
        loop {
            let status = self.status.borrow_and_update().clone();
            let end = self.end(&status);
            if self.position < end {
                return self.chunk(&status, end).await;
            }
            if let Some(requested) = self.term
                && requested != status.last_log_term
            {
                let now = status.last_log_term;
                return Err(Ending::refused(format!(
                    "term changed: requested {requested}, now {now}"
                )));
            }
            tokio::select! {
                changed = self.status.changed() => {
                    changed.map_err(|_| Ending::Silent)?;
                }
                () = sleep_until(deadline) => {
                    self.check_caught_up(&status)?;
                    return Ok(SenderMessage::KeepAlive {
                        end_lsn: end,
                        timestamp: timestamp(),
                        reply_requested: true,
                    });
                }
            }
        }
    }

    fn end(&self, status: &TimelineStatus) -> Lsn {
        match self.term {
            Some(_) => status.flush_lsn.max(status.control.timeline_start_lsn),
            None => status.control.commit_lsn,
        }
    }

    /// A pageserver that has everything, of a timeline that nobody writes, is sent
    /// away.
    fn check_caught_up(&self, status: &TimelineStatus) -> Result<(), Ending> {
        let reported = *self.reported.borrow();
        let has_all = reported.is_valid() && reported >= status.control.commit_lsn;
        if self.term.is_none() && has_all && self.streams.proposers().is_empty() {
            let (who, at) = (&self.application, self.position);
            let text = format!(
                "ending streaming to {who:?} at {at}, receiver is caughtup and there is no computes"
            );
            return Err(Ending::Error("00000", text));
        }
        Ok(())
    }

    async fn chunk(&mut self, status: &TimelineStatus, end: Lsn) -> Result<SenderMessage, Ending> {
        self.check_term(status)?;
        let start = self.position;
        let count = chunk_end(start, end, status.control.timeline_start_lsn).0 - start.0;
        let wal = if start < status.control.timeline_start_lsn {
            before_the_start(start, count as usize, status)
        } else {
            self.read(start, count as usize).await?
        };
        // A truncation under a newer term may have overtaken the read.
        let status = self.status.borrow().clone();
        self.check_term(&status)?;
        self.position.0 += wal.len() as u64;
        Ok(SenderMessage::XLogData {
            start_lsn: start,
            end_lsn: end,
            timestamp: timestamp(),
            wal,
        })
    }

    fn check_term(&self, status: &TimelineStatus) -> Result<(), Ending> {
        match self.term {
            Some(wanted) if wanted != status.control.term => {
                let current = status.control.term;
                Err(Ending::refused(format!(
                    "failed to acquire term {wanted}, current term {current}"
                )))
            }
            _ => Ok(()),
        }
    }

    async fn read(&mut self, from: Lsn, count: usize) -> Result<Bytes, Ending> {
        let Some(mut reader) = self.wal.take() else {
            return Err(Ending::Silent);
        };
        let read = tokio::task::spawn_blocking(move || {
            let wal = reader.read(from, count);
            (reader, wal)
        });
        let (reader, wal) = match read.await {
            Ok((reader, wal)) => (Some(reader), wal),
            Err(_) => (None, Err(wal_store::Error::Interrupted)),
        };
        self.wal = reader;
        match wal {
            Ok(wal) if wal.len() == count => Ok(wal),
            Ok(_) => Err(Ending::refused("WAL segment is not found")),
            Err(error) => Err(Ending::refused(chain(&error))),
        }
    }
}

/// Chunks end at a page, unless they reach the end, and never cross the end of a
/// segment or the start of the timeline.
fn chunk_end(start: Lsn, end: Lsn, timeline_start: Lsn) -> Lsn {
    let segment_end = Lsn((start.segment() + 1).saturating_mul(WAL_SEGMENT_SIZE));
    let mut limit = end.min(segment_end);
    if start < timeline_start {
        limit = limit.min(timeline_start);
    }
    let full = start.0.saturating_add(MAX_CHUNK_SIZE as u64);
    if limit.0 <= full {
        return limit;
    }
    Lsn(full - full % WAL_PAGE_SIZE)
}

/// What was never sent to anybody: page headers, and zeros.
fn before_the_start(from: Lsn, count: usize, status: &TimelineStatus) -> Bytes {
    let mut wal = vec![0; count];
    for (at, bytes) in prefix(status.control.timeline_start_lsn, &status.control.server) {
        for (position, byte) in (at.0..).zip(bytes) {
            let place = position
                .checked_sub(from.0)
                .and_then(|offset| wal.get_mut(offset as usize));
            if let Some(place) = place {
                *place = byte;
            }
        }
    }
    wal.into()
}

/// Now, in microseconds since 2000-01-01.
fn timestamp() -> i64 {
    let epoch = UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH);
    let since = SystemTime::now().duration_since(epoch).unwrap_or_default();
    since.as_micros() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_at_pages_segments_the_start_and_the_end() {
        let start = Lsn(0x151_1AE0);
        let end = Lsn(0x15A_6568);
        let check = |from: u64, expected: u64| {
            assert_eq!(chunk_end(Lsn(from), end, start), Lsn(expected));
        };
        check(0x151_1AE0, 0x153_0000);
        check(0x159_0000, 0x15A_6568);
        check(0x15A_0003, 0x15A_6568);
        check(0x100_0000, 0x102_0000);
        check(0x150_0000, 0x151_1AE0);
        assert_eq!(
            chunk_end(Lsn(0x1FF_F000), Lsn(0x300_0000), start),
            Lsn(0x200_0000)
        );
    }
}
