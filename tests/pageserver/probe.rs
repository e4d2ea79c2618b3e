//! Probes of pageservers that serve a shard, and of those that do not.

use std::time::Duration;

use bytes::BytesMut;
use glowplug::access::Access;
use glowplug::error::{Category, chain};
use glowplug::id::{TenantId, TimelineId};
use glowplug::lsn::Lsn;
use glowplug::pageserver::{Error, ProbeOutcome, ProbeRequest, probe};
use glowplug::wire::pagestream::{
    Answer, DEFAULT_TABLESPACE, Header, LATEST, Query, RelTag, Request, Version,
};

use crate::stand_in::{Act, StandIn};

async fn probed(script: Vec<Act>, deadline: Duration) -> Result<ProbeOutcome, Error> {
    let stand_in = StandIn::start(script).await;
    let location = stand_in.location();
    probe(&ProbeRequest {
        tenant_id: TenantId([0xA1; 16]),
        timeline_id: TimelineId([0xB1; 16]),
        location: &location,
        stripe_size: None,
        lsn: None,
        access: &Access::default(),
        deadline,
    })
    .await
}

const LONG: Duration = Duration::from_mins(1);

/// Up to the answer of a request on the stream.
fn asked(answer: Act) -> Vec<Act> {
    vec![
        Act::Login(&[]),
        Act::Command,
        Act::CopyBoth,
        Act::Receive,
        answer,
        Act::Hang,
    ]
}

fn answer(answer: &Answer) -> Act {
    let request = Request {
        header: Header {
            request_id: 1,
            request_lsn: LATEST,
            not_modified_since: Lsn(1),
        },
        query: Query::Exists(RelTag {
            spcnode: DEFAULT_TABLESPACE,
            dbnode: 1,
            relnode: 1259,
            forknum: 0,
        }),
    };
    let mut body = BytesMut::new();
    request.encode_answer(Version::V3, answer, &mut body);
    Act::Data(body.to_vec(), body.len())
}

#[tokio::test]
async fn a_pageserver_that_answers_serves_the_shard() {
    let outcome = probed(asked(answer(&Answer::Exists(true))), LONG)
        .await
        .unwrap();
    assert!(
        matches!(outcome, ProbeOutcome::Serving { .. }),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_handshake_alone_is_not_taken_for_an_answer() {
    let script = asked(Act::Error("XX000", "not found"));
    assert_eq!(probed(script, LONG).await.unwrap(), ProbeOutcome::Misrouted);
    let script = asked(Act::Error("08006", "reconnect"));
    assert_eq!(probed(script, LONG).await.unwrap(), ProbeOutcome::Misrouted);
}

#[tokio::test]
async fn errors_in_the_stream_are_told_apart() {
    let missing = Answer::Error("Not found: Timeline a/b was not found".to_owned());
    assert_eq!(
        probed(asked(answer(&missing)), LONG).await.unwrap(),
        ProbeOutcome::TimelineNotFound
    );
    let script = asked(Act::Error("57P01", "shutdown"));
    assert_eq!(probed(script, LONG).await.unwrap(), ProbeOutcome::GoingAway);
    let failing = Answer::Error("Read error".to_owned());
    let outcome = probed(asked(answer(&failing)), LONG).await.unwrap();
    assert!(
        matches!(outcome, ProbeOutcome::Failing { .. }),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_silent_pageserver_is_given_up_at_the_deadline() {
    let short = Duration::from_millis(200);
    let before_login = vec![Act::Hang];
    let in_the_stream = vec![
        Act::Login(&[]),
        Act::Command,
        Act::CopyBoth,
        Act::Receive,
        Act::Hang,
    ];
    for script in [before_login, in_the_stream] {
        let error = probed(script, short).await.unwrap_err();
        assert_eq!(error.category(), "Timeout", "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_wrong_token_is_reported_as_such() {
    let script = vec![Act::Error("XX000", "JWT authentication error")];
    let error = probed(script, LONG).await.unwrap_err();
    assert_eq!(error.category(), "AuthFailed", "{}", chain(&error));
}
