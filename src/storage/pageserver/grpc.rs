//! The page service on gRPC: backups and leases. What reads pages is not served here.
//!
//! Upstream: `GrpcPageServiceHandler` of `pageserver/src/page_service.rs`; codes and texts
//! are as recorded from a real one. A shard that is not here is looked for twice, with
//! other counts the second time, and each search that fails is counted as misrouted.

use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::Stream;
use tokio::sync::mpsc;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::backup::{self, Backup, Kind};
use super::node::Node;
use crate::id::{ShardIndex, TenantId, TenantShardId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::timelines::Timeline;
use crate::wire::page_api::page_service_server::{PageService, PageServiceServer};
use crate::wire::page_api::{
    BaseBackupCompression, GetBaseBackupRequest, GetBaseBackupResponseChunk, GetDbSizeRequest,
    GetDbSizeResponse, GetPageRequest, GetPageResponse, GetRelSizeRequest, GetRelSizeResponse,
    GetSlruSegmentRequest, GetSlruSegmentResponse, LeaseLsnRequest, LeaseLsnResponse,
};

/// Pieces that wait for the client.
const QUEUE: usize = 4;
/// What is said of calls that read pages.
const NO_PAGES: &str = "the development storage does not serve pages by gRPC: use libpq";

/// The service of one pageserver, as a router.
pub(super) fn router(node: Arc<Node>) -> axum::Router {
    let service = PageServiceServer::new(Handler { node })
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Zstd);
    tonic::service::Routes::new(service)
        .prepare()
        .into_axum_router()
}

struct Handler {
    node: Arc<Node>,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<GetBaseBackupResponseChunk, Status>> + Send>>;
type Pages = Pin<Box<dyn Stream<Item = Result<GetPageResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PageService for Handler {
    type GetBaseBackupStream = Chunks;
    type GetPagesStream = Pages;

    async fn get_base_backup(
        &self,
        request: Request<GetBaseBackupRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let subject = self.admit(request.metadata(), "Basebackup").await?;
        let backup = self.prepare(subject, request.get_ref()).await?;
        let fault = self.node.knobs.take_backup_fault();
        let (chunks, mut arriving) = mpsc::channel(QUEUE);
        // Ends by itself when the client is gone and takes no more.
        self.node.tasks.spawn(async move {
            let cancelled = chunks.clone();
            tokio::select! {
                () = backup::feed(backup, fault, &chunks) => {}
                () = cancelled.closed() => {}
            }
        });
        let chunks = futures::stream::poll_fn(move |cx| arriving.poll_recv(cx));
        let chunks = futures::StreamExt::map(chunks, |piece: Result<_, String>| {
            let chunk = piece.map_err(Status::internal)?;
            Ok(GetBaseBackupResponseChunk { chunk })
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn lease_lsn(
        &self,
        request: Request<LeaseLsnRequest>,
    ) -> Result<Response<LeaseLsnResponse>, Status> {
        let subject = self.admit(request.metadata(), "LeaseLsn").await?;
        let lsn = Lsn(request.get_ref().lsn);
        if !lsn.is_valid() {
            let text = "required field 'lsn' is missing";
            return Err(Status::invalid_argument(text));
        }
        if !self.node.locations.serves(subject.shard) {
            return Err(self.tenant_not_found(subject.shard));
        }
        let timeline = self.timeline(subject.shard, subject.timeline_id)?;
        let cutoff = timeline.oldest_lsn();
        if lsn.align_up().skip_page_header() < cutoff {
            return Err(Status::failed_precondition(format!(
                "tried to request an lsn lease for an lsn below the latest gc cutoff. requested \
                 at {lsn} gc cutoff {cutoff}"
            )));
        }
        let until = SystemTime::now() + Duration::from_millis(super::connection::LEASE_MS);
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = prost_types::Timestamp {
            seconds: i64::try_from(until.as_secs()).unwrap_or(i64::MAX),
            nanos: until.subsec_nanos() as i32,
        };
        Ok(Response::new(LeaseLsnResponse {
            expires: Some(expires),
        }))
    }

    async fn get_db_size(
        &self,
        _: Request<GetDbSizeRequest>,
    ) -> Result<Response<GetDbSizeResponse>, Status> {
        Err(Status::unimplemented(NO_PAGES))
    }

    async fn get_pages(
        &self,
        _: Request<Streaming<GetPageRequest>>,
    ) -> Result<Response<Pages>, Status> {
        Err(Status::unimplemented(NO_PAGES))
    }

    async fn get_rel_size(
        &self,
        _: Request<GetRelSizeRequest>,
    ) -> Result<Response<GetRelSizeResponse>, Status> {
        Err(Status::unimplemented(NO_PAGES))
    }

    async fn get_slru_segment(
        &self,
        _: Request<GetSlruSegmentRequest>,
    ) -> Result<Response<GetSlruSegmentResponse>, Status> {
        Err(Status::unimplemented(NO_PAGES))
    }
}

/// What the metadata names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subject {
    shard: TenantShardId,
    timeline_id: TimelineId,
}

impl Subject {
    fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let tenant_id: TenantId = value(metadata, "neon-tenant-id")?;
        let timeline_id = value(metadata, "neon-timeline-id")?;
        let shard: ShardIndex = value(metadata, "neon-shard-id")?;
        Ok(Self {
            shard: TenantShardId { tenant_id, shard },
            timeline_id,
        })
    }
}

fn value<T: FromStr>(metadata: &MetadataMap, key: &str) -> Result<T, Status> {
    let value = metadata
        .get(key)
        .ok_or_else(|| Status::invalid_argument(format!("missing {key}")))?;
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Status::invalid_argument(format!("invalid {key}")))
}

impl Handler {
    /// Lets a call in: not while the node is paused, and only with the token.
    async fn admit(&self, metadata: &MetadataMap, command: &str) -> Result<Subject, Status> {
        self.node.knobs.unpaused().await;
        let subject = Subject::of(metadata)?;
        self.authorize(metadata)?;
        let commands = &self.node.metrics.commands;
        commands.with_label_values(&[command]).inc();
        Ok(subject)
    }

    fn authorize(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(token) = &self.node.token else {
            return Ok(());
        };
        let Some(given) = metadata.get("authorization") else {
            return Err(Status::unauthenticated("missing authorization header"));
        };
        let given = given
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("Bearer "));
        match given {
            Some(given) if given == token.reveal() => Ok(()),
            _ => Err(Status::invalid_argument("invalid JWT token: InvalidToken")),
        }
    }

    async fn prepare(
        &self,
        subject: Subject,
        request: &GetBaseBackupRequest,
    ) -> Result<Backup, Status> {
        let gzip = match BaseBackupCompression::try_from(request.compression) {
            Ok(BaseBackupCompression::None) => false,
            Ok(BaseBackupCompression::Gzip) => true,
            Ok(BaseBackupCompression::Unknown) => {
                let text = "field 'compression' has invalid value 'Unknown'";
                return Err(Status::invalid_argument(text));
            }
            Err(_) => {
                let text = format!(
                    "field 'compression' has invalid value '{}'",
                    request.compression
                );
                return Err(Status::invalid_argument(text));
            }
        };
        let shard = self.shard_zero(subject.shard)?;
        let timeline = self.timeline(shard, subject.timeline_id)?;
        if self.node.knobs.take_refusal() {
            return Err(Status::internal("an injected fault"));
        }
        let lsn = match request.lsn {
            0 => timeline.end().last_record_lsn,
            lsn => Lsn(lsn),
        };
        let waited = timeline.wait_for(lsn, self.node.wait_lsn_timeout).await;
        let end = waited.map_err(|error| Status::internal(error.to_string()))?;
        let base = timeline.base_for(lsn).ok_or_else(|| {
            Status::invalid_argument(format!(
                "invalid basebackup LSN: LSN {lsn} is earlier than latest GC cutoff {} (we might've \
                 already garbage collected needed data)",
                timeline.oldest_lsn()
            ))
        })?;
        Ok(Backup {
            kind: if request.full {
                Kind::Full
            } else {
                Kind::Basebackup
            },
            prev_lsn: Backup::prev_lsn_at(lsn, &base, &end),
            timeline,
            base,
            lsn,
            gzip,
        })
    }

    /// The shard 0 that is meant: that of the index, or of another count.
    fn shard_zero(&self, asked: TenantShardId) -> Result<TenantShardId, Status> {
        if asked.shard.number != 0 {
            return Err(Status::invalid_argument(format!(
                "request only valid on shard zero (requested shard {})",
                asked.shard
            )));
        }
        if self.node.locations.serves(asked) {
            return Ok(asked);
        }
        self.node.metrics.misrouted.inc();
        let other = self.node.locations.shard_zero(asked.tenant_id);
        other.ok_or_else(|| self.tenant_not_found(asked))
    }

    fn tenant_not_found(&self, shard: TenantShardId) -> Status {
        self.node.metrics.misrouted.inc();
        Status::not_found(format!("Tenant {} not found", shard.tenant_id))
    }

    fn timeline(
        &self,
        shard: TenantShardId,
        timeline_id: TimelineId,
    ) -> Result<Arc<Timeline>, Status> {
        let timeline = self.node.timelines.find(shard.tenant_id, timeline_id);
        timeline.ok_or_else(|| {
            Status::not_found(format!("Timeline {shard}/{timeline_id} was not found"))
        })
    }
}
