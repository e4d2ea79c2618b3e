//! A safekeeper: the acceptor, and a disk that forgets what was not synced.

use glowplug::lsn::Lsn;
use glowplug::storage::acceptor::{Acceptor, ControlState, Effect, ServerInfo};
use glowplug::wire::safekeeper::{AcceptorMessage, HotStandbyFeedback, ProposerMessage};
use glowplug::wire::wal_record::RecordDecoder;

/// What survives a crash.
struct Disk {
    control: ControlState,
    start: Lsn,
    wal: Vec<u8>,
    synced: usize,
}

pub(crate) struct Node {
    disk: Disk,
    id: u64,
    /// `None` while it is down.
    pub(crate) acceptor: Option<Acceptor>,
    /// Connections that wait for the answer to an append.
    pub(crate) unanswered: Vec<u64>,
}

impl Node {
    pub(crate) fn new(id: u64, start: Lsn) -> Self {
        let server = ServerInfo {
            pg_version: 150_018,
            system_id: 1,
            wal_segment_size: 16 << 20,
        };
        let control = ControlState::explicit(
            super::tenant(),
            super::timeline(),
            glowplug::wire::safekeeper::Membership::default(),
            server,
            start,
        );
        let disk = Disk {
            control: control.unwrap(),
            start,
            wal: Vec::new(),
            synced: 0,
        };
        let mut node = Self {
            disk,
            id,
            acceptor: None,
            unanswered: Vec::new(),
        };
        node.start();
        node
    }

    pub(crate) fn start(&mut self) {
        let disk = &self.disk;
        let flush_lsn = if disk.wal.is_empty() {
            Lsn::INVALID
        } else {
            disk.find_end()
        };
        self.acceptor = Some(Acceptor::load(self.id, disk.control.clone(), flush_lsn));
    }

    /// Of what was not synced, this fraction happens to be there afterwards.
    pub(crate) fn crash(&mut self, kept: f64) {
        let unsynced = self.disk.wal.len() - self.disk.synced.min(self.disk.wal.len());
        let kept = (unsynced as f64 * kept) as usize;
        self.disk.wal.truncate(self.disk.synced + kept);
        self.disk.synced = self.disk.wal.len();
        self.acceptor = None;
        self.unanswered.clear();
    }

    /// Takes a message. The answers, and whether the connection lives on.
    pub(crate) fn handle(&mut self, message: ProposerMessage) -> (Vec<AcceptorMessage>, bool) {
        let Some(acceptor) = &mut self.acceptor else {
            return (Vec::new(), false);
        };
        let mut effects = Vec::new();
        let accepted = acceptor.handle(message, &mut effects).is_ok();
        (self.disk.perform(effects), accepted)
    }

    /// Syncs, and answers the appends so far.
    pub(crate) fn answer(&mut self) -> Option<AcceptorMessage> {
        let acceptor = self.acceptor.as_mut()?;
        let mut effects = Vec::new();
        acceptor.sync(&mut effects);
        self.disk.perform(effects);
        let response = acceptor.append_response(HotStandbyFeedback::default());
        Some(AcceptorMessage::AppendResponse(response))
    }

    /// WAL up to `until`, if it is there in this term.
    pub(crate) fn read(&self, from: Lsn, until: Lsn, term: u64) -> Option<Vec<u8>> {
        let acceptor = self.acceptor.as_ref()?;
        if acceptor.term() != term || acceptor.flush_lsn() < until {
            return None;
        }
        Some(self.copy(from, until))
    }

    /// WAL up to `until`. What was cut off at a rounded position reads as zeros.
    pub(crate) fn copy(&self, from: Lsn, until: Lsn) -> Vec<u8> {
        let at = |lsn: Lsn| lsn.bytes_since(self.disk.start) as usize;
        let mut wal = self.disk.wal.clone();
        wal.resize(wal.len().max(at(until)), 0);
        wal[at(from)..at(until)].to_vec()
    }
}

impl Disk {
    fn perform(&mut self, effects: Vec<Effect>) -> Vec<AcceptorMessage> {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist(control) => self.control = *control,
                Effect::InitializeWal { start } => assert_eq!(start, self.start),
                Effect::TruncateWal { end } => {
                    self.wal.resize(end.bytes_since(self.start) as usize, 0);
                    self.synced = self.wal.len();
                }
                Effect::WriteWal { at, wal } => {
                    assert_eq!(at.bytes_since(self.start) as usize, self.wal.len());
                    self.wal.extend_from_slice(&wal);
                }
                Effect::SyncWal => self.synced = self.wal.len(),
                Effect::Reply(message) => replies.push(message),
            }
        }
        replies
    }

    fn find_end(&self) -> Lsn {
        let from = self.control.scan_from();
        let mut decoder = RecordDecoder::new(from, 15).unwrap();
        let mut input = &self.wal[from.bytes_since(self.start) as usize..];
        let mut end = from;
        while let Ok(Some(record)) = decoder.next(&mut input) {
            end = record.next;
        }
        end
    }
}
