//! Proposers against safekeepers under a virtual clock: messages are delayed,
//! overtake each other on different connections, and are lost with their
//! connection, or arrive behind those of the next one; computes and safekeepers
//! crash, the latter losing what was not synced; networks part; machines stand still
//! and clocks leap; several computes want one timeline, which moves from safekeepers
//! to others meanwhile, by way of a joint membership.
//!
//! One seed is one run. After every step the [`oracle`] checks:
//! 1. a term is won by one proposer;
//! 2. a safekeeper's log is, term by term, what that term's proposer wrote;
//! 3. what was committed is never committed differently;
//! 4. it is durable on a majority of each set that counts, whoever crashes next;
//! 5. no safekeeper believes more to be committed, or something else;
//! 6. no proposer gives up its stream for another one's that there is not.
//!
//! When the faults end, one compute must commit again, and every safekeeper catch up.
//!
//! `GLOWPLUG_SIM_SEEDS=n` runs n seeds. `GLOWPLUG_SIM_SEED=s` runs one, and tells
//! what happens in it.
#![cfg(feature = "storage")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells why"
)]

mod bug;
mod compute;
mod network;
mod node;
mod oracle;
mod random;
mod statistics;
mod wal;
mod world;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use bug::Bug;
use statistics::Statistics;
use world::World;

/// Seeds that are run unless the environment says otherwise.
const SEEDS: u64 = 2000;
/// Seeds within which each mutant must be caught.
const SEEDS_PER_BUG: u64 = 400;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Names the seed if a run panics instead of returning.
struct Running(u64);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: GLOWPLUG_SIM_SEED={} cargo test --test simulation",
                self.0
            );
        }
    }
}

fn run(seed: u64, bug: Option<Bug>, traced: bool) -> Result<Statistics, String> {
    let _running = Running(seed);
    World::new(seed, bug, traced).run()
}

/// Runs all seeds, on all processors. The lowest seed that fails, or what happened.
fn run_all(seeds: Range<u64>) -> Result<Statistics, (u64, String)> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = AtomicBool::new(false);
    let work = &|worker: usize| {
        let mut total = Statistics::default();
        for seed in seeds.clone().skip(worker).step_by(workers) {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            match run(seed, None, seeds.end - seeds.start == 1) {
                Ok(statistics) => total.add(&statistics),
                Err(violation) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err((seed, violation));
                }
            }
        }
        Ok(total)
    };
    std::thread::scope(|scope| {
        let workers = (0..workers).map(|worker| scope.spawn(move || work(worker)));
        let workers: Vec<_> = workers.collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap());
        let mut total = Statistics::default();
        let mut first: Option<(u64, String)> = None;
        for result in results {
            match result {
                Ok(statistics) => total.add(&statistics),
                Err(failure) => {
                    let earlier = first.take().filter(|other| other.0 < failure.0);
                    first = Some(earlier.unwrap_or(failure));
                }
            }
        }
        first.map_or(Ok(total), Err)
    })
}

#[test]
fn nothing_committed_is_lost_and_no_two_proposers_commit_in_conflict() {
    let seeds = match number("GLOWPLUG_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GLOWPLUG_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let total = run_all(seeds).unwrap_or_else(|(seed, violation)| {
        panic!(
            "seed {seed}: {violation}\n\
             replay: GLOWPLUG_SIM_SEED={seed} cargo test --test simulation"
        )
    });
    eprintln!("{count} seeds: {total}");
    if count >= 200 {
        // A simulation in which nothing goes wrong proves nothing.
        assert_eq!(total.missing(), Vec::<&str>::new());
    }
}

#[test]
fn broken_proposers_and_acceptors_are_caught() {
    for bug in Bug::ALL {
        let caught = (0..SEEDS_PER_BUG).find_map(|seed| {
            let violation = run(seed, Some(bug), false).err()?;
            Some((seed, violation))
        });
        let Some((seed, violation)) = caught else {
            panic!("{bug:?} is not noticed in {SEEDS_PER_BUG} seeds");
        };
        let first = violation.lines().next().unwrap_or_default();
        eprintln!("{bug:?}: seed {seed}: {first}");
    }
}

#[test]
fn a_seed_is_a_run() {
    for seed in [1, 2, 3] {
        let twice = [run(seed, None, false), run(seed, None, false)];
        assert_eq!(twice[0], twice[1]);
    }
}
