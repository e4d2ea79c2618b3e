//! What fuzzing has found stays mended, and a short fuzzing on the way: each target of
//! `fuzz/` gets its seeds, cut and changed, and its regressions.
//!
//! A regression is the input that `make fuzz` has left, as a file in
//! `tests/fuzz/regressions/TARGET/`. `GLOWPLUG_FUZZ_SEEDS=DIR` writes the seeds there.
#![cfg(feature = "storage")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod seeds;
mod targets;

use std::fs;
use std::path::Path;

use targets::{TARGETS, Target};

/// Changed inputs for each target.
const ROUNDS: u32 = 2000;

/// Numbers that are the same in every run.
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % end.max(1)
    }
}

/// An input with a few bytes of it changed, doubled, or gone.
fn change(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(input.len() + 1);
        match numbers.below(5) {
            0 => input.truncate(at),
            1 => input.insert(at, [0, 0xFF, 0x7F, b'{', b'\n'][numbers.below(5)]),
            2 => {
                let from = numbers.below(other.len());
                let piece = &other[from..other.len().min(from + numbers.below(16))];
                input.splice(at..at, piece.iter().copied());
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << numbers.below(8);
                }
            }
        }
    }
    input
}

fn regressions(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/regressions");
    let Ok(entries) = fs::read_dir(directory.join(target.name)) else {
        return Vec::new();
    };
    let files = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files.collect()
}

/// Names the input if a target panics.
struct Running<'a>(&'static str, &'a [u8]);

impl Drop for Running<'_> {
    #[expect(clippy::print_stderr, reason = "a failure is replayed by its input")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} panics over {}", self.0, hex::encode(self.1));
        }
    }
}

fn run(target: &Target, input: &[u8]) {
    let _running = Running(target.name, input);
    (target.run)(input);
}

#[test]
fn no_decoder_panics_over_its_seeds_whatever_becomes_of_them() {
    for target in TARGETS {
        let seeds = seeds::of(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let mut numbers = Numbers(0x9E37_79B9);
        for seed in &seeds {
            run(target, seed);
        }
        for _ in 0..ROUNDS {
            let seed = &seeds[numbers.below(seeds.len())];
            let other = &seeds[numbers.below(seeds.len())];
            run(target, &change(seed, other, &mut numbers));
        }
    }
}

#[test]
fn what_fuzzing_has_found_stays_mended() {
    for target in TARGETS {
        for input in regressions(target) {
            run(target, &input);
        }
    }
}

/// `cargo fuzz` needs a file for each target.
#[test]
fn each_target_can_be_fuzzed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let file = fuzz.join(format!("fuzz_targets/{name}.rs"));
        assert!(file.exists(), "{}", file.display());
    }
}

#[test]
fn seeds_are_written_for_the_fuzzer() {
    let Some(directory) = std::env::var_os("GLOWPLUG_FUZZ_SEEDS") else {
        return;
    };
    for target in TARGETS {
        let directory = Path::new(&directory).join(target.name);
        fs::create_dir_all(&directory).unwrap();
        for (number, seed) in seeds::of(target.name).iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}
