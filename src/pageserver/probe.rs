//! Finds out whether a pageserver serves a shard, by asking it for something: the
//! pagestream handshake alone succeeds on a wrong one, too.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::StreamExt as _;

use super::shard_probe::{ProbeOutcome, ShardProbe, Unanswered};
use super::{Error, Refusal, address, transport};
use crate::access::Access;
use crate::error::{Category as _, chain, truncate};
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire::{self, ConnectConfig, Connection, CopyBoth, ServerError};
use crate::secret::Secret;
use crate::spec::{ComputeMode, ShardLocation, ShardMap};
use crate::wire::pagestream::{
    Answer, DEFAULT_TABLESPACE, Header, LATEST, Query, RelTag, Request, Response, Version,
};
use crate::wire::sharding::shard_of_page;

/// `template1`, which every cluster has.
const TEMPLATE1: u32 = 1;
/// `pg_class`.
const PG_CLASS: u32 = 1259;
/// The request waits for no WAL: whatever the pageserver has is new enough.
const NO_WAIT: Lsn = Lsn(1);
/// The version of the pagestream that is spoken.
const VERSION: Version = Version::V3;
/// Stripes that are tried for a page of the shard. Each misses a shard of `n` with
/// probability 1 - 1/n, so that even for 255 shards all miss once in 10^110 cases.
const STRIPES: u32 = 1 << 16;
/// Shards that are asked at once.
const AT_ONCE: usize = 16;
/// An error's beginning is enough for a condition.
const SHOWN: usize = 512;
/// What probes call themselves.
const APPLICATION_NAME: &str = "glowplug_probe";

/// What to ask, and whom.
#[derive(Debug, Clone)]
pub struct ProbeRequest<'a> {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its timeline.
    pub timeline_id: TimelineId,
    /// The shard, and where it should be.
    pub location: &'a ShardLocation,
    /// Pages in a stripe of the tenant.
    pub stripe_size: Option<u32>,
    /// The LSN that must be readable; `None` for the latest, whatever that is there.
    pub lsn: Option<Lsn>,
    /// The storage's token.
    pub access: &'a Access,
    /// Limit for everything together.
    pub deadline: Duration,
}

/// What to ask of all shards of a tenant.
#[derive(Debug, Clone)]
pub struct ShardsRequest<'a> {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its timeline.
    pub timeline_id: TimelineId,
    /// Where its shards should be.
    pub shards: &'a ShardMap,
    /// The LSN that must be readable; `None` for the latest.
    pub lsn: Option<Lsn>,
    /// The storage's token.
    pub access: &'a Access,
    /// Limit for each shard.
    pub deadline: Duration,
}

/// Asks a pageserver for something cheap of the shard: whether `pg_class` exists for
/// shard 0, a page for any other. It waits for no WAL, and the compute's own counters
/// do not see it. A wrong pageserver counts it as misrouted, like a request of postgres.
///
/// # Errors
///
/// What keeps it from answering: [`Error::Connect`], [`Error::Refused`] at login,
/// [`Error::Pagestream`] also at the deadline.
pub async fn probe(request: &ProbeRequest<'_>) -> Result<ProbeOutcome, Error> {
    let token = &request.access.token;
    let attempt = |token| probe_with(request, token);
    token.attempt(attempt, Error::is_unauthorized).await
}

async fn probe_with(
    request: &ProbeRequest<'_>,
    token: Option<Secret>,
) -> Result<ProbeOutcome, Error> {
    let mode = request
        .lsn
        .map_or(ComputeMode::Primary, ComputeMode::Static);
    let mut config = address::page_service(
        request.location,
        mode,
        request.access,
        token,
        request.deadline,
    )
    .await?;
    name_probe(&mut config);
    let peer = config.peer();
    let started = Instant::now();
    let failed = |problem: &str, source| Error::Pagestream {
        peer: peer.clone(),
        problem: problem.to_owned(),
        source,
    };
    let shard = request.location.index;
    let asked = tokio::time::timeout(request.deadline, async {
        let connection = transport::log_in(&config, shard).await?;
        Ok(ask(connection, request).await)
    });
    match asked.await {
        Err(_) => {
            let problem = format!("no answer within {:?}", request.deadline);
            Err(failed(&problem, None))
        }
        Ok(Err(error)) => Err(error),
        Ok(Ok(Ok(Some(answer)))) => Ok(outcome(answer, started.elapsed())),
        Ok(Ok(Ok(None))) => Err(failed("it ended without an answer", None)),
        Ok(Ok(Err(Asking::Refused(error)))) => {
            let refusal = Refusal::of(&error);
            outcome_of_refusal(refusal, &error).ok_or_else(|| Error::Refused {
                peer: peer.clone(),
                command: VERSION.command(request.tenant_id, request.timeline_id),
                refusal,
                source: pgwire::Error::Server {
                    peer: peer.clone(),
                    error,
                }
                .into(),
            })
        }
        Ok(Ok(Err(Asking::Broken(source)))) => Err(failed("it broke off", Some(source))),
        Ok(Ok(Err(Asking::Malformed(problem)))) => Err(failed(&problem, None)),
    }
}

/// Lets the pageserver's log tell a probe from a backend.
fn name_probe(config: &mut ConnectConfig) {
    let named = config
        .parameters
        .iter_mut()
        .find(|(name, _)| name == "application_name");
    if let Some((_, value)) = named {
        APPLICATION_NAME.clone_into(value);
    }
}

/// Asks all shards of a tenant at once, as [`probe`] does, and says what each answered,
/// in order. Shards without a libpq address are left out: postgres could not read
/// them either.
pub async fn probe_shards(request: &ShardsRequest<'_>) -> Vec<ShardProbe> {
    let mut probes = Vec::new();
    for location in &request.shards.shards {
        if location.libpq.is_some() {
            probes.push(probe_shard(request, location));
        }
    }
    futures::stream::iter(probes)
        .buffered(AT_ONCE)
        .collect()
        .await
}

async fn probe_shard(request: &ShardsRequest<'_>, location: &ShardLocation) -> ShardProbe {
    let probe_request = ProbeRequest {
        tenant_id: request.tenant_id,
        timeline_id: request.timeline_id,
        location,
        stripe_size: request.shards.stripe_size,
        lsn: request.lsn,
        access: request.access,
        deadline: request.deadline,
    };
    let started = Instant::now();
    let answer = probe(&probe_request).await.map_err(|error| Unanswered {
        category: error.category(),
        text: truncate(&chain(&error), SHOWN),
    });
    ShardProbe {
        shard: location.index,
        node_id: location.node_id,
        pageserver: address::peer(location),
        took: started.elapsed(),
        answer,
    }
}

/// Why there is no answer.
enum Asking {
    Refused(Box<ServerError>),
    Broken(pgwire::Error),
    Malformed(String),
}

impl From<pgwire::Error> for Asking {
    fn from(error: pgwire::Error) -> Self {
        match error {
            pgwire::Error::Server { error, .. } => Self::Refused(error),
            error => Self::Broken(error),
        }
    }
}

async fn ask(connection: Connection, request: &ProbeRequest<'_>) -> Result<Option<Answer>, Asking> {
    let command = VERSION.command(request.tenant_id, request.timeline_id);
    // The socket is closed by dropping it: a Terminate would only end the stream.
    let CopyBoth {
        mut reader,
        mut writer,
    } = connection.copy_both(&command).await?;
    let question = Request {
        header: Header {
            request_id: 1,
            request_lsn: request.lsn.unwrap_or(LATEST),
            not_modified_since: NO_WAIT,
        },
        query: cheap_query(request.location.index, request.stripe_size),
    };
    let mut body = BytesMut::new();
    question.encode(VERSION, &mut body);
    writer.send(&body).await?;
    let Some(answer) = reader.next().await? else {
        return Ok(None);
    };
    let response = Response::decode(VERSION, answer);
    let response = response.map_err(|error| Asking::Malformed(error.to_string()))?;
    Ok(Some(response.answer))
}

/// A request that only the pageserver with this shard can answer.
fn cheap_query(shard: ShardIndex, stripe_size: Option<u32>) -> Query {
    let rel = RelTag {
        spcnode: DEFAULT_TABLESPACE,
        dbnode: TEMPLATE1,
        relnode: PG_CLASS,
        forknum: 0,
    };
    let stripe_size = stripe_size.unwrap_or(u32::MAX);
    let owned = (0..STRIPES)
        .map_while(|stripe| stripe.checked_mul(stripe_size))
        .find(|blkno| shard_of_page(&rel, *blkno, shard.count, stripe_size) == shard.number);
    match owned {
        Some(blkno) if shard.number > 0 => Query::GetPage { rel, blkno },
        _ => Query::Exists(rel),
    }
}

fn outcome(answer: Answer, latency: Duration) -> ProbeOutcome {
    match answer {
        Answer::Error(message) if message.starts_with("Not found: Timeline") => {
            ProbeOutcome::TimelineNotFound
        }
        Answer::Error(message) if message.contains("garbage collected") => {
            ProbeOutcome::LsnCollected {
                message: truncate(&message, SHOWN),
            }
        }
        Answer::Error(message) => ProbeOutcome::Failing {
            message: truncate(&message, SHOWN),
        },
        _ => ProbeOutcome::Serving { latency },
    }
}

/// What a refusal in the stream says about the pageserver, if it says something.
fn outcome_of_refusal(refusal: Refusal, error: &ServerError) -> Option<ProbeOutcome> {
    match refusal {
        Refusal::NotFound => Some(ProbeOutcome::Misrouted),
        // A page of an absent shard is answered so (`PageStreamError::Reconnect`).
        Refusal::GoingAway if error.message.ends_with("reconnect") => Some(ProbeOutcome::Misrouted),
        Refusal::GoingAway => Some(ProbeOutcome::GoingAway),
        Refusal::TimelineNotFound | Refusal::TimelineArchived => {
            Some(ProbeOutcome::TimelineNotFound)
        }
        Refusal::Unauthorized
        | Refusal::TlsRequired
        | Refusal::LsnCollected
        | Refusal::LsnNotReached
        | Refusal::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_asked_for_something_of_its_own() {
        for count in [0, 1, 2, 3, 8, 255] {
            for number in 0..count.max(1) {
                let shard = ShardIndex { number, count };
                let query = cheap_query(shard, (count > 0).then_some(2048));
                match query {
                    Query::GetPage { rel, blkno } => {
                        assert_eq!(shard_of_page(&rel, blkno, count, 2048), number);
                    }
                    Query::Exists(_) => assert_eq!(number, 0, "{shard}"),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn an_error_in_the_stream_still_comes_from_the_right_pageserver() {
        let outcome = |message: &str| outcome(Answer::Error(message.to_owned()), Duration::ZERO);
        assert_eq!(
            outcome("Not found: Timeline a/b was not found"),
            ProbeOutcome::TimelineNotFound
        );
        assert_eq!(
            outcome("Read error"),
            ProbeOutcome::Failing {
                message: "Read error".to_owned()
            }
        );
    }
}
