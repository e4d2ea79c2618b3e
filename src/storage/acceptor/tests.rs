//! The acceptor's rules, message by message, on WAL that PostgreSQL 15.20 wrote.

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;

use super::*;
use crate::id::{TenantId, TimelineId};
use crate::wire::safekeeper::{Member, TermLsn};

const START: Lsn = Lsn(0x151_1AE0);
/// Ends of records in the recorded WAL.
const ENDS: [Lsn; 5] = [
    Lsn(0x151_1B18),
    Lsn(0x151_1B38),
    Lsn(0x151_1B68),
    Lsn(0x151_1B98),
    Lsn(0x151_2358),
];

static WAL: LazyLock<Bytes> = LazyLock::new(|| {
    let zipped = include_bytes!("../../../tests/fixtures/safekeeper/pg15-wal-0-1511AE0.bin.gz");
    let mut wal = Vec::new();
    GzDecoder::new(&zipped[..])
        .take(300_000)
        .read_to_end(&mut wal)
        .unwrap();
    wal.into()
});

fn wal(from: Lsn, to: Lsn) -> Bytes {
    WAL.slice((from.0 - START.0) as usize..(to.0 - START.0) as usize)
}

/// An acceptor on a disk that never fails.
struct Node {
    acceptor: Acceptor,
    disk: ControlState,
    effects: Vec<Effect>,
}

impl Node {
    fn new() -> Self {
        let control = ControlState::implicit(&greeting_message(0)).unwrap();
        Self {
            acceptor: Acceptor::load(1, control.clone(), Lsn::INVALID),
            disk: control,
            effects: Vec::new(),
        }
    }

    /// One that holds WAL of term 1 up to `end`.
    fn with_wal(end: Lsn) -> Self {
        let mut node = Self::new();
        node.vote(1);
        node.elect(1, START, &[(1, START)]).unwrap();
        node.append(1, START, end, Lsn::INVALID).unwrap();
        node
    }

    fn send(&mut self, message: ProposerMessage) -> Result<Vec<AcceptorMessage>, Refusal> {
        let mut effects = Vec::new();
        let result = self.acceptor.handle(message, &mut effects);
        self.perform(&effects);
        let replies = effects.iter().filter_map(|effect| match effect {
            Effect::Reply(reply) => Some(reply.clone()),
            _ => None,
        });
        let replies = replies.collect();
        self.effects = effects;
        result.map(|()| replies)
    }

    fn perform(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Persist(control) = effect {
                self.disk = (**control).clone();
            }
        }
    }

    fn vote(&mut self, term: u64) -> VoteResponse {
        let generation = self.acceptor.control().membership.generation;
        let request = VoteRequest { generation, term };
        match &self.send(ProposerMessage::VoteRequest(request)).unwrap()[..] {
            [AcceptorMessage::VoteResponse(response)] => response.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn elect(&mut self, term: u64, start: Lsn, history: &[(u64, Lsn)]) -> Result<(), Refusal> {
        let entry = |(term, lsn): &(u64, Lsn)| TermLsn {
            term: *term,
            lsn: *lsn,
        };
        let elected = Elected {
            generation: self.acceptor.control().membership.generation,
            term,
            start_streaming_at: start,
            term_history: TermHistory(history.iter().map(entry).collect()),
        };
        let replies = self.send(ProposerMessage::Elected(elected))?;
        assert_eq!(replies, []);
        Ok(())
    }

    fn append(
        &mut self,
        term: u64,
        from: Lsn,
        to: Lsn,
        commit_lsn: Lsn,
    ) -> Result<AppendResponse, Refusal> {
        self.append_bytes(term, from, wal(from, to), commit_lsn)?;
        Ok(self.synced())
    }

    fn append_bytes(
        &mut self,
        term: u64,
        begin_lsn: Lsn,
        wal: Bytes,
        commit_lsn: Lsn,
    ) -> Result<Vec<AcceptorMessage>, Refusal> {
        self.send(ProposerMessage::AppendRequest(AppendRequest {
            generation: self.acceptor.control().membership.generation,
            term,
            begin_lsn,
            commit_lsn,
            truncate_lsn: Lsn::INVALID,
            wal,
        }))
    }

    fn synced(&mut self) -> AppendResponse {
        self.acceptor.sync(&mut Vec::new());
        self.acceptor.append_response(HotStandbyFeedback::default())
    }

    /// A crash and a restart: only the disk is left.
    fn restart(&mut self) {
        let flush_lsn = self.acceptor.stored_flush_lsn();
        self.acceptor = Acceptor::load(1, self.disk.clone(), flush_lsn);
    }
}

fn greeting_message(generation: u32) -> ProposerGreeting {
    let member = |node_id| Member {
        node_id,
        host: format!("sk-{node_id}"),
        pg_port: 5454,
    };
    let membership = Membership {
        generation,
        members: if generation == 0 {
            vec![]
        } else {
            vec![member(1), member(2)]
        },
        new_members: vec![],
    };
    ProposerGreeting {
        tenant_id: TenantId([1; 16]),
        timeline_id: TimelineId([2; 16]),
        membership,
        pg_version: 150_020,
        system_id: 0,
        wal_segment_size: 16 * 1024 * 1024,
    }
}

#[test]
fn a_term_is_voted_for_once() {
    let mut node = Node::new();
    assert!(!node.vote(0).vote_given);
    assert!(node.vote(5).vote_given);
    assert_eq!(node.disk.term, 5, "persisted before the answer");
    for term in [5, 4] {
        let response = node.vote(term);
        assert!(!response.vote_given);
        assert_eq!(response.term, 5);
    }
    node.restart();
    assert!(!node.vote(5).vote_given, "also after a restart");
    assert!(node.vote(u64::MAX).vote_given);
}

#[test]
fn a_vote_is_persisted_before_it_is_sent_and_after_the_wal_is_synced() {
    let mut node = Node::with_wal(ENDS[0]);
    node.append_bytes(1, ENDS[0], wal(ENDS[0], ENDS[1]), Lsn::INVALID)
        .unwrap();
    let response = node.vote(2);
    assert_eq!(response.flush_lsn, ENDS[1]);
    assert!(matches!(
        node.effects[..],
        [Effect::SyncWal, Effect::Persist(_), Effect::Reply(_)]
    ));
}

#[test]
fn the_first_elected_lays_out_the_log_and_learns_where_it_begins() {
    let mut node = Node::new();
    node.vote(1);
    node.elect(1, START, &[(1, START)]).unwrap();
    let start = START;
    assert!(matches!(
        &node.effects[..],
        [Effect::InitializeWal { start: s }, Effect::TruncateWal { end }, Effect::Persist(_)]
            if *s == start && *end == start
    ));
    for lsn in [
        node.disk.timeline_start_lsn,
        node.disk.local_start_lsn,
        node.disk.commit_lsn,
        node.disk.peer_horizon_lsn,
    ] {
        assert_eq!(lsn, START);
    }
}

#[test]
fn a_node_that_never_voted_can_be_led() {
    let mut node = Node::new();
    node.elect(3, START, &[(3, START)]).unwrap();
    assert_eq!(node.disk.term, 3);
}

#[test]
fn an_elected_of_an_older_term_is_ignored() {
    let mut node = Node::with_wal(ENDS[1]);
    node.vote(9);
    node.elect(2, START, &[(2, START)]).unwrap();
    assert_eq!(node.effects, []);
    assert_eq!(node.acceptor.flush_lsn(), ENDS[1]);
}

#[test]
fn append_of_an_older_term_is_answered_with_the_term_alone() {
    let mut node = Node::with_wal(ENDS[1]);
    node.vote(2);
    let replies = node
        .append_bytes(1, ENDS[1], wal(ENDS[1], ENDS[2]), ENDS[1])
        .unwrap();
    let [AcceptorMessage::AppendResponse(response)] = &replies[..] else {
        panic!("{replies:?}");
    };
    assert_eq!(response.term, 2);
    assert_eq!((response.flush_lsn, response.commit_lsn), (Lsn(0), Lsn(0)));
    assert_eq!(node.synced().flush_lsn, ENDS[1]);
    assert_eq!(node.acceptor.commit_lsn(), START);
}

#[test]
fn append_of_a_newer_term_is_refused_before_elected() {
    let mut node = Node::with_wal(ENDS[1]);
    let refused = node.append(2, ENDS[1], ENDS[2], Lsn::INVALID);
    assert_eq!(refused, Err(Refusal::AppendBeforeElected));
}

#[test]
fn append_must_continue_at_the_write_position() {
    let mut node = Node::with_wal(ENDS[1]);
    for begin in [ENDS[0], Lsn(ENDS[1].0 + 8)] {
        for wal in [Bytes::new(), WAL.slice(..10)] {
            assert!(node.append_bytes(1, begin, wal, Lsn::INVALID).is_err());
            assert_eq!(node.effects, []);
        }
    }
}

#[test]
fn wal_counts_once_it_is_synced() {
    let mut node = Node::with_wal(ENDS[0]);
    node.append_bytes(1, ENDS[0], wal(ENDS[0], ENDS[2]), Lsn::INVALID)
        .unwrap();
    assert_eq!(node.acceptor.flush_lsn(), ENDS[0]);
    assert_eq!(node.synced().flush_lsn, ENDS[2]);
}

#[test]
fn a_torn_record_does_not_count_and_is_cut_by_the_next_elected() {
    let mut node = Node::with_wal(ENDS[0]);
    let torn = Lsn(ENDS[1].0 + 13);
    assert_eq!(
        node.append(1, ENDS[0], torn, Lsn::INVALID)
            .unwrap()
            .flush_lsn,
        ENDS[1]
    );
    assert_eq!(node.acceptor.write_lsn(), torn);
    node.vote(2);
    node.elect(2, ENDS[1], &[(1, START), (2, ENDS[1])]).unwrap();
    assert!(node.effects.contains(&Effect::TruncateWal { end: ENDS[1] }));
    assert_eq!(
        node.append(2, ENDS[1], ENDS[2], Lsn::INVALID)
            .unwrap()
            .flush_lsn,
        ENDS[2]
    );
}

#[test]
fn a_clean_log_is_not_rewritten() {
    let mut node = Node::with_wal(ENDS[1]);
    node.elect(1, ENDS[1], &[(1, START)]).unwrap();
    assert!(matches!(node.effects[..], [Effect::Persist(_)]));
}

#[test]
fn what_is_not_wal_stops_the_log_until_the_next_elected() {
    let mut node = Node::with_wal(ENDS[0]);
    let mut bytes = wal(ENDS[0], ENDS[2]).to_vec();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    let refused = node
        .append_bytes(1, ENDS[0], bytes.into(), Lsn::INVALID)
        .unwrap_err();
    assert_eq!(refused.to_string(), "WAL record crc mismatch at 0/1511B62");
    assert_eq!(
        node.synced().flush_lsn,
        ENDS[1],
        "records before the bad place count"
    );
    let at = node.acceptor.write_lsn();
    let refused = node.append_bytes(1, at, wal(ENDS[2], ENDS[3]), Lsn::INVALID);
    assert!(matches!(refused, Err(Refusal::PendingTruncation { .. })));
    node.elect(1, ENDS[1], &[(1, START)]).unwrap();
    node.append(1, ENDS[1], ENDS[2], Lsn::INVALID).unwrap();
}

#[test]
fn writing_after_a_restart_waits_for_elected() {
    let mut node = Node::with_wal(ENDS[1]);
    node.restart();
    let refused = node.append(1, ENDS[1], ENDS[2], Lsn::INVALID);
    assert!(matches!(refused, Err(Refusal::PendingTruncation { .. })));
    assert!(
        node.append(1, ENDS[1], ENDS[1], Lsn::INVALID).is_ok(),
        "a heartbeat is answered"
    );
    node.elect(1, ENDS[1], &[(1, START)]).unwrap();
    assert!(node.effects.contains(&Effect::TruncateWal { end: ENDS[1] }));
    node.append(1, ENDS[1], ENDS[2], Lsn::INVALID).unwrap();
}

#[test]
fn commit_is_cut_to_the_flushed_end_and_the_rest_forgotten() {
    let mut node = Node::with_wal(ENDS[0]);
    node.append(1, ENDS[0], ENDS[2], ENDS[2]).unwrap();
    assert_eq!(
        node.acceptor.commit_lsn(),
        ENDS[0],
        "of WAL in the same message"
    );
    node.append(1, ENDS[2], ENDS[2], Lsn(u64::MAX)).unwrap();
    assert_eq!(node.acceptor.commit_lsn(), ENDS[2]);
    node.append(1, ENDS[2], ENDS[3], ENDS[1]).unwrap();
    assert_eq!(node.acceptor.commit_lsn(), ENDS[2], "never lowered");
}

#[test]
fn commit_is_persisted_when_it_reaches_the_start_of_the_term() {
    let mut node = Node::with_wal(ENDS[1]);
    node.append(1, ENDS[1], ENDS[1], ENDS[0]).unwrap();
    assert_eq!(node.disk.commit_lsn, START, "not within the term");
    node.vote(2);
    node.elect(2, ENDS[1], &[(1, START), (2, ENDS[1])]).unwrap();
    let response = node.append(2, ENDS[1], ENDS[1], ENDS[1]).unwrap();
    assert_eq!(response.commit_lsn, ENDS[1]);
    assert_eq!(node.disk.commit_lsn, ENDS[1]);
}

#[test]
fn a_restart_forgets_what_was_not_persisted() {
    let mut node = Node::with_wal(ENDS[1]);
    node.append(1, ENDS[1], ENDS[1], ENDS[1]).unwrap();
    assert_eq!(node.acceptor.commit_lsn(), ENDS[1]);
    node.restart();
    assert_eq!(node.acceptor.commit_lsn(), START);
    assert_eq!(node.acceptor.flush_lsn(), ENDS[1]);
}

#[test]
fn a_divergent_tail_is_cut_where_the_histories_part() {
    let mut node = Node::with_wal(ENDS[3]);
    node.vote(3);
    let history = [(1, START), (2, ENDS[1]), (3, ENDS[2])];
    node.elect(3, ENDS[1], &history).unwrap();
    assert_eq!(node.acceptor.flush_lsn(), ENDS[1]);
    assert_eq!(node.disk.term_history.0.len(), 3);
    // The history runs ahead of the log.
    assert_eq!(node.acceptor.last_log_term(), 2);
    assert_eq!(node.vote(4).term_history.0.len(), 2);
}

#[test]
fn a_cut_at_another_place_is_refused() {
    let mut node = Node::with_wal(ENDS[2]);
    node.vote(2);
    for start in [ENDS[1], ENDS[3], START] {
        let refused = node.elect(2, start, &[(1, START), (2, ENDS[2])]);
        assert!(matches!(refused, Err(Refusal::TruncationPoint { .. })));
        assert_eq!(node.effects, []);
    }
}

#[test]
fn committed_wal_is_not_truncated() {
    let mut node = Node::with_wal(ENDS[2]);
    node.append(1, ENDS[2], ENDS[2], ENDS[1]).unwrap();
    node.vote(3);
    let refused = node.elect(3, ENDS[0], &[(1, START), (2, ENDS[0]), (3, ENDS[0])]);
    assert!(refused.unwrap_err().is_history_conflict());
    assert_eq!(node.acceptor.flush_lsn(), ENDS[2]);
    let refused = node.elect(3, ENDS[1], &[(1, ENDS[1]), (3, ENDS[1])]);
    assert!(refused.unwrap_err().is_history_conflict());
}

#[test]
fn an_empty_history_is_refused() {
    let mut node = Node::new();
    assert_eq!(node.elect(1, START, &[]), Err(Refusal::EmptyHistory));
}

#[test]
fn the_horizon_only_rises_and_is_offered_to_the_next_proposer() {
    let mut node = Node::with_wal(ENDS[1]);
    for (truncate_lsn, expected) in [(ENDS[1], ENDS[1]), (ENDS[0], ENDS[1])] {
        let heartbeat = AppendRequest {
            generation: 0,
            term: 1,
            begin_lsn: ENDS[1],
            commit_lsn: Lsn::INVALID,
            truncate_lsn,
            wal: Bytes::new(),
        };
        node.send(ProposerMessage::AppendRequest(heartbeat))
            .unwrap();
        assert_eq!(node.acceptor.control().peer_horizon_lsn, expected);
    }
    assert_eq!(node.vote(2).truncate_lsn, ENDS[1]);
}

#[test]
fn a_greeting_carries_a_newer_membership() {
    let mut node = Node::new();
    let replies = node
        .send(ProposerMessage::Greeting(greeting_message(5)))
        .unwrap();
    let [AcceptorMessage::Greeting(reply)] = &replies[..] else {
        panic!("{replies:?}");
    };
    assert_eq!(reply.membership.generation, 5);
    assert_eq!(node.disk.membership.generation, 5);
    for older in [0, 4, 5] {
        node.send(ProposerMessage::Greeting(greeting_message(older)))
            .unwrap();
        assert_eq!(node.disk.membership.generation, 5);
    }
    let mut without_us = greeting_message(6);
    without_us.membership.members.remove(0);
    let refused = node
        .send(ProposerMessage::Greeting(without_us))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "refused to switch into gen=6, members=([id=2, ep=sk-2:5454]), new_members=none, \
         node 1 is not a member of it"
    );
}

#[test]
fn messages_of_another_generation_are_refused() {
    let mut node = Node::with_wal(ENDS[1]);
    node.send(ProposerMessage::Greeting(greeting_message(1)))
        .unwrap();
    for generation in [0, 2] {
        let vote = VoteRequest {
            generation,
            term: 9,
        };
        let elected = Elected {
            generation,
            term: 9,
            start_streaming_at: ENDS[1],
            term_history: TermHistory::default(),
        };
        let append = AppendRequest {
            generation,
            term: 1,
            begin_lsn: ENDS[1],
            commit_lsn: ENDS[1],
            truncate_lsn: ENDS[1],
            wal: Bytes::new(),
        };
        for message in [
            ProposerMessage::VoteRequest(vote),
            ProposerMessage::Elected(elected),
            ProposerMessage::AppendRequest(append),
        ] {
            assert!(node.send(message).is_err());
            assert_eq!(node.effects, []);
        }
    }
    assert_eq!(node.acceptor.term(), 1);
}

#[test]
fn a_greeting_that_is_not_for_this_timeline_is_refused() {
    let mut node = Node::new();
    let refuse = |node: &mut Node, change: &dyn Fn(&mut ProposerGreeting)| {
        let mut greeting = greeting_message(0);
        change(&mut greeting);
        let refused = node.send(ProposerMessage::Greeting(greeting));
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        refuse(&mut node, &|g| g.pg_version = 160_003),
        "incompatible server version 160003, expected 150000"
    );
    assert_eq!(
        refuse(&mut node, &|g| g.pg_version = 0),
        "InvalidPgVersion(0)"
    );
    assert_eq!(
        refuse(&mut node, &|g| g.wal_segment_size = 1_048_576),
        "invalid wal_seg_size, got 1048576, expected 16777216"
    );
    assert!(refuse(&mut node, &|g| g.tenant_id = TenantId([9; 16])).contains("invalid tenant ID"));
    assert!(
        refuse(&mut node, &|g| g.timeline_id = TimelineId([9; 16])).contains("invalid timeline ID")
    );
}

#[test]
fn a_minor_upgrade_is_learned_with_the_system_id() {
    let mut node = Node::new();
    let mut greeting = greeting_message(0);
    greeting.pg_version = 150_021;
    node.send(ProposerMessage::Greeting(greeting.clone()))
        .unwrap();
    assert_eq!(node.disk.server.pg_version, 150_020);
    greeting.system_id = 7;
    node.send(ProposerMessage::Greeting(greeting)).unwrap();
    assert_eq!(node.disk.server.system_id, 7);
    assert_eq!(node.disk.server.pg_version, 150_021);
}

#[test]
fn a_timeline_of_an_unknown_version_is_not_made() {
    let mut greeting = greeting_message(0);
    greeting.pg_version = 130_000;
    assert!(ControlState::implicit(&greeting).is_err());
    greeting.pg_version = 0;
    let refused = ControlState::implicit(&greeting).unwrap_err().to_string();
    assert!(
        refused.ends_with("is not initialized, pg_version is unknown"),
        "{refused}"
    );
}

#[test]
fn an_explicit_timeline_starts_with_a_history_of_its_own() {
    let mut node = Node::new();
    let control = ControlState::explicit(
        node.disk.tenant_id,
        node.disk.timeline_id,
        Membership::default(),
        node.disk.server,
        START,
    )
    .unwrap();
    node.acceptor = Acceptor::load(1, control, START);
    let response = node.vote(1);
    assert_eq!((response.flush_lsn, response.truncate_lsn), (START, START));
    assert_eq!(
        response.term_history.0,
        [TermLsn {
            term: 0,
            lsn: START
        }]
    );
    node.elect(1, START, &[(0, START), (1, START)]).unwrap();
    node.append(1, START, ENDS[0], Lsn::INVALID).unwrap();
}

#[test]
fn a_bumped_term_fences_and_is_persisted() {
    let mut node = Node::with_wal(ENDS[0]);
    let mut effects = Vec::new();
    assert_eq!(node.acceptor.bump_term(None, &mut effects), 1);
    assert_eq!(node.acceptor.bump_term(Some(7), &mut effects), 2);
    assert_eq!(node.acceptor.bump_term(Some(3), &mut effects), 7);
    node.perform(&effects);
    assert_eq!((node.disk.term, effects.len()), (7, 2));
}
