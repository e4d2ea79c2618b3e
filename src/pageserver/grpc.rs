//! The page service on gRPC: one connection, the metadata of every call, and what a
//! status means.
//!
//! A real pageserver serves it without TLS; `grpcs://` is for a proxy before it. What the
//! spec prefers is used, and there is no falling back on the other protocol, as upstream
//! has none (`compute_tools/src/compute.rs`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codec::{CompressionEncoding, Streaming};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::{Cause, Error, Refusal};
use crate::access::Access;
use crate::error::{Category, Retry, chain};
use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire;
use crate::secret::Secret;
use crate::spec::ShardLocation;
use crate::wire::page_api::page_service_client::PageServiceClient;
use crate::wire::page_api::{
    BaseBackupCompression, GetBaseBackupRequest, GetBaseBackupResponseChunk, LeaseLsnRequest,
    LeaseLsnResponse,
};

/// Conventional port of the page service on gRPC.
const DEFAULT_PORT: u16 = 51051;
/// Bytes that may be under way: back-pressure begins here.
const WINDOW: u32 = 1 << 20;
/// How often a silent peer is asked whether it is there, and how long it may take to
/// answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Failure {
    /// gRPC's status code.
    pub code: Code,
    /// What the server says, or what is wrong with the connection.
    pub message: String,
    /// Whether the server has answered so, rather than that the connection broke.
    pub answered: bool,
}

impl Failure {
    /// Whether this is how a lease is refused.
    pub(super) fn is_refused_lease(&self) -> bool {
        let archived = Refusal::of_status(self.code, &self.message) == Refusal::TimelineArchived;
        self.answered && self.code == Code::FailedPrecondition && !archived
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // Only what did not come from the server has a cause here.
        let cause = std::error::Error::source(&status);
        Self {
            code: status.code(),
            message: match cause {
                Some(cause) => chain(cause),
                None => status.message().to_owned(),
            },
            answered: cause.is_none(),
        }
    }
}

impl Category for Failure {
    fn category(&self) -> &'static str {
        match self.code {
            _ if !self.answered => "Unreachable",
            Code::Unauthenticated | Code::PermissionDenied => "AuthFailed",
            _ => "ServerError",
        }
    }

    fn retry(&self) -> Retry {
        match self.code {
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}

/// Whose what is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub(super) tenant_id: TenantId,
    pub(super) timeline_id: TimelineId,
    pub(super) shard: ShardIndex,
}

/// A connection to the page service of a shard.
pub(super) struct GrpcConnection {
    channel: Channel,
    peer: String,
    authorization: Option<MetadataValue<Ascii>>,
}

/// What is asked of a backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackupCall {
    pub(super) lsn: Option<Lsn>,
    pub(super) replica: bool,
    pub(super) full: bool,
    pub(super) compress: bool,
}

impl BackupCall {
    /// Whether the archive itself is compressed. A pageserver keeps the common backups
    /// compressed by gzip (`pageserver/src/basebackup_cache.rs`). A full one is made for
    /// each request: there the messages are compressed, by zstd, which costs both sides
    /// less.
    pub(super) const fn gzip(self) -> bool {
        self.compress && !self.full
    }

    fn request(self) -> GetBaseBackupRequest {
        let compression = if self.gzip() {
            BaseBackupCompression::Gzip
        } else {
            BaseBackupCompression::None
        };
        GetBaseBackupRequest {
            lsn: self.lsn.unwrap_or_default().0,
            replica: self.replica,
            full: self.full,
            compression: compression.into(),
        }
    }
}

/// A backup that comes in.
pub(super) struct Chunks(Streaming<GetBaseBackupResponseChunk>);

impl Chunks {
    /// The next piece; `None` once the server has ended the stream with success.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let chunk = self.0.message().await.map_err(Failure::from)?;
        Ok(chunk.map(|chunk| chunk.chunk))
    }
}

impl GrpcConnection {
    /// `host:port`.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// Connects to the page service of a shard, within `limit`.
    pub(super) async fn connect(
        location: &ShardLocation,
        access: &Access,
        token: Option<&Secret>,
        limit: Duration,
    ) -> Result<Self, Error> {
        let shard = location.index;
        let failed = |source: Cause| Error::Connect { shard, source };
        let address = Address::parse(location)?;
        let peer = address.peer();
        let authorization = match token {
            Some(token) => {
                let value = format!("Bearer {}", token.reveal()).parse();
                let mut value: MetadataValue<Ascii> = value.map_err(|_| {
                    failed(
                        pgwire::Error::Authentication {
                            peer: peer.clone(),
                            method: "a bearer token",
                            needs: "a token of printable ASCII characters",
                        }
                        .into(),
                    )
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let opening = open(&address, access, limit);
        let channel = tokio::time::timeout(limit, opening).await.map_err(|_| {
            let peer = peer.clone();
            failed(pgwire::Error::ConnectTimeout { peer, limit }.into())
        })?;
        Ok(Self {
            channel: channel.map_err(failed)?,
            peer,
            authorization,
        })
    }

    /// Asks for a backup, and waits until it begins.
    pub(super) async fn backup(
        self,
        subject: Subject,
        call: BackupCall,
    ) -> Result<Chunks, Failure> {
        let request = self.request(subject, call.request());
        let mut client = PageServiceClient::new(self.channel);
        if call.compress && !call.gzip() {
            client = client.accept_compressed(CompressionEncoding::Zstd);
        }
        let answer = client.get_base_backup(request).await?;
        Ok(Chunks(answer.into_inner()))
    }

    /// Asks for a lease.
    pub(super) async fn lease(
        self,
        subject: Subject,
        lsn: Lsn,
    ) -> Result<LeaseLsnResponse, Failure> {
        let request = self.request(subject, LeaseLsnRequest { lsn: lsn.0 });
        let mut client = PageServiceClient::new(self.channel);
        Ok(client.lease_lsn(request).await?.into_inner())
    }

    fn request<T>(&self, subject: Subject, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        for (key, text) in [
            ("neon-tenant-id", subject.tenant_id.to_string()),
            ("neon-timeline-id", subject.timeline_id.to_string()),
            ("neon-shard-id", subject.shard.to_string()),
        ] {
            // Hex digits are always a value.
            if let Ok(value) = text.parse() {
                metadata.insert(key, value);
            }
        }
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        request
    }
}

/// Where a gRPC server is.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    encrypted: bool,
}

impl Address {
    fn parse(location: &ShardLocation) -> Result<Self, Error> {
        let shard = location.index;
        let text = location.grpc.as_deref().filter(|text| !text.is_empty());
        let text = text.ok_or(Error::NoGrpcAddress { shard })?;
        let malformed = || Error::GrpcAddress { shard };
        let url = url::Url::parse(text).map_err(|_| malformed())?;
        let encrypted = match url.scheme() {
            "grpc" => false,
            "grpcs" => true,
            _ => return Err(malformed()),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        Ok(Self {
            host: host.ok_or_else(malformed)?.to_owned(),
            port: url.port().unwrap_or(DEFAULT_PORT),
            encrypted,
        })
    }

    fn peer(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects first and by itself, for errors that say what went wrong, and then speaks
/// HTTP/2 on that connection alone.
async fn open(address: &Address, access: &Access, limit: Duration) -> Result<Channel, Cause> {
    let stream = open_stream(address, access).await?;
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = Arc::clone(&stream);
        async move {
            let gone = || std::io::Error::from(std::io::ErrorKind::NotConnected);
            let mut held = stream.lock().unwrap_or_else(PoisonError::into_inner);
            held.take().map(TokioIo::new).ok_or_else(gone)
        }
    });
    // Only the origin says that the connection is encrypted: that is done already.
    let authority = address.peer();
    let scheme = if address.encrypted { "https" } else { "http" };
    let origin = format!("{scheme}://{authority}").parse::<Uri>();
    let endpoint = Endpoint::from_shared(format!("http://{authority}"));
    let broken = |error: &dyn std::error::Error| Failure {
        code: Code::Unavailable,
        message: chain(error),
        answered: false,
    };
    let endpoint = endpoint.map_err(|error| broken(&error))?;
    let origin = origin.map_err(|error| broken(&error))?;
    let (interval, patience) = KEEP_ALIVE;
    let endpoint = endpoint
        .origin(origin)
        .connect_timeout(limit)
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(patience)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let channel = endpoint.connect_with_connector(connector).await;
    Ok(channel.map_err(|error| broken(&error))?)
}

async fn open_stream(address: &Address, access: &Access) -> Result<Box<dyn Duplex>, Cause> {
    let peer = address.peer();
    let failed = |source| pgwire::Error::Connect {
        peer: peer.clone(),
        source,
    };
    let host = address.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, address.port)).await;
    let stream = stream.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if !address.encrypted {
        return Ok(Box::new(stream));
    }
    let trust = access.trust.for_grpc().await?;
    Ok(Box::new(
        pgwire::encrypt(&peer, host, &trust, stream).await?,
    ))
}

/// The error of a call that failed: a refusal, if the server answered.
pub(super) fn refused(peer: &str, call: &str, failure: Failure) -> Result<Error, Failure> {
    if !failure.answered {
        return Err(failure);
    }
    Ok(Error::Refused {
        peer: peer.to_owned(),
        command: call.to_owned(),
        refusal: Refusal::of_status(failure.code, &failure.message),
        source: failure.into(),
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn location(grpc: &str) -> ShardLocation {
        ShardLocation {
            index: ShardIndex::UNSHARDED,
            node_id: None,
            libpq: None,
            grpc: Some(grpc.to_owned()),
            http: None,
        }
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_perhaps_a_port() {
        let parse = |text: &str| {
            Address::parse(&location(text)).map(|address| (address.peer(), address.encrypted))
        };
        let peer = |text: &str| text.to_owned();
        assert_eq!(
            parse("grpc://no_user@ps-1:7").unwrap(),
            (peer("ps-1:7"), false)
        );
        assert_eq!(parse("grpcs://ps-1").unwrap(), (peer("ps-1:51051"), true));
        assert_eq!(parse("grpc://[::1]:7").unwrap(), (peer("[::1]:7"), false));
        for bad in ["", "http://ps-1:7", "ps-1:7", "grpc://"] {
            assert_eq!(parse(bad).unwrap_err().retry(), Retry::Never, "{bad}");
        }
    }

    #[test]
    fn requests_are_what_a_real_pageserver_was_recorded_with() {
        let call = |lsn: u64, replica, full, compress| BackupCall {
            lsn: Some(Lsn(lsn)),
            replica,
            full,
            compress,
        };
        for (call, expected) in [
            (call(0, false, false, true), "2002"),
            (call(22_092_544, false, false, false), "0880b6c40a2001"),
            (call(0, false, true, false), "18012001"),
            (call(0, true, false, true), "10012002"),
            (call(16, false, false, true), "08102002"),
        ] {
            assert_eq!(hex::encode(call.request().encode_to_vec()), expected);
        }
        let lease = LeaseLsnRequest { lsn: 22_092_544 };
        assert_eq!(hex::encode(lease.encode_to_vec()), "0880b6c40a");
    }

    #[test]
    fn an_answer_of_a_real_pageserver_is_read() {
        let answer = hex::decode("0a0c08fdbf90d80610f4c7c9c901").unwrap();
        let expires = LeaseLsnResponse::decode(&answer[..]).unwrap().expires;
        let expires = expires.unwrap();
        assert_eq!(
            (expires.seconds, expires.nanos),
            (1_795_432_445, 422_732_788)
        );
    }
}
