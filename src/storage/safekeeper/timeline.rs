//! Owns one timeline: its acceptor and its files belong to one task.
//!
//! The task takes all requests that have arrived, lets the acceptor decide on each,
//! performs the effects on disk at once, with one sync for all of them, and only
//! then answers. A slow disk thus makes the batches larger instead of the queue
//! longer.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};

use super::TimelineKey;
use super::faults::FaultView;
use super::streams::Streams;
use crate::error::chain;
use crate::lsn::{Lsn, WAL_SEGMENT_SIZE};
use crate::storage::acceptor::{Acceptor, ControlState, Effect, Refusal};
use crate::storage::wal_store::{self, Opened, WalReader, WalStore};
use crate::wire::safekeeper::{
    AcceptorMessage, AppendResponse, Membership, PageserverFeedback, ProposerMessage, VoteResponse,
};

/// Requests that may wait, and that are taken at once. With appends of 128 KiB each
/// this bounds the memory of a timeline to 16 MiB.
const QUEUE: usize = 64;

/// Replies that may wait for one connection.
pub(super) const REPLY_QUEUE: usize = 256;

/// What a timeline is like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineStatus {
    /// The acceptor's state, with the commit LSN and horizon in memory.
    pub control: ControlState,
    /// End of the last whole record that is durable; 0 if there is no WAL.
    pub flush_lsn: Lsn,
    /// End of the bytes received.
    pub write_lsn: Lsn,
    /// The commit LSN that a restart would find.
    pub persisted_commit_lsn: Lsn,
    /// Term of the last WAL.
    pub last_log_term: u64,
}

impl TimelineStatus {
    fn of(acceptor: &Acceptor) -> Self {
        Self {
            control: acceptor.control().clone(),
            flush_lsn: acceptor.stored_flush_lsn(),
            write_lsn: acceptor.write_lsn(),
            persisted_commit_lsn: acceptor.persisted_commit_lsn(),
            last_log_term: acceptor.last_log_term(),
        }
    }
}

/// What goes to a proposer's connection.
#[derive(Debug)]
pub(super) enum Reply {
    Message(AcceptorMessage),
    /// The message was refused with this text; the connection ends.
    Refused(String),
}

/// A proposer's connection, as the timeline sees it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    id: u64,
    replies: mpsc::Sender<Reply>,
    /// After a refusal nothing that was sent behind it counts.
    refused: Arc<AtomicBool>,
}

impl Client {
    pub(super) fn new(id: u64, replies: mpsc::Sender<Reply>) -> Self {
        Self {
            id,
            replies,
            refused: Arc::default(),
        }
    }
}

/// What a membership switch has led to.
#[derive(Debug, Clone)]
pub(super) struct MembershipSwitch {
    pub(super) before: Membership,
    pub(super) status: TimelineStatus,
}

/// Requests to a timeline's task.
pub(super) enum Request {
    Message(Client, Box<ProposerMessage>),
    Feedback(PageserverFeedback),
    SwitchMembership(
        Membership,
        oneshot::Sender<Result<MembershipSwitch, Refusal>>,
    ),
    /// Answers with the term before and now.
    BumpTerm(Option<u64>, oneshot::Sender<(u64, u64)>),
    Checkpoint(oneshot::Sender<()>),
}

/// The way to a timeline's task.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    pub(super) key: TimelineKey,
    pub(super) streams: Streams,
    /// Cancelled when the timeline goes away: its connections end.
    pub(super) gone: CancellationToken,
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<TimelineStatus>,
    dir: PathBuf,
}

/// The timeline's task has ended.
#[derive(Debug)]
pub(super) struct Gone;

impl Timeline {
    /// Whether the task still runs.
    pub(super) fn is_alive(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Waits for a place in the queue. Cancel safe: then nothing was sent.
    pub(super) async fn send(&self, request: Request) -> Result<(), Gone> {
        self.requests.send(request).await.map_err(|_| Gone)
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        self.send(request(answer)).await?;
        answered.await.map_err(|_| Gone)
    }

    /// The latest status.
    pub(super) fn status(&self) -> TimelineStatus {
        self.status.borrow().clone()
    }

    /// The status as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<TimelineStatus> {
        self.status.clone()
    }

    /// Reads WAL.
    pub(super) fn reader(&self) -> WalReader {
        WalReader::new(&self.dir)
    }
}

/// What the tasks of all timelines share.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) node_id: u64,
    pub(super) faults: FaultView,
    /// How often the commit LSN and horizon are persisted.
    pub(super) checkpoint_interval: Duration,
    /// Set before the cancellation if what no sync has covered is to be lost.
    pub(super) crashed: Arc<AtomicBool>,
    /// Held as long as any timeline may be written.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) lock: Arc<File>,
}

/// Starts the task of an opened timeline; it ends when `cancel` is cancelled, or
/// when the disk fails.
pub(super) fn start(
    key: TimelineKey,
    dir: &Path,
    opened: Opened,
    surroundings: Surroundings,
    cancel: CancellationToken,
) -> (Timeline, impl Future<Output = ()> + use<>) {
    let acceptor = Acceptor::load(surroundings.node_id, opened.control, opened.flush_lsn);
    let (requests, queue) = mpsc::channel(QUEUE);
    let (publish, status) = watch::channel(TimelineStatus::of(&acceptor));
    let timeline = Timeline {
        key,
        streams: Streams::default(),
        gone: cancel.clone(),
        requests,
        status,
        dir: dir.to_owned(),
    };
    let task = Task {
        acceptor,
        store: Arc::new(Mutex::new(opened.store)),
        streams: timeline.streams.clone(),
        publish,
        last_responses: BTreeMap::new(),
        surroundings,
        cancel,
    };
    let span = info_span!("timeline", tenant_id = %key.tenant_id, timeline_id = %key.timeline_id);
    (timeline, task.run(queue).instrument(span))
}

struct Task {
    acceptor: Acceptor,
    /// Locked only by one blocking operation at a time.
    store: Arc<Mutex<WalStore>>,
    streams: Streams,
    publish: watch::Sender<TimelineStatus>,
    /// What each connected proposer was told last: repeated with a pageserver's
    /// feedback.
    last_responses: BTreeMap<u64, (Client, AppendResponse)>,
    surroundings: Surroundings,
    cancel: CancellationToken,
}

/// What a batch of requests leads to.
#[derive(Default)]
struct Work {
    effects: Vec<Effect>,
    replies: Vec<(Client, Reply)>,
    /// Connections that wait for an answer to their appends.
    appended: BTreeMap<u64, Client>,
    answers: Vec<Answer>,
}

type Answer = Box<dyn FnOnce(&TimelineStatus) + Send>;

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        info!(flush_lsn = %self.acceptor.flush_lsn(), term = self.acceptor.term(), "timeline opened");
        let mut checkpoint = checkpoint_timer(self.surroundings.checkpoint_interval);
        let mut batch = Vec::with_capacity(QUEUE);
        loop {
            let cancel = self.cancel.clone();
            let due = tokio::select! {
                () = cancel.cancelled() => break,
                count = queue.recv_many(&mut batch, QUEUE) => {
                    if count == 0 {
                        break;
                    }
                    self.a_segment_ahead()
                }
                _ = checkpoint.tick() => self.is_ahead(),
            };
            match self.process(&mut batch, due).await {
                Ok(()) => {}
                Err(_) if self.cancel.is_cancelled() => break,
                Err(error) => {
                    error!("timeline closed: {}", chain(&error));
                    break;
                }
            }
        }
        if self.surroundings.crashed.load(Ordering::Acquire)
            && let Err(error) = self.on_disk(WalStore::lose_unsynced).await
        {
            error!("cannot lose unsynced WAL: {}", chain(&error));
        }
        // Its connections end with it.
        self.cancel.cancel();
    }

    /// Whether a crash would lose a commit LSN.
    fn is_ahead(&self) -> bool {
        self.acceptor.commit_lsn() > self.acceptor.persisted_commit_lsn()
    }

    fn a_segment_ahead(&self) -> bool {
        let ahead = self.acceptor.commit_lsn();
        ahead.bytes_since(self.acceptor.persisted_commit_lsn()) >= WAL_SEGMENT_SIZE
    }

    async fn process(
        &mut self,
        batch: &mut Vec<Request>,
        checkpoint: bool,
    ) -> Result<(), wal_store::Error> {
        let mut work = Work::default();
        for request in batch.drain(..) {
            self.take(request, &mut work);
        }
        self.acceptor.sync(&mut work.effects);
        if checkpoint {
            self.acceptor.checkpoint(&mut work.effects);
        }
        self.perform(std::mem::take(&mut work.effects)).await?;
        self.answer(work);
        Ok(())
    }

    fn take(&mut self, request: Request, work: &mut Work) {
        match request {
            Request::Message(client, message) => self.take_message(client, *message, work),
            Request::Feedback(feedback) => self.repeat_with(feedback, work),
            Request::SwitchMembership(to, answer) => {
                let before = self.acceptor.control().membership.clone();
                let switched = self.acceptor.switch_membership(to, &mut work.effects);
                work.answers.push(Box::new(move |status| {
                    let switch = switched.map(|_| MembershipSwitch {
                        before,
                        status: status.clone(),
                    });
                    answer.send(switch).ok();
                }));
            }
            Request::BumpTerm(to, answer) => {
                let before = self.acceptor.bump_term(to, &mut work.effects);
                let now = self.acceptor.term();
                work.answers.push(Box::new(move |_| {
                    answer.send((before, now)).ok();
                }));
            }
            Request::Checkpoint(answer) => {
                self.acceptor.checkpoint(&mut work.effects);
                work.answers.push(Box::new(move |_| {
                    answer.send(()).ok();
                }));
            }
        }
    }

    fn take_message(&mut self, client: Client, message: ProposerMessage, work: &mut Work) {
        if client.refused.load(Ordering::Relaxed) {
            return;
        }
        if let ProposerMessage::VoteRequest(_) = message
            && self.surroundings.faults.refuse_votes()
        {
            work.replies
                .push((client, Reply::Message(self.refused_vote())));
            return;
        }
        let is_append = matches!(message, ProposerMessage::AppendRequest(_));
        let mut effects = Vec::new();
        let result = self.acceptor.handle(message, &mut effects);
        for effect in effects {
            match effect {
                Effect::Reply(reply) => {
                    work.replies.push((client.clone(), Reply::Message(reply)));
                }
                other => work.effects.push(other),
            }
        }
        match result {
            Ok(()) if is_append => drop(work.appended.insert(client.id, client)),
            Ok(()) => {}
            Err(refusal) => {
                info!("message refused: {}", chain(&refusal));
                client.refused.store(true, Ordering::Relaxed);
                work.replies
                    .push((client, Reply::Refused(wording(&refusal))));
            }
        }
    }

    fn refused_vote(&self) -> AcceptorMessage {
        AcceptorMessage::VoteResponse(VoteResponse {
            generation: self.acceptor.control().membership.generation,
            term: self.acceptor.term(),
            vote_given: false,
            flush_lsn: self.acceptor.flush_lsn(),
            truncate_lsn: self.acceptor.control().peer_horizon_lsn,
            term_history: self.acceptor.log_history(),
        })
    }

    /// Every connected proposer gets its last answer again, with the feedback.
    fn repeat_with(&mut self, feedback: PageserverFeedback, work: &mut Work) {
        self.last_responses
            .retain(|_, (client, _)| !client.replies.is_closed());
        for (client, response) in self.last_responses.values() {
            let repeat = AppendResponse {
                pageserver_feedback: Some(feedback),
                ..response.clone()
            };
            let reply = Reply::Message(AcceptorMessage::AppendResponse(repeat));
            work.replies.push((client.clone(), reply));
        }
    }

    async fn perform(&self, mut effects: Vec<Effect>) -> Result<(), wal_store::Error> {
        if effects.is_empty() {
            return Ok(());
        }
        let delay = self.surroundings.faults.sync_delay();
        if !delay.is_zero()
            && let Some(at) = effects.iter().position(|effect| *effect == Effect::SyncWal)
        {
            let rest = effects.split_off(at);
            self.perform_now(effects).await?;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.cancel.cancelled() => return Err(wal_store::Error::Interrupted),
            }
            effects = rest;
        }
        self.perform_now(effects).await
    }

    async fn perform_now(&self, effects: Vec<Effect>) -> Result<(), wal_store::Error> {
        self.on_disk(move |store| effects.iter().try_for_each(|effect| store.perform(effect)))
            .await
    }

    async fn on_disk(
        &self,
        operation: impl FnOnce(&mut WalStore) -> Result<(), wal_store::Error> + Send + 'static,
    ) -> Result<(), wal_store::Error> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || {
            operation(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or(Err(wal_store::Error::Interrupted))
    }

    fn answer(&mut self, work: Work) {
        let status = TimelineStatus::of(&self.acceptor);
        if *self.publish.borrow() != status {
            self.publish.send_replace(status.clone());
        }
        for answer in work.answers {
            answer(&status);
        }
        for (client, reply) in work.replies {
            reply_to(&client, reply);
        }
        if work.appended.is_empty() {
            return;
        }
        let response = self.acceptor.append_response(self.streams.hot_standby());
        self.last_responses
            .retain(|_, (client, _)| !client.replies.is_closed());
        for (id, client) in work.appended {
            let message = AcceptorMessage::AppendResponse(response.clone());
            reply_to(&client, Reply::Message(message));
            self.last_responses.insert(id, (client, response.clone()));
        }
    }
}

/// A connection that does not read its replies misses some: they tell the state,
/// and the next one tells more of it. One that is gone misses all.
fn reply_to(client: &Client, reply: Reply) {
    client.replies.try_send(reply).ok();
}

/// What the client reads. Upstream's acceptor panics where histories contradict
/// each other, and clients know that by its text.
fn wording(refusal: &Refusal) -> String {
    if refusal.is_history_conflict() {
        format!("WalAcceptor task panicked: {refusal}")
    } else {
        format!("WAL acceptor: {refusal}")
    }
}

fn checkpoint_timer(period: Duration) -> Interval {
    let mut timer = interval(period.max(Duration::from_millis(1)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}
