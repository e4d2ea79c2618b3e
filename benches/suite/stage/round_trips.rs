//! Servers that sync a file before each answer, and a client that asks all of them one
//! question after the other, each time until a majority has answered.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream as Blocking};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Size of a question and of an answer, about that of the protocol's.
const MESSAGE: usize = 64;

pub(crate) struct Servers {
    addresses: Vec<SocketAddr>,
    _directory: TempDir,
}

impl Servers {
    pub(crate) fn start(count: usize) -> Self {
        let directory = TempDir::with_prefix("glowplug-plain").unwrap();
        let mut addresses = Vec::new();
        for index in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.push(listener.local_addr().unwrap());
            let file = directory.path().join(index.to_string());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let file = file.clone();
                    // Ends when the client hangs up.
                    std::thread::spawn(move || answer(stream?, &file));
                }
            });
        }
        Self {
            addresses,
            _directory: directory,
        }
    }

    /// Connects, which counts as the first round trip, and asks `round_trips - 1`
    /// times.
    pub(crate) async fn ask(&self, round_trips: u32) -> Duration {
        let started = Instant::now();
        let mut streams = majority(self.addresses.iter().map(|address| async {
            let stream = TcpStream::connect(*address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        }))
        .await;
        for _ in 1..round_trips {
            streams = majority(streams.into_iter().map(|mut stream| async {
                stream.write_all(&[1; MESSAGE]).await.unwrap();
                stream.read_exact(&mut [0; MESSAGE]).await.unwrap();
                stream
            }))
            .await;
        }
        started.elapsed()
    }
}

/// Two of three, which a proposer waits for; the two go on.
async fn majority<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let all: FuturesUnordered<_> = all.collect();
    let needed = all.len() / 2 + 1;
    all.take(needed).collect().await
}

fn answer(mut stream: Blocking, file: &std::path::Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        let mut file = std::fs::File::create(file)?;
        file.write_all(&message)?;
        file.sync_all()?;
        stream.write_all(&message)?;
    }
}
