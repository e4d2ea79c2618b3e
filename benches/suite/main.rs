//! Measures glowplug against its yardsticks, each pair side by side in one run, and
//! prints the figures as tables. Nothing here fails because of a time.
//!
//! `cargo bench` runs everything, `cargo bench -- fresh_start relay` only what is named.
//! The variables that change a bench stand in its file. What is measured as a process is
//! the program that was built with this, or the one that `GLOWPLUG_BENCH_BIN` names.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench that cannot run fails, and shares what it starts with the tests"
)]

#[path = "../../tests/postgres/mod.rs"]
mod postgres;
#[path = "../../tests/relay/bench.rs"]
mod quorum;
#[path = "../../tests/simulation/wal.rs"]
mod wal;

mod catalog;
mod footprint;
mod fresh_start;
mod recovery;
mod relay;
mod stage;
mod sync;
mod unpack;

use std::pin::Pin;
use std::time::Duration;

use stage::child::CHILD;

/// Everything awaited in a bench comes about long before.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

/// A bench: its name, and what runs it and prints what it found.
type Bench = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// In this order: the first one looks at the memory of this process.
const BENCHES: &[Bench] = &[
    ("catalog", || Box::pin(catalog::run())),
    ("fresh_start", || Box::pin(fresh_start::run())),
    ("footprint", || Box::pin(footprint::run())),
    ("sync", || Box::pin(sync::run())),
    ("recovery", || Box::pin(recovery::run())),
    ("unpack", || Box::pin(unpack::run())),
    ("relay", || Box::pin(relay::run())),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, part, rest @ ..] = &arguments[..]
        && flag == CHILD
    {
        return as_child(part, rest);
    }
    // Under `cargo test` a bench is only built.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let named: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    if let Some(unknown) = named
        .iter()
        .find(|name| BENCHES.iter().all(|(known, _)| known != *name))
    {
        let names: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        panic!("no bench {unknown}: there are {}", names.join(", "));
    }
    let runtime = runtime();
    for (name, bench) in BENCHES {
        if named.is_empty() || named.iter().any(|wanted| wanted == name) {
            eprintln!("{name} …");
            runtime.block_on(bench());
        }
    }
}

/// Runs a part of a bench, as the process that measures it has asked.
fn as_child(part: &str, arguments: &[String]) {
    match part {
        unpack::FETCH => runtime().block_on(unpack::fetch(arguments)),
        recovery::SYNC => runtime().block_on(recovery::sync(arguments)),
        unknown => panic!("no part {unknown}"),
    }
}

/// With as many threads as a compute has.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}
