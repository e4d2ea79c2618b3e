//! The HTTP API: status, and what storage controllers do with timelines.
//!
//! Paths, bodies and texts are upstream's (`safekeeper/src/http/routes.rs`), for the
//! parts that exist here: no remote storage, no pull between safekeepers.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing::warn;

use super::registry::Absent;
use super::timeline::{Gone, Request as TimelineRequest, Timeline};
use super::{Node, TimelineKey, http_status, metrics};
use crate::error::chain;
use crate::id::{TenantId, TimelineId};
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE};
use crate::secret::Secret;
use crate::storage::acceptor::{ControlState, Refusal, ServerInfo};
use crate::storage::membership::MembershipDocument;
use crate::wire::safekeeper::Membership;

/// How long calls in progress may take to end once the safekeeper stops.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Serves until cancelled.
pub(super) async fn serve(listener: TcpListener, node: Node, token: Option<Secret>) {
    let cancel = node.cancel.clone();
    let protected = Router::new()
        .route("/v1/tenant/timeline", get(list).post(create))
        .route(
            "/v1/tenant/{tenant_id}/timeline/{timeline_id}",
            get(status).delete(delete),
        )
        .route(
            "/v1/tenant/{tenant_id}/timeline/{timeline_id}/membership",
            put(switch_membership),
        )
        .route(
            "/v1/tenant/{tenant_id}/timeline/{timeline_id}/term_bump",
            post(bump_term),
        )
        .route(
            "/v1/tenant/{tenant_id}/timeline/{timeline_id}/checkpoint",
            post(checkpoint),
        )
        .route("/v1/utilization", get(utilization))
        .route_layer(middleware::from_fn_with_state(token, authorize));
    let router = Router::new()
        .route("/v1/status", get(node_status))
        .route("/metrics", get(metrics))
        .merge(protected)
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(middleware::from_fn_with_state(node.clone(), pause))
        .with_state(node);
    let stopping = cancel.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned());
    let too_late = async {
        stopping.cancelled().await;
        tokio::time::sleep(GOODBYE_LIMIT).await;
    };
    tokio::select! {
        result = server => {
            if let Err(error) = result {
                warn!("HTTP API ended: {}", chain(&error));
            }
        }
        () = too_late => warn!("HTTP API ended while a request was half sent"),
    }
}

/// A refused request: upstream's status and text.
struct Problem(StatusCode, String);

impl Problem {
    /// Upstream quotes the text of this kind once more.
    fn bad_request(text: impl std::fmt::Display) -> Self {
        Self(StatusCode::BAD_REQUEST, format!("{:?}", text.to_string()))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({"msg": self.1}))).into_response()
    }
}

impl From<Absent> for Problem {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::NotFound(key) => Self(
                StatusCode::NOT_FOUND,
                format!("NotFound: timeline {key} not found"),
            ),
            Absent::Deleted(key) => Self(
                StatusCode::NOT_FOUND,
                format!("NotFound: timeline {key} deleted"),
            ),
            other => Self(StatusCode::INTERNAL_SERVER_ERROR, chain(&other)),
        }
    }
}

impl From<Gone> for Problem {
    fn from(_: Gone) -> Self {
        let text = "the timeline is closing";
        Self(StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
    }
}

type Answer = Result<axum::Json<Value>, Problem>;

async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "Not Found")
}

async fn pause(State(mut node): State<Node>, request: Request, next: Next) -> Response {
    tokio::select! {
        () = node.faults.unpaused() => next.run(request).await,
        () = node.cancel.cancelled() => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn authorize(
    State(token): State<Option<Secret>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let refused = |status, text: &str| Problem(status, text.to_owned()).into_response();
    let Some(token) = token else {
        return next.run(request).await;
    };
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        let text = "Unauthorized: missing authorization header";
        return refused(StatusCode::UNAUTHORIZED, text);
    };
    match given.as_bytes().strip_prefix(b"Bearer ") {
        Some(given) if given == token.reveal().as_bytes() => next.run(request).await,
        Some(_) => refused(StatusCode::FORBIDDEN, "Forbidden: JWT authentication error"),
        None => {
            let text = "Unauthorized: malformed authorization header";
            refused(StatusCode::UNAUTHORIZED, text)
        }
    }
}

async fn node_status(State(node): State<Node>) -> axum::Json<Value> {
    axum::Json(json!({"id": node.id}))
}

async fn metrics(State(node): State<Node>) -> Result<String, Problem> {
    Ok(metrics::render(node.id, &node.registry.list().await?))
}

async fn utilization(State(node): State<Node>) -> Answer {
    let count = node.registry.list().await?.len();
    Ok(axum::Json(json!({"timeline_count": count})))
}

async fn list(State(node): State<Node>) -> Answer {
    let timelines = node.registry.list().await?;
    let ids = timelines.iter().map(|timeline| {
        let TimelineKey {
            tenant_id,
            timeline_id,
        } = timeline.key;
        json!({"tenant_id": tenant_id, "timeline_id": timeline_id})
    });
    Ok(axum::Json(ids.collect()))
}

fn parse_key(tenant: &str, timeline: &str) -> Result<TimelineKey, Problem> {
    let bad = |what: &str| Problem::bad_request(format!("failed to parse {what}"));
    Ok(TimelineKey {
        tenant_id: tenant.parse().map_err(|_| bad("tenant_id"))?,
        timeline_id: timeline.parse().map_err(|_| bad("timeline_id"))?,
    })
}

fn parse_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    if body.is_empty() {
        return Err(Problem::bad_request("missing request body"));
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("Failed to parse json request: {error}")))
}

async fn find(node: &Node, path: &(String, String)) -> Result<Timeline, Problem> {
    let key = parse_key(&path.0, &path.1)?;
    Ok(node.registry.find(key).await?)
}

#[derive(Deserialize)]
struct Creation {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    mconf: MembershipDocument,
    pg_version: u32,
    #[serde(default)]
    system_id: Option<u64>,
    #[serde(default)]
    wal_seg_size: Option<u32>,
    start_lsn: Lsn,
    #[serde(default)]
    commit_lsn: Option<Lsn>,
}

async fn create(State(node): State<Node>, body: Bytes) -> Answer {
    let creation: Creation = parse_body(&body)?;
    let failed = |text: String| Problem(StatusCode::INTERNAL_SERVER_ERROR, text);
    let start_lsn = creation.start_lsn;
    let commit_lsn = creation.commit_lsn.unwrap_or(start_lsn);
    if commit_lsn < start_lsn {
        return Err(failed(format!(
            "commit_lsn {commit_lsn} is smaller than start_lsn {start_lsn}"
        )));
    }
    if commit_lsn > start_lsn {
        // Upstream takes it for manual recovery, where files are put there by hand.
        return Err(failed(
            "commit_lsn above start_lsn is not served here".to_owned(),
        ));
    }
    let server = ServerInfo {
        pg_version: creation.pg_version,
        system_id: creation.system_id.unwrap_or(0),
        wal_segment_size: creation.wal_seg_size.unwrap_or(WAL_SEGMENT_SIZE as u32),
    };
    let control = ControlState::explicit(
        creation.tenant_id,
        creation.timeline_id,
        Membership::from(creation.mconf),
        server,
        start_lsn,
    )
    .map_err(|refusal| failed(chain(&refusal)))?;
    match node.registry.create(control).await {
        Ok(_) => Ok(axum::Json(Value::Null)),
        Err(absent) => Err(failed(chain(&absent))),
    }
}

async fn status(State(node): State<Node>, Path(path): Path<(String, String)>) -> Answer {
    let timeline = find(&node, &path).await?;
    Ok(axum::Json(http_status::timeline(&timeline)))
}

async fn delete(State(node): State<Node>, Path(path): Path<(String, String)>) -> Answer {
    let key = parse_key(&path.0, &path.1)?;
    let existed = node.registry.delete(key).await?;
    Ok(axum::Json(json!({"dir_existed": existed})))
}

async fn switch_membership(
    State(node): State<Node>,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let to = Membership::from(parse_body::<MembershipDocument>(&body)?);
    let timeline = find(&node, &path).await?;
    let current = timeline.status().control.membership.generation;
    if current > to.generation {
        let text = format!(
            "Conflict: request to switch into {} ignored, current generation {current}",
            to.generation
        );
        return Err(Problem(StatusCode::CONFLICT, text));
    }
    let switched = timeline.ask(|answer| TimelineRequest::SwitchMembership(to, answer));
    let switch = switched.await?.map_err(|refusal: Refusal| {
        Problem(
            StatusCode::FORBIDDEN,
            format!("Forbidden: {}", chain(&refusal)),
        )
    })?;
    Ok(axum::Json(json!({
        "previous_conf": MembershipDocument::from(&switch.before),
        "current_conf": MembershipDocument::from(&switch.status.control.membership),
        "last_log_term": switch.status.last_log_term,
        "flush_lsn": switch.status.flush_lsn,
    })))
}

#[derive(Deserialize)]
struct TermBump {
    #[serde(default)]
    term: Option<u64>,
}

async fn bump_term(
    State(node): State<Node>,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let bump: TermBump = parse_body(&body)?;
    let timeline = find(&node, &path).await?;
    let bumped = timeline.ask(|answer| TimelineRequest::BumpTerm(bump.term, answer));
    let (before, now) = bumped.await?;
    Ok(axum::Json(
        json!({"previous_term": before, "current_term": now}),
    ))
}

async fn checkpoint(State(node): State<Node>, Path(path): Path<(String, String)>) -> Answer {
    let timeline = find(&node, &path).await?;
    timeline.ask(TimelineRequest::Checkpoint).await?;
    Ok(axum::Json(Value::Null))
}
