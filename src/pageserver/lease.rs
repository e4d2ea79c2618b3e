//! Asks a pageserver to keep an LSN of a shard readable for a while.
//!
//! Garbage collection removes what is older than the tenant's history; a Static compute
//! reads there for as long as it runs. A lease is of one shard, on the pageserver that
//! serves it, and for exactly this LSN: each shard needs one of its own. Renewing them
//! in time is the caller's.
//!
//! Upstream: `compute_tools/src/lsn_lease.rs`, `handle_make_lsn_lease` of
//! `pageserver/src/page_service.rs`.

use std::time::{Duration, SystemTime};

use super::grpc::{self, GrpcConnection, Subject};
use super::{Error, address, transport};
use crate::access::Access;
use crate::id::{TenantId, TenantShardId, TimelineId};
use crate::lsn::Lsn;
use crate::pgwire::{self, Row};
use crate::secret::Secret;
use crate::spec::{ComputeMode, PageserverProtocol, ShardLocation};
use crate::wire::page_api::LeaseLsnResponse;

/// The call of gRPC, for messages.
const LEASE_LSN: &str = "LeaseLsn";

/// Which LSN to keep, and where.
#[derive(Debug, Clone)]
pub struct LeaseRequest<'a> {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its timeline.
    pub timeline_id: TimelineId,
    /// What to keep.
    pub lsn: Lsn,
    /// The shard, and where it is.
    pub location: &'a ShardLocation,
    /// How to speak to it.
    pub protocol: PageserverProtocol,
    /// The storage's token and TLS.
    pub access: &'a Access,
    /// Limit for everything together.
    pub deadline: Duration,
}

/// What a pageserver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// The LSN stays readable until then.
    Granted {
        /// By the pageserver's clock.
        valid_until: SystemTime,
    },
    /// The LSN is older than what the pageserver still has: a lease that ended, or
    /// never was. Pages may be gone.
    Refused,
}

/// Asks for a lease, or for more time on one that is held.
///
/// # Errors
///
/// [`Error::NoAddress`], [`Error::Address`], [`Error::Connect`], [`Error::Refused`]
/// (an unknown shard or timeline, a wrong token), [`Error::NoAnswer`], [`Error::Lease`].
pub async fn lease_lsn(request: &LeaseRequest<'_>) -> Result<Lease, Error> {
    let token = &request.access.token;
    let attempt = |token| attempt(request, token);
    token.attempt(attempt, Error::is_unauthorized).await
}

async fn attempt(request: &LeaseRequest<'_>, token: Option<Secret>) -> Result<Lease, Error> {
    match request.protocol {
        PageserverProtocol::Libpq => by_libpq(request, token).await,
        PageserverProtocol::Grpc => by_grpc(request, token).await,
    }
}

async fn by_grpc(request: &LeaseRequest<'_>, token: Option<Secret>) -> Result<Lease, Error> {
    let (location, access) = (request.location, request.access);
    let connected = GrpcConnection::connect(location, access, token.as_ref(), request.deadline);
    let connection = connected.await?;
    let peer = connection.peer().to_owned();
    let subject = Subject {
        tenant_id: request.tenant_id,
        timeline_id: request.timeline_id,
        shard: location.index,
    };
    let answer = tokio::time::timeout(request.deadline, connection.lease(subject, request.lsn));
    let answer = answer.await.map_err(|_| Error::NoAnswer {
        peer: peer.clone(),
        command: LEASE_LSN.to_owned(),
        limit: request.deadline,
    })?;
    match answer {
        Ok(answer) => expiry(&answer).ok_or_else(|| Error::Lease {
            source: pgwire::Error::Protocol {
                peer: peer.clone(),
                what: "a lease without an end".to_owned(),
            }
            .into(),
            peer,
        }),
        // The timeline is there, and has given the LSN up. An archived one says so by
        // the same code.
        Err(failure) if failure.is_refused_lease() => Ok(Lease::Refused),
        Err(failure) => {
            let refused = grpc::refused(&peer, LEASE_LSN, failure);
            Err(refused.unwrap_or_else(|failure| Error::Lease {
                peer,
                source: failure.into(),
            }))
        }
    }
}

fn expiry(answer: &LeaseLsnResponse) -> Option<Lease> {
    let expires = answer.expires?;
    let since = Duration::new(
        u64::try_from(expires.seconds).ok()?,
        u32::try_from(expires.nanos).ok()?,
    );
    let valid_until = SystemTime::UNIX_EPOCH.checked_add(since)?;
    Some(Lease::Granted { valid_until })
}

async fn by_libpq(request: &LeaseRequest<'_>, token: Option<Secret>) -> Result<Lease, Error> {
    let config = address::page_service(
        request.location,
        ComputeMode::Static(request.lsn),
        request.access,
        token,
        request.deadline,
    )
    .await?;
    let peer = config.peer();
    let command = command(request);
    let failed = |source: pgwire::Error| Error::Lease {
        peer: peer.clone(),
        source: source.into(),
    };
    let asked = async {
        let mut connection = transport::log_in(&config, request.location.index).await?;
        let rows = connection.simple_query(&command).await;
        rows.map_err(|source| transport::refused(&peer, &command, source).unwrap_or_else(failed))
    };
    let rows = tokio::time::timeout(request.deadline, asked).await;
    let rows = rows.map_err(|_| Error::NoAnswer {
        peer: peer.clone(),
        command: command.clone(),
        limit: request.deadline,
    })??;
    read(&rows).map_err(|what| {
        let peer = peer.clone();
        failed(pgwire::Error::Protocol { peer, what })
    })
}

fn command(request: &LeaseRequest<'_>) -> String {
    let shard = TenantShardId {
        tenant_id: request.tenant_id,
        shard: request.location.index,
    };
    format!("lease lsn {shard} {} {}", request.timeline_id, request.lsn)
}

/// One row with one column, `valid_until`: milliseconds since 1970, or NULL.
fn read(rows: &[Row]) -> Result<Lease, String> {
    let [row] = rows else {
        return Err(format!("{} rows for a lease", rows.len()));
    };
    let Some(text) = row.text(0) else {
        return Ok(Lease::Refused);
    };
    let milliseconds = text.parse().ok();
    let valid_until = milliseconds
        .and_then(|ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)))
        .ok_or_else(|| format!("'{text}' as the end of a lease"))?;
    Ok(Lease::Granted { valid_until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;

    #[test]
    fn a_lease_is_asked_for_by_the_shards_own_id() {
        let access = Access::default();
        let command = |index| {
            let location = ShardLocation {
                index,
                node_id: None,
                libpq: None,
                grpc: None,
                http: None,
            };
            let request = LeaseRequest {
                tenant_id: TenantId([0xA1; 16]),
                timeline_id: TimelineId([0xB1; 16]),
                lsn: Lsn(0x0169_AD58),
                location: &location,
                protocol: PageserverProtocol::Libpq,
                access: &access,
                deadline: Duration::ZERO,
            };
            super::command(&request)
                .replace(&"a1".repeat(16), "T")
                .replace(&"b1".repeat(16), "L")
        };
        assert_eq!(command(ShardIndex::UNSHARDED), "lease lsn T L 0/169AD58");
        let second = ShardIndex {
            number: 1,
            count: 2,
        };
        assert_eq!(command(second), "lease lsn T-0102 L 0/169AD58");
    }

    #[test]
    fn null_is_a_refusal_and_nonsense_is_neither() {
        let row = |text: Option<&str>| Row(vec![text.map(str::to_owned)]);
        let granted = Lease::Granted {
            valid_until: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_432_445_422),
        };
        assert_eq!(read(&[row(Some("1795432445422"))]), Ok(granted));
        assert_eq!(read(&[row(None)]), Ok(Lease::Refused));
        for rows in [
            vec![],
            vec![row(Some("soon"))],
            vec![row(Some("18446744073709551615000"))],
            vec![row(None), row(None)],
        ] {
            assert!(read(&rows).is_err(), "{rows:?}");
        }
    }
}
