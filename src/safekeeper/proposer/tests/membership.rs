//! Who has a say, and how a change of that is taken.

use std::time::Duration;

use super::acceptor::Acceptor;
use super::world::{Network, World};
use crate::lsn::Lsn;
use crate::safekeeper::proposer::{Failure, Mode, Slot};
use crate::wire::safekeeper::{Member, Membership};

fn membership(generation: u32, members: &[u64], new_members: &[u64]) -> Membership {
    let member = |id: &u64| Member {
        node_id: *id,
        host: format!("sk-{id}"),
        pg_port: 5454,
    };
    Membership {
        generation,
        members: members.iter().map(member).collect(),
        new_members: new_members.iter().map(member).collect(),
    }
}

fn acceptor(node_id: u64, end: u64, membership: &Membership) -> Acceptor {
    let mut acceptor = Acceptor::new(node_id).with_log(&[(4, 100)], end);
    acceptor.membership = membership.clone();
    acceptor
}

#[test]
fn a_safekeeper_behind_in_generation_is_told_and_then_counts() {
    let newer = membership(2, &[1, 2, 3], &[]);
    let older = membership(1, &[1, 2, 3], &[]);
    let acceptors = vec![
        acceptor(1, 180, &older),
        acceptor(2, 180, &newer),
        acceptor(3, 180, &newer),
    ];
    let mut world = World::new(Mode::Sync, acceptors, Some(1));
    world.network[2] = Network::Down;
    assert_eq!(world.synced().commit_lsn, Lsn(180));
    assert_eq!(world.acceptors[0].membership, newer);
    assert_eq!(world.acceptors[0].counts["greeting"], 2);
}

#[test]
fn a_safekeeper_outside_of_the_membership_does_not_count() {
    let members = membership(2, &[1, 2, 3], &[]);
    let acceptors = vec![
        acceptor(1, 180, &members),
        acceptor(2, 180, &members),
        acceptor(3, 180, &members),
        // Its longer log is not the timeline's.
        acceptor(9, 700, &members),
    ];
    let mut world = World::new(Mode::Sync, acceptors, None);
    world.network[1] = Network::Down;
    assert_eq!(world.synced().commit_lsn, Lsn(180));
}

#[test]
fn members_that_nobody_named_count_as_absent() {
    let members = membership(2, &[1, 2, 3, 4, 5], &[]);
    let acceptors = vec![acceptor(1, 180, &members), acceptor(2, 180, &members)];
    let mut world = World::new(Mode::Sync, acceptors, None);
    world.run(Duration::from_secs(5));
    assert_eq!(world.finished, None);
}

#[test]
fn a_joint_configuration_elects_and_commits_by_both_majorities() {
    let joint = membership(3, &[1, 2, 3], &[1, 4, 5]);
    let acceptors = (1..=5).map(|id| acceptor(id, 180, &joint)).collect();
    let mut world = World::new(Mode::Sync, acceptors, Some(3));
    world.network[3] = Network::Down;
    world.network[4] = Network::Down;
    world.run(Duration::from_secs(5));
    assert_eq!(world.finished, None);
    assert_eq!(world.acceptors[0].counts.get("vote"), None);
    world.network[3] = Network::Up;
    assert_eq!(world.synced().commit_lsn, Lsn(180));
}

#[test]
fn safekeepers_that_wait_for_a_majority_are_asked_again_for_their_membership() {
    // Nobody named 9, so the old set has no majority; then it is no longer needed.
    let joint = membership(3, &[9, 1], &[1, 2]);
    let last = membership(4, &[1, 2], &[]);
    let start_lsn = Lsn(180);
    let acceptors = (1..=2).map(|id| acceptor(id, 180, &joint)).collect();
    let mut world = World::new(Mode::Stream { start_lsn }, acceptors, Some(4));
    world.local = Some((start_lsn, Vec::new()));
    world.run(Duration::from_secs(1));
    assert_eq!(world.proposer.leading_term(), None);
    for acceptor in &mut world.acceptors {
        acceptor.membership = last.clone();
    }
    world.run(Duration::from_secs(5));
    world.write(b"after");
    assert_eq!(world.proposer.commit_lsn(), Lsn(185));
}

#[test]
fn voters_that_wait_for_a_majority_are_asked_again_for_their_membership() {
    let joint = membership(3, &[2, 3], &[1, 2]);
    let last = membership(4, &[1, 2], &[]);
    let start_lsn = Lsn(180);
    let acceptors = (1..=3).map(|id| acceptor(id, 180, &joint)).collect();
    let mut world = World::new(Mode::Stream { start_lsn }, acceptors, Some(4));
    world.local = Some((start_lsn, Vec::new()));
    world.held = Some(Slot(2));
    world.run(Duration::from_secs(1));
    assert_eq!(world.acceptors[1].counts["vote"], 1);
    assert_eq!(world.proposer.leading_term(), None);
    world.network[2] = Network::Down;
    for acceptor in &mut world.acceptors {
        acceptor.membership = last.clone();
    }
    world.run(Duration::from_secs(5));
    world.write(b"after");
    assert_eq!(world.proposer.commit_lsn(), Lsn(185));
}

#[test]
fn a_higher_generation_starts_a_streams_election_over_and_the_stream_goes_on() {
    let first = membership(1, &[1, 2, 3], &[]);
    let acceptors = (1..=3).map(|id| acceptor(id, 180, &first)).collect();
    let mut world = World::new(
        Mode::Stream {
            start_lsn: Lsn(180),
        },
        acceptors,
        Some(1),
    );
    world.local = Some((Lsn(180), Vec::new()));
    world.write(b"before");
    assert_eq!(world.proposer.commit_lsn(), Lsn(186));

    let second = membership(2, &[1, 2, 3], &[]);
    world.acceptors[0].membership = second.clone();
    world.write(b"after");
    world.run(Duration::from_millis(500));
    assert_eq!(world.finished, None);
    assert_eq!(world.proposer.commit_lsn(), Lsn(191));
    assert!(world.acceptors.iter().all(|a| a.membership == second));
    assert_eq!(&world.acceptors[2].log[80..], b"beforeafter");
}

#[test]
fn a_generation_in_the_spec_needs_a_membership_on_the_safekeepers() {
    let none = Membership::default();
    let acceptors = (1..=3).map(|id| acceptor(id, 180, &none)).collect();
    let mut world = World::new(Mode::Sync, acceptors, Some(1));
    assert_eq!(world.failure(), Failure::NoMembership { generation: 1 });
}
