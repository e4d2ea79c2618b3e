//! An accepted connection: queries and their answers, and copy streams.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::frontend::Frontend;
use super::startup::{Startup, StartupPacket};
use super::stream::{self, Reader, Writer};
use super::{Error, ServerConfig};
use crate::secret::Secret;

/// How much is read from the socket at once, in bytes.
const READ_SIZE: usize = 64 * 1024;

/// A column of an answer: its name and PostgreSQL's type of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    name: &'static str,
    type_oid: u32,
    type_len: i16,
}

impl Column {
    /// A column of type `text`.
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            type_oid: 25,
            type_len: -1,
        }
    }

    /// A column of type `int4`.
    pub const fn int4(name: &'static str) -> Self {
        Self {
            name,
            type_oid: 23,
            type_len: 4,
        }
    }
}

/// An authenticated client. Answers are collected until [`Session::ready`] or a
/// copy stream sends them.
pub struct Session {
    input: Input,
    output: Output,
    startup: Startup,
}

impl Session {
    /// Performs start-up and authentication; `None` if the client left by itself
    /// or only wanted to cancel something.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A refused token has been answered already.
    pub async fn accept(stream: TcpStream, config: &ServerConfig) -> Result<Option<Self>, Error> {
        Self::accept_if(stream, config, |_| Ok(())).await
    }

    /// As [`Session::accept`], but ends the connection without an answer, before
    /// authentication, if `check` finds something wrong with the start-up.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn accept_if(
        stream: TcpStream,
        config: &ServerConfig,
        check: impl FnOnce(&Startup) -> Result<(), String>,
    ) -> Result<Option<Self>, Error> {
        let broken = |peer| move |source| Error::Broken { peer, source };
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let peer = stream.peer_addr().map_err(broken(unknown))?;
        stream.set_nodelay(true).map_err(broken(peer))?;
        let limit = config.handshake_limit;
        let late = |_| Error::HandshakeTimeout { peer, limit };
        timeout(limit, handshake(stream, peer, config, check))
            .await
            .map_err(late)?
    }

    /// Who connected.
    pub fn peer(&self) -> SocketAddr {
        self.input.peer
    }

    /// What the client said when it connected.
    pub fn startup(&self) -> &Startup {
        &self.startup
    }

    /// The next query; `None` once the client has ended the session. Extended
    /// queries are refused here. Cancel safe.
    ///
    /// # Errors
    ///
    /// The connection is of no use after any.
    pub async fn next_query(&mut self) -> Result<Option<String>, Error> {
        let mut skipping = false;
        loop {
            match self.input.next().await? {
                None | Some(Frontend::Terminate) => return Ok(None),
                Some(Frontend::Query(text)) if !skipping => return Ok(Some(text)),
                Some(Frontend::Extended(_)) => {
                    if !skipping {
                        self.error("0A000", "only the simple query protocol is served here");
                    }
                    skipping = true;
                }
                Some(Frontend::Sync) => {
                    skipping = false;
                    self.ready().await?;
                }
                Some(_) if skipping => {}
                // Left over from a copy that has ended.
                Some(Frontend::CopyDone | Frontend::CopyFail(_)) => {}
                Some(other) => return Err(self.input.unexpected(&other)),
            }
        }
    }

    /// Answers a query with rows.
    pub fn rows(&mut self, columns: &[Column], rows: &[Vec<Option<String>>], tag: &str) {
        self.output.frame(b'T', |out| {
            out.put_i16(columns.len() as i16);
            for column in columns {
                put_string(out, column.name);
                out.put_u32(0); // no table
                out.put_i16(0); // no attribute
                out.put_u32(column.type_oid);
                out.put_i16(column.type_len);
                out.put_i32(-1); // no type modifier
                out.put_i16(0); // text format
            }
        });
        for row in rows {
            self.output.frame(b'D', |out| {
                out.put_i16(row.len() as i16);
                for value in row {
                    match value {
                        Some(text) => {
                            out.put_i32(text.len() as i32);
                            out.put_slice(text.as_bytes());
                        }
                        None => out.put_i32(-1),
                    }
                }
            });
        }
        self.complete(tag);
    }

    /// Says that a command has succeeded.
    pub fn complete(&mut self, tag: &str) {
        self.output.frame(b'C', |out| put_string(out, tag));
    }

    /// Answers with an ErrorResponse.
    pub fn error(&mut self, sqlstate: &str, message: &str) {
        self.output.error(sqlstate, message);
    }

    /// Says that the next query may come, and sends all that was collected.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`], or [`Error::Idle`] if the client does not read.
    pub async fn ready(&mut self) -> Result<(), Error> {
        self.output.ready();
        self.output.flush().await
    }

    /// Starts a stream towards the client. Pieces follow by [`Session::copy_data`],
    /// the end by [`Session::copy_done`] or an [`error`](Session::error).
    pub fn copy_out(&mut self) {
        self.output.frame(b'H', put_copy_format);
    }

    /// Sends a piece of a stream started by [`Session::copy_out`].
    ///
    /// # Errors
    ///
    /// As [`Session::ready`].
    pub async fn copy_data(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.output.frame(b'd', |out| out.put_slice(piece));
        self.output.flush().await
    }

    /// Ends a stream started by [`Session::copy_out`]; [`Session::complete`] and
    /// [`Session::ready`] are to follow.
    pub fn copy_done(&mut self) {
        self.output.frame(b'c', |_| {});
    }

    /// Switches to streams in both directions, and tells the client.
    ///
    /// # Errors
    ///
    /// As [`Session::ready`].
    pub async fn copy_both(self) -> Result<(CopyReceiver, CopySender), Error> {
        let mut sender = CopySender {
            output: self.output,
        };
        sender.output.frame(b'W', put_copy_format);
        sender.flush().await?;
        let receiver = CopyReceiver {
            input: self.input,
            startup: self.startup,
        };
        Ok((receiver, sender))
    }

    /// Ends the streams of [`Session::copy_both`], after what the sender has
    /// appended; [`Session::ready`] is to follow.
    pub fn rejoin(receiver: CopyReceiver, sender: CopySender) -> Self {
        Self {
            input: receiver.input,
            output: sender.output,
            startup: receiver.startup,
        }
    }
}

/// What comes in on a copy stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyInput {
    /// A piece.
    Data(Bytes),
    /// The client has ended its side.
    Done,
    /// The client gives up, and says why.
    Fail(String),
    /// The client has left.
    Closed,
}

/// The incoming half of a stream in both directions.
pub struct CopyReceiver {
    input: Input,
    startup: Startup,
}

impl CopyReceiver {
    /// Who connected.
    pub fn peer(&self) -> SocketAddr {
        self.input.peer
    }

    /// The next piece. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`Error::Idle`] after the idle limit; [`Error::Protocol`] for anything that
    /// does not belong into a copy.
    pub async fn next(&mut self) -> Result<CopyInput, Error> {
        match self.input.next().await? {
            Some(Frontend::CopyData(piece)) => Ok(CopyInput::Data(piece)),
            Some(Frontend::CopyDone) => Ok(CopyInput::Done),
            Some(Frontend::CopyFail(reason)) => Ok(CopyInput::Fail(reason)),
            None | Some(Frontend::Terminate) => Ok(CopyInput::Closed),
            Some(other) => Err(self.input.unexpected(&other)),
        }
    }

    /// A piece that has arrived already; `None` if the next one must be waited for
    /// or is not a piece.
    pub fn buffered(&mut self) -> Option<Bytes> {
        if self.input.buffer.first() != Some(&b'd') {
            return None;
        }
        match Frontend::parse(&mut self.input.buffer) {
            Ok(Some(Frontend::CopyData(piece))) => Some(piece),
            _ => None,
        }
    }
}

/// The outgoing half of a stream in both directions.
pub struct CopySender {
    output: Output,
}

impl CopySender {
    /// Appends a piece to what the next [`flush`](Self::flush) sends.
    pub fn data(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        self.output.frame(b'd', encode);
    }

    /// Appends an ErrorResponse to what the next [`flush`](Self::flush) sends.
    pub fn error(&mut self, sqlstate: &str, message: &str) {
        self.output.error(sqlstate, message);
    }

    /// Appends the end of this direction to what the next [`flush`](Self::flush) sends.
    pub fn done(&mut self) {
        self.output.frame(b'c', |_| {});
    }

    /// Sends what was appended. Not cancel safe: drop the connection afterwards.
    ///
    /// # Errors
    ///
    /// As [`Session::ready`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.output.flush().await
    }

    /// Sends what was appended, then ends the connection in this direction.
    ///
    /// # Errors
    ///
    /// As [`Session::ready`].
    pub async fn close(mut self) -> Result<(), Error> {
        self.output.flush().await?;
        let peer = self.output.peer;
        let broken = |source| Error::Broken { peer, source };
        self.output.writer.shutdown().await.map_err(broken)
    }
}

struct Input {
    peer: SocketAddr,
    idle_limit: std::time::Duration,
    reader: Reader,
    buffer: BytesMut,
}

impl Input {
    /// The next message; `None` at a clean end of the stream.
    async fn next(&mut self) -> Result<Option<Frontend>, Error> {
        loop {
            let parsed = Frontend::parse(&mut self.buffer);
            if let Some(message) = parsed.map_err(|what| self.protocol(what))? {
                return Ok(Some(message));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads more; `false` at the end of the stream, wherever in a message it is.
    async fn fill(&mut self) -> Result<bool, Error> {
        let (peer, limit) = (self.peer, self.idle_limit);
        self.buffer.reserve(READ_SIZE);
        let read = timeout(limit, self.reader.read_buf(&mut self.buffer)).await;
        let count = read
            .map_err(|_| Error::Idle { peer, limit })?
            .map_err(|source| Error::Broken { peer, source })?;
        Ok(count > 0)
    }

    fn protocol(&self, what: String) -> Error {
        Error::Protocol {
            peer: self.peer,
            what,
        }
    }

    fn unexpected(&self, message: &Frontend) -> Error {
        let name = match message {
            Frontend::Query(_) => "a query",
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => "copy data",
            Frontend::Password(_) => "a password",
            Frontend::Terminate => "the end of the session",
            Frontend::Sync | Frontend::Extended(_) => "an extended query",
        };
        self.protocol(format!("{name} where it does not belong"))
    }
}

struct Output {
    peer: SocketAddr,
    limit: std::time::Duration,
    writer: Writer,
    buffer: BytesMut,
}

impl Output {
    fn frame(&mut self, tag: u8, body: impl FnOnce(&mut BytesMut)) {
        self.buffer.put_u8(tag);
        let start = self.buffer.len();
        self.buffer.put_u32(0);
        body(&mut self.buffer);
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn error(&mut self, sqlstate: &str, message: &str) {
        self.frame(b'E', |out| {
            for (field, value) in [(b'S', "ERROR"), (b'C', sqlstate), (b'M', message)] {
                out.put_u8(field);
                put_string(out, value);
            }
            out.put_u8(0);
        });
    }

    fn ready(&mut self) {
        self.frame(b'Z', |out| out.put_u8(b'I'));
    }

    fn parameter(&mut self, name: &str, value: &str) {
        self.frame(b'S', |out| {
            put_string(out, name);
            put_string(out, value);
        });
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let (peer, limit) = (self.peer, self.limit);
        let writing = async {
            self.writer.write_all_buf(&mut self.buffer).await?;
            self.writer.flush().await
        };
        let written = timeout(limit, writing).await;
        written
            .map_err(|_| Error::Idle { peer, limit })?
            .map_err(|source| Error::Broken { peer, source })
    }
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    config: &ServerConfig,
    check: impl FnOnce(&Startup) -> Result<(), String>,
) -> Result<Option<Session>, Error> {
    let (input, output) = ends(stream::plain(stream), peer, config);
    let Some(opened) = open(input, output, config).await? else {
        return Ok(None);
    };
    let Opened {
        mut input,
        mut output,
        startup,
    } = opened;
    check(&startup).map_err(|what| input.protocol(what))?;
    if let Some(token) = &config.token
        && !authenticate(&mut input, &mut output, token).await?
    {
        return Ok(None);
    }
    output.frame(b'R', |out| out.put_u32(0)); // AuthenticationOk
    output.parameter("client_encoding", "UTF8");
    if config.token.is_none() {
        // Upstream sends these two only to clients that it trusts.
        output.parameter("integer_datetimes", "on");
        output.parameter("server_version", "14.1");
    }
    for (name, value) in config.parameters {
        output.parameter(name, value);
    }
    output.ready();
    output.flush().await?;
    Ok(Some(Session {
        input,
        output,
        startup,
    }))
}

fn ends(
    (reader, writer): (Reader, Writer),
    peer: SocketAddr,
    config: &ServerConfig,
) -> (Input, Output) {
    let input = Input {
        peer,
        idle_limit: config.idle_limit,
        reader,
        buffer: BytesMut::new(),
    };
    let output = Output {
        peer,
        limit: config.idle_limit,
        writer,
        buffer: BytesMut::new(),
    };
    (input, output)
}

/// A client that has said what it wants.
struct Opened {
    input: Input,
    output: Output,
    startup: Startup,
}

/// Reads what comes before a session, up to the start-up message; `None` if none comes.
async fn open(
    mut input: Input,
    mut output: Output,
    config: &ServerConfig,
) -> Result<Option<Opened>, Error> {
    let mut encrypted = false;
    loop {
        let parsed = StartupPacket::parse(&mut input.buffer);
        match parsed.map_err(|what| input.protocol(what))? {
            Some(StartupPacket::Startup(_)) if config.tls.is_some() && !encrypted => {
                output.error("XX000", "must connect with TLS");
                output.flush().await?;
                return Ok(None);
            }
            Some(StartupPacket::Startup(startup)) => {
                return Ok(Some(Opened {
                    input,
                    output,
                    startup,
                }));
            }
            Some(StartupPacket::Cancel) => return Ok(None),
            Some(StartupPacket::Tls) => match &config.tls {
                Some(tls) if !encrypted => {
                    output.buffer.put_u8(b'S');
                    output.flush().await?;
                    (input, output) = encrypt(input, output, tls, config).await?;
                    encrypted = true;
                }
                _ => {
                    output.buffer.put_u8(b'N');
                    output.flush().await?;
                }
            },
            Some(StartupPacket::GssEncryption) => {
                output.buffer.put_u8(b'N');
                output.flush().await?;
            }
            None if input.fill().await? => {}
            None => return Ok(None),
        }
    }
}

async fn encrypt(
    input: Input,
    output: Output,
    tls: &Arc<rustls::ServerConfig>,
    config: &ServerConfig,
) -> Result<(Input, Output), Error> {
    let peer = input.peer;
    let protocol = |what: &str| Error::Protocol {
        peer,
        what: what.to_owned(),
    };
    // It would count as if it had been encrypted.
    if !input.buffer.is_empty() {
        return Err(protocol(
            "something between its SSLRequest and the handshake",
        ));
    }
    let stream = stream::reunite(input.reader, output.writer);
    let stream = stream.ok_or_else(|| protocol("a second SSLRequest"))?;
    let accepted = TlsAcceptor::from(tls.clone()).accept(stream).await;
    let accepted = accepted.map_err(|source| Error::Broken { peer, source })?;
    Ok(ends(stream::encrypted(accepted), peer, config))
}

/// Asks for the token; `false` if the client leaves instead.
async fn authenticate(
    input: &mut Input,
    output: &mut Output,
    token: &Secret,
) -> Result<bool, Error> {
    output.frame(b'R', |out| out.put_u32(3)); // AuthenticationCleartextPassword
    output.flush().await?;
    match input.next().await? {
        None | Some(Frontend::Terminate) => Ok(false),
        Some(Frontend::Password(given)) if same(&given, token.reveal().as_bytes()) => Ok(true),
        Some(Frontend::Password(_)) => {
            // The text and the code are all that a client of Neon's can recognize it by.
            output.error("XX000", "JWT authentication error");
            output.flush().await?;
            Err(Error::Authentication { peer: input.peer })
        }
        Some(other) => Err(input.unexpected(&other)),
    }
}

/// Compares without telling by the time taken where the difference is.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let difference = given.iter().zip(wanted).fold(0, |d, (a, b)| d | (a ^ b));
    difference == 0 && given.len() == wanted.len()
}

fn put_string(out: &mut BytesMut, text: &str) {
    // A zero byte would end the string early and shift what follows it.
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.put_u8(0);
}

fn put_copy_format(out: &mut BytesMut) {
    out.put_u8(0);
    out.put_i16(0);
}
