//! What a sync does, and what LSN it ends with.

use std::time::Duration;

use super::acceptor::{Acceptor, history};
use super::world::{Network, World, config, endpoints};
use crate::lsn::Lsn;
use crate::safekeeper::proposer::{
    ConfigError, Failure, LossKind, Mode, Output, Proposer, Source, Synced,
};

/// Three safekeepers with the same history and these ends.
fn three(entries: &[(u64, u64)], ends: [u64; 3]) -> Vec<Acceptor> {
    let with_end = |(index, end)| Acceptor::new(index as u64 + 1).with_log(entries, end);
    ends.into_iter().enumerate().map(with_end).collect()
}

fn fetches(world: &World) -> Vec<&Output> {
    let is_fetch = |output: &&Output| matches!(output, Output::Fetch { .. });
    world.outputs.iter().filter(is_fetch).collect()
}

#[test]
fn a_timeline_without_wal_is_in_sync_at_zero() {
    let mut world = World::sync((1..=3).map(Acceptor::new).collect());
    let expected = Synced {
        commit_lsn: Lsn(0),
        term: 1,
        by_votes_alone: true,
    };
    assert_eq!(world.synced(), expected);
    assert!(world.acceptors.iter().all(|a| a.last_elected.is_none()));
}

#[test]
fn votes_alone_suffice_when_all_are_known_to_have_everything() {
    let mut acceptors = three(&[(4, 100)], [180; 3]);
    for acceptor in &mut acceptors {
        acceptor.horizon = Lsn(180);
    }
    let mut world = World::sync(acceptors);
    let synced = world.synced();
    assert!(synced.by_votes_alone);
    assert_eq!((synced.commit_lsn, synced.term), (Lsn(180), 5));
    for acceptor in &world.acceptors {
        assert_eq!(acceptor.history, history(&[(4, 100)]));
        assert_eq!(acceptor.counts.get("elected"), None);
    }
}

#[test]
fn equal_logs_need_no_wal_and_the_last_heartbeat_moves_the_horizon() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    let synced = world.synced();
    assert!(!synced.by_votes_alone);
    assert_eq!(synced.commit_lsn, Lsn(180));
    assert!(fetches(&world).is_empty());
    for acceptor in &world.acceptors {
        assert_eq!(acceptor.counts.get("append"), None);
        assert_eq!(acceptor.horizon, Lsn(180));
        assert_eq!(acceptor.persisted_commit_lsn, Lsn(180));
        assert_eq!(acceptor.history, history(&[(4, 100), (5, 180)]));
    }
    let mut again = World::sync(world.acceptors);
    assert!(again.synced().by_votes_alone);
}

#[test]
fn a_laggard_is_filled_from_the_donor_in_pieces_of_one_message() {
    let end = 100 + 400_000;
    let mut world = World::sync(three(&[(4, 100)], [end, end, 150]));
    assert_eq!(world.synced().commit_lsn, Lsn(end));
    assert_eq!(world.acceptors[2].log, world.acceptors[0].log);
    let source = Source::Donor {
        endpoint: "sk-1:5454".into(),
        term: 5,
    };
    let expected = Output::Fetch {
        slot: crate::safekeeper::proposer::Slot(2),
        from: Lsn(150),
        until: Lsn(end),
        source,
    };
    assert_eq!(fetches(&world), [&expected]);
}

#[test]
fn a_longer_log_of_an_older_term_loses() {
    let winner = [(1, 100), (3, 200)];
    let mut acceptors = three(&winner, [250, 250, 0]);
    acceptors[2] = Acceptor::new(3).with_log(&[(1, 100), (2, 180)], 900);
    let mut world = World::sync(acceptors);
    world.network[1] = Network::Down;
    assert_eq!(world.synced().commit_lsn, Lsn(250));
    let cut = world.acceptors[2].last_elected.as_ref().unwrap();
    assert_eq!(cut.start_streaming_at, Lsn(180));
    assert_eq!(world.acceptors[2].log, world.acceptors[0].log);
}

#[test]
fn of_two_equal_logs_the_first_in_the_list_is_the_donor() {
    let mut acceptors = three(&[(4, 100)], [470, 470, 470]);
    acceptors[0] = Acceptor::new(1).with_log(&[(3, 100)], 500);
    let mut world = World::sync(acceptors);
    assert_eq!(world.synced().commit_lsn, Lsn(470));
    let Output::Fetch { source, .. } = fetches(&world)[0] else {
        panic!()
    };
    let donor = |endpoint: &str| Source::Donor {
        endpoint: endpoint.into(),
        term: 5,
    };
    assert_eq!(*source, donor("sk-2:5454"));
}

#[test]
fn an_empty_safekeeper_gets_the_whole_timeline() {
    let mut acceptors = three(&[(2, 100), (4, 300)], [500, 500, 500]);
    acceptors[1] = Acceptor::new(2);
    let mut world = World::sync(acceptors);
    assert_eq!(world.synced().commit_lsn, Lsn(500));
    assert_eq!(world.acceptors[1].start, Lsn(100));
    assert_eq!(world.acceptors[1].log, world.acceptors[0].log);
}

#[test]
fn a_safekeeper_that_is_down_is_not_waited_for() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    world.network[2] = Network::Down;
    assert_eq!(world.synced().commit_lsn, Lsn(180));
    assert_eq!(world.elapsed(), Duration::ZERO);
}

#[test]
fn a_safekeeper_that_only_seems_alive_is_waited_for_as_long_as_the_grace() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    world.network[2] = Network::Silent;
    assert_eq!(world.synced().commit_lsn, Lsn(180));
    assert_eq!(world.elapsed(), config(Mode::Sync).timing.straggler_grace);
}

#[test]
fn without_a_majority_a_sync_does_not_end() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    world.network = vec![Network::Up, Network::Down, Network::Silent];
    world.run(Duration::from_mins(2));
    assert_eq!(world.finished, None);
    assert_eq!(world.acceptors[0].counts.get("vote"), None);
    world.network[1] = Network::Up;
    assert_eq!(world.synced().commit_lsn, Lsn(180));
}

#[test]
fn wal_of_an_older_term_is_not_committed_by_itself() {
    // The donor is alone with its end; the other voter must be filled before
    // anything is committed.
    let mut world = World::sync(three(&[(4, 100)], [300, 180, 180]));
    world.network[2] = Network::Down;
    world.held = Some(crate::safekeeper::proposer::Slot(1));
    world.run(Duration::from_secs(1));
    assert_eq!(world.finished, None);
    assert_eq!(world.proposer.commit_lsn(), Lsn(0));
}

#[test]
fn votes_survive_a_reconnect_within_the_campaign() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    // The second voter's request is held back until the first has lost its
    // connection, asked again, and been refused: it had voted already.
    world.network[2] = Network::Down;
    world.held = Some(crate::safekeeper::proposer::Slot(1));
    world.settle();
    assert_eq!(world.acceptors[0].term, 5);
    world.break_connection(0);
    world.run(Duration::from_millis(200));
    assert_eq!(world.acceptors[0].counts["vote"], 2);
    world.held = None;
    let synced = world.synced();
    assert_eq!((synced.commit_lsn, synced.term), (Lsn(180), 5));
}

#[test]
fn a_vote_that_another_proposer_got_starts_the_election_over() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    world.network[2] = Network::Down;
    world.held = Some(crate::safekeeper::proposer::Slot(1));
    world.settle();
    world.acceptors[1].term = 5;
    world.held = None;
    assert_eq!(world.synced().term, 6);
}

#[test]
fn a_sync_that_is_overtaken_tries_a_higher_term() {
    let mut world = World::sync(three(&[(4, 100)], [300, 300, 180]));
    world.held = Some(crate::safekeeper::proposer::Slot(2));
    world.acceptors[1].lazy = true;
    world.settle();
    // Somebody else asks for votes in between.
    for acceptor in &mut world.acceptors {
        acceptor.term = 9;
        acceptor.lazy = false;
    }
    world.held = None;
    let synced = world.synced();
    assert_eq!((synced.commit_lsn, synced.term), (Lsn(300), 10));
}

#[test]
fn a_duel_that_is_never_won_is_given_up() {
    let mut acceptors = three(&[(4, 100)], [300, 300, 180]);
    for acceptor in &mut acceptors {
        acceptor.contested = true;
    }
    let mut world = World::sync(acceptors);
    let failure = world.failure();
    assert!(
        matches!(failure, Failure::Contended { elections: 9, .. }),
        "{failure:?}"
    );
}

#[test]
fn a_commit_that_is_persisted_late_is_told_again() {
    let mut acceptors = three(&[(4, 100)], [180; 3]);
    for acceptor in &mut acceptors {
        acceptor.lazy = true;
    }
    let mut world = World::sync(acceptors);
    world.run(Duration::from_secs(1));
    assert_eq!(world.finished, None);
    let told = world.acceptors[0].counts["heartbeat"];
    assert!((10..30).contains(&told), "{told}");
    for acceptor in &mut world.acceptors {
        acceptor.lazy = false;
    }
    assert_eq!(world.synced().commit_lsn, Lsn(180));
}

#[test]
fn a_donor_that_dies_is_replaced_by_another_that_has_the_wal() {
    let mut world = World::sync(three(&[(4, 100)], [9000, 9000, 180]));
    world.held = Some(crate::safekeeper::proposer::Slot(2));
    world.settle();
    world.take_down(0);
    world.held = None;
    assert_eq!(world.synced().commit_lsn, Lsn(9000));
    assert_eq!(world.acceptors[2].log, world.acceptors[1].log);
}

#[test]
fn a_majority_that_refuses_alike_ends_a_sync_at_once() {
    let mut world = World::sync(three(&[(4, 100)], [180; 3]));
    world.network[0] = Network::Refuses(LossKind::AuthFailed);
    world.network[1] = Network::Refuses(LossKind::UnknownTimeline);
    world.run(Duration::from_secs(5));
    assert_eq!(world.finished, None);
    world.network[2] = Network::Refuses(LossKind::AuthFailed);
    world.break_connection(2);
    let failure = world.failure();
    assert!(
        matches!(
            failure,
            Failure::Refused {
                kind: LossKind::AuthFailed,
                ..
            }
        ),
        "{failure:?}"
    );
}

#[test]
fn one_safekeeper_under_two_names_counts_once() {
    let mut acceptors = three(&[(4, 100)], [180; 3]);
    acceptors[1].node_id = 1;
    let mut world = World::sync(acceptors);
    world.network[2] = Network::Down;
    world.run(Duration::from_secs(5));
    assert_eq!(world.finished, None);
    let loss = world.proposer.peers().nth(1).unwrap().last_loss.unwrap();
    assert_eq!(loss.to_string(), "is safekeeper 1, as sk-1:5454 is");
}

#[test]
fn what_would_break_safekeepers_is_refused_before_they_are_greeted() {
    let refused = |pg_version, list| {
        let config = crate::safekeeper::proposer::ProposerConfig {
            pg_version,
            ..config(Mode::Sync)
        };
        Proposer::new(config, list, std::time::Instant::now(), 1).err()
    };
    let twice = crate::safekeeper::proposer::Endpoints {
        endpoints: vec!["a:1".into(), "a:1".into()],
        generation: None,
    };
    assert_eq!(refused(170_005, endpoints(3, None)), None);
    assert_eq!(
        refused(180_000, endpoints(3, None)),
        Some(ConfigError::UnsupportedPostgres {
            pg_version: 180_000
        })
    );
    assert_eq!(
        refused(170_005, endpoints(0, None)),
        Some(ConfigError::NoSafekeepers)
    );
    assert_eq!(
        refused(170_005, endpoints(32, None)),
        Some(ConfigError::TooManySafekeepers { count: 32 })
    );
    assert!(matches!(
        refused(170_005, twice),
        Some(ConfigError::DuplicateSafekeeper { .. })
    ));
}
