//! Decides when this process is elected to write a timeline, where its log begins,
//! which WAL goes to which safekeeper, and what is committed.
//!
//! Pure: no sockets, no clock, no randomness but a seed. The rooms' shells
//! ([`sync`](super::sync), [`relay`](super::relay)) hand in what arrives and what
//! time it is, and carry out what comes out.
//!
//! ```text
//!             majority has greeted         majority has voted
//! Collecting ─────────────────────▶ Campaign ───────────────▶ Leading ──▶ Finished
//!      ▲                               │                         │   fenced, or in sync
//!      └────────── Pausing ◀───────────┴─────────────────────────┘
//!             another proposer, or another membership
//! ```
//!
//! # Protocol
//!
//! The log is Raft's with storage split from the leader
//! (`safekeeper/spec/ProposerAcceptorStatic.tla`, `pgxn/neon/walproposer.c`):
//! a majority's votes for `max(term) + 1` make the log of the highest
//! `(last_log_term, flush_lsn)` among them the log; each safekeeper is told where to
//! cut its own (`Elected`) and is sent the rest; what a majority has flushed beyond
//! the term's start is committed.
//!
//! # Guarantees
//!
//! 1. Nothing below the commit LSN of any earlier proposer is lost: the start of the
//!    term is never below it (`a_longer_log_of_an_older_term_loses`).
//! 2. Nothing is committed that a majority has not flushed in this term
//!    (`wal_of_an_older_term_is_not_committed_by_itself`).
//! 3. After a reply with a newer term nothing is sent and nothing committed
//!    (`a_newer_term_ends_a_stream_at_once`).
//! 4. Memory is bounded by the window and by one chunk per safekeeper that lags.
//!
//! # Assumptions
//!
//! `now` does not go back. After [`Output::Disconnect`] no input of that connection
//! is handed in any more; after [`Output::StopFetch`] none of that fetch.

mod config;
mod election;
mod loss;
mod peer;
mod quorum;
mod random;
mod streaming;
mod timers;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

pub use config::{
    ConfigError, Endpoints, MAX_SAFEKEEPERS, Mode, ProposerConfig, SUPPORTED_PG_MAJORS, Timing,
};
pub use loss::{Failure, Loss, LossKind};
pub use peer::{PeerState, PeerStatus};

use peer::{Link, Peer};
use quorum::{Electorate, Voter};
use random::SplitMix;
use window::WalWindow;

use crate::backoff::Backoff;
use crate::lsn::Lsn;
use crate::wire::safekeeper::{
    AcceptorMessage, Membership, ProposerGreeting, ProposerMessage, TermHistory,
};

/// The place of a safekeeper in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub usize);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A message arrived.
    Received(Slot, AcceptorMessage),
    /// The connection, or the attempt to make one, is gone.
    Lost(Slot, Loss),
    /// WAL that the local postgres wrote.
    Wal {
        /// Its first position.
        start_lsn: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// WAL that was read for a safekeeper.
    Fetched {
        /// For whom.
        slot: Slot,
        /// Its first position.
        start_lsn: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// WAL for a safekeeper could not be read on.
    FetchFailed {
        /// For whom.
        slot: Slot,
        /// Why.
        message: String,
    },
    /// The moment of [`Proposer::deadline`] has come.
    Deadline,
    /// The spec names other safekeepers.
    Endpoints(Endpoints),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to a safekeeper, start pushing WAL and send this greeting.
    Connect {
        /// To whom.
        slot: Slot,
        /// Its endpoint.
        endpoint: String,
        /// The first message.
        greeting: Box<ProposerGreeting>,
        /// Whether it may create the timeline.
        may_create_timeline: bool,
    },
    /// Close the connection to a safekeeper, or give up making it.
    Disconnect(Slot),
    /// Read WAL for a safekeeper, and hand it in piece by piece as long as
    /// [`Proposer::wants_fetched`] says so.
    Fetch {
        /// For whom.
        slot: Slot,
        /// From where.
        from: Lsn,
        /// Up to where; nothing beyond is to be handed in.
        until: Lsn,
        /// Out of which log.
        source: Source,
    },
    /// Stop reading WAL for a safekeeper.
    StopFetch(Slot),
    /// The election is won: the log of this term begins here.
    Elected {
        /// The term.
        term: u64,
        /// Where its WAL begins. The local postgres is to be read from here.
        term_start_lsn: Lsn,
    },
    /// Nothing is left to do.
    Finished(Result<Synced, Failure>),
}

/// Where WAL for a lagging safekeeper is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Another safekeeper, as long as it is in this term.
    Donor {
        /// Its endpoint.
        endpoint: String,
        /// The term to name in `START_REPLICATION`.
        term: u64,
    },
    /// The local postgres.
    Local,
}

/// How a sync ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    /// Everything below is durable on a majority, and no older proposer can still
    /// commit above it. `0/0`: the timeline has no WAL yet.
    pub commit_lsn: Lsn,
    /// The term that was won.
    pub term: u64,
    /// Whether the votes alone showed that all safekeepers have the whole log.
    pub by_votes_alone: bool,
}

enum Phase {
    /// Waiting for a majority's greetings.
    Collecting,
    /// Waiting for a majority's votes.
    Campaign { term: u64 },
    /// Elected.
    Leading(Leader),
    /// An election was lost; the next begins then.
    Pausing { until: Instant },
    /// Nothing is left to do.
    Finished,
}

/// What an election has settled.
struct Leader {
    term: u64,
    term_start_lsn: Lsn,
    history: TermHistory,
    /// The voter whose log became the log.
    donor: Slot,
    /// Since when a majority has persisted the commit of the term's start.
    in_sync_since: Option<Instant>,
}

/// The proposer of one timeline.
pub struct Proposer {
    config: ProposerConfig,
    /// Generation that the spec names.
    spec_generation: Option<u32>,
    peers: Vec<Peer>,
    membership: Membership,
    electorate: Electorate,
    phase: Phase,
    /// The highest term that was ever asked for.
    asked_term: u64,
    /// The terms that were won, one for each election: any of them may be the last
    /// that has left a trace in a log.
    won_terms: Vec<u64>,
    commit_lsn: Lsn,
    truncate_lsn: Lsn,
    window: WalWindow,
    lost_elections: Backoff,
    random: SplitMix,
    outputs: VecDeque<Output>,
}

impl Proposer {
    /// A proposer that connects to all safekeepers at once. `seed` makes its waits
    /// differ from those of another one.
    ///
    /// # Errors
    ///
    /// A configuration that no safekeeper should see.
    pub fn new(
        config: ProposerConfig,
        list: Endpoints,
        now: Instant,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        config::validate(&config, &list)?;
        let start = match config.mode {
            Mode::Sync => Lsn::INVALID,
            Mode::Stream { start_lsn } => start_lsn,
        };
        let timing = config.timing;
        let mut proposer = Self {
            spec_generation: None,
            peers: Vec::new(),
            membership: Membership::default(),
            electorate: Electorate::everybody(0),
            phase: Phase::Collecting,
            asked_term: 0,
            won_terms: Vec::new(),
            commit_lsn: Lsn::INVALID,
            truncate_lsn: Lsn::INVALID,
            window: WalWindow::empty_at(start),
            lost_elections: Backoff::new(timing.election_first, timing.election_cap),
            random: SplitMix::new(seed),
            outputs: VecDeque::new(),
            config,
        };
        proposer.use_endpoints(list, now);
        proposer.connect_due(now);
        Ok(proposer)
    }

    /// Takes in what happened. Afterwards drain [`poll_output`](Self::poll_output),
    /// then [`poll_message`](Self::poll_message) of each connection with room.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if matches!(self.phase, Phase::Finished) {
            return;
        }
        match input {
            Input::Received(slot, message) => self.receive(now, slot, message),
            Input::Lost(slot, loss) => self.lose(now, slot, loss),
            Input::Wal { start_lsn, wal } => self.append_local(now, start_lsn, wal),
            Input::Fetched {
                slot,
                start_lsn,
                wal,
            } => self.take_fetched(now, slot, start_lsn, wal),
            Input::FetchFailed { slot, message } => self.fail_fetch(now, slot, &message),
            Input::Deadline => self.expire(now),
            Input::Endpoints(list) => self.change_endpoints(now, list),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// WAL that the local postgres is to be read from: the end of what was taken in.
    pub fn wal_position(&self) -> Lsn {
        self.window.end()
    }

    /// End of the WAL that is durable on a majority, in this or an earlier term.
    /// `0/0` until the first election is won and its start is on a majority.
    pub fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// The term, once it is won.
    pub fn leading_term(&self) -> Option<u64> {
        match &self.phase {
            Phase::Leading(leader) => Some(leader.term),
            _ => None,
        }
    }

    /// Whether an election was won and its start is on a majority.
    pub fn has_quorum(&self) -> bool {
        match &self.phase {
            Phase::Leading(leader) => self.commit_lsn >= leader.term_start_lsn,
            _ => false,
        }
    }

    /// How many safekeepers are in the list.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// How many of them have been greeted.
    pub fn connected_count(&self) -> usize {
        self.peers.iter().filter(|peer| peer.is_connected()).count()
    }

    /// What is known of each safekeeper.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        self.peers.iter().map(|peer| PeerStatus {
            endpoint: peer.endpoint.clone(),
            node_id: peer.node_id,
            state: peer.state(),
            flush_lsn: peer.acked.flush_lsn,
            last_loss: peer.last_loss.clone(),
        })
    }

    fn receive(&mut self, now: Instant, slot: Slot, message: AcceptorMessage) {
        let Some(peer) = self.peers.get_mut(slot.0) else {
            return;
        };
        peer.silent_since = None;
        peer.heard_at = now;
        match (message, &peer.link) {
            (AcceptorMessage::Greeting(greeting), Link::Connecting) => {
                self.take_greeting(now, slot, greeting);
            }
            (AcceptorMessage::VoteResponse(response), Link::AwaitingVote) => {
                self.take_vote(now, slot, response);
            }
            (AcceptorMessage::AppendResponse(response), Link::Active(_)) => {
                self.take_append_response(now, slot, &response);
            }
            (message, _) => {
                let name = match message {
                    AcceptorMessage::Greeting(_) => "a greeting",
                    AcceptorMessage::VoteResponse(_) => "a vote",
                    AcceptorMessage::AppendResponse(_) => "an append response",
                };
                let text = format!("sent {name} that was not asked for");
                self.drop_peer(now, slot, Loss::new(LossKind::Protocol, text));
            }
        }
    }

    /// Takes note that a connection is gone.
    fn lose(&mut self, now: Instant, slot: Slot, loss: Loss) {
        let random = self.random.next_fraction();
        let Some(peer) = self.peers.get_mut(slot.0) else {
            return;
        };
        if let Link::Active(stream) = &peer.link
            && matches!(stream.fetch, peer::Fetch::Running { .. })
        {
            self.outputs.push_back(Output::StopFetch(slot));
        }
        let retry_at = now + peer.backoff.next(random);
        peer.link = Link::Offline { retry_at };
        peer.outbox.clear();
        peer.silent_since = None;
        peer.last_loss = Some(loss);
        self.give_up_if_refused();
        self.finish_if_in_sync(now);
    }

    /// Closes a connection and takes note of it.
    fn drop_peer(&mut self, now: Instant, slot: Slot, loss: Loss) {
        self.outputs.push_back(Output::Disconnect(slot));
        self.lose(now, slot, loss);
    }

    /// Ends at once when a majority refuses for one reason that will not pass. Once
    /// elected, refusals are waited out: what was written must not be given up.
    fn give_up_if_refused(&mut self) {
        if !self.won_terms.is_empty() {
            return;
        }
        let refusal = |peer: &Peer| {
            let loss = peer.last_loss.as_ref()?;
            (!peer.is_connected() && loss.kind.is_refusal()).then_some(loss.clone())
        };
        let refusals: Vec<Loss> = self.peers.iter().filter_map(refusal).collect();
        let same = |loss: &&Loss| {
            let count = refusals.iter().filter(|other| other.kind == loss.kind);
            count.count() >= quorum::majority(self.peers.len())
        };
        if let Some(loss) = refusals.iter().find(same).cloned() {
            self.finish(Err(Failure::Refused {
                kind: loss.kind,
                message: loss.message,
            }));
        }
    }

    /// Ends. In failure nothing is sent any more, not even what was to be sent.
    fn finish(&mut self, result: Result<Synced, Failure>) {
        if matches!(self.phase, Phase::Finished) {
            return;
        }
        if result.is_err() {
            for peer in &mut self.peers {
                peer.outbox.clear();
            }
        }
        self.phase = Phase::Finished;
        self.outputs.push_back(Output::Finished(result));
    }

    /// The safekeeper that a voter is, if it has answered.
    fn peer_of(&self, voter: Voter) -> Option<&Peer> {
        self.slot_of(voter).and_then(|slot| self.peers.get(slot.0))
    }

    fn slot_of(&self, voter: Voter) -> Option<Slot> {
        match voter {
            Voter::Slot(index) => Some(Slot(index)),
            Voter::Node(id) => {
                let place = self.peers.iter().position(|peer| peer.node_id == Some(id));
                place.map(Slot)
            }
        }
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.peers.len()).map(Slot)
    }
}

/// The next message to send to a safekeeper.
impl Proposer {
    /// The next message for a safekeeper, if there is one. Call it only while the
    /// connection has room: messages of a slow one then wait here, where they cost
    /// no memory.
    pub fn poll_message(&mut self, now: Instant, slot: Slot) -> Option<ProposerMessage> {
        let peer = self.peers.get_mut(slot.0)?;
        let message = match peer.outbox.pop_front() {
            Some(message) => message,
            None => self.next_append(now, slot)?,
        };
        let peer = self.peers.get_mut(slot.0)?;
        // `Elected` has no answer; the heartbeat behind it has.
        if !matches!(message, ProposerMessage::Elected(_)) {
            peer.silent_since.get_or_insert(now);
        }
        Some(message)
    }
}
