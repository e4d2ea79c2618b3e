//! Golden frames, round trips and hostile input of the safekeeper codec.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::lsn::Lsn;

const RECORDED: &str = include_str!("../../../tests/fixtures/safekeeper/push-frames.txt");

fn version(text: &str) -> ProtocolVersion {
    ProtocolVersion::from_number(text.trim_start_matches('v').parse().unwrap()).unwrap()
}

fn bytes(hex: &str) -> Bytes {
    hex::decode(hex.replace([' ', '\n'], "")).unwrap().into()
}

fn proposer_bytes(message: &ProposerMessage, version: ProtocolVersion) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(version, &mut out);
    out.freeze()
}

fn acceptor_bytes(message: &AcceptorMessage, version: ProtocolVersion) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(version, &mut out);
    out.freeze()
}

/// Each recorded frame: version, sender, body.
fn recorded() -> impl Iterator<Item = (ProtocolVersion, &'static str, Bytes)> {
    RECORDED
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            (version(words[0]), words[1], bytes(words[2]))
        })
}

#[test]
fn recorded_frames_decode_and_encode_to_the_same_bytes() {
    let mut kinds = BTreeSet::new();
    for (version, sender, body) in recorded() {
        let encoded = if sender == "proposer" {
            let decoded = ProposerMessage::decode(version, body.clone());
            proposer_bytes(&decoded.unwrap(), version)
        } else {
            let decoded = AcceptorMessage::decode(version, body.clone());
            acceptor_bytes(&decoded.unwrap(), version)
        };
        assert_eq!(
            hex::encode(encoded),
            hex::encode(&body),
            "{version:?} {sender}"
        );
        kinds.insert((version, sender, body[0]));
    }
    assert_eq!(kinds.len(), 14, "each message in each version: {kinds:?}");
}

#[test]
fn a_frame_cut_short_anywhere_is_refused() {
    for (version, sender, body) in recorded() {
        for cut in 0..body.len() {
            let part = body.slice(..cut);
            // What follows the term of a version 2 vote request is padding, and the
            // feedback of an AppendResponse is optional.
            let whole = match (version, sender, body[0]) {
                (ProtocolVersion::V2, "proposer", b'v') => cut >= 16,
                (ProtocolVersion::V2, "acceptor", b'a') => cut == 56,
                (ProtocolVersion::V3, "acceptor", b'a') => cut == 53,
                _ => false,
            };
            let decoded = match sender {
                "proposer" => ProposerMessage::decode(version, part).is_ok(),
                _ => AcceptorMessage::decode(version, part).is_ok(),
            };
            assert_eq!(
                decoded, whole,
                "{version:?} {sender} {} cut at {cut}",
                body[0]
            );
        }
    }
}

#[test]
fn only_an_acceptor_tolerates_trailing_bytes() {
    for (version, sender, body) in recorded() {
        let mut longer = body.to_vec();
        longer.extend_from_slice(&[0xFF; 3]);
        match sender {
            "proposer" => assert_eq!(
                ProposerMessage::decode(version, longer.into()),
                ProposerMessage::decode(version, body)
            ),
            _ => assert!(AcceptorMessage::decode(version, longer.into()).is_err()),
        }
    }
}

#[test]
fn a_vote_response_is_read_in_both_versions() {
    let expected = |generation| {
        Ok(AcceptorMessage::VoteResponse(VoteResponse {
            generation,
            term: 5,
            vote_given: true,
            flush_lsn: Lsn(0x14E_E168),
            truncate_lsn: Lsn(0x14E_E150),
            term_history: TermHistory(vec![TermLsn {
                term: 4,
                lsn: Lsn(0x14E_E150),
            }]),
        }))
    };
    let v3 = "76 00000001 0000000000000005 01 00000000014ee168 00000000014ee150
              00000001 0000000000000004 00000000014ee150";
    assert_eq!(
        AcceptorMessage::decode(ProtocolVersion::V3, bytes(v3)),
        expected(1)
    );
    let v2 = "7600000000000000 0500000000000000 0100000000000000 68e14e0100000000 50e14e0100000000
              01000000 0400000000000000 50e14e0100000000 0000000000000000";
    assert_eq!(
        AcceptorMessage::decode(ProtocolVersion::V2, bytes(v2)),
        expected(0)
    );
}

#[test]
fn wal_is_a_slice_of_the_message() {
    let body = bytes(
        "61 00000001 0000000000000005 00000000014ee150 00000000014ee168 0000000000000000
         00000000014ee150 180000000000000018e14e010000000020000000091236be",
    );
    let Ok(ProposerMessage::AppendRequest(append)) =
        ProposerMessage::decode(ProtocolVersion::V3, body.clone())
    else {
        panic!("not an AppendRequest");
    };
    assert_eq!(append.end_lsn(), Lsn(0x14E_E168));
    assert_eq!(append.wal.as_ptr(), body[45..].as_ptr());
}

#[test]
fn pageserver_feedback_is_read_and_unknown_values_are_skipped() {
    let body = bytes(
        "61 00000000 0000000000000001 00000000014ee168 00000000014ee150
         0000000000000000 0000000000000000 0000000000000000
         03 6e657700 00000002 beef  70735f77726974656c736e00 00000008 00000000014ee168
         73686172645f6e756d62657200 00000004 00000007",
    );
    let Ok(AcceptorMessage::AppendResponse(response)) =
        AcceptorMessage::decode(ProtocolVersion::V3, body)
    else {
        panic!("not an AppendResponse");
    };
    let feedback = response.pageserver_feedback.unwrap();
    assert_eq!(feedback.last_received_lsn, Lsn(0x14E_E168));
    assert_eq!(feedback.shard_number, 7);
}

#[test]
fn each_way_of_being_malformed_has_its_own_error() {
    let decode = |hex| AcceptorMessage::decode(ProtocolVersion::V3, bytes(hex)).unwrap_err();
    assert_eq!(decode("7a"), DecodeError::UnknownTag { tag: 0x7A });
    assert_eq!(
        decode("67 0000000000000001 0000"),
        DecodeError::Truncated {
            field: "membership.generation",
            offset: 9,
            needed: 4,
            left: 2
        }
    );
    assert_eq!(
        decode("67 0000000000000001 00000001 00000001 0000000000000001 736b 154e"),
        DecodeError::Unterminated {
            field: "membership.host",
            offset: 25
        }
    );
    assert_eq!(
        decode("67 0000000000000001 00000001 00000001 0000000000000001 ff00 154e"),
        DecodeError::NotUtf8 {
            field: "membership.host",
            offset: 25
        }
    );
    assert_eq!(
        decode("67 0000000000000001 00000000 00000000 00000000 0000000000000004 00"),
        DecodeError::TrailingBytes {
            offset: 29,
            count: 1
        }
    );
    assert!(matches!(
        decode("67 0000000000000001 00000001 00000000 00000000 0000000000000004"),
        DecodeError::Invalid {
            field: "membership.members",
            offset: 13,
            ..
        }
    ));
    let twice = "0000000000000001 00 0000";
    assert!(matches!(
        decode(&format!(
            "67 0000000000000001 00000001 00000002 {twice}{twice} 00000000 0000000000000004"
        )),
        DecodeError::Invalid {
            field: "membership.members",
            ..
        }
    ));
}

#[test]
fn a_count_is_held_against_the_bytes_that_are_there() {
    let body = "65 00000000 0000000000000001 0000000001511ae0 ffffffff";
    assert_eq!(
        ProposerMessage::decode(ProtocolVersion::V3, bytes(body)),
        Err(DecodeError::TooLarge {
            field: "term_history.count",
            offset: 21,
            value: u64::from(u32::MAX),
            limit: 0
        })
    );
}

#[test]
fn an_append_request_carries_128_kib_at_most_and_ends_behind_its_begin() {
    let append = |begin: u64, end: u64, wal: usize| {
        let mut body = BytesMut::from(&bytes("61 00000000 0000000000000001")[..]);
        for lsn in [begin, end, 0, 0] {
            body.extend_from_slice(&lsn.to_be_bytes());
        }
        body.extend_from_slice(&vec![0; wal]);
        ProposerMessage::decode(ProtocolVersion::V3, body.freeze())
    };
    assert!(append(16, 16 + 131_072, 131_072).is_ok());
    assert!(matches!(
        append(16, 16 + 131_073, 131_073),
        Err(DecodeError::TooLarge { .. })
    ));
    assert!(matches!(
        append(16, 8, 0),
        Err(DecodeError::Invalid {
            field: "end_lsn",
            ..
        })
    ));
    assert!(matches!(
        append(16, 24, 7),
        Err(DecodeError::Truncated { field: "wal", .. })
    ));
}

fn term_history() -> impl Strategy<Value = TermHistory> {
    let entry = (any::<u64>(), any::<u64>()).prop_map(|(term, lsn)| TermLsn {
        term,
        lsn: Lsn(lsn),
    });
    vec(entry, 0..6).prop_map(TermHistory)
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    vec(("[a-zä.-]{0,12}", any::<u16>()), 1..5).prop_map(|list| {
        let member = |(index, (host, pg_port))| Member {
            node_id: index as u64 + 1,
            host,
            pg_port,
        };
        list.into_iter().enumerate().map(member).collect()
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let joint = prop_oneof![Just(Vec::new()), members()];
    let some = (any::<u32>(), members(), joint).prop_map(|(generation, members, new_members)| {
        Membership {
            generation,
            members,
            new_members,
        }
    });
    prop_oneof![Just(Membership::default()), some]
}

fn proposer_message() -> impl Strategy<Value = ProposerMessage> {
    let greeting = (
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        membership(),
        any::<(u32, u64, u32)>(),
    );
    let greeting = greeting.prop_map(|(tenant, timeline, membership, numbers)| {
        ProposerMessage::Greeting(ProposerGreeting {
            tenant_id: crate::id::TenantId(tenant),
            timeline_id: crate::id::TimelineId(timeline),
            membership,
            pg_version: numbers.0,
            system_id: numbers.1,
            wal_segment_size: numbers.2,
        })
    });
    let vote = any::<(u32, u64)>().prop_map(|(generation, term)| {
        ProposerMessage::VoteRequest(VoteRequest { generation, term })
    });
    let elected = (any::<(u32, u64, u64)>(), term_history());
    let elected = elected.prop_map(|((generation, term, start), term_history)| {
        let start_streaming_at = Lsn(start);
        ProposerMessage::Elected(Elected {
            generation,
            term,
            start_streaming_at,
            term_history,
        })
    });
    let append = (
        any::<(u32, u64)>(),
        0..u64::MAX / 2,
        any::<(u64, u64)>(),
        vec(any::<u8>(), 0..99),
    );
    let append = append.prop_map(|((generation, term), begin, (commit, truncate), wal)| {
        ProposerMessage::AppendRequest(AppendRequest {
            generation,
            term,
            begin_lsn: Lsn(begin),
            commit_lsn: Lsn(commit),
            truncate_lsn: Lsn(truncate),
            wal: wal.into(),
        })
    });
    prop_oneof![greeting, vote, elected, append]
}

fn acceptor_message() -> impl Strategy<Value = AcceptorMessage> {
    let greeting = (any::<(u64, u64)>(), membership()).prop_map(|((node_id, term), membership)| {
        AcceptorMessage::Greeting(AcceptorGreeting {
            node_id,
            membership,
            term,
        })
    });
    let vote = (any::<(u32, u64, bool, u64, u64)>(), term_history()).prop_map(
        |((generation, term, vote_given, flush, truncate), term_history)| {
            AcceptorMessage::VoteResponse(VoteResponse {
                generation,
                term,
                vote_given,
                flush_lsn: Lsn(flush),
                truncate_lsn: Lsn(truncate),
                term_history,
            })
        },
    );
    let feedback = any::<(u64, u64, u64, u64, i64, u32, bool)>().prop_map(|f| PageserverFeedback {
        current_timeline_size: f.0,
        last_received_lsn: Lsn(f.1),
        disk_consistent_lsn: Lsn(f.2),
        remote_consistent_lsn: Lsn(f.3),
        reply_time: f.4,
        shard_number: f.5,
        corruption_detected: f.6,
    });
    let append = (
        any::<(u32, u64, u64, u64, i64, u64, u64)>(),
        proptest::option::of(feedback),
    );
    let append = append.prop_map(|(a, pageserver_feedback)| {
        AcceptorMessage::AppendResponse(AppendResponse {
            generation: a.0,
            term: a.1,
            flush_lsn: Lsn(a.2),
            commit_lsn: Lsn(a.3),
            hot_standby: HotStandbyFeedback {
                timestamp: a.4,
                xmin: a.5,
                catalog_xmin: a.6,
            },
            pageserver_feedback,
        })
    });
    prop_oneof![greeting, vote, append]
}

/// The part of a message that version 2 carries.
fn without_membership(mut message: ProposerMessage) -> ProposerMessage {
    match &mut message {
        ProposerMessage::Greeting(m) => m.membership = Membership::default(),
        ProposerMessage::VoteRequest(m) => m.generation = 0,
        ProposerMessage::Elected(m) => m.generation = 0,
        ProposerMessage::AppendRequest(m) => m.generation = 0,
    }
    message
}

fn without_membership_of_acceptor(mut message: AcceptorMessage) -> AcceptorMessage {
    match &mut message {
        AcceptorMessage::Greeting(m) => m.membership = Membership::default(),
        AcceptorMessage::VoteResponse(m) => m.generation = 0,
        AcceptorMessage::AppendResponse(m) => m.generation = 0,
    }
    message
}

proptest! {
    #[test]
    fn proposer_messages_round_trip(message in proposer_message()) {
        let v3 = proposer_bytes(&message, ProtocolVersion::V3);
        prop_assert_eq!(ProposerMessage::decode(ProtocolVersion::V3, v3), Ok(message.clone()));
        let v2 = proposer_bytes(&message, ProtocolVersion::V2);
        let expected = without_membership(message);
        prop_assert_eq!(ProposerMessage::decode(ProtocolVersion::V2, v2), Ok(expected));
    }

    #[test]
    fn acceptor_messages_round_trip(message in acceptor_message()) {
        let v3 = acceptor_bytes(&message, ProtocolVersion::V3);
        prop_assert_eq!(AcceptorMessage::decode(ProtocolVersion::V3, v3), Ok(message.clone()));
        let v2 = acceptor_bytes(&message, ProtocolVersion::V2);
        let expected = without_membership_of_acceptor(message);
        prop_assert_eq!(AcceptorMessage::decode(ProtocolVersion::V2, v2), Ok(expected));
    }

    #[test]
    fn hostile_bytes_never_panic(
        tag in prop_oneof![Just(b'g'), Just(b'v'), Just(b'e'), Just(b'a'), any::<u8>()],
        rest in vec(any::<u8>(), 0..300),
    ) {
        let v3 = Bytes::from([&[tag], &rest[..]].concat());
        let v2 = Bytes::from([&[tag, 0, 0, 0, 0, 0, 0, 0], &rest[..]].concat());
        let _ = ProposerMessage::decode(ProtocolVersion::V3, v3.clone());
        let _ = AcceptorMessage::decode(ProtocolVersion::V3, v3);
        let _ = ProposerMessage::decode(ProtocolVersion::V2, v2.clone());
        let _ = AcceptorMessage::decode(ProtocolVersion::V2, v2);
    }

    #[test]
    fn a_recorded_frame_with_one_byte_changed_never_panics(index in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let frames: Vec<_> = recorded().collect();
        let (version, sender, body) = index.get(&frames);
        let mut body = body.to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        match *sender {
            "proposer" => drop(ProposerMessage::decode(*version, body.into())),
            _ => drop(AcceptorMessage::decode(*version, body.into())),
        }
    }
}
