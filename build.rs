//! Generates the page service's gRPC code from its protocol buffers, without `protoc`.

use std::env;
use std::error::Error;

const PROTO: &str = "proto/page_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    // Only the development storage serves it.
    let serves = env::var_os("CARGO_FEATURE_STORAGE").is_some();
    tonic_prost_build::configure()
        .build_server(serves)
        .build_transport(false)
        .bytes(".page_api.GetBaseBackupResponseChunk.chunk")
        .compile_fds(descriptors)?;
    Ok(())
}
