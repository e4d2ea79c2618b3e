//! Keeps the ports of a storage's nodes, and other processes out of its directory.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::storage::files;

const PORTS: &str = "ports.json";
const LOCK: &str = "lock";

/// The ports of a node; 0 for a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct NodePorts {
    pub(super) pg: u16,
    pub(super) http: u16,
    /// A safekeeper has none.
    #[serde(default)]
    pub(super) grpc: u16,
}

/// The ports of all nodes, by their ids from 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) safekeepers: Vec<NodePorts>,
    pub(super) pageservers: Vec<NodePorts>,
    pub(super) controller: u16,
}

impl Ports {
    /// Reads what was kept; all free if nothing was. Blocks.
    pub(super) fn read(state_dir: &Path) -> Result<Self, files::Error> {
        let path = state_dir.join(PORTS);
        match fs::read(&path) {
            Ok(document) => {
                serde_json::from_slice(&document).map_err(|error| files::damaged(&path, error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(files::failed("read", &path)(error)),
        }
    }

    /// Keeps the ports, and those of nodes that are not started this time. Blocks.
    pub(super) fn keep(mut self, state_dir: &Path) -> Result<(), files::Error> {
        let before = Self::read(state_dir)?;
        let more = |now: &mut Vec<NodePorts>, before: &[NodePorts]| {
            now.extend_from_slice(before.get(now.len()..).unwrap_or_default());
        };
        more(&mut self.safekeepers, &before.safekeepers);
        more(&mut self.pageservers, &before.pageservers);
        if self == before {
            return Ok(());
        }
        let path = state_dir.join(PORTS);
        let document = serde_json::to_vec_pretty(&self).map_err(io::Error::from);
        files::replace(&path, &document.map_err(files::failed("write", &path))?)
    }
}

/// The right to use a directory, while it is held.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Makes the directory if it is not there. Blocks, not for the lock.
    pub(super) fn take(state_dir: &Path) -> Result<Self, Error> {
        files::create_dir(state_dir)?;
        let path = state_dir.join(LOCK);
        let file = File::create(&path).map_err(files::failed("make", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::InUse {
                state_dir: state_dir.to_owned(),
            }),
            Err((_, errno)) => Err(files::failed("lock", &path)(errno.into()).into()),
        }
    }
}

/// An address that clients on this machine can use: listening on all is no address.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_absent_nodes_are_kept() {
        let dir = tempfile::TempDir::new().unwrap();
        let node = |pg| NodePorts {
            pg,
            http: pg + 1,
            grpc: 0,
        };
        let three = Ports {
            safekeepers: vec![node(1), node(3), node(5)],
            pageservers: vec![node(7)],
            controller: 9,
        };
        three.clone().keep(dir.path()).unwrap();
        let one = Ports {
            safekeepers: vec![node(1)],
            ..three.clone()
        };
        one.keep(dir.path()).unwrap();
        assert_eq!(Ports::read(dir.path()).unwrap(), three);
    }

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::TempDir::new().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        assert!(matches!(Lock::take(dir.path()), Err(Error::InUse { .. })));
        drop(lock);
        Lock::take(dir.path()).unwrap();
    }
}
