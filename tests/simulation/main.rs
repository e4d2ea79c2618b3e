//! Proposers against safekeepers, on a network that delays and breaks, with crashes
//! of both, under a virtual clock: what was acknowledged is never lost, and no two
//! computes acknowledge different WAL. Each run follows from a seed.
//!
//! `SIMULATION_SEEDS=1000..2000` runs other seeds than the usual ones; a failure
//! names its seed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what fails here fails the test, and names its seed"
)]

mod compute;
mod node;
mod wal;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use glowplug::id::{TenantId, TimelineId};

use world::World;

/// Seeds that are always run.
const SEEDS: Range<u64> = 0..25;

fn tenant() -> TenantId {
    TenantId([1; 16])
}

fn timeline() -> TimelineId {
    TimelineId([2; 16])
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SIMULATION_SEEDS") else {
        return SEEDS;
    };
    let number = |text: &str| text.parse().unwrap();
    if let Some((from, until)) = text.split_once("..") {
        return number(from)..number(until);
    }
    number(&text)..number(&text) + 1
}

/// Names the seed when a run fails.
struct Running(u64);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("replay with SIMULATION_SEEDS={seed} cargo test --test simulation");
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_computes_never_conflict() {
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds() {
        let _running = Running(seed);
        let nodes = [3, 3, 3, 5, 1][seed as usize % 5];
        let mut world = World::new(seed, nodes);
        world.run(Duration::from_secs(12));
        world.heal();
        let before = world.committed.len();
        world.run(Duration::from_secs(20));
        world.rest();
        world.run(Duration::from_secs(5));
        let state = world.describe();
        let more = world.committed.len() > before;
        assert!(
            more,
            "nothing more is acknowledged, though nothing fails\n{state}"
        );
        let everywhere = world.everywhere();
        assert!(
            everywhere,
            "a safekeeper lags behind, though nothing fails\n{state}"
        );
        for (what, count) in world.statistics {
            *total.entry(what).or_default() += count;
        }
    }
    // A simulation in which nothing goes wrong proves nothing.
    for what in [
        "fenced",
        "fetch",
        "node crashed",
        "compute crashed",
        "synced",
        "acknowledged",
    ] {
        assert!(
            total.contains_key(what),
            "never happened: {what}; {total:?}"
        );
    }
    println!("{total:?}");
}
