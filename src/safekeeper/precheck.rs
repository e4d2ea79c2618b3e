//! Asks all safekeepers whether they are already in sync, without being elected.
//!
//! A hint, not a fence: nothing keeps an older proposer from writing afterwards.
//! It counts only if *all* safekeepers agree. A majority would not do: the one that
//! is missing may hold more, and the next election would find it (neondatabase/neon
//! issue 6771).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use postgres_protocol::message::frontend;

use super::address::Introduction;
use crate::lsn::Lsn;
use crate::pgwire::{self, ConnectConfig, Connection, Row};

/// How long the answers may take together. Round trips take a fraction of a
/// millisecond; a safekeeper that is busy syncing may take tens of them.
const LIMIT: Duration = Duration::from_millis(150);

/// Both positions of a safekeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimelineStatus {
    flush_lsn: Lsn,
    commit_lsn: Lsn,
}

/// The LSN that all safekeepers have flushed and committed, if they all say the
/// same.
pub(super) async fn in_sync_at(introduction: &Introduction, endpoints: &[String]) -> Option<Lsn> {
    let ask = |endpoint| status(introduction, endpoint);
    let answers: FuturesUnordered<_> = endpoints.iter().map(String::as_str).map(ask).collect();
    let agreed = tokio::time::timeout(LIMIT, agreement(answers)).await;
    agreed.ok().flatten()
}

/// The LSN that all answers name as flushed and committed. Ends with the first that
/// says something else.
async fn agreement(mut answers: impl Stream<Item = Option<TimelineStatus>> + Unpin) -> Option<Lsn> {
    let first = answers.next().await??;
    if first.flush_lsn != first.commit_lsn {
        return None;
    }
    while let Some(answer) = answers.next().await {
        if answer != Some(first) {
            return None;
        }
    }
    Some(first.commit_lsn)
}

async fn status(introduction: &Introduction, endpoint: &str) -> Option<TimelineStatus> {
    let mut query = BytesMut::new();
    frontend::query("TIMELINE_STATUS", &mut query).ok()?;
    let query = query.freeze();
    let ask = |config| ask(config, query.clone());
    read_status(&introduction.connect(endpoint, ask).await.ok()?)
}

async fn ask(config: ConnectConfig, query: Bytes) -> Result<Vec<Row>, pgwire::Error> {
    let mut connection = Connection::connect_eagerly(&config, &query).await?;
    connection.query_reply().await
}

/// No row means that the safekeeper does not have the timeline.
fn read_status(rows: &[Row]) -> Option<TimelineStatus> {
    let row = rows.first()?;
    Some(TimelineStatus {
        flush_lsn: row.text(0)?.parse().ok()?,
        commit_lsn: row.text(1)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn at(flush: u64, commit: u64) -> TimelineStatus {
        TimelineStatus {
            flush_lsn: Lsn(flush),
            commit_lsn: Lsn(commit),
        }
    }

    #[tokio::test]
    async fn all_must_say_the_same_and_have_committed_it() {
        let eight = Some(at(8, 8));
        let zero = Some(at(0, 0));
        let ahead = Some(at(16, 8));
        for (answers, expected) in [
            (vec![eight, eight, eight], Some(Lsn(8))),
            (vec![zero, zero, zero], Some(Lsn(0))),
            (vec![eight, eight, Some(at(16, 16))], None),
            (vec![eight, eight, None], None),
            (vec![None, eight, eight], None),
            (vec![ahead, ahead, ahead], None),
            (vec![], None),
        ] {
            let found = agreement(stream::iter(answers.clone())).await;
            assert_eq!(found, expected, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn the_first_that_differs_is_enough() {
        let answers = stream::iter([Some(at(8, 8)), None]).chain(stream::pending());
        assert_eq!(agreement(answers).await, None);
    }

    #[test]
    fn a_status_is_two_lsns() {
        let row = |texts: [&str; 2]| Row(texts.map(|text| Some(text.to_owned())).into());
        assert_eq!(
            read_status(&[row(["0/14EE168", "0/14EE150"])]),
            Some(at(0x14E_E168, 0x14E_E150))
        );
        assert_eq!(read_status(&[]), None);
        assert_eq!(read_status(&[row(["0/14EE168", "soon"])]), None);
    }
}
