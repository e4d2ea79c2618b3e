//! Gives each test an address of the loopback network for itself.
//!
//! A port that is freed to be taken again, as a restart does it, may meanwhile go to
//! anybody on the same address: to another test's server, to an outgoing connection, or
//! to a client that keeps trying to connect to it and so at last reaches itself. On an
//! address of its own, a server's port is its own.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::net::{Ipv4Addr, SocketAddr};

/// An address that nobody else uses. Outgoing connections come from 127.0.0.1.
pub(crate) fn own_address() -> Ipv4Addr {
    let [_, a, b, c] = rand::random::<u32>().to_be_bytes();
    // Neither 127.0.x.x nor a broadcast address.
    Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254))
}

/// A free port of an address that nobody else uses.
pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from((own_address(), 0))
}

/// An address at which nobody answers, for as long as this lives: the port is taken,
/// and not listened on.
pub(crate) struct Nobody {
    socket: tokio::net::TcpSocket,
}

impl Nobody {
    #[expect(
        clippy::unwrap_used,
        reason = "a test that cannot bind a port has failed"
    )]
    pub(crate) fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(any_port()).unwrap();
        Self { socket }
    }

    #[expect(clippy::unwrap_used, reason = "a bound socket has an address")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}
