//! A stand-in for a page service: it follows a script, also where no real one would.

use std::io::Write;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use glowplug::id::ShardIndex;
use glowplug::spec::ShardLocation;
use tar::{Builder, EntryType, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the stand-in does, one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Lets the client in, reporting these parameters.
    Login(&'static [(&'static str, &'static str)]),
    /// Waits for a command.
    Command,
    /// Waits for one CopyData message.
    Receive,
    /// Starts the stream.
    CopyOut,
    /// Starts a stream in both directions.
    CopyBoth,
    /// Sends one CopyData message for each piece of this size.
    Data(Vec<u8>, usize),
    /// Ends the stream and reports success.
    Done,
    /// An ErrorResponse.
    Error(&'static str, &'static str),
    /// Says nothing any more, and keeps the connection open.
    Hang,
}

/// A running stand-in. It follows one script per connection, one after the other.
pub(crate) struct StandIn {
    port: u16,
    commands: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl StandIn {
    pub(crate) async fn start(script: Vec<Act>) -> Self {
        Self::start_each(vec![script]).await
    }

    pub(crate) async fn start_each(scripts: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let commands = Arc::default();
        let seen = Arc::clone(&commands);
        let task = tokio::spawn(async move {
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that gives up ends the script early.
                let _ = follow(stream, script, &seen).await;
            }
        });
        Self {
            port,
            commands,
            task,
        }
    }

    /// Sends a whole stream.
    pub(crate) async fn sending(data: Vec<u8>) -> Self {
        Self::start(vec![
            Act::Login(&[]),
            Act::Command,
            Act::CopyOut,
            Act::Data(data, 8192),
            Act::Done,
        ])
        .await
    }

    pub(crate) fn location(&self) -> ShardLocation {
        ShardLocation {
            index: ShardIndex::UNSHARDED,
            node_id: Some(1),
            libpq: Some(format!("postgresql://no_user@127.0.0.1:{}", self.port)),
            grpc: None,
            http: None,
        }
    }

    /// The commands that came.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    mut stream: TcpStream,
    script: Vec<Act>,
    commands: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    stream.read_exact(&mut startup).await?;
    for act in script {
        match act {
            Act::Login(parameters) => {
                stream.write_all(&message(b'R', &[0; 4])).await?;
                for (name, value) in parameters {
                    let body = format!("{name}\0{value}\0");
                    stream.write_all(&message(b'S', body.as_bytes())).await?;
                }
                stream.write_all(&message(b'Z', b"I")).await?;
            }
            Act::Command => {
                let (_, body) = receive(&mut stream).await?;
                let text = String::from_utf8_lossy(&body);
                let text = text.trim_end_matches('\0').to_owned();
                commands.lock().unwrap().push(text);
            }
            Act::Receive => {
                let (tag, _) = receive(&mut stream).await?;
                assert_eq!(tag, b'd');
            }
            Act::CopyOut => stream.write_all(&message(b'H', &[0; 3])).await?,
            Act::CopyBoth => stream.write_all(&message(b'W', &[0; 3])).await?,
            Act::Data(data, step) => {
                for piece in data.chunks(step) {
                    stream.write_all(&message(b'd', piece)).await?;
                }
            }
            Act::Done => {
                stream.write_all(&message(b'c', &[])).await?;
                stream.write_all(&message(b'C', b"SELECT 1\0")).await?;
                stream.write_all(&message(b'Z', b"I")).await?;
            }
            Act::Error(code, text) => {
                let body = format!("SERROR\0C{code}\0M{text}\0\0");
                stream.write_all(&message(b'E', body.as_bytes())).await?;
            }
            Act::Hang => std::future::pending().await,
        }
    }
    Ok(())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// A tar archive, as a pageserver writes it.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for directory in [
        "global",
        "pg_wal/archive_status",
        "base",
        "base/1",
        "base/1",
    ] {
        let mut header = header(EntryType::Directory, 0, 0o755);
        builder
            .append_data(&mut header, directory, &[][..])
            .unwrap();
    }
    for (path, data) in files {
        let mut header = header(EntryType::Regular, data.len(), 0o644);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An archive with one entry that no writer would make.
pub(crate) fn hostile_archive(kind: EntryType, name: &str, link: &str) -> Vec<u8> {
    let mut header = header(kind, 0, 0o777);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(&[0; 1024]);
    archive
}

fn header(kind: EntryType, size: usize, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
