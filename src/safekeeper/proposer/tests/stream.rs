//! What becomes of the WAL of a local postgres.

use std::time::Duration;

use super::acceptor::{Acceptor, history};
use super::world::{Network, World, endpoints};
use crate::lsn::Lsn;
use crate::safekeeper::proposer::{Endpoints, Failure, Input, Output, PeerState, Slot, Source};
use crate::wire::safekeeper::{AcceptorMessage, AppendResponse, HotStandbyFeedback};

fn three(end: u64) -> Vec<Acceptor> {
    let with_end = |id| Acceptor::new(id).with_log(&[(4, 100)], end);
    (1..=3).map(with_end).collect()
}

#[test]
fn wal_is_committed_once_a_majority_has_it() {
    let mut world = World::stream(180, three(180));
    world.network[2] = Network::Down;
    world.write(b"one");
    assert_eq!(world.proposer.commit_lsn(), Lsn(183));
    assert_eq!(world.acceptors[0].history, history(&[(4, 100), (5, 180)]));
    world.held = Some(Slot(1));
    world.write(b"two");
    assert_eq!(world.proposer.commit_lsn(), Lsn(183));
    world.held = None;
    world.settle();
    assert_eq!(world.proposer.commit_lsn(), Lsn(186));
}

#[test]
fn a_new_timeline_begins_where_postgres_does() {
    let mut world = World::stream(4096, (1..=3).map(Acceptor::new).collect());
    world.write(b"first");
    assert_eq!(world.proposer.commit_lsn(), Lsn(4101));
    assert_eq!(world.acceptors[0].start, Lsn(4096));
}

#[test]
fn a_log_that_ends_elsewhere_than_postgres_began_is_not_continued() {
    let mut world = World::stream(170, three(180));
    let expected = Failure::Diverged {
        start_lsn: Lsn(170),
        term_start_lsn: Lsn(180),
        last_term: 4,
    };
    assert_eq!(world.failure(), expected);
    assert!(world.acceptors.iter().all(|a| a.last_elected.is_none()));
}

#[test]
fn a_page_header_between_the_two_is_no_difference() {
    let mut world = World::stream(8192 + 24, three(8192));
    world.local = Some((Lsn(8192), Vec::new()));
    world.write(&[7; 64]);
    assert_eq!(world.proposer.commit_lsn(), Lsn(8256));
}

#[test]
fn a_newer_term_ends_a_stream_at_once() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    for acceptor in &mut world.acceptors[..2] {
        acceptor.term = 8;
    }
    let before: Vec<_> = world.acceptors.iter().map(|a| a.log.clone()).collect();
    world.held = Some(Slot(2));
    world.write(b"two");
    let expected = Failure::NewerTerm {
        endpoint: "sk-1:5454".into(),
        term: 8,
        ours: 5,
    };
    assert_eq!(world.failure(), expected);
    assert_eq!(world.proposer.commit_lsn(), Lsn(183));
    world.held = None;
    world.settle();
    let after: Vec<_> = world.acceptors.iter().map(|a| a.log.clone()).collect();
    assert_eq!(before, after);
}

#[test]
fn positions_of_a_reply_in_a_newer_term_are_not_looked_at() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    let response = AppendResponse {
        generation: 0,
        term: 9,
        flush_lsn: Lsn(5000),
        commit_lsn: Lsn(5000),
        hot_standby: HotStandbyFeedback::default(),
        pageserver_feedback: None,
    };
    let message = AcceptorMessage::AppendResponse(response);
    world
        .proposer
        .handle(world.now, Input::Received(Slot(0), message));
    assert!(matches!(
        world.failure(),
        Failure::NewerTerm { term: 9, .. }
    ));
    assert_eq!(world.proposer.commit_lsn(), Lsn(183));
}

#[test]
fn repeated_old_responses_lower_nothing() {
    let mut world = World::stream(180, three(180));
    world.write(b"onetwo");
    let response = AppendResponse {
        generation: 0,
        term: 5,
        flush_lsn: Lsn(180),
        commit_lsn: Lsn(100),
        hot_standby: HotStandbyFeedback::default(),
        pageserver_feedback: None,
    };
    let message = AcceptorMessage::AppendResponse(response);
    world
        .proposer
        .handle(world.now, Input::Received(Slot(0), message));
    assert_eq!(world.proposer.commit_lsn(), Lsn(186));
    assert_eq!(world.proposer.peers().next().unwrap().flush_lsn, Lsn(186));
}

#[test]
fn a_torn_connection_is_resumed_without_loss_or_repetition() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    world.break_connection(0);
    world.write(b"two");
    world.break_connection(1);
    world.write(b"three");
    world.run(Duration::from_millis(300));
    assert_eq!(world.proposer.commit_lsn(), Lsn(191));
    for acceptor in &world.acceptors {
        assert_eq!(&acceptor.log[80..], b"onetwothree");
    }
}

#[test]
fn a_slow_safekeeper_does_not_hold_up_a_quorum_and_is_caught_up_later() {
    let mut world = World::stream(180, three(180));
    world.settle();
    world.held = Some(Slot(2));
    let wal: Vec<u8> = (0..40_000).map(|n: u32| n as u8).collect();
    for piece in wal.chunks(500) {
        world.write(piece);
    }
    assert_eq!(world.proposer.commit_lsn(), Lsn(40_180));
    world.held = None;
    world.run(Duration::from_secs(2));
    assert_eq!(&world.acceptors[2].log[80..], &wal[..]);
    let donor = |output: &Output| {
        matches!(
            output,
            Output::Fetch {
                slot: Slot(2),
                source: Source::Donor { .. },
                ..
            }
        )
    };
    assert!(world.outputs.iter().any(donor));
}

#[test]
fn without_a_quorum_postgres_is_read_only_as_far_as_memory_allows() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    world.take_down(0);
    world.take_down(1);
    world.write(&vec![9; 50_000]);
    assert_eq!(world.proposer.commit_lsn(), Lsn(183));
    assert!(world.proposer.wal_position() <= Lsn(180 + 4096 + 2 * 700));
    world.network = vec![Network::Up; 3];
    world.run(Duration::from_secs(3));
    assert_eq!(world.proposer.commit_lsn(), Lsn(50_183));
    assert_eq!(world.acceptors[0].log, world.acceptors[2].log);
}

#[test]
fn wal_that_no_safekeeper_has_is_read_again_from_postgres() {
    let mut world = World::stream(180, three(180));
    world.settle();
    // A majority was sent more than the window holds, and lost it.
    let wal: Vec<u8> = (0..20_000).map(|n: u32| n as u8).collect();
    world.take_down(2);
    let snapshots: Vec<_> = world.acceptors.clone();
    world.write(&wal);
    world.take_down(0);
    world.take_down(1);
    for (acceptor, before) in world.acceptors.iter_mut().zip(snapshots) {
        acceptor.log = before.log;
        acceptor.commit_lsn = before.commit_lsn;
    }
    world.network = vec![Network::Up; 3];
    world.run(Duration::from_secs(3));
    assert_eq!(&world.acceptors[0].log[80..], &wal[..]);
    let local = |output: &Output| {
        matches!(
            output,
            Output::Fetch {
                source: Source::Local,
                ..
            }
        )
    };
    assert!(world.outputs.iter().any(local));
}

#[test]
fn an_idle_stream_sends_a_heartbeat_each_second() {
    let mut world = World::stream(180, three(180));
    world.settle();
    let before = world.acceptors[0].counts["heartbeat"];
    world.run(Duration::from_millis(5_500));
    assert_eq!(world.acceptors[0].counts["heartbeat"] - before, 6);
}

#[test]
fn news_of_a_commit_are_told_soon_even_without_new_wal() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    assert!(world.acceptors.iter().all(|a| a.commit_lsn < Lsn(183)));
    world.run(Duration::from_millis(20));
    assert!(world.acceptors.iter().all(|a| a.commit_lsn == Lsn(183)));
}

#[test]
fn a_silent_safekeeper_is_given_up_and_tried_again() {
    let mut world = World::stream(180, three(180));
    world.settle();
    world.network[1] = Network::Silent;
    world.run(Duration::from_secs(12));
    let loss = world.proposer.peers().nth(1).unwrap().last_loss.unwrap();
    assert_eq!(loss.to_string(), "did not answer for 10s");
    world.network[1] = Network::Up;
    world.run(Duration::from_secs(12));
    assert_eq!(world.state(1), PeerState::Streaming);
}

#[test]
fn other_safekeepers_are_elected_by_without_a_new_postgres() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    let list = Endpoints {
        endpoints: vec!["sk-2:5454".into(), "sk-3:5454".into()],
        ..endpoints(0, None)
    };
    world.proposer.handle(world.now, Input::Endpoints(list));
    world.write(b"two");
    assert_eq!(world.finished, None);
    assert_eq!(world.proposer.commit_lsn(), Lsn(186));
    assert_eq!(world.proposer.leading_term(), Some(6));
    assert_eq!(&world.acceptors[0].log[80..], b"one");
    assert_eq!(&world.acceptors[1].log[80..], b"onetwo");
    assert_eq!(world.acceptors[1].log, world.acceptors[2].log);
}

#[test]
fn a_takeover_during_a_change_of_safekeepers_is_noticed() {
    let mut world = World::stream(180, three(180));
    world.write(b"one");
    for acceptor in &mut world.acceptors {
        acceptor.term = 7;
    }
    let list = endpoints(3, Some(0));
    world.proposer.handle(world.now, Input::Endpoints(list));
    assert!(matches!(
        world.failure(),
        Failure::NewerTerm { term: 7, .. }
    ));
}

#[test]
fn an_election_of_which_nobody_heard_does_not_end_a_stream() {
    let mut world = World::stream(180, three(180));
    world.write(b"first");
    assert_eq!(world.proposer.leading_term(), Some(5));
    // The second term leaves no trace in any log: the third continues the first.
    for acceptor in &mut world.acceptors {
        acceptor.drops_elected = true;
    }
    let mut list = endpoints(3, None);
    for term in [6, 7] {
        list.endpoints.rotate_left(1);
        world
            .proposer
            .handle(world.now, Input::Endpoints(list.clone()));
        world.run(Duration::from_millis(10));
        assert_eq!(world.finished, None);
        assert_eq!(world.proposer.leading_term(), Some(term));
    }
    for acceptor in &mut world.acceptors {
        acceptor.drops_elected = false;
    }
    world.run(Duration::from_secs(3));
    world.write(b"later");
    assert_eq!(world.proposer.commit_lsn(), Lsn(190));
}

#[test]
fn an_election_of_which_nobody_heard_does_not_end_a_stream_on_a_new_timeline() {
    let mut world = World::stream(180, (1..=3).map(Acceptor::new).collect());
    for acceptor in &mut world.acceptors {
        acceptor.drops_elected = true;
    }
    world.run(Duration::from_millis(10));
    assert_eq!(world.proposer.leading_term(), Some(1));
    let mut list = endpoints(3, None);
    list.endpoints.rotate_left(1);
    world.proposer.handle(world.now, Input::Endpoints(list));
    for acceptor in &mut world.acceptors {
        acceptor.drops_elected = false;
    }
    world.run(Duration::from_secs(3));
    world.write(b"one");
    assert_eq!(world.proposer.commit_lsn(), Lsn(183));
}
