//! Accepts connections within limits: how many at once, how long and how large the head
//! of a request may be, and how long one request may hold its connection.
//!
//! At the cap, whoever has been idle or half-way through a head for longest makes room
//! for the newcomer: a client that sends its request is served however many there are
//! that only hold connections open.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Limits of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are open at once.
    pub connections: usize,
    /// Requests that are under way at once; a further one is answered 503.
    pub requests: usize,
    /// How long a client may take to send the head of a request, or be idle between two.
    pub head_time: Duration,
    /// Largest head of a request, in bytes; a larger one is answered 431.
    pub head_bytes: usize,
    /// How long one request may hold its connection, the reading of its answer included.
    pub request_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            requests: 256,
            head_time: Duration::from_secs(10),
            head_bytes: 32 * 1024,
            // Longer than the limit of any route.
            request_time: Duration::from_mins(15),
        }
    }
}

/// How long requests under way may take after the cancellation.
const GRACE: Duration = Duration::from_secs(2);

/// Pause after a failed accept: the process may have run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often connections are looked at that one request has held for too long.
const LOOK: Duration = Duration::from_secs(10);

/// What a connection does, since when. Shared with its task.
#[derive(Debug, Default)]
struct Activity {
    /// Milliseconds since the server's start, shifted by one bit; the lowest one says
    /// whether a request is under way.
    since: AtomicU64,
}

impl Activity {
    fn set(&self, busy: bool, now: u64) {
        self.since
            .store(now << 1 | u64::from(busy), Ordering::Relaxed);
    }

    fn read(&self) -> (bool, u64) {
        let since = self.since.load(Ordering::Relaxed);
        (since & 1 == 1, since >> 1)
    }
}

/// Marks a connection as busy while it lives.
struct Busy {
    activity: Arc<Activity>,
    clock: Clock,
}

impl Busy {
    fn begin(activity: &Arc<Activity>, clock: Clock) -> Self {
        activity.set(true, clock.now());
        let activity = activity.clone();
        Self { activity, clock }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.set(false, self.clock.now());
    }
}

/// Counts milliseconds since the server's start.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// An open connection.
struct Entry {
    activity: Arc<Activity>,
    cut: CancellationToken,
}

/// The open connections of one server.
struct Connections {
    limits: Limits,
    clock: Clock,
    entries: HashMap<u64, Entry>,
    tasks: JoinSet<u64>,
    next: u64,
}

/// Serves until `cancel`; then answers what is under way and returns.
pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    cancel: CancellationToken,
) {
    let mut connections = Connections {
        limits,
        clock: Clock(Instant::now()),
        entries: HashMap::new(),
        tasks: JoinSet::new(),
        next: 0,
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(ended) = connections.tasks.join_next() => connections.forget(ended.ok()),
            _ = look.tick() => connections.cut_overdue(),
            accepted = listener.accept(), if connections.has_room() => match accepted {
                Ok((stream, _)) => connections.open(stream, router.clone(), cancel.clone()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let rest = async { while connections.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, rest).await;
}

impl Connections {
    /// Whether one more can be taken, if need be by cutting another.
    fn has_room(&self) -> bool {
        self.tasks.len() < self.limits.connections || self.idle_for_longest().is_some()
    }

    /// A connection that was cut counts as open until its task has ended, so the cap may
    /// be exceeded by those for a moment.
    fn open(&mut self, stream: TcpStream, router: Router, cancel: CancellationToken) {
        if self.tasks.len() >= self.limits.connections
            && let Some(id) = self.idle_for_longest()
            && let Some(entry) = self.entries.remove(&id)
        {
            entry.cut.cancel();
        }
        let id = self.next;
        self.next += 1;
        let entry = Entry {
            activity: Arc::default(),
            cut: CancellationToken::new(),
        };
        entry.activity.set(false, self.clock.now());
        let served = serve(
            stream,
            router,
            self.limits,
            entry.activity.clone(),
            self.clock,
            cancel,
        );
        let cut = entry.cut.clone();
        self.tasks.spawn(async move {
            cut.run_until_cancelled(served).await;
            id
        });
        self.entries.insert(id, entry);
    }

    fn idle_for_longest(&self) -> Option<u64> {
        let idle = self.entries.iter().filter_map(|(id, entry)| {
            let (busy, since) = entry.activity.read();
            (!busy).then_some((since, *id))
        });
        idle.min().map(|(_, id)| id)
    }

    /// A task that panicked leaves an entry, which is cut for nothing at some time.
    fn forget(&mut self, ended: Option<u64>) {
        if let Some(id) = ended {
            self.entries.remove(&id);
        }
    }

    fn cut_overdue(&mut self) {
        let now = self.clock.now();
        let limit = self.limits.request_time.as_millis() as u64;
        for entry in self.entries.values() {
            let (busy, since) = entry.activity.read();
            if busy && now.saturating_sub(since) > limit {
                entry.cut.cancel();
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    activity: Arc<Activity>,
    clock: Clock,
    cancel: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = Busy::begin(&activity, clock);
        let answered = router.call(request);
        async move {
            let response: Response<Body> = answered.await?;
            Ok::<_, Infallible>(response.map(|body| Held { body, _busy: busy }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection broke");
    }
}

/// A body whose connection is busy until it was sent.
struct Held {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
