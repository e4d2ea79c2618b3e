//! Writers on a sink that fails as a script says, on a clock that jumps.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use tokio::task::JoinHandle;

use super::*;
use crate::api::failure::Failure;
use crate::api::status::ComputeState;

/// What a scripted sink does next.
enum Step {
    Fail(FailureKind),
    Hang,
}

#[derive(Default)]
struct Log {
    opened: usize,
    attempts: usize,
    written: Vec<ComputeSpecStatus>,
}

struct Script {
    steps: VecDeque<Step>,
    log: Arc<Mutex<Log>>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("script")
    }
}

impl Sink for Script {
    async fn open(&mut self) -> Result<ComputeSpecStatus, WriteError> {
        self.log.lock().unwrap().opened += 1;
        Ok(ComputeSpecStatus::default())
    }

    async fn write(&mut self, status: &ComputeSpecStatus) -> Result<(), WriteError> {
        self.log.lock().unwrap().attempts += 1;
        match self.steps.pop_front() {
            None => {
                self.log.lock().unwrap().written.push(status.clone());
                Ok(())
            }
            Some(Step::Hang) => std::future::pending().await,
            Some(Step::Fail(kind)) => Err(WriteError::Api {
                operation: "write the status of",
                object: "script".to_owned(),
                source: Failure {
                    kind,
                    text: "as the script says".to_owned(),
                    retry_after: None,
                },
            }),
        }
    }
}

struct Run {
    log: Arc<Mutex<Log>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
    metrics: WriteMetrics,
}

fn start(steps: impl IntoIterator<Item = Step>) -> Run {
    let log = Arc::new(Mutex::new(Log::default()));
    let sink = Script {
        steps: steps.into_iter().collect(),
        log: Arc::clone(&log),
    };
    let first = Arc::new(Snapshot::new("compute", Timestamp::UNIX_EPOCH));
    let (snapshots, receiver) = watch::channel(first);
    let cancel = CancellationToken::new();
    let metrics = WriteMetrics::new().unwrap();
    let options = Options {
        limits: Limits::API_SERVER,
        pod_name: Some("main-0".to_owned()),
        metrics: Some(metrics.clone()),
    };
    let task = tokio::spawn(run(sink, options, receiver, cancel.clone()));
    Run {
        log,
        snapshots,
        cancel,
        task,
        metrics,
    }
}

impl Run {
    fn set(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends the writer and returns what it wrote, and how often it tried and opened.
    async fn end(self) -> (Vec<ComputeSpecStatus>, usize, usize) {
        self.cancel.cancel();
        self.task.await.unwrap();
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        (log.written, log.attempts, log.opened)
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_status_is_written_after_an_outage() {
    let outage = [
        FailureKind::Unreachable,
        FailureKind::Timeout,
        FailureKind::Unreachable,
    ];
    let run = start(outage.map(Step::Fail));
    for restarts in 0..5 {
        run.pass(Duration::from_millis(300)).await;
        run.set(|snapshot| snapshot.postgres.restarts = restarts);
    }
    run.pass(Duration::from_mins(1)).await;
    assert!(run.metrics.is_reachable());
    let (written, attempts, _) = run.end().await;
    assert_eq!(attempts, 4);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].postgres.as_ref().unwrap().restarts, 4);
    assert_eq!(written[0].pod_name.as_deref(), Some("main-0"));
}

#[tokio::test(start_paused = true)]
async fn attempts_at_an_unreachable_server_are_seconds_apart() {
    let run = start((0..1000).map(|_| Step::Fail(FailureKind::Timeout)));
    run.pass(Duration::from_mins(10)).await;
    assert!(!run.metrics.is_reachable());
    let (_, attempts, _) = run.end().await;
    assert!(
        (75..=155).contains(&attempts),
        "{attempts} attempts in ten minutes"
    );
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_answered_by_reading_again_and_one_more_write() {
    let run = start([Step::Fail(FailureKind::Conflict)]);
    run.pass(Duration::from_secs(1)).await;
    let (written, attempts, opened) = run.end().await;
    assert_eq!((written.len(), attempts, opened), (1, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_refused_is_written_once_it_is_not_any_more() {
    let run = start((0..200).map(|_| Step::Fail(FailureKind::Invalid)));
    run.pass(Duration::from_mins(5)).await;
    let attempts = run.log.lock().unwrap().attempts;
    assert!((70..200).contains(&attempts), "{attempts} in five minutes");
    run.pass(Duration::from_mins(15)).await;
    let (written, attempts, _) = run.end().await;
    assert_eq!((written.len(), attempts), (1, 201));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_looked_for() {
    let run = start([Step::Fail(FailureKind::NotFound)]);
    run.pass(Duration::from_secs(40)).await;
    let (written, _, opened) = run.end().await;
    assert_eq!((written.len(), opened), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn the_last_status_is_written_when_the_compute_ends() {
    let run = start([]);
    run.pass(Duration::from_secs(1)).await;
    run.set(|snapshot| snapshot.state = ComputeState::Terminated);
    let (written, ..) = run.end().await;
    assert_eq!(
        written.last().unwrap().state,
        Some(ComputeState::Terminated)
    );
}

#[tokio::test(start_paused = true)]
async fn a_hanging_server_delays_the_end_by_two_seconds_at_most() {
    let run = start([Step::Hang, Step::Hang]);
    run.pass(Duration::from_secs(1)).await;
    let before = now();
    let (written, ..) = run.end().await;
    assert!(written.is_empty());
    assert_eq!(now() - before, LAST_WRITE_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nothing_changes() {
    let run = start([]);
    run.pass(Duration::from_hours(1)).await;
    let (written, attempts, _) = run.end().await;
    assert_eq!((written.len(), attempts), (1, 1));
}
