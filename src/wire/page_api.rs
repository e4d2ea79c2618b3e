//! The page service on gRPC, generated from `proto/page_service.proto`: messages, the
//! client, and for the development storage the server.

#![allow(
    missing_docs,
    unreachable_pub,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]

tonic::include_proto!("page_api");
