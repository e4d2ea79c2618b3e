//! The codec against what a real pageserver sent and received, and at random.

use proptest::prelude::*;

use super::*;

const RECORDED: &str = include_str!("../../../tests/fixtures/pageserver/pagestream.txt");

fn recorded() -> impl Iterator<Item = (Version, &'static str, Bytes)> {
    let lines = RECORDED.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let mut words = line.split(' ');
        let version = match words.next().unwrap() {
            "v2" => Version::V2,
            "v3" => Version::V3,
            other => panic!("{other}"),
        };
        let kind = words.next().unwrap();
        let body = hex::decode(words.next().unwrap()).unwrap();
        (version, kind, Bytes::from(body))
    })
}

fn encoded(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    out.freeze()
}

#[test]
fn recorded_requests_encode_to_the_bytes_they_came_from() {
    let mut count = 0;
    for (version, _, body) in recorded().filter(|(_, kind, _)| *kind == "request") {
        let Ok(request) = Request::decode(version, body.clone()) else {
            panic!("{body:?}");
        };
        assert_eq!(encoded(|out| request.encode(version, out)), body);
        count += 1;
    }
    assert!(count > 40, "{count}");
}

#[test]
fn recorded_answers_encode_to_the_bytes_they_came_from() {
    let mut count = 0;
    for (version, _, body) in recorded().filter(|(_, kind, _)| *kind == "response") {
        let response = Response::decode(version, body.clone()).unwrap();
        // An error and version 2 do not repeat what was asked: any query will do.
        let request = Request {
            header: response.header.unwrap_or(header(0)),
            query: response.query.unwrap_or(Query::DbSize { dbnode: 5 }),
        };
        let again = encoded(|out| request.encode_answer(version, &response.answer, out));
        assert_eq!(again, body);
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn a_command_names_the_tenant_without_its_shard() {
    let tenant = TenantId([0xA1; 16]);
    let timeline = TimelineId([0xB1; 16]);
    assert_eq!(
        Version::V3.command(tenant, timeline),
        "pagestream_v3 a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1"
    );
}

#[test]
fn a_page_is_never_shorter_than_a_page() {
    let mut body = vec![102];
    body.extend_from_slice(&[0; PAGE_SIZE - 1]);
    let error = Response::decode(Version::V2, body.into()).unwrap_err();
    assert!(matches!(
        error,
        DecodeError::Truncated { field: "page", .. }
    ));
}

#[test]
fn a_segment_cannot_claim_pages_that_are_not_there() {
    let body = Bytes::from_static(&[105, 0xFF, 0xFF, 0xFF, 0xFF]);
    let error = Response::decode(Version::V2, body).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { limit: 0, .. }));
}

fn header(request_id: u64) -> Header {
    Header {
        request_id,
        request_lsn: LATEST,
        not_modified_since: Lsn(1),
    }
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V2), Just(Version::V3)]
}

fn query() -> impl Strategy<Value = Query> {
    let rel = || {
        any::<(u32, u32, u32, u8)>().prop_map(|(spcnode, dbnode, relnode, forknum)| RelTag {
            spcnode,
            dbnode,
            relnode,
            forknum,
        })
    };
    prop_oneof![
        rel().prop_map(Query::Exists),
        rel().prop_map(Query::Nblocks),
        (rel(), any::<u32>()).prop_map(|(rel, blkno)| Query::GetPage { rel, blkno }),
        any::<u32>().prop_map(|dbnode| Query::DbSize { dbnode }),
        any::<(u8, u32)>().prop_map(|(kind, segno)| Query::GetSlruSegment { kind, segno }),
    ]
}

/// An answer of the kind that belongs to the query.
fn answer(query: Query, value: i64, pages: usize) -> Answer {
    match query {
        Query::Exists(_) => Answer::Exists(value % 2 == 0),
        Query::Nblocks(_) => Answer::Nblocks(value as u32),
        Query::GetPage { .. } => Answer::Page(vec![value as u8; PAGE_SIZE].into()),
        Query::DbSize { .. } => Answer::DbSize(value),
        Query::GetSlruSegment { .. } => {
            Answer::SlruSegment(vec![value as u8; pages * PAGE_SIZE].into())
        }
    }
}

proptest! {
    #[test]
    fn requests_and_answers_round_trip(
        version in version(),
        query in query(),
        id: u64,
        value: i64,
        pages in 0_usize..3,
    ) {
        let id = if version == Version::V2 { 0 } else { id };
        let request = Request { header: header(id), query };
        let body = encoded(|out| request.encode(version, out));
        prop_assert_eq!(Request::decode(version, body), Ok(request));

        let answer = answer(query, value, pages);
        let body = encoded(|out| request.encode_answer(version, &answer, out));
        let response = Response::decode(version, body).unwrap();
        prop_assert_eq!(response.answer, answer);
        if version == Version::V3 {
            prop_assert_eq!(response.header, Some(request.header));
            prop_assert_eq!(response.query, Some(query));
        }
    }

    #[test]
    fn a_cut_request_is_refused(version in version(), query in query(), cut in 1_usize..60) {
        let body = encoded(|out| Request { header: header(0), query }.encode(version, out));
        let kept = body.len().saturating_sub(cut);
        prop_assert!(Request::decode(version, body.slice(..kept)).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(
        version in version(),
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = Bytes::from(bytes);
        let _ = Request::decode(version, bytes.clone());
        let _ = Response::decode(version, bytes);
    }
}
