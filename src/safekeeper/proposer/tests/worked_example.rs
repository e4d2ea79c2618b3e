//! A recorded sync against three real safekeepers, one of which lags: what we send
//! is what was sent, byte for byte, in both versions of the protocol.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::world::{config, endpoints};
use crate::lsn::Lsn;
use crate::pgwire::put_copy_data;
use crate::safekeeper::proposer::{Input, Mode, Output, Proposer, ProposerConfig, Slot, Synced};
use crate::wire::safekeeper::{AcceptorMessage, ProposerMessage, ProtocolVersion};

const RECORDED: &str = include_str!("../../../../tests/fixtures/safekeeper/worked-example.txt");
const END: Lsn = Lsn(0x14E_E168);

/// What either side is to send next, by connection.
type Frames = BTreeMap<usize, VecDeque<Bytes>>;

struct Exchange {
    version: ProtocolVersion,
    now: Instant,
    proposer: Proposer,
    ours: Frames,
    theirs: Frames,
    outputs: Vec<Output>,
}

/// The copy frames that one side sends in one version.
fn frames(version: ProtocolVersion, sender: &str) -> Frames {
    let mut frames = Frames::new();
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split(' ').collect();
        let wanted = words[0] == format!("v{}", version.number()) && words[2] == sender;
        if wanted && words[3].starts_with("64") {
            let frame = hex::decode(words[3]).unwrap().into();
            let connection = frames.entry(words[1].parse().unwrap()).or_default();
            connection.push_back(frame);
        }
    }
    frames
}

impl Exchange {
    fn start(version: ProtocolVersion) -> Self {
        let now = Instant::now();
        let config = ProposerConfig {
            pg_version: 170_005,
            ..config(Mode::Sync)
        };
        let mut exchange = Self {
            version,
            now,
            proposer: Proposer::new(config, endpoints(3, None), now, 1).unwrap(),
            ours: frames(version, "client"),
            theirs: frames(version, "safekeeper"),
            outputs: Vec::new(),
        };
        exchange.drain();
        exchange
    }

    fn drain(&mut self) {
        while let Some(output) = self.proposer.poll_output() {
            if let Output::Connect { slot, greeting, .. } = &output {
                let message = ProposerMessage::Greeting((**greeting).clone());
                self.check(slot.0 + 1, &message);
            }
            self.outputs.push(output);
        }
    }

    fn check(&mut self, connection: usize, message: &ProposerMessage) {
        let mut frame = BytesMut::new();
        put_copy_data(&mut frame, |out| message.encode(self.version, out));
        let recorded = self.ours.get_mut(&connection).unwrap().pop_front().unwrap();
        assert_eq!(hex::encode(frame), hex::encode(recorded), "{message:?}");
    }

    /// We send the next message on each of these connections.
    fn send(&mut self, connections: &[usize]) {
        for connection in connections {
            let slot = Slot(connection - 1);
            let message = self.proposer.poll_message(self.now, slot).unwrap();
            self.check(*connection, &message);
        }
    }

    /// The next answer arrives on each of these connections.
    fn receive(&mut self, connections: &[usize]) {
        for connection in connections {
            let frames = self.theirs.get_mut(connection).unwrap();
            let body = frames.pop_front().unwrap().slice(5..);
            let message = AcceptorMessage::decode(self.version, body).unwrap();
            let input = Input::Received(Slot(connection - 1), message);
            self.proposer.handle(self.now, input);
            self.drain();
        }
    }
}

fn replay(version: ProtocolVersion) {
    let mut exchange = Exchange::start(version);
    let all = [1, 2, 3];
    exchange.receive(&all);
    exchange.send(&all);
    exchange.receive(&all);
    exchange.send(&all);
    exchange.send(&[1, 2]);

    let fetch = exchange.outputs.last().unwrap();
    let Output::Fetch { from, until, .. } = fetch else {
        panic!("{fetch:?} instead of reading back WAL for the laggard");
    };
    assert_eq!((*from, *until), (Lsn(0x14E_E150), END));
    let wal = "180000000000000018e14e010000000020000000091236be";
    let input = Input::Fetched {
        slot: Slot(2),
        start_lsn: *from,
        wal: hex::decode(wal).unwrap().into(),
    };
    exchange.proposer.handle(exchange.now, input);
    exchange.send(&[3]);

    exchange.receive(&[1, 2]);
    exchange.send(&all);
    exchange.receive(&[3]);
    exchange.receive(&all);
    let synced = Synced {
        commit_lsn: END,
        term: 5,
        by_votes_alone: false,
    };
    assert_eq!(exchange.outputs.last(), Some(&Output::Finished(Ok(synced))));
    exchange.send(&all);
    assert!(exchange.ours.values().all(VecDeque::is_empty));
}

#[test]
fn a_recorded_sync_in_version_3_is_reproduced() {
    replay(ProtocolVersion::V3);
}

#[test]
fn a_recorded_sync_in_version_2_is_reproduced() {
    replay(ProtocolVersion::V2);
}
