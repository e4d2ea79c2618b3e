//! The embedded default: storage and a compute on this machine.
//!
//! Everything lives under one state directory: the development storage, PGDATA, the
//! status document, a token for the external HTTP server. Whoever can reach loopback is
//! let into postgres without a password; nothing listens elsewhere.

mod check;
pub mod display;
mod postgres_programs;
mod run;
mod state_dir;
mod storage_role;

use std::net::IpAddr;
use std::path::PathBuf;

pub use run::run;
pub use storage_role::{StorageSettings, storage_alone};

/// What `glowplug dev` was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The spec; without it a built-in example.
    pub file: Option<PathBuf>,
    /// Where everything is kept.
    pub state_dir: Option<PathBuf>,
    /// Port of postgres, in place of the spec's.
    pub port: Option<u16>,
    /// Run the whole story unattended.
    pub check: bool,
    /// Folder of the postgres programs.
    pub pg_bin_dir: Option<PathBuf>,
    /// Directory of Secrets, beside those that the spec's file holds.
    pub secrets_dir: Option<PathBuf>,
    /// Ports of the HTTP servers: external, internal, probes. 0 takes any.
    pub http_ports: [u16; 3],
}

/// Where the development tools listen.
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
