//! Knows which timelines a safekeeper has: finds, makes and deletes them.
//!
//! One task owns the list, so that a timeline is opened once however many
//! connections ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::TimelineKey;
use super::timeline::{self, Surroundings, Timeline};
use crate::error::chain;
use crate::storage::acceptor::ControlState;
use crate::storage::wal_store::{self, Opened, WalStore};

/// Commands that may wait.
const QUEUE: usize = 64;

/// Why there is no timeline.
#[derive(Debug, thiserror::Error)]
pub(super) enum Absent {
    #[error("Timeline {0} was not found in global map")]
    NotFound(TimelineKey),
    #[error("Timeline {0} has been deleted")]
    Deleted(TimelineKey),
    #[error("Timeline {key} cannot be opened")]
    Unreadable {
        key: TimelineKey,
        #[source]
        source: wal_store::Error,
    },
    #[error("the safekeeper is stopping")]
    Stopping,
}

enum Command {
    Find(TimelineKey, oneshot::Sender<Result<Timeline, Absent>>),
    Create(Box<ControlState>, oneshot::Sender<Result<Timeline, Absent>>),
    Delete(TimelineKey, oneshot::Sender<Result<bool, Absent>>),
    List(oneshot::Sender<Vec<Timeline>>),
}

/// The way to the list of timelines.
#[derive(Debug, Clone)]
pub(super) struct Registry(mpsc::Sender<Command>);

impl Registry {
    /// Opens the timelines in `dir`, and starts the task that owns the list.
    pub(super) async fn start(
        dir: PathBuf,
        fsync: bool,
        surroundings: Surroundings,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let mut owner = Owner {
            dir,
            fsync,
            surroundings,
            tasks: tasks.clone(),
            cancel,
            open: BTreeMap::new(),
            deleted: BTreeSet::new(),
        };
        owner.open_all().await;
        tasks.spawn(owner.run(queue));
        Self(commands)
    }

    /// An existing timeline.
    pub(super) async fn find(&self, key: TimelineKey) -> Result<Timeline, Absent> {
        self.ask(|answer| Command::Find(key, answer)).await?
    }

    /// The timeline that `control` names, made if it does not exist.
    pub(super) async fn create(&self, control: ControlState) -> Result<Timeline, Absent> {
        let control = Box::new(control);
        self.ask(|answer| Command::Create(control, answer)).await?
    }

    /// Deletes a timeline; tells whether there was one. It cannot be made again
    /// before a restart.
    pub(super) async fn delete(&self, key: TimelineKey) -> Result<bool, Absent> {
        self.ask(|answer| Command::Delete(key, answer)).await?
    }

    /// All timelines that are open.
    pub(super) async fn list(&self) -> Result<Vec<Timeline>, Absent> {
        self.ask(Command::List).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Absent> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send(command(answer)).await;
        sent.map_err(|_| Absent::Stopping)?;
        answered.await.map_err(|_| Absent::Stopping)
    }
}

struct Owner {
    dir: PathBuf,
    fsync: bool,
    surroundings: Surroundings,
    tasks: TaskTracker,
    cancel: CancellationToken,
    open: BTreeMap<TimelineKey, Timeline>,
    deleted: BTreeSet<TimelineKey>,
}

impl Owner {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        loop {
            let command = tokio::select! {
                () = self.cancel.cancelled() => return,
                command = queue.recv() => command,
            };
            match command {
                None => return,
                // Whoever asked may have left meanwhile.
                Some(Command::Find(key, answer)) => drop(answer.send(self.find(key).await)),
                Some(Command::Create(control, answer)) => {
                    drop(answer.send(self.create(*control).await));
                }
                Some(Command::Delete(key, answer)) => drop(answer.send(self.delete(key).await)),
                Some(Command::List(answer)) => {
                    self.open.retain(|_, timeline| timeline.is_alive());
                    drop(answer.send(self.open.values().cloned().collect()));
                }
            }
        }
    }

    async fn open_all(&mut self) {
        let dir = self.dir.clone();
        let found = tokio::task::spawn_blocking(move || timelines_in(&dir)).await;
        for key in found.unwrap_or_default() {
            if let Err(problem) = self.find(key).await {
                error!("{}", chain(&problem));
            }
        }
    }

    async fn find(&mut self, key: TimelineKey) -> Result<Timeline, Absent> {
        if let Some(timeline) = self.open.get(&key).filter(|timeline| timeline.is_alive()) {
            return Ok(timeline.clone());
        }
        if self.deleted.contains(&key) {
            return Err(Absent::Deleted(key));
        }
        let (dir, fsync) = (key.dir(&self.dir), self.fsync);
        let opened = blocking(key, move || match dir.try_exists() {
            Ok(false) => Ok(None),
            _ => WalStore::open(&dir, fsync).map(Some),
        });
        match opened.await? {
            Some(opened) => Ok(self.start(key, opened)),
            None => Err(Absent::NotFound(key)),
        }
    }

    async fn create(&mut self, control: ControlState) -> Result<Timeline, Absent> {
        let key = TimelineKey {
            tenant_id: control.tenant_id,
            timeline_id: control.timeline_id,
        };
        match self.find(key).await {
            Err(Absent::NotFound(_)) => {}
            found => return found,
        }
        let (dir, fsync) = (key.dir(&self.dir), self.fsync);
        let made = blocking(key, move || {
            WalStore::create(&dir, &control, fsync)?;
            WalStore::open(&dir, fsync)
        });
        let timeline = self.start(key, made.await?);
        info!(tenant_id = %key.tenant_id, timeline_id = %key.timeline_id, "timeline made");
        Ok(timeline)
    }

    fn start(&mut self, key: TimelineKey, opened: Opened) -> Timeline {
        let dir = key.dir(&self.dir);
        let cancel = self.cancel.child_token();
        let surroundings = self.surroundings.clone();
        let (timeline, task) = timeline::start(key, &dir, opened, surroundings, cancel);
        self.tasks.spawn(task);
        self.open.insert(key, timeline.clone());
        timeline
    }

    async fn delete(&mut self, key: TimelineKey) -> Result<bool, Absent> {
        self.deleted.insert(key);
        if let Some(timeline) = self.open.remove(&key) {
            timeline.gone.cancel();
        }
        let dir = key.dir(&self.dir);
        blocking(key, move || {
            if !dir.exists() {
                return Ok(false);
            }
            // A task that is just ending may still write; a directory under another
            // name is no timeline any more.
            WalStore::remove(&dir)?;
            Ok(true)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    key: TimelineKey,
    operation: impl FnOnce() -> Result<T, wal_store::Error> + Send + 'static,
) -> Result<T, Absent> {
    let done = tokio::task::spawn_blocking(operation).await;
    done.unwrap_or_else(|_| Err(wal_store::Error::Interrupted))
        .map_err(|source| Absent::Unreadable { key, source })
}

/// The timelines that a directory holds; what is none is left alone, but for those
/// that were made or deleted halfway.
fn timelines_in(dir: &Path) -> Vec<TimelineKey> {
    let entries = |dir: &Path| {
        let list = fs::read_dir(dir).map(|list| list.flatten().map(|entry| entry.path()));
        list.map(Iterator::collect::<Vec<_>>).unwrap_or_default()
    };
    let mut found = Vec::new();
    for tenant in entries(dir) {
        let Some(tenant_id) = parse_name(&tenant) else {
            continue;
        };
        for path in entries(&tenant) {
            if let Some(timeline_id) = parse_name(&path) {
                found.push(TimelineKey {
                    tenant_id,
                    timeline_id,
                });
            } else if WalStore::is_unfinished(&path) {
                drop(fs::remove_dir_all(&path));
            }
        }
    }
    found
}

fn parse_name<T: std::str::FromStr>(path: &Path) -> Option<T> {
    path.file_name()?.to_str()?.parse().ok()
}
