//! See `tests/fuzz/targets.rs`.
#![no_main]

#[path = "../../tests/fuzz/targets.rs"]
#[allow(dead_code, reason = "each fuzzer runs one target")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::pgwire_backend(data));
