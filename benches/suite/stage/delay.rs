//! Proxies that hold back what they pass on, and count round trips.
//!
//! A proxy accepts at once, while a distant peer's answer to the first packet takes a
//! round trip before anything can be sent: the first bytes of a connection are held
//! back by one more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How long a byte is under way in each direction.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(10);

/// Proxies before some peers. They end when this is dropped.
pub(crate) struct DelayedPeers {
    pub(crate) endpoints: Vec<String>,
    trips: Vec<Arc<Trips>>,
    _tasks: JoinSet<()>,
}

/// Counts round trips of one peer: an answer closes one, what is sent next opens
/// another.
#[derive(Default)]
struct Trips {
    begun: AtomicU32,
    answered: AtomicU32,
}

impl Trips {
    fn sent(&self) {
        let answered = self.answered.load(Ordering::SeqCst);
        self.begun.fetch_max(answered + 1, Ordering::SeqCst);
    }

    fn received(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.answered.fetch_max(begun, Ordering::SeqCst);
    }
}

impl DelayedPeers {
    pub(crate) async fn start(peers: &[String]) -> Self {
        let mut tasks = JoinSet::new();
        let (mut endpoints, mut trips) = (Vec::new(), Vec::new());
        for peer in peers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            endpoints.push(listener.local_addr().unwrap().to_string());
            let counted = Arc::new(Trips::default());
            trips.push(counted.clone());
            tasks.spawn(accept(listener, peer.clone(), counted));
        }
        Self {
            endpoints,
            trips,
            _tasks: tasks,
        }
    }

    /// Answered round trips of the peer that had the second most, which is what a
    /// majority of three took; with that of the handshake.
    pub(crate) fn round_trips(&self) -> u32 {
        let answered = self
            .trips
            .iter()
            .map(|trips| trips.answered.load(Ordering::SeqCst));
        let mut answered: Vec<u32> = answered.collect();
        answered.sort_unstable();
        answered[answered.len() / 2] + 1
    }
}

async fn accept(listener: TcpListener, peer: String, trips: Arc<Trips>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (peer, trips) = (peer.clone(), trips.clone());
        connections.spawn(async move {
            let server = TcpStream::connect(peer).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let handshake = 2 * ONE_WAY;
            tokio::join!(
                pass_on(from_client, to_server, handshake, || trips.sent()),
                pass_on(from_server, to_client, Duration::ZERO, || trips.received()),
            );
        });
    }
}

/// Passes on what comes, each piece as late as it is due, and any number at a time.
async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    first: Duration,
    passed: impl Fn(),
) {
    let mut under_way: VecDeque<(Instant, BytesMut)> = VecDeque::new();
    let mut extra = first;
    let mut open = true;
    while open || !under_way.is_empty() {
        let due = under_way.front().map(|(due, _)| *due);
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        tokio::select! {
            read = from.read_buf(&mut buffer), if open => match read {
                Ok(length) if length > 0 => {
                    let now = Instant::now();
                    // What follows the first bytes closely went out with them.
                    let due = under_way.back().map_or(now, |(last, _)| *last);
                    let due = due.max(now + ONE_WAY + extra);
                    extra = Duration::ZERO;
                    passed();
                    under_way.push_back((due, buffer));
                }
                _ => open = false,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let (_, bytes) = under_way.pop_front().unwrap();
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}
