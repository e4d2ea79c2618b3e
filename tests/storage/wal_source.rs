//! A safekeeper that has the WAL of a running postgres: it reads the server's own
//! files up to a position that the test says is committed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glowplug::lsn::{Lsn, WAL_SEGMENT_SIZE};
use glowplug::storage::pgwire_server::{ServerConfig, Session};
use glowplug::storage::timelines::WalSource;
use glowplug::wire::replication::{MAX_CHUNK_SIZE, SenderMessage};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Says who it is and what is committed.
pub(crate) struct Source {
    pub(crate) address: WalSource,
    pub(crate) commit: watch::Sender<Lsn>,
    pub(crate) wal: watch::Sender<PathBuf>,
}

impl Source {
    pub(crate) async fn start(id: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let commit = watch::Sender::new(Lsn::INVALID);
        let wal = watch::Sender::new(PathBuf::new());
        let (committed, files) = (commit.subscribe(), wal.subscribe());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, committed.clone(), files.clone()));
            }
        });
        Self {
            address: WalSource {
                id,
                host: "127.0.0.1".to_owned(),
                port,
            },
            commit,
            wal,
        }
    }
}

async fn serve(
    stream: TcpStream,
    mut commit: watch::Receiver<Lsn>,
    files: watch::Receiver<PathBuf>,
) {
    let accepted = Session::accept(stream, &ServerConfig::default()).await;
    let Ok(Some(mut session)) = accepted else {
        return;
    };
    let Ok(Some(query)) = session.next_query().await else {
        return;
    };
    if !commit.borrow().is_valid() {
        session.error("XX000", "timeline not found");
        let _ = session.ready().await;
        return;
    }
    let mut at: Lsn = query.rsplit(' ').next().unwrap().parse().unwrap();
    let (_receiver, mut sender) = session.copy_both().await.unwrap();
    loop {
        let end_lsn = *commit.borrow_and_update();
        let message = if at < end_lsn {
            let wal = read(&files.borrow(), at, end_lsn);
            let start_lsn = at;
            at.0 += wal.len() as u64;
            SenderMessage::XLogData {
                start_lsn,
                end_lsn,
                timestamp: 0,
                wal: wal.into(),
            }
        } else {
            let _ = tokio::time::timeout(Duration::from_secs(1), commit.changed()).await;
            SenderMessage::KeepAlive {
                end_lsn,
                timestamp: 0,
                reply_requested: true,
            }
        };
        sender.data(|out| message.encode(out));
        if sender.flush().await.is_err() {
            return;
        }
    }
}

fn read(wal: &Path, from: Lsn, to: Lsn) -> Vec<u8> {
    let left = WAL_SEGMENT_SIZE - from.segment_offset();
    let size = to.bytes_since(from).min(left).min(MAX_CHUNK_SIZE as u64);
    let mut bytes = vec![0; size as usize];
    let file = File::open(wal.join(from.segment_file_name(1))).unwrap();
    file.read_exact_at(&mut bytes, from.segment_offset())
        .unwrap();
    bytes
}
