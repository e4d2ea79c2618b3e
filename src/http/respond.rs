//! The JSON bodies of upstream's API (`libs/compute_api/src/responses.rs`). Pure.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::control::Refusal;
use crate::lsn::Lsn;
use crate::report::{Phase, Snapshot};

/// `GenericAPIError`, and what the caller can do about it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ErrorBody {
    /// What went wrong.
    error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// An answer with [`ErrorBody`].
pub(super) fn error(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    let advice = None;
    (status, Json(ErrorBody { error, advice })).into_response()
}

/// There is no capacity now, and there soon will be.
pub(super) fn busy(what: &str) -> Response {
    let mut response = error(
        StatusCode::SERVICE_UNAVAILABLE,
        &format!("{what}: try again"),
    );
    let soon = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, soon);
    response
}

/// A route of upstream's whose service glowplug does not have yet.
pub(super) fn not_implemented(route: &str, service: &str) -> Response {
    error(
        StatusCode::NOT_IMPLEMENTED,
        &format!("{route} is not implemented by glowplug yet: it has no {service}"),
    )
}

/// `JsonResponse::invalid_status`, with what the caller can do about it.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let body = ErrorBody {
        error: format!("invalid compute status: {}", refusal.state),
        advice: Some(refusal.advice.to_owned()),
    };
    (StatusCode::PRECONDITION_FAILED, Json(body)).into_response()
}

/// `ComputeStatusResponse`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ComputeStatusResponse")]
pub(super) struct Status {
    /// When the process started (RFC 3339).
    start_time: String,
    /// The tenant, once there is a spec.
    tenant: Option<String>,
    /// The timeline, once there is a spec.
    timeline: Option<String>,
    /// State of the compute: `empty`, `running`, …
    #[serde(rename = "status")]
    state: &'static str,
    /// Last activity of a client (RFC 3339).
    last_active: Option<String>,
    /// Why the start-up or the last reconfiguration failed.
    error: Option<String>,
    /// `disabled` where everybody is let in; otherwise left out, as upstream has no such
    /// field.
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<&'static str>,
}

impl Status {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self {
            start_time: rfc3339(snapshot.started_at, "Z"),
            tenant: snapshot.tenant_id().map(|id| id.to_string()),
            timeline: snapshot.timeline_id().map(|id| id.to_string()),
            state: snapshot.state.snake_case(),
            last_active: snapshot.last_active_at.map(|at| rfc3339(at, "+00:00")),
            error: snapshot.error.clone(),
            authorization: snapshot.insecure.then_some("disabled"),
        }
    }
}

/// Upstream writes 0, 3, 6 or 9 digits of a second, and UTC in two ways (chrono,
/// `SecondsFormat::AutoSi`).
fn rfc3339(at: Timestamp, utc: &str) -> String {
    let nanoseconds = at.subsec_nanosecond();
    let text = if nanoseconds == 0 {
        format!("{at:.0}")
    } else if nanoseconds % 1_000_000 == 0 {
        format!("{at:.3}")
    } else if nanoseconds % 1_000 == 0 {
        format!("{at:.6}")
    } else {
        format!("{at:.9}")
    };
    text.strip_suffix('Z')
        .map_or(text.clone(), |t| format!("{t}{utc}"))
}

/// `ComputeMetrics`. What glowplug does not do is 0.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ComputeMetrics")]
pub(super) struct StartupMetrics {
    wait_for_spec_ms: u64,
    sync_sk_check_ms: u64,
    sync_safekeepers_ms: u64,
    pageserver_connect_micros: u64,
    basebackup_ms: u64,
    basebackup_bytes: u64,
    start_postgres_ms: u64,
    config_ms: u64,
    total_startup_ms: u64,
    load_ext_ms: u64,
    num_ext_downloaded: u64,
    largest_ext_size: u64,
    total_ext_download_size: u64,
}

impl StartupMetrics {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let durations = &snapshot.durations;
        let ms = |duration: Option<&std::time::Duration>| {
            duration.map_or(0, |duration| duration.as_millis() as u64)
        };
        let phase = |phase| ms(durations.phases.get(&phase));
        let connect = durations.pageserver_connect;
        Self {
            wait_for_spec_ms: phase(Phase::WaitForSpec),
            // The pre-check is part of the sync here.
            sync_sk_check_ms: 0,
            sync_safekeepers_ms: phase(Phase::SafekeeperSync),
            pageserver_connect_micros: connect.map_or(0, |connect| connect.as_micros() as u64),
            basebackup_ms: phase(Phase::Basebackup),
            basebackup_bytes: durations.basebackup_bytes.unwrap_or(0),
            start_postgres_ms: phase(Phase::PostgresStart),
            config_ms: phase(Phase::CatalogApply),
            total_startup_ms: ms(durations.total.as_ref()),
            load_ext_ms: 0,
            num_ext_downloaded: 0,
            largest_ext_size: 0,
            total_ext_download_size: 0,
        }
    }
}

/// `TerminateResponse`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TerminateResponse")]
pub(super) struct Terminated {
    /// Where the log ends, for a primary.
    lsn: Option<String>,
}

impl Terminated {
    pub(super) fn at(lsn: Option<Lsn>) -> Self {
        Self {
            lsn: lsn.map(|lsn| lsn.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_upstreams_digits() {
        let at = |text: &str| rfc3339(text.parse().unwrap(), "Z");
        assert_eq!(at("2025-07-31T11:51:19Z"), "2025-07-31T11:51:19Z");
        assert_eq!(at("2025-07-31T11:51:19.5Z"), "2025-07-31T11:51:19.500Z");
        assert_eq!(
            at("2025-07-31T11:51:19.104219Z"),
            "2025-07-31T11:51:19.104219Z"
        );
        assert_eq!(
            at("2025-07-31T11:51:19.1042191Z"),
            "2025-07-31T11:51:19.104219100Z"
        );
        let active: Timestamp = "2025-07-31T11:52:01.5Z".parse().unwrap();
        assert_eq!(rfc3339(active, "+00:00"), "2025-07-31T11:52:01.500+00:00");
    }
}
