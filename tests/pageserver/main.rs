//! The client of pageservers and storage controllers, against stand-ins that answer
//! as real ones do, and as none should.

#![expect(
    clippy::unwrap_used,
    reason = "helpers outside of test functions belong to tests"
)]

mod basebackup;
mod http;
#[path = "../loopback/mod.rs"]
mod loopback;
mod probe;
mod stand_in;
