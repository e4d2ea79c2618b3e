//! The answers to probes as a table for people and as JSON for programs. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::id::{ShardIndex, TenantId, TimelineId};
use crate::pageserver::ShardProbe;

/// What to tell.
pub(super) struct Report<'a> {
    pub(super) tenant_id: TenantId,
    pub(super) timeline_id: TimelineId,
    pub(super) shards: &'a [ShardProbe],
    /// What the storage controller says, where it was asked.
    pub(super) moves: Option<&'a str>,
}

/// The document of `--output json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    serving: bool,
    storage_controller: Option<&'a str>,
    shards: Vec<Row<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    shard: ShardIndex,
    node_id: Option<u64>,
    pageserver: &'a str,
    serving: bool,
    answer: &'static str,
    finding: String,
    advice: Option<&'static str>,
    latency_ms: f64,
}

const COLUMNS: [&str; 5] = ["SHARD", "PAGESERVER", "ANSWER", "LATENCY", "ADVICE"];

impl Report<'_> {
    /// Columns that align; the last one is as wide as its text.
    pub(super) fn table(&self) -> String {
        let rows: Vec<[String; 5]> = self.shards.iter().map(cells).collect();
        let mut widths = COLUMNS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in std::iter::once(COLUMNS.map(str::to_owned)).chain(rows) {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(&row) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if let Some(moves) = self.moves {
            let _ = writeln!(text, "\n{moves}");
        }
        text
    }

    /// The same for programs.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let document = Document {
            tenant_id: self.tenant_id,
            timeline_id: self.timeline_id,
            serving: self.shards.iter().all(ShardProbe::is_serving),
            storage_controller: self.moves,
            shards: self.shards.iter().map(row).collect(),
        };
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }
}

fn cells(probe: &ShardProbe) -> [String; 5] {
    let advice = match probe.advice() {
        Some(advice) => format!("{}: {advice}", probe.finding()),
        None => String::new(),
    };
    [
        probe.shard.to_string(),
        probe.pageserver.clone(),
        probe.reason().to_owned(),
        format!("{:.1} ms", milliseconds(probe)),
        advice,
    ]
}

fn row(probe: &ShardProbe) -> Row<'_> {
    Row {
        shard: probe.shard,
        node_id: probe.node_id,
        pageserver: &probe.pageserver,
        serving: probe.is_serving(),
        answer: probe.reason(),
        finding: probe.finding(),
        advice: probe.advice(),
        latency_ms: milliseconds(probe),
    }
}

/// With one decimal: what comes behind is noise.
fn milliseconds(probe: &ShardProbe) -> f64 {
    (probe.took.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pageserver::ProbeOutcome;

    fn probes() -> [ShardProbe; 2] {
        let probe = |number, pageserver: &str, micros, answer| ShardProbe {
            shard: ShardIndex { number, count: 2 },
            node_id: Some(u64::from(number) + 1),
            pageserver: pageserver.to_owned(),
            took: Duration::from_micros(micros),
            answer: Ok(answer),
        };
        let latency = Duration::from_micros(2345);
        [
            probe(0, "ps-0:6400", 2345, ProbeOutcome::Serving { latency }),
            probe(1, "ps-one.neon:6400", 123_456, ProbeOutcome::Misrouted),
        ]
    }

    fn report(shards: &[ShardProbe]) -> Report<'_> {
        Report {
            tenant_id: TenantId([0xa1; 16]),
            timeline_id: TimelineId([0xb1; 16]),
            shards,
            moves: Some("the storage controller: shard 0102 moved from ps-1:6400 to ps-2:6400"),
        }
    }

    #[test]
    fn columns_align() {
        insta::assert_snapshot!(report(&probes()).table(), @r"
        SHARD  PAGESERVER        ANSWER     LATENCY   ADVICE
        0002   ps-0:6400         Serving    2.3 ms
        0102   ps-one.neon:6400  Misrouted  123.5 ms  does not have the shard, or not the timeline: the shard has moved: name the storage controller in the spec, which knows where to, or correct the shard's address

        the storage controller: shard 0102 moved from ps-1:6400 to ps-2:6400
        ");
    }

    #[test]
    fn programs_get_the_same() {
        insta::assert_snapshot!(report(&probes()[..1]).json().unwrap(), @r#"
        {
          "tenantId": "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
          "timelineId": "b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1",
          "serving": true,
          "storageController": "the storage controller: shard 0102 moved from ps-1:6400 to ps-2:6400",
          "shards": [
            {
              "shard": "0002",
              "nodeId": 1,
              "pageserver": "ps-0:6400",
              "serving": true,
              "answer": "Serving",
              "finding": "serves the shard",
              "advice": null,
              "latencyMs": 2.3
            }
          ]
        }
        "#);
    }
}
