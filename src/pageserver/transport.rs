//! A connection to a pageserver on which a backup is asked for, by libpq or by gRPC: which
//! one, the spec says, and neither stands in for the other.

use std::time::Instant;

use bytes::Bytes;
use tracing::debug;

use super::basebackup::{BackupKind, BasebackupRequest};
use super::grpc::{self, BackupCall, Chunks, GrpcConnection, Subject};
use super::{Cause, Error, Refusal, address};
use crate::id::ShardIndex;
use crate::pgwire::{self, ConnectConfig, Connection, CopyOut};
use crate::secret::Secret;
use crate::spec::PageserverProtocol;

/// A parameter that glowplug's own development storage reports at connecting: its
/// `fullbackup` knows `--gzip`, which a pageserver's does not.
const DEVELOPMENT_STORAGE: &str = "glowplug_storage";
/// The call of gRPC, for messages.
const GET_BASE_BACKUP: &str = "GetBaseBackup";

/// A connection to a pageserver, made before the LSN is known. The server closes it
/// after 10 minutes without a command.
pub struct Connected {
    transport: Transport,
    /// What it was made with.
    token: Option<Secret>,
    /// How long it took.
    pub(super) elapsed: std::time::Duration,
}

enum Transport {
    Libpq(Box<Libpq>),
    Grpc(Box<GrpcConnection>),
}

struct Libpq {
    config: ConnectConfig,
    connection: Connection,
}

/// Connects to the page service, for a later [`Connected::fetch`].
///
/// # Errors
///
/// [`Error::NoAddress`], [`Error::NoGrpcAddress`], [`Error::Address`],
/// [`Error::GrpcAddress`], [`Error::Connect`], [`Error::Refused`].
pub async fn connect(request: &BasebackupRequest<'_>) -> Result<Connected, Error> {
    let token = &request.access.token;
    let attempt = |token| connect_with(request, token);
    token.attempt(attempt, Error::is_unauthorized).await
}

async fn connect_with(
    request: &BasebackupRequest<'_>,
    token: Option<Secret>,
) -> Result<Connected, Error> {
    let started = Instant::now();
    let transport = match request.protocol {
        PageserverProtocol::Libpq => {
            let config = address::page_service(
                request.location,
                request.compute_mode,
                request.access,
                token.clone(),
                request.connect_limit,
            )
            .await?;
            let connection = log_in(&config, request.location.index).await?;
            Transport::Libpq(Box::new(Libpq { config, connection }))
        }
        PageserverProtocol::Grpc => {
            let (location, access) = (request.location, request.access);
            let limit = request.connect_limit;
            let connected = GrpcConnection::connect(location, access, token.as_ref(), limit);
            Transport::Grpc(Box::new(connected.await?))
        }
    };
    Ok(Connected {
        transport,
        token,
        elapsed: started.elapsed(),
    })
}

/// Connects to the page service of a shard.
pub(super) async fn log_in(config: &ConnectConfig, shard: ShardIndex) -> Result<Connection, Error> {
    Connection::connect(config).await.map_err(|source| {
        refused(&config.peer(), "login", source).unwrap_or_else(|source| Error::Connect {
            shard,
            source: source.into(),
        })
    })
}

impl Connected {
    /// `host:port`.
    pub fn peer(&self) -> &str {
        match &self.transport {
            Transport::Libpq(libpq) => libpq.connection.peer(),
            Transport::Grpc(grpc) => grpc.peer(),
        }
    }

    /// Asks for the backup and waits until it begins. A pageserver takes the token of
    /// another tenant at login, and refuses it here; by gRPC it sees each only here.
    pub(super) async fn start(self, request: &BasebackupRequest<'_>) -> Result<Incoming, Error> {
        let token = self.token.clone();
        match self.start_once(request).await {
            Err(error) if error.is_unauthorized() => {
                let another = request.access.token.after_refusal(token.as_ref()).await;
                let Some(another) = another else {
                    return Err(error);
                };
                let again = connect_with(request, Some(another)).await?;
                again.start_once(request).await
            }
            result => result,
        }
    }

    async fn start_once(self, request: &BasebackupRequest<'_>) -> Result<Incoming, Error> {
        match self.transport {
            Transport::Libpq(libpq) => libpq.start(request).await,
            Transport::Grpc(grpc) => start_by_grpc(*grpc, request).await,
        }
    }
}

impl Libpq {
    /// Sends the command and waits for the stream.
    async fn start(self, request: &BasebackupRequest<'_>) -> Result<Incoming, Error> {
        let peer = self.config.peer();
        let limit = request.answer_limit;
        let ours = self.connection.parameter(DEVELOPMENT_STORAGE) == Some("on");
        let gzip = request.gzip && (ours || request.kind != BackupKind::Fullbackup);
        let command = request.command(gzip);
        debug!(%peer, command, "asking for a basebackup");
        let copy = tokio::time::timeout(limit, self.connection.copy_out(&command)).await;
        let Ok(copy) = copy else {
            return Err(Error::NoAnswer {
                peer,
                command,
                limit,
            });
        };
        match copy.map_err(|source| refused(&peer, &command, source)) {
            Ok(copy) => Ok(Incoming {
                stream: Stream::Libpq(Box::new(copy)),
                gzip,
            }),
            Err(Ok(refused)) => Err(name_the_missing(refused, &self.config).await),
            Err(Err(source)) => Err(Error::Interrupted {
                peer,
                bytes: 0,
                source: source.into(),
            }),
        }
    }
}

async fn start_by_grpc(
    connection: GrpcConnection,
    request: &BasebackupRequest<'_>,
) -> Result<Incoming, Error> {
    let peer = connection.peer().to_owned();
    let limit = request.answer_limit;
    let call = BackupCall {
        lsn: request.lsn,
        replica: request.kind == (BackupKind::Basebackup { replica: true }),
        full: request.kind == BackupKind::Fullbackup,
        compress: request.gzip,
    };
    let subject = Subject {
        tenant_id: request.tenant_id,
        timeline_id: request.timeline_id,
        shard: request.location.index,
    };
    debug!(%peer, ?call, "asking for a basebackup");
    let begun = tokio::time::timeout(limit, connection.backup(subject, call)).await;
    let begun = begun.map_err(|_| Error::NoAnswer {
        peer: peer.clone(),
        command: GET_BASE_BACKUP.to_owned(),
        limit,
    })?;
    let chunks = begun.map_err(|failure| {
        let refused = grpc::refused(&peer, GET_BASE_BACKUP, failure);
        refused.unwrap_or_else(|failure| Error::Interrupted {
            peer,
            bytes: 0,
            source: failure.into(),
        })
    })?;
    Ok(Incoming {
        stream: Stream::Grpc(Box::new(chunks)),
        gzip: call.gzip(),
    })
}

/// A backup that comes in.
pub(super) struct Incoming {
    stream: Stream,
    /// Whether the archive is compressed.
    pub(super) gzip: bool,
}

enum Stream {
    Libpq(Box<CopyOut>),
    Grpc(Box<Chunks>),
}

impl Incoming {
    /// The next piece; `None` once the server has ended the stream and reported success.
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Cause> {
        match &mut self.stream {
            Stream::Libpq(copy) => Ok(copy.next().await?),
            Stream::Grpc(chunks) => Ok(chunks.next().await?),
        }
    }
}

/// A refusal, if that is what it is.
pub(super) fn refused(
    peer: &str,
    command: &str,
    source: pgwire::Error,
) -> Result<Error, pgwire::Error> {
    match source {
        pgwire::Error::Server { ref error, .. } => Ok(Error::Refused {
            peer: peer.to_owned(),
            command: command.to_owned(),
            refusal: Refusal::of(error),
            source: source.into(),
        }),
        other => Err(other),
    }
}

/// Finds out what a pageserver did not find: in the simple protocol, a tenant that is
/// elsewhere and a timeline that does not exist look the same. One is worth another
/// attempt. If this fails, the first answer stands.
async fn name_the_missing(first: Error, config: &ConnectConfig) -> Error {
    let Error::Refused {
        refusal: Refusal::NotFound,
        ref command,
        ..
    } = first
    else {
        return first;
    };
    let again = async { Connection::connect(config).await?.refusal(command).await };
    match tokio::time::timeout(config.connect_timeout, again).await {
        Ok(Ok(Some(error))) if Refusal::of(&error).is_missing() => Error::Refused {
            peer: config.peer(),
            command: command.clone(),
            refusal: Refusal::of(&error),
            source: pgwire::Error::Server {
                peer: config.peer(),
                error,
            }
            .into(),
        },
        _ => first,
    }
}
