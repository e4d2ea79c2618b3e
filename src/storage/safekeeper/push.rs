//! Serves `START_WAL_PUSH`: a proposer's messages in, the acceptor's answers out.

use std::pin::pin;

use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::command::WalPush;
use super::connection::INTERNAL_ERROR;
use super::faults::FaultView;
use super::registry::Absent;
use super::timeline::{Client, REPLY_QUEUE, Reply, Request, Timeline};
use super::{Node, TimelineKey};
use crate::error::chain;
use crate::storage::acceptor::ControlState;
use crate::storage::pgwire_server::{CopyInput, CopyReceiver, CopySender, Error, Session};
use crate::wire::safekeeper::{
    AcceptorMessage, ProposerGreeting, ProposerMessage, ProtocolVersion,
};

/// How a stream ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// Without a word.
    Silent,
    /// The client is done.
    Done,
    /// With an ErrorResponse of this SQLSTATE.
    Error(&'static str, String),
}

impl Ending {
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self::Error(INTERNAL_ERROR, text.into())
    }

    /// What the client's way of ending a copy leads to.
    pub(super) fn of(input: &CopyInput) -> Self {
        match input {
            CopyInput::Done => Self::Done,
            CopyInput::Fail(_) => Self::Error("00000", "received CopyFail".to_owned()),
            CopyInput::Data(_) | CopyInput::Closed => Self::Silent,
        }
    }

    /// Ends the connection so. Inside a copy there is no way back to queries.
    pub(super) async fn send(self, mut sender: CopySender) -> Result<(), Error> {
        match self {
            Self::Silent => {}
            Self::Done => sender.done(),
            Self::Error(sqlstate, text) => {
                info!("stream ended: {text}");
                sender.error(sqlstate, &text);
            }
        }
        sender.close().await
    }
}

/// Serves a proposer until either side ends the connection.
pub(super) async fn serve(
    session: Session,
    key: TimelineKey,
    options: WalPush,
    node: Node,
) -> Result<(), Error> {
    // Upstream answers before it checks anything.
    let (mut receiver, sender) = session.copy_both().await?;
    let (version, greeting) = match first_message(&mut receiver, options).await? {
        Ok(first) => first,
        Err(ending) => return ending.send(sender).await,
    };
    let timeline = match find_or_create(&node, key, options, &greeting).await {
        Ok(timeline) => timeline,
        Err(ending) => return ending.send(sender).await,
    };
    let guard = timeline.streams.proposer();
    let (replies, queue) = mpsc::channel(REPLY_QUEUE);
    let proposer = Proposer {
        client: Client::new(guard.id(), replies),
        version,
        timeline: &timeline,
        faults: node.faults.clone(),
    };
    let first = Request::Message(
        proposer.client.clone(),
        Box::new(ProposerMessage::Greeting(greeting)),
    );
    if timeline.send(first).await.is_err() {
        return Ending::Silent.send(sender).await;
    }
    let (ended, ending) = oneshot::channel();
    let mut writing = pin!(write_replies(sender, queue, ending, version, node.faults));
    tokio::select! {
        result = &mut writing => result,
        ending = proposer.read_messages(receiver) => {
            let ending = ending.unwrap_or_else(|error| {
                info!("connection closed: {}", chain(&error));
                Ending::Silent
            });
            ended.send(ending).ok();
            writing.await
        }
    }
}

/// Waits for the greeting. The inner error is how the stream ends without one.
async fn first_message(
    receiver: &mut CopyReceiver,
    options: WalPush,
) -> Result<Result<(ProtocolVersion, ProposerGreeting), Ending>, Error> {
    let body = match receiver.next().await? {
        CopyInput::Data(body) => body,
        other => return Ok(Err(Ending::of(&other))),
    };
    let Some(version) = ProtocolVersion::from_number(options.version) else {
        let text = format!("unsupported protocol version {}", options.version);
        return Ok(Err(Ending::refused(text)));
    };
    Ok(match ProposerMessage::decode(version, body) {
        Ok(ProposerMessage::Greeting(greeting)) => Ok((version, greeting)),
        Ok(other) => Err(Ending::refused(format!(
            "unexpected message {other:?} instead of greeting"
        ))),
        Err(error) => Err(Ending::refused(chain(&error))),
    })
}

/// The ids of the start-up name the timeline; those of the greeting are compared
/// by the acceptor.
async fn find_or_create(
    node: &Node,
    key: TimelineKey,
    options: WalPush,
    greeting: &ProposerGreeting,
) -> Result<Timeline, Ending> {
    let refuse = |what: &str, error: &dyn std::error::Error| {
        Ending::refused(format!("{what}: {}", chain(error)))
    };
    match node.registry.find(key).await {
        Ok(timeline) => Ok(timeline),
        Err(Absent::NotFound(_)) if options.allow_creation => {
            let named = ProposerGreeting {
                tenant_id: key.tenant_id,
                timeline_id: key.timeline_id,
                ..greeting.clone()
            };
            let control = ControlState::implicit(&named)
                .map_err(|refusal| refuse("create timeline", &refusal))?;
            let created = node.registry.create(control).await;
            created.map_err(|absent| refuse("create timeline", &absent))
        }
        // Upstream says nothing; computes know that as "not found".
        Err(Absent::NotFound(_)) => Err(Ending::Silent),
        Err(absent) if options.allow_creation => Err(refuse("create timeline", &absent)),
        Err(absent) => Err(refuse("get_timeline", &absent)),
    }
}

struct Proposer<'a> {
    client: Client,
    version: ProtocolVersion,
    timeline: &'a Timeline,
    faults: FaultView,
}

impl Proposer<'_> {
    /// Hands messages to the timeline, as fast as it takes them.
    async fn read_messages(mut self, mut receiver: CopyReceiver) -> Result<Ending, Error> {
        loop {
            let input = tokio::select! {
                () = self.timeline.gone.cancelled() => return Ok(Ending::Silent),
                input = receiver.next() => input?,
            };
            self.faults.unpaused().await;
            let CopyInput::Data(body) = input else {
                return Ok(Ending::of(&input));
            };
            let message = match ProposerMessage::decode(self.version, body) {
                Ok(message) => Box::new(message),
                Err(error) => return Ok(Ending::refused(chain(&error))),
            };
            let request = Request::Message(self.client.clone(), message);
            if self.timeline.send(request).await.is_err() {
                return Ok(Ending::Silent);
            }
        }
    }
}

/// Sends answers until one is a refusal, or the reading side has ended and what was
/// answered until then is sent.
async fn write_replies(
    mut sender: CopySender,
    mut queue: mpsc::Receiver<Reply>,
    mut ending: oneshot::Receiver<Ending>,
    version: ProtocolVersion,
    mut faults: FaultView,
) -> Result<(), Error> {
    loop {
        // Nobody answers any more once the queue has ended: only the ending is left.
        let mut next = tokio::select! {
            biased;
            Some(reply) = queue.recv() => Some(reply),
            ending = &mut ending => {
                return ending.unwrap_or(Ending::Silent).send(sender).await;
            }
        };
        faults.unpaused().await;
        while let Some(reply) = next {
            let message = match reply {
                Reply::Message(message) => message,
                Reply::Refused(text) => return Ending::refused(text).send(sender).await,
            };
            sender.data(|out| message.encode(version, out));
            if matches!(message, AcceptorMessage::Greeting(_)) && faults.close_after_greeting() {
                return Ending::Silent.send(sender).await;
            }
            next = queue.try_recv().ok();
        }
        sender.flush().await?;
    }
}
