//! Serves a pagestream: one request and one answer at a time, in order.
//!
//! What is answered, and how the stream ends: `handle_pagerequests` of
//! `pageserver/src/page_service.rs` of Neon. The tenant is looked up with each
//! request, so that a shard that moves away is missed at once.

use std::sync::Arc;

use bytes::Bytes;

use super::connection::{Connection, INTERNAL_ERROR, timeline_not_found};
use super::metrics::Outcome;
use super::relations;
use crate::id::{TenantId, TimelineId};
use crate::storage::files::{self, blocking};
use crate::storage::pgwire_server::{CopyInput, CopySender, Error, Session};
use crate::storage::timelines::Timeline;
use crate::wire::DecodeError;
use crate::wire::pagestream::{Answer, Header, Query, Request, Version};

/// `connection_failure`: connect anew.
const CONNECTION_FAILURE: &str = "08006";

/// What a stream was opened for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) version: Version,
    pub(super) tenant_id: TenantId,
    pub(super) timeline_id: TimelineId,
}

/// What becomes of the stream after a request.
enum Next {
    /// The next request.
    Request,
    /// The stream ends with an error, the connection stays.
    End(String),
    /// The connection ends: the client should find out where the shard is.
    Reconnect,
}

/// Serves until the stream ends; `None` if the connection does, too.
pub(super) async fn serve(
    connection: &mut Connection,
    session: Session,
    stream: &Stream,
) -> Result<Option<Session>, Error> {
    let (mut receiver, mut sender) = session.copy_both().await?;
    let mut arrived = None;
    let ended = loop {
        let input = match arrived.take() {
            Some(body) => CopyInput::Data(body),
            None => receiver.next().await?,
        };
        connection.node.knobs.unpaused().await;
        let next = match input {
            CopyInput::Data(body) => answer(connection, stream, body, &mut sender).await,
            CopyInput::Done => Next::End("unexpected message: CopyDone during COPY".to_owned()),
            CopyInput::Fail(_) => Next::End("unexpected message: CopyFail during COPY".to_owned()),
            CopyInput::Closed => return Ok(None),
        };
        match next {
            Next::Request => {
                arrived = receiver.buffered();
                if arrived.is_none() {
                    sender.flush().await?;
                }
            }
            Next::End(text) => break text,
            Next::Reconnect => {
                sender.error(CONNECTION_FAILURE, "reconnect");
                sender.close().await?;
                return Ok(None);
            }
        }
    };
    sender.error(INTERNAL_ERROR, &ended);
    Ok(Some(Session::rejoin(receiver, sender)))
}

async fn answer(
    connection: &mut Connection,
    stream: &Stream,
    body: Bytes,
    sender: &mut CopySender,
) -> Next {
    let request = match Request::decode(stream.version, body) {
        Ok(request) => request,
        Err(DecodeError::UnknownTag { tag }) => return Next::End(format!("invalid tag {tag}")),
        Err(_) => return Next::End("failed to fill whole buffer".to_owned()),
    };
    let timeline = match find(connection, stream, &request.query) {
        Ok(timeline) => timeline,
        Err(next) => return next,
    };
    let is_page = matches!(request.query, Query::GetPage { .. });
    let answer = match timeline {
        Some(timeline) => look_up(connection, timeline, &request).await,
        None if is_page => Answer::Error(timeline_not_found(stream.tenant_id, stream.timeline_id)),
        None => return Next::End("not found".to_owned()),
    };
    connection.node.metrics.request_ended(outcome(&answer));
    sender.data(|out| request.encode_answer(stream.version, &answer, out));
    Next::Request
}

fn outcome(answer: &Answer) -> Outcome {
    match answer {
        Answer::Error(text) if text == "Read error" => Outcome::InternalError,
        Answer::Error(_) => Outcome::OtherError,
        _ => Outcome::Success,
    }
}

/// The timeline, if the shard that is asked for is here; `None` if only the timeline
/// is missing.
fn find(
    connection: &mut Connection,
    stream: &Stream,
    query: &Query,
) -> Result<Option<Arc<Timeline>>, Next> {
    let pinned = connection.pin(stream.tenant_id);
    pinned.map_err(|refusal| Next::End(refusal.0))?;
    let node = &connection.node;
    if node.locations.shard_for(stream.tenant_id, query).is_some() {
        return Ok(node.timelines.find(stream.tenant_id, stream.timeline_id));
    }
    if matches!(query, Query::GetPage { .. }) {
        // Counted while looking and again when it was not found, as upstream does.
        node.metrics.misrouted.inc_by(2);
        node.metrics.request_ended(Outcome::InternalError);
        Err(Next::Reconnect)
    } else {
        node.metrics.misrouted.inc();
        Err(Next::End("not found".to_owned()))
    }
}

async fn look_up(connection: &Connection, timeline: Arc<Timeline>, request: &Request) -> Answer {
    if let Err(problem) = check(&request.header, &timeline) {
        return Answer::Error(format!("Bad request: {problem}"));
    }
    let limit = connection.node.wait_lsn_timeout;
    let waited = timeline.wait_for(request.header.not_modified_since, limit);
    let end = match waited.await {
        Ok(end) => end,
        Err(error) => return Answer::Error(format!("LSN timeout: {error}")),
    };
    let lsn = request.header.request_lsn.min(end.last_record_lsn);
    let Some(base) = timeline.base_for(lsn) else {
        return Answer::Error("Read error".to_owned());
    };
    let stale = base.end_lsn() < lsn;
    let (data, query) = (base.data_dir(), request.query);
    let looked_up =
        blocking(move || Ok::<_, files::Error>(relations::answer(&data, &query, stale)));
    looked_up
        .await
        .unwrap_or_else(|_| Answer::Error("Read error".to_owned()))
}

/// The rules for a request's positions, in a pageserver's words.
fn check(header: &Header, timeline: &Timeline) -> Result<(), String> {
    let (lsn, since) = (header.request_lsn, header.not_modified_since);
    let oldest = timeline.oldest_lsn();
    if lsn < since {
        return Err(format!(
            "invalid request with request LSN {lsn} and not_modified_since {since}"
        ));
    }
    if !lsn.is_valid() {
        return Err("invalid LSN(0) in request".to_owned());
    }
    if lsn < oldest {
        return Err(format!(
            "tried to request a page version that was garbage collected. requested at {lsn} gc \
             cutoff {oldest}"
        ));
    }
    Ok(())
}
