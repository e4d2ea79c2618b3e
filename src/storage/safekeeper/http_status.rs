//! The status of a timeline as JSON, in upstream's form
//! (`libs/safekeeper_api/src/models.rs`, `TimelineStatus`).

use serde_json::{Value, json};

use super::TimelineKey;
use super::streams::Reader;
use super::timeline::Timeline;
use crate::storage::membership::MembershipDocument;

/// Seconds between the Unix epoch and PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// The whole status.
pub(super) fn timeline(timeline: &Timeline) -> Value {
    let status = timeline.status();
    let control = &status.control;
    let history = control.term_history.0.iter();
    let history = history.map(|entry| json!({"term": entry.term, "lsn": entry.lsn}));
    let proposers = timeline.streams.proposers().into_iter();
    let proposers = proposers.map(|id| json!({"conn_id": id, "status": "Streaming"}));
    let readers = timeline.streams.readers().into_iter();
    let readers = readers.map(|(id, reader)| wal_sender(timeline.key, id, &reader));
    let stored = timeline.streams.remote_consistent_lsn();
    json!({
        "tenant_id": control.tenant_id,
        "timeline_id": control.timeline_id,
        "mconf": MembershipDocument::from(&control.membership),
        "acceptor_state": {
            "term": control.term,
            "epoch": status.last_log_term,
            "term_history": history.collect::<Value>(),
        },
        "pg_info": {
            "pg_version": control.server.pg_version,
            "system_id": control.server.system_id,
            "wal_seg_size": control.server.wal_segment_size,
        },
        "flush_lsn": status.flush_lsn,
        "timeline_start_lsn": control.timeline_start_lsn,
        "local_start_lsn": control.local_start_lsn,
        "commit_lsn": control.commit_lsn,
        // There is no remote storage: nothing behind the start is backed up.
        "backup_lsn": control.timeline_start_lsn,
        "peer_horizon_lsn": control.peer_horizon_lsn,
        "remote_consistent_lsn": stored.max(control.timeline_start_lsn),
        // There is no broker either.
        "peers": [],
        "walsenders": readers.collect::<Value>(),
        "walreceivers": proposers.collect::<Value>(),
    })
}

fn wal_sender(key: TimelineKey, id: u64, reader: &Reader) -> Value {
    json!({"Vanilla": {
        "ttid": {"tenant_id": key.tenant_id, "timeline_id": key.timeline_id},
        "addr": reader.peer,
        "conn_id": id,
        "appname": reader.application,
        "feedback": feedback(reader),
    }})
}

fn feedback(reader: &Reader) -> Value {
    if let Some(feedback) = &reader.pageserver {
        return json!({"Pageserver": {
            "current_timeline_size": feedback.current_timeline_size,
            "last_received_lsn": feedback.last_received_lsn,
            "disk_consistent_lsn": feedback.disk_consistent_lsn,
            "remote_consistent_lsn": feedback.remote_consistent_lsn,
            "replytime": timestamp(feedback.reply_time),
            "shard_number": feedback.shard_number,
            "corruption_detected": feedback.corruption_detected,
        }});
    }
    let standby = reader.standby.unwrap_or_default();
    json!({"Standby": {
        "reply": {
            "write_lsn": standby.status.write_lsn,
            "flush_lsn": standby.status.flush_lsn,
            "apply_lsn": standby.status.apply_lsn,
            "reply_ts": standby.status.timestamp,
            "reply_requested": standby.status.reply_requested,
        },
        "hs_feedback": {
            "ts": standby.feedback.timestamp,
            "xmin": standby.feedback.xmin,
            "catalog_xmin": standby.feedback.catalog_xmin,
        },
    }})
}

/// A time in microseconds since 2000-01-01 as RFC 3339 text; null if it is out of
/// the calendar's range.
fn timestamp(since_2000: i64) -> Option<String> {
    let since_1970 = since_2000.checked_add(POSTGRES_EPOCH * 1_000_000)?;
    let timestamp = jiff::Timestamp::from_microsecond(since_1970).ok()?;
    Some(timestamp.strftime("%Y-%m-%dT%H:%M:%S%.f+00:00").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_upstreams_form() {
        let text = timestamp(790_000_000_000_000);
        assert_eq!(text.as_deref(), Some("2025-01-12T12:26:40+00:00"));
        assert_eq!(timestamp(i64::MAX), None);
    }
}
