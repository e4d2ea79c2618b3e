//! Reads a transcript: one JSON object a line, one protocol message each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use flate2::read::GzDecoder;
use glowplug::lsn::Lsn;
use glowplug::wire::safekeeper::{AppendRequest, ProposerMessage, ProtocolVersion};
use serde_json::Value;

/// Where the recorded WAL starts.
pub(crate) const START: Lsn = Lsn(0x151_1AE0);

/// The recorded WAL, from [`START`] on.
pub(crate) static WAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    unzip(include_bytes!(
        "../fixtures/safekeeper/pg15-wal-0-1511AE0.bin.gz"
    ))
});

/// Recorded WAL between two positions.
pub(crate) fn wal(from: Lsn, to: Lsn) -> &'static [u8] {
    &WAL[(from.0 - START.0) as usize..(to.0 - START.0) as usize]
}

/// What happened, in order.
pub(crate) struct Transcript {
    pub(crate) events: Vec<Event>,
}

/// A message from the safekeeper: its bytes, cut if WAL was left out of the record.
pub(crate) struct Recorded {
    pub(crate) bytes: Vec<u8>,
    /// Full length, if the bytes were cut.
    pub(crate) full_length: Option<usize>,
    pub(crate) note: String,
}

/// One event. Connections are numbered.
pub(crate) enum Event {
    Connect {
        connection: u64,
        node: u64,
    },
    Close {
        connection: u64,
    },
    HalfClose {
        connection: u64,
    },
    Send {
        connection: u64,
        bytes: Vec<u8>,
    },
    Receive {
        connection: u64,
        message: Recorded,
    },
    /// The safekeeper closed the connection.
    End {
        connection: u64,
    },
    /// The timeline has WAL of term 1, from before the record began.
    Prepare {
        node: u64,
        timeline: String,
        write_lsn: Lsn,
        flush_lsn: Lsn,
        commit_lsn: Lsn,
    },
    /// The timeline was made by HTTP before the record began.
    Create {
        node: u64,
        timeline: String,
    },
    /// An `Elected` went out, which has no answer: wait for what it does.
    AwaitHistory {
        node: u64,
        timeline: String,
        history: Value,
    },
    /// A reader's report went out, which has no answer.
    AwaitReport {
        node: u64,
        timeline: String,
        report: String,
    },
    Status {
        node: u64,
        timeline: String,
        expected: Value,
    },
    /// Safekeeper 1 was ended and started again.
    Restart,
    Http {
        node: u64,
        method: String,
        path: String,
        body: String,
        expected: (u16, Value),
    },
}

struct Line {
    connection: u64,
    sent: bool,
    bytes: Vec<u8>,
    full_length: Option<usize>,
    wal_at: Option<usize>,
    note: String,
}

impl Line {
    fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Self {
            connection: number("conn").unwrap(),
            sent: value["dir"] == "C>S",
            bytes: hex::decode(value["hex"].as_str().unwrap()).unwrap(),
            full_length: number("len").map(|n| n as usize),
            wal_at: number("wal_at").map(|n| n as usize),
            note: value["note"].as_str().unwrap().to_owned(),
        }
    }

    /// The bytes with the WAL that was left out put back, damaged as the case of
    /// the connection says.
    fn whole(&self, case: &str) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let (Some(length), Some(wal_at)) = (self.full_length, self.wal_at) {
            let from: Lsn = after(&self.note, "begin=").parse().unwrap();
            let count = length - wal_at;
            let mut wal = wal(from, Lsn(from.0 + count as u64)).to_vec();
            if from == DAMAGED_AT {
                damage(&mut wal, case);
            }
            assert_eq!(
                &bytes[wal_at..],
                &wal[..bytes.len() - wal_at],
                "{}",
                self.note
            );
            bytes.truncate(wal_at);
            bytes.extend_from_slice(&wal);
        }
        bytes
    }
}

/// Where the damaged payloads begin.
const DAMAGED_AT: Lsn = Lsn(0x151_2358);

/// Puts back the damage that some payloads had where they were cut.
fn damage(wal: &mut [u8], case: &str) {
    let end = wal.len();
    let (at, flip) = match case {
        c if c.contains("(crc)") => (40, 0x01),
        c if c.contains("page magic") => (end - 100, 0xFF),
        c if c.contains("page address") => (end - 92, 0xFF),
        c if c.contains("contrecord flag") => (end - 98, 0x01),
        c if c.contains("wrong rem_len") => (end - 84, 0x08),
        _ => return,
    };
    wal[at] ^= flip;
}

/// The word behind `key`.
fn after<'a>(text: &'a str, key: &str) -> &'a str {
    let at = text
        .find(key)
        .unwrap_or_else(|| panic!("no {key} in {text}"));
    let rest = &text[at + key.len()..];
    let end = rest.find([' ', '\'', ',', ')']).unwrap_or(rest.len());
    &rest[..end]
}

fn unzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

impl Transcript {
    /// Reads a compressed transcript.
    pub(crate) fn read(name: &'static str, compressed: &[u8]) -> Self {
        let text = String::from_utf8(unzip(compressed)).unwrap();
        let lines: Vec<_> = text.lines().map(Line::parse).collect();
        // From there on the record leaves out how the state came to be, or shows what
        // is not served here.
        let ends = [
            "second timeline,",
            "/exclude",
            "new timeline, pg_version 180000",
        ];
        let is_end = |line: &Line| ends.iter().any(|end| line.note.contains(end));
        let cut = lines.iter().position(is_end);
        let lines = &lines[..cut.unwrap_or(lines.len())];
        let mut reading = Reading {
            name,
            ..Reading::default()
        };
        for (index, line) in lines.iter().enumerate() {
            reading.event(line, &lines[index + 1..]);
        }
        Self {
            events: reading.events,
        }
    }
}

#[derive(Default)]
struct Reading {
    name: &'static str,
    events: Vec<Event>,
    nodes: BTreeMap<u64, u64>,
    timelines: BTreeMap<u64, String>,
    cases: BTreeMap<u64, String>,
    /// Connections that use the extended query protocol, which is not served.
    extended: BTreeSet<u64>,
    /// Where the next append of a connection begins.
    ends: BTreeMap<u64, Lsn>,
    existing: BTreeSet<(u64, String)>,
    last_timeline: String,
    request: Option<(u64, String, String, String)>,
}

impl Reading {
    fn event(&mut self, line: &Line, rest: &[Line]) {
        let connection = line.connection;
        let note = line.note.as_str();
        if note.starts_with("TCP connect to safekeeper ") {
            let node = after(note, "safekeeper ").parse().unwrap();
            self.nodes.insert(connection, node);
            self.cases.insert(connection, note.to_owned());
            return self.events.push(Event::Connect { connection, node });
        }
        if note == "Parse" {
            self.extended.insert(connection);
            self.events.push(Event::Close { connection });
        }
        if self.extended.contains(&connection) {
            return;
        }
        if connection == 0 || note.starts_with('(') || line.bytes.is_empty() {
            return self.remark(line);
        }
        if line.sent {
            return self.sent(line, rest);
        }
        if note.starts_with("AcceptorGreeting")
            && let Some(timeline) = self.timelines.get(&connection)
        {
            let node = self.nodes[&connection];
            self.existing.insert((node, timeline.clone()));
        }
        let superseded = || {
            let next = rest.first();
            next.is_some_and(|next| next.connection == connection && is_append_response(next))
        };
        if is_append_response(line) && !note.contains("flush_lsn=0/0 ") && superseded() {
            return;
        }
        self.events.push(Event::Receive {
            connection,
            message: Recorded {
                bytes: line.bytes.clone(),
                full_length: line.full_length,
                note: note.to_owned(),
            },
        });
    }

    fn sent(&mut self, line: &Line, rest: &[Line]) {
        let connection = line.connection;
        let note = line.note.as_str();
        if note.starts_with("StartupMessage") && note.contains("timeline_id=") {
            let timeline = after(note, "timeline_id=").to_ascii_lowercase();
            self.last_timeline.clone_from(&timeline);
            self.timelines.insert(connection, timeline);
            self.make_existing(connection, rest);
        }
        if note.starts_with("ProposerGreeting")
            && let Some(timeline) = self.timelines.get(&connection)
        {
            let node = self.nodes[&connection];
            self.existing.insert((node, timeline.clone()));
        }
        let bytes = line.whole(&self.cases[&connection]);
        if note.starts_with("AppendRequest") && line.full_length.is_some() {
            self.fill_gap(connection, &bytes, note);
        }
        self.events.push(Event::Send { connection, bytes });
        self.await_unanswered(connection, note, rest);
    }

    /// Waits for the effect of a message without an answer, if somebody else's
    /// message comes next.
    fn await_unanswered(&mut self, connection: u64, note: &str, rest: &[Line]) {
        let next_is_other = rest
            .first()
            .is_some_and(|next| next.connection != connection);
        let (Some(timeline), true) = (self.timelines.get(&connection), next_is_other) else {
            return;
        };
        let (node, timeline) = (self.nodes[&connection], timeline.clone());
        if note.starts_with("ProposerElected") {
            let (_, history) = note.split_once("th=").unwrap();
            let history = history.split_once(']').unwrap().0.trim_matches('[');
            let entries = history.split("), ").map(|entry| {
                let entry = entry.trim_matches(['(', ')']);
                let (term, lsn) = entry.split_once(',').unwrap();
                serde_json::json!([term.parse::<u64>().unwrap(), lsn])
            });
            self.events.push(Event::AwaitHistory {
                node,
                timeline,
                history: entries.collect(),
            });
        } else if note.starts_with("HotStandbyFeedback") {
            self.events.push(Event::AwaitReport {
                node,
                timeline,
                report: format!("\"xmin\":{}", after(note, "xmin=")),
            });
        } else if note.starts_with("PageserverFeedback") {
            self.events.push(Event::AwaitReport {
                node,
                timeline,
                report: "Pageserver".to_owned(),
            });
        }
    }

    /// A run of like appends may have been left out of the record.
    fn fill_gap(&mut self, connection: u64, bytes: &[u8], note: &str) {
        let begin: Lsn = after(note, "begin=").parse().unwrap();
        let end = after(note, "end=").parse().unwrap();
        let expected = self.ends.insert(connection, end);
        let Some(mut at) = expected.filter(|expected| *expected < begin) else {
            return;
        };
        if begin.0 - at.0 < 131_072 {
            return; // a gap on purpose
        }
        let body = Bytes::copy_from_slice(&bytes[5..]);
        let Ok(ProposerMessage::AppendRequest(like)) =
            ProposerMessage::decode(ProtocolVersion::V3, body)
        else {
            panic!("{note}");
        };
        while at < begin {
            let next = Lsn((at.0 + 131_072).min(begin.0));
            let filler = AppendRequest {
                begin_lsn: at,
                wal: Bytes::from_static(wal(at, next)),
                ..like.clone()
            };
            let mut body = BytesMut::new();
            ProposerMessage::AppendRequest(filler).encode(ProtocolVersion::V3, &mut body);
            let mut frame = vec![b'd'];
            frame.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            frame.extend_from_slice(&body);
            self.events.push(Event::Send {
                connection,
                bytes: frame,
            });
            at = next;
        }
    }

    /// Finds out from the answers whether the timeline existed before the record
    /// began, and with which WAL.
    fn make_existing(&mut self, connection: u64, rest: &[Line]) {
        let (node, timeline) = (self.nodes[&connection], self.timelines[&connection].clone());
        if self.existing.contains(&(node, timeline.clone())) {
            return;
        }
        let own: Vec<_> = rest
            .iter()
            .filter(|line| line.connection == connection)
            .collect();
        let answer = |start: &str| {
            let found = own
                .iter()
                .find(|line| !line.sent && line.note.starts_with(start));
            found.map(|line| line.note.as_str())
        };
        let lsn = |note: &str, key: &str| after(note, key).parse::<Lsn>().unwrap();
        let flush_lsn = if let Some(greeting) = answer("AcceptorGreeting") {
            if after(greeting, "term=") != "1" {
                return;
            }
            let Some(vote) = answer("VoteResponse") else {
                return;
            };
            lsn(vote, "flush_lsn=")
        } else if let Some(row) = answer("DataRow ['0/") {
            lsn(row, "['")
        } else if let Some(stream) = answer("XLogData").or(answer("KeepAlive")) {
            lsn(stream, "wal_end=")
        } else {
            return;
        };
        self.existing.insert((node, timeline.clone()));
        if flush_lsn == START {
            return self.events.push(Event::Create { node, timeline });
        }
        self.events.push(Event::Prepare {
            node,
            timeline,
            write_lsn: match (self.name, flush_lsn) {
                ("append-before-elected", _) => Lsn(0x151_2E68),
                // Behind a switch record the rest of the segment is empty.
                (_, Lsn(0x200_0000)) => Lsn(0x16A_8918),
                _ => flush_lsn,
            },
            flush_lsn,
            commit_lsn: match (self.name, node) {
                ("switch-cut", _) | ("sync-recovery-v2" | "sync-recovery-v3", 3) => START,
                _ if self.cases[&connection].contains("uncommitted WAL") => START,
                _ => flush_lsn,
            },
        });
    }

    fn remark(&mut self, line: &Line) {
        let connection = line.connection;
        let note = line.note.as_str();
        let event = if note.starts_with("client closes") {
            Event::Close { connection }
        } else if note.starts_with("shutdown(SHUT_WR)") {
            Event::HalfClose { connection }
        } else if note.starts_with("EOF") || note.starts_with("RST") {
            Event::End { connection }
        } else if let Some(rest) = note.strip_prefix("(HTTP status of safekeeper ") {
            let (node, rest) = rest.split_at(1);
            let (_, json) = rest.split_once(": ").unwrap();
            Event::Status {
                node: node.parse().unwrap(),
                timeline: self.last_timeline.clone(),
                expected: serde_json::from_str(json.trim_end_matches(')')).unwrap(),
            }
        } else if note.contains("ended with SIG") || note == "(safekeeper restarted)" {
            Event::Restart
        } else if let Some(rest) = note.strip_prefix("HTTP to safekeeper ") {
            let request = request(rest);
            if request.1 == "POST" && request.2 == "/v1/tenant/timeline" {
                let body: Value = serde_json::from_str(&request.3).unwrap();
                let timeline = body["timeline_id"].as_str().unwrap().to_owned();
                self.existing.insert((request.0, timeline));
            }
            self.request = Some(request);
            return;
        } else if let Some(rest) = note.strip_prefix("HTTP ")
            && let Some((node, method, path, body)) = self.request.take()
        {
            let (status, answer) = rest.split_once(' ').unwrap();
            let expected = serde_json::from_str(answer).unwrap_or(Value::Null);
            Event::Http {
                node,
                method,
                path,
                body,
                expected: (status.parse().unwrap(), expected),
            }
        } else {
            return;
        };
        self.events.push(event);
    }
}

fn is_append_response(line: &Line) -> bool {
    !line.sent && line.note.starts_with("AppendResponse")
}

/// `1: PUT /v1/… body {…} (remark)`
fn request(text: &str) -> (u64, String, String, String) {
    let (node, rest) = text.split_once(": ").unwrap();
    let (method, rest) = rest.split_once(' ').unwrap();
    let (path, body) = rest.split_once(" body ").unwrap_or((rest, ""));
    let path = path.split_once(" (").map_or(path, |(path, _)| path);
    let body = match body.rfind('}') {
        Some(end) => &body[..=end],
        None => body,
    };
    (
        node.parse().unwrap(),
        method.to_owned(),
        path.to_owned(),
        body.to_owned(),
    )
}
