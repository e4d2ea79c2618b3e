//! An open connection: simple queries and copy streams.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::{handshake_failed, is_demand};
use super::{ConnectConfig, Error, Frame, Host, ServerError, Tls};

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Stream = Box<dyn Duplex>;

/// How much is read from the socket at once, in bytes.
const READ_SIZE: usize = 128 * 1024;

/// One row of a simple query: its columns as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub Vec<Option<String>>);

impl Row {
    /// The text of a column; `None` if it is NULL or does not exist.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }
}

/// An authenticated connection, ready for a command.
pub struct Connection {
    peer: String,
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    parameters: Vec<(String, String)>,
}

impl Connection {
    /// Connects and authenticates, within `config.connect_timeout`.
    pub async fn connect(config: &ConnectConfig) -> Result<Self, Error> {
        Self::connect_eagerly(config, &[]).await
    }

    /// Connects, and sends `first`, whole frontend messages, without waiting for the
    /// peer to be ready: together with the startup message if there is no password,
    /// else together with the password. Saves a round trip or two. The caller goes
    /// on with [`query_reply`](Self::query_reply) or
    /// [`copy_both_reply`](Self::copy_both_reply).
    pub async fn connect_eagerly(config: &ConnectConfig, first: &[u8]) -> Result<Self, Error> {
        let limit = config.connect_timeout;
        let timeout = |_| Error::ConnectTimeout {
            peer: config.peer(),
            limit,
        };
        tokio::time::timeout(limit, Self::connect_unbounded(config, first))
            .await
            .map_err(timeout)?
    }

    async fn connect_unbounded(config: &ConnectConfig, first: &[u8]) -> Result<Self, Error> {
        match Box::pin(Self::connect_once(config, &config.tls, first)).await {
            Err(error) => match &config.tls {
                Tls::IfDemanded(tls) if is_demand(&error) => {
                    let tls = Tls::Always(tls.clone());
                    Box::pin(Self::connect_once(config, &tls, first)).await
                }
                _ => Err(error),
            },
            connected => connected,
        }
    }

    async fn connect_once(config: &ConnectConfig, tls: &Tls, first: &[u8]) -> Result<Self, Error> {
        let mut connection = Self {
            peer: config.peer(),
            stream: open(config, tls).await?,
            input: BytesMut::with_capacity(8 * 1024),
            output: BytesMut::new(),
            parameters: Vec::new(),
        };
        let mut parameters = vec![("user", config.user.as_str())];
        if let Some(database) = &config.database {
            parameters.push(("database", database));
        }
        parameters.extend(
            config
                .parameters
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str())),
        );
        let encoded = frontend::startup_message(parameters, &mut connection.output);
        encoded.map_err(|e| connection.protocol(format!("no startup message: {e}")))?;
        // A peer that has asked for a password takes nothing else for an answer, and
        // one that has not takes no password.
        let mut first = first;
        if config.password.is_none() {
            connection
                .output
                .extend_from_slice(std::mem::take(&mut first));
        }
        connection.flush().await?;
        connection.authenticate(config, first).await?;
        Ok(connection)
    }

    async fn authenticate(
        &mut self,
        config: &ConnectConfig,
        mut first: &[u8],
    ) -> Result<(), Error> {
        let secret = |method| {
            let needs = "a password or token in the spec";
            let missing = || Error::Authentication {
                peer: config.peer(),
                method,
                needs,
            };
            config.password.as_ref().ok_or_else(missing)
        };
        loop {
            match self.expect_message().await? {
                Message::AuthenticationOk => break,
                Message::AuthenticationCleartextPassword => {
                    let password = secret("a password")?.reveal().as_bytes().to_vec();
                    let first = std::mem::take(&mut first);
                    self.send(|out| {
                        frontend::password_message(&password, out)?;
                        out.extend_from_slice(first);
                        Ok(())
                    })
                    .await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = secret("an md5 password")?.reveal().as_bytes();
                    let hash = md5_hash(config.user.as_bytes(), password, body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))
                        .await?;
                }
                Message::AuthenticationSasl(body) => {
                    let scram = body
                        .mechanisms()
                        .any(|name| Ok(name == sasl::SCRAM_SHA_256));
                    if !scram.unwrap_or(false) {
                        return Err(self.protocol("only unknown SASL mechanisms".to_owned()));
                    }
                    let password = secret("a SCRAM password")?.reveal().as_bytes().to_vec();
                    self.scram(&password).await?;
                }
                other => return Err(self.unexpected("while authenticating", &other)),
            }
        }
        if !first.is_empty() {
            self.output.extend_from_slice(first);
            self.flush().await?;
        }
        loop {
            match self.expect_message().await? {
                Message::ParameterStatus(body) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.parameters.push((name.to_owned(), value.to_owned()));
                    }
                }
                Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                other => return Err(self.unexpected("after authenticating", &other)),
            }
        }
    }

    async fn scram(&mut self, password: &[u8]) -> Result<(), Error> {
        let mut scram = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        self.send(|out| frontend::sasl_initial_response(sasl::SCRAM_SHA_256, &first, out))
            .await?;
        match self.expect_message().await? {
            Message::AuthenticationSaslContinue(body) => {
                scram
                    .update(body.data())
                    .map_err(|e| self.protocol(format!("SCRAM: {e}")))?;
            }
            other => return Err(self.unexpected("in a SCRAM exchange", &other)),
        }
        let answer = scram.message().to_vec();
        self.send(|out| frontend::sasl_response(&answer, out))
            .await?;
        match self.expect_message().await? {
            Message::AuthenticationSaslFinal(body) => scram
                .finish(body.data())
                .map_err(|e| self.protocol(format!("SCRAM: {e}"))),
            other => Err(self.unexpected("in a SCRAM exchange", &other)),
        }
    }

    /// `host:port` or the socket's path.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// A parameter that the peer reported when the connection was made, such as
    /// `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Runs one command of the simple protocol and collects its rows. Not cancel
    /// safe: drop the connection after a timeout.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.send(|out| frontend::query(sql, out)).await?;
        self.query_reply().await
    }

    /// Collects the rows of a query that was sent already. Not cancel safe.
    pub async fn query_reply(&mut self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.next_frame().await? {
                Frame::Error(error) => failure = Some(error),
                Frame::Message(Message::DataRow(body)) => {
                    let data = body.buffer_bytes();
                    let text = |range: std::ops::Range<usize>| {
                        String::from_utf8_lossy(&data[range]).into_owned()
                    };
                    let columns = body.ranges().map(|range| Ok(range.map(text))).collect();
                    rows.push(Row(
                        columns.map_err(|e| self.protocol(format!("a bad row: {e}")))?
                    ));
                }
                Frame::Message(Message::ReadyForQuery(_)) => break,
                Frame::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse
                    | Message::NoticeResponse(_)
                    | Message::ParameterStatus(_),
                ) => {}
                Frame::Message(other) => return Err(self.unexpected("in a query", &other)),
                _ => return Err(self.protocol("copy data in a query".to_owned())),
            }
        }
        match failure {
            Some(error) => Err(Error::Server {
                peer: self.peer.clone(),
                error,
            }),
            None => Ok(rows),
        }
    }

    /// Runs a command by the extended protocol, to learn how the peer refuses it:
    /// Neon's pageserver then says what exactly it did not find. `None` if it does
    /// not refuse; it may be streaming then, so the connection ends in either case.
    pub async fn refusal(mut self, command: &str) -> Result<Option<Box<ServerError>>, Error> {
        self.send(|out| {
            frontend::parse("", command, [], out)?;
            let no_value = |(): (), _: &mut BytesMut| Ok(postgres_protocol::IsNull::Yes);
            frontend::bind("", "", [], [], no_value, [], out)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            frontend::execute("", 0, out)?;
            frontend::sync(out);
            Ok(())
        })
        .await?;
        loop {
            match self.next_frame().await? {
                Frame::Error(error) => return Ok(Some(error)),
                Frame::Message(
                    Message::ParseComplete | Message::BindComplete | Message::NoticeResponse(_),
                ) => {}
                _ => return Ok(None),
            }
        }
    }

    /// Starts a command that answers with a stream from the peer.
    pub async fn copy_out(mut self, command: &str) -> Result<CopyOut, Error> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            match self.next_frame().await? {
                Frame::Message(Message::CopyOutResponse(_)) => {
                    return Ok(CopyOut {
                        connection: self,
                        done: false,
                    });
                }
                Frame::Message(Message::NoticeResponse(_)) => {}
                Frame::Error(error) => {
                    return Err(Error::Server {
                        peer: self.peer,
                        error,
                    });
                }
                Frame::Message(other) => return Err(self.unexpected("instead of a copy", &other)),
                _ => return Err(self.protocol("another kind of copy".to_owned())),
            }
        }
    }

    /// Starts a command that switches to streams in both directions.
    pub async fn copy_both(mut self, command: &str) -> Result<CopyBoth, Error> {
        self.send(|out| frontend::query(command, out)).await?;
        self.copy_both_reply().await
    }

    /// Awaits the streams that a command which was sent already switches to.
    pub async fn copy_both_reply(mut self) -> Result<CopyBoth, Error> {
        loop {
            match self.next_frame().await? {
                Frame::CopyBothResponse => {
                    let (reader, writer) = tokio::io::split(self.stream);
                    return Ok(CopyBoth {
                        reader: CopyReader {
                            peer: self.peer.clone(),
                            reader,
                            input: self.input,
                        },
                        writer: CopyWriter {
                            peer: self.peer,
                            writer,
                            output: self.output,
                        },
                    });
                }
                Frame::Message(Message::NoticeResponse(_)) => {}
                Frame::Error(error) => {
                    return Err(Error::Server {
                        peer: self.peer,
                        error,
                    });
                }
                Frame::Message(other) => return Err(self.unexpected("instead of a copy", &other)),
                _ => return Err(self.protocol("another kind of copy".to_owned())),
            }
        }
    }

    async fn expect_message(&mut self) -> Result<Message, Error> {
        match self.next_frame().await? {
            Frame::Message(message) => Ok(message),
            Frame::Error(error) => Err(Error::Server {
                peer: self.peer.clone(),
                error,
            }),
            _ => Err(self.protocol("copy data outside of a copy".to_owned())),
        }
    }

    async fn next_frame(&mut self) -> Result<Frame, Error> {
        next_frame(&self.peer, &mut self.stream, &mut self.input)
            .await?
            .ok_or_else(|| Error::Closed {
                peer: self.peer.clone(),
            })
    }

    async fn send(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Error> {
        encode(&mut self.output).map_err(|e| self.protocol(format!("no message: {e}")))?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        flush(&self.peer, &mut self.stream, &mut self.output).await
    }

    fn protocol(&self, what: String) -> Error {
        Error::Protocol {
            peer: self.peer.clone(),
            what,
        }
    }

    fn unexpected(&self, when: &str, message: &Message) -> Error {
        self.protocol(format!("{} {when}", name(message)))
    }
}

/// A stream from the peer.
pub struct CopyOut {
    connection: Connection,
    done: bool,
}

impl CopyOut {
    /// The next piece; `None` once the peer has ended the stream *and* completed
    /// the command. A stream that breaks off in between is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.done {
                return Ok(None);
            }
            match self.connection.next_frame().await? {
                Frame::CopyData(bytes) => return Ok(Some(bytes)),
                Frame::CopyDone => {}
                Frame::Message(Message::CommandComplete(_) | Message::NoticeResponse(_)) => {}
                Frame::Message(Message::ReadyForQuery(_)) => self.done = true,
                Frame::Error(error) => {
                    return Err(Error::Server {
                        peer: self.connection.peer.clone(),
                        error,
                    });
                }
                Frame::Message(other) => {
                    return Err(self.connection.unexpected("in a copy", &other));
                }
                Frame::CopyBothResponse => {
                    return Err(self.connection.protocol("a second copy".to_owned()));
                }
            }
        }
    }
}

/// Streams in both directions.
pub struct CopyBoth {
    /// What comes in.
    pub reader: CopyReader,
    /// What goes out.
    pub writer: CopyWriter,
}

/// The incoming half of a [`CopyBoth`].
pub struct CopyReader {
    peer: String,
    reader: ReadHalf<Stream>,
    input: BytesMut,
}

impl CopyReader {
    /// The next piece; `None` once the peer has ended its stream. Waits without
    /// limit: the caller sets one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = next_frame(&self.peer, &mut self.reader, &mut self.input).await?;
            match frame {
                Some(Frame::CopyData(bytes)) => return Ok(Some(bytes)),
                None | Some(Frame::CopyDone) => return Ok(None),
                Some(Frame::Error(error)) => {
                    return Err(Error::Server {
                        peer: self.peer.clone(),
                        error,
                    });
                }
                Some(Frame::Message(Message::NoticeResponse(_) | Message::ParameterStatus(_))) => {}
                Some(Frame::Message(Message::CommandComplete(_))) => return Ok(None),
                Some(Frame::Message(other)) => {
                    let what = format!("{} in a copy", name(&other));
                    return Err(Error::Protocol {
                        peer: self.peer.clone(),
                        what,
                    });
                }
                Some(Frame::CopyBothResponse) => {
                    let what = "a second copy".to_owned();
                    return Err(Error::Protocol {
                        peer: self.peer.clone(),
                        what,
                    });
                }
            }
        }
    }
}

/// The outgoing half of a [`CopyBoth`].
pub struct CopyWriter {
    peer: String,
    writer: WriteHalf<Stream>,
    output: BytesMut,
}

impl CopyWriter {
    /// Puts one CopyData message into the buffer; `encode` appends its body.
    pub fn buffer(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        put_copy_data(&mut self.output, encode);
    }

    /// Bytes that wait to be written.
    pub fn buffered(&self) -> usize {
        self.output.len()
    }

    /// Writes what is buffered. Cancel safe: what was not written stays buffered.
    pub async fn flush(&mut self) -> Result<(), Error> {
        flush(&self.peer, &mut self.writer, &mut self.output).await
    }

    /// Buffers one CopyData message with this body, and writes all.
    pub async fn send(&mut self, body: &[u8]) -> Result<(), Error> {
        self.buffer(|out| out.extend_from_slice(body));
        self.flush().await
    }

    /// Says goodbye, without waiting for what the peer still sends.
    pub async fn terminate(&mut self) -> Result<(), Error> {
        frontend::terminate(&mut self.output);
        self.flush().await
    }

    /// Ends the outgoing stream.
    pub async fn finish(&mut self) -> Result<(), Error> {
        frontend::copy_done(&mut self.output);
        self.flush().await
    }
}

/// Appends one CopyData message to `out`; `encode` appends its body.
pub fn put_copy_data(out: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) {
    out.put_u8(b'd');
    let start = out.len();
    out.put_u32(0);
    encode(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

async fn flush(
    peer: &str,
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut BytesMut,
) -> Result<(), Error> {
    let broken = |source| Error::Broken {
        peer: peer.to_owned(),
        source,
    };
    while !output.is_empty() {
        if stream.write_buf(output).await.map_err(broken)? == 0 {
            return Err(Error::Closed {
                peer: peer.to_owned(),
            });
        }
    }
    stream.flush().await.map_err(broken)
}

/// The next frame; `None` at the end of the stream on a message boundary.
async fn next_frame(
    peer: &str,
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<Option<Frame>, Error> {
    loop {
        let parsed = Frame::parse(input).map_err(|e| Error::Protocol {
            peer: peer.to_owned(),
            what: e.to_string(),
        })?;
        if parsed.is_some() {
            return Ok(parsed);
        }
        if input.capacity() - input.len() < READ_SIZE / 4 && input.len() >= READ_SIZE / 4 {
            input.reserve(READ_SIZE);
        }
        let read = stream.read_buf(input).await;
        let read = read.map_err(|source| Error::Broken {
            peer: peer.to_owned(),
            source,
        })?;
        if read == 0 {
            return if input.is_empty() {
                Ok(None)
            } else {
                Err(Error::Closed {
                    peer: peer.to_owned(),
                })
            };
        }
    }
}

async fn open(config: &ConnectConfig, tls: &Tls) -> Result<Stream, Error> {
    let failed = |source| Error::Connect {
        peer: config.peer(),
        source,
    };
    let stream: Stream = match &config.host {
        Host::Tcp(host) => {
            let stream = TcpStream::connect((host.as_str(), config.port))
                .await
                .map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            match tls {
                Tls::Never | Tls::IfDemanded(_) => Box::new(stream),
                Tls::IfOffered(trust) => start_tls(config, host, trust, false, stream).await?,
                Tls::Always(trust) => start_tls(config, host, trust, true, stream).await?,
            }
        }
        Host::Unix(_) => Box::new(UnixStream::connect(config.peer()).await.map_err(failed)?),
    };
    Ok(stream)
}

async fn start_tls(
    config: &ConnectConfig,
    host: &str,
    trust: &Arc<rustls::ClientConfig>,
    must: bool,
    mut stream: TcpStream,
) -> Result<Stream, Error> {
    let failed = |source| Error::Connect {
        peer: config.peer(),
        source,
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    match stream.read_u8().await.map_err(failed)? {
        b'S' => {}
        _ if must => {
            let peer = config.peer();
            return Err(Error::TlsNotOffered { peer });
        }
        _ => return Ok(Box::new(stream)),
    }
    Ok(Box::new(
        encrypt(&config.peer(), host, trust, stream).await?,
    ))
}

/// Begins TLS on a connection to `host`, which `peer` names for people.
///
/// # Errors
///
/// [`Error::Tls`], [`Error::Connect`].
pub async fn encrypt(
    peer: &str,
    host: &str,
    trust: &Arc<rustls::ClientConfig>,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
    let name = rustls::pki_types::ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| Error::Connect {
        peer: peer.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })?;
    let connector = tokio_rustls::TlsConnector::from(trust.clone());
    let stream = connector.connect(name, stream).await;
    stream.map_err(|source| handshake_failed(peer.to_owned(), source))
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::AuthenticationOk => "AuthenticationOk",
        Message::CommandComplete(_) => "CommandComplete",
        Message::CopyInResponse(_) => "CopyInResponse",
        Message::CopyOutResponse(_) => "CopyOutResponse",
        Message::DataRow(_) => "DataRow",
        Message::ReadyForQuery(_) => "ReadyForQuery",
        Message::RowDescription(_) => "RowDescription",
        _ => "an unexpected message",
    }
}
