//! Connections on which WAL is pushed, one for each safekeeper, all owned by one
//! task.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;

use super::address::Introduction;
use super::proposer::{Loss, LossKind, Slot};
use super::refusal;
use crate::pgwire::{
    self, ConnectConfig, Connection, CopyBoth, CopyReader, CopyWriter, put_copy_data,
};
use crate::wire::safekeeper::{
    AcceptorMessage, ProposerGreeting, ProposerMessage, ProtocolVersion,
};

/// A connection takes no more messages while this much waits to be written, in
/// bytes: enough to keep the network busy, little enough that what is sent is
/// current.
const WRITE_AHEAD: usize = 512 * 1024;

/// What happened on a connection.
pub(super) enum LinkEvent {
    /// A message arrived.
    Received(Slot, AcceptorMessage),
    /// The connection, or the attempt to make one, is gone.
    Lost(Slot, Loss),
    /// A connection that took no more messages takes some again.
    Room,
}

/// All connections, by the safekeeper's place in the list.
pub(super) struct Links {
    introduction: Introduction,
    slots: Vec<Link>,
    /// Endpoints that do not know version 3 of the protocol.
    old: HashSet<String>,
    /// Whose turn it is to be looked at first.
    turn: usize,
}

enum Link {
    Closed,
    Opening {
        endpoint: String,
        connecting: Connecting,
    },
    Open(Box<OpenLink>),
}

type Connecting = Pin<Box<dyn Future<Output = Result<OpenLink, pgwire::Error>> + Send>>;

struct OpenLink {
    endpoint: String,
    reader: CopyReader,
    writer: CopyWriter,
    version: ProtocolVersion,
    /// A stream that ends before the greeting is answered has no timeline to push
    /// to, if it may not create it (`safekeeper/src/receive_wal.rs`).
    end_means_unknown: bool,
    /// It was asked for room, and had none.
    starved: bool,
}

impl Links {
    pub(super) fn new(introduction: Introduction) -> Self {
        Self {
            introduction,
            slots: Vec::new(),
            old: HashSet::new(),
            turn: 0,
        }
    }

    /// Starts to connect and greet, all in one write where no password is needed.
    pub(super) fn open(
        &mut self,
        slot: Slot,
        endpoint: String,
        greeting: ProposerGreeting,
        may_create_timeline: bool,
    ) {
        let version = if self.old.contains(&endpoint) {
            ProtocolVersion::V2
        } else {
            ProtocolVersion::V3
        };
        let connecting = Box::pin(connect(
            self.introduction.clone(),
            endpoint.clone(),
            version,
            greeting,
            may_create_timeline,
        ));
        while self.slots.len() <= slot.0 {
            self.slots.push(Link::Closed);
        }
        self.slots[slot.0] = Link::Opening {
            endpoint,
            connecting,
        };
    }

    pub(super) fn close(&mut self, slot: Slot) {
        if let Some(link) = self.slots.get_mut(slot.0) {
            *link = Link::Closed;
        }
    }

    /// Whether a connection takes a message. If not, it will report
    /// [`LinkEvent::Room`] when it does.
    pub(super) fn has_room(&mut self, slot: Slot) -> bool {
        match self.slots.get_mut(slot.0) {
            Some(Link::Open(link)) => {
                link.starved = link.writer.buffered() >= WRITE_AHEAD;
                !link.starved
            }
            _ => false,
        }
    }

    /// Buffers a message; it is written by [`next`](Self::next).
    pub(super) fn send(&mut self, slot: Slot, message: &ProposerMessage) {
        if let Some(Link::Open(link)) = self.slots.get_mut(slot.0) {
            let version = link.version;
            link.writer.buffer(|out| message.encode(version, out));
        }
    }

    /// Writes what is buffered, and waits for something to happen. Waits for ever
    /// if there is no connection. Cancel safe.
    pub(super) async fn next(&mut self) -> LinkEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        let count = self.slots.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if let Poll::Ready(event) = self.poll_link(Slot(index), cx) {
                self.turn = index + 1;
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    fn poll_link(&mut self, slot: Slot, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        let link = &mut self.slots[slot.0];
        if let Link::Opening {
            endpoint,
            connecting,
        } = link
        {
            match ready!(connecting.as_mut().poll(cx)) {
                Ok(open) => {
                    *link = Link::Open(Box::new(open));
                    return Poll::Ready(LinkEvent::Room);
                }
                Err(error) => {
                    let endpoint = std::mem::take(endpoint);
                    return Poll::Ready(self.lose(slot, endpoint, &error));
                }
            }
        }
        let Link::Open(open) = link else {
            return Poll::Pending;
        };
        match open.poll(cx) {
            Poll::Ready(Ok(OpenEvent::Room)) => Poll::Ready(LinkEvent::Room),
            Poll::Ready(Ok(OpenEvent::Message(message))) => {
                Poll::Ready(LinkEvent::Received(slot, message))
            }
            Poll::Ready(Ok(OpenEvent::Lost(loss))) => {
                *link = Link::Closed;
                Poll::Ready(LinkEvent::Lost(slot, loss))
            }
            Poll::Ready(Err(error)) => {
                let endpoint = open.endpoint.clone();
                Poll::Ready(self.lose(slot, endpoint, &error))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn lose(&mut self, slot: Slot, endpoint: String, error: &pgwire::Error) -> LinkEvent {
        self.slots[slot.0] = Link::Closed;
        let first_time = !self.old.contains(&endpoint);
        if first_time && refusal::asks_for_older_version(error) {
            self.old.insert(endpoint);
        }
        LinkEvent::Lost(slot, refusal::loss(error))
    }

    /// Writes what is buffered everywhere, says goodbye, and closes. Bounded by the
    /// caller.
    pub(super) async fn finish(&mut self) {
        let open = self.slots.iter_mut().filter_map(|link| match link {
            Link::Open(open) => Some(open),
            _ => None,
        });
        futures::future::join_all(open.map(|link| link.writer.terminate())).await;
        self.slots.clear();
    }
}

enum OpenEvent {
    Message(AcceptorMessage),
    Lost(Loss),
    Room,
}

impl OpenLink {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<OpenEvent, pgwire::Error>> {
        if self.writer.buffered() > 0 {
            // A flush that is dropped half-way leaves the rest in the buffer.
            let flushed = pin!(self.writer.flush()).poll(cx)?;
            if flushed.is_ready() && std::mem::take(&mut self.starved) {
                return Poll::Ready(Ok(OpenEvent::Room));
            }
        }
        let Some(body) = ready!(pin!(self.reader.next()).poll(cx))? else {
            return Poll::Ready(Ok(OpenEvent::Lost(self.end_of_stream())));
        };
        let event = match AcceptorMessage::decode(self.version, body) {
            Ok(message) => {
                self.end_means_unknown = false;
                OpenEvent::Message(message)
            }
            Err(error) => {
                let text = format!("sent a message that does not decode: {error}");
                OpenEvent::Lost(Loss::new(LossKind::Protocol, text))
            }
        };
        Poll::Ready(Ok(event))
    }

    fn end_of_stream(&self) -> Loss {
        if self.end_means_unknown {
            let text = "closed the connection after the greeting: it does not have the timeline";
            return Loss::new(LossKind::UnknownTimeline, text);
        }
        Loss::new(LossKind::Unreachable, "closed the connection")
    }
}

/// Connects, and sends what begins a push without waiting in between.
async fn start_push(config: ConnectConfig, first: Bytes) -> Result<CopyBoth, pgwire::Error> {
    let connection = Connection::connect_eagerly(&config, &first).await?;
    let streams = tokio::time::timeout(config.connect_timeout, connection.copy_both_reply());
    streams.await.map_err(|_| pgwire::Error::ConnectTimeout {
        peer: config.peer(),
        limit: config.connect_timeout,
    })?
}

async fn connect(
    introduction: Introduction,
    endpoint: String,
    version: ProtocolVersion,
    greeting: ProposerGreeting,
    may_create_timeline: bool,
) -> Result<OpenLink, pgwire::Error> {
    let command = format!(
        "START_WAL_PUSH (proto_version '{}', allow_timeline_creation '{may_create_timeline}')",
        version.number()
    );
    let mut first = BytesMut::new();
    frontend::query(&command, &mut first).map_err(|error| pgwire::Error::Protocol {
        peer: endpoint.clone(),
        what: format!("no query: {error}"),
    })?;
    let greeting = ProposerMessage::Greeting(greeting);
    put_copy_data(&mut first, |out| greeting.encode(version, out));
    let first = first.freeze();
    let push = |config| start_push(config, first.clone());
    let streams = introduction.connect(&endpoint, push).await?;
    Ok(OpenLink {
        endpoint,
        reader: streams.reader,
        writer: streams.writer,
        version,
        end_means_unknown: !may_create_timeline,
        starved: false,
    })
}
