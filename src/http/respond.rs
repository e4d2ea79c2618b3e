//! The JSON bodies of upstream's API (`libs/compute_api/src/responses.rs`). Pure.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Serialize;

use super::control::Refusal;
use crate::lsn::Lsn;
use crate::report::{Phase, Snapshot};

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
}

/// `GenericAPIError`.
pub(super) fn error(status: StatusCode, error: &str) -> Response {
    let advice = None;
    (status, Json(ErrorBody { error, advice })).into_response()
}

/// `JsonResponse::invalid_status`, with what the caller can do about it.
pub(super) fn refused(refusal: &Refusal) -> Response {
    let body = ErrorBody {
        error: &format!("invalid compute status: {}", refusal.state),
        advice: Some(refusal.advice),
    };
    (StatusCode::PRECONDITION_FAILED, Json(body)).into_response()
}

/// `ComputeStatusResponse`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    start_time: String,
    tenant: Option<String>,
    timeline: Option<String>,
    #[serde(rename = "status")]
    state: &'static str,
    last_active: Option<String>,
    error: Option<String>,
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
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
pub(super) struct Terminated {
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
