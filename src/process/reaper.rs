//! The task that owns every child: forks, signals and reaps, one thing at a time.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use prometheus::IntCounter;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait, waitpid};
use tokio::signal::unix;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, Error, Exit, tree};

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The child alone.
    Process,
    /// Its process group.
    Group,
    /// Its process group and all its descendants; always SIGKILL.
    Tree,
}

/// What the task is asked for.
pub(super) enum Request {
    Spawn {
        command: Command,
        reply: oneshot::Sender<Result<Spawned, Error>>,
    },
    Signal {
        child: ChildId,
        signal: Signal,
        target: Target,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// Identifies a child beyond its process id, which the system uses again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChildId {
    pub(super) pid: Pid,
    serial: u64,
}

/// A started child.
pub(super) struct Spawned {
    pub(super) id: ChildId,
    pub(super) exit: watch::Receiver<Option<Exit>>,
    pub(super) outputs: Option<(OwnedFd, OwnedFd)>,
}

/// A child that was not reaped yet. Dropping it kills it: the task ended first.
struct Entry {
    id: ChildId,
    exit: watch::Sender<Option<Exit>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            tree::kill(self.id.pid);
        }
    }
}

pub(super) struct Reaper {
    requests: mpsc::Receiver<Request>,
    ended: unix::Signal,
    children: HashMap<Pid, Entry>,
    /// Resolves when nobody holds the child any more.
    released: FuturesUnordered<BoxFuture<'static, ChildId>>,
    next_serial: u64,
    /// Counts adopted processes that were reaped; `None` leaves them alone.
    orphans: Option<IntCounter>,
}

impl Reaper {
    /// Must be called inside a runtime. As an init process, pass the counter of
    /// reaped orphans.
    pub(super) fn new(
        requests: mpsc::Receiver<Request>,
        orphans: Option<IntCounter>,
    ) -> io::Result<Self> {
        Ok(Self {
            requests,
            // Before the first fork, so that no exit goes unnoticed.
            ended: unix::signal(unix::SignalKind::child())?,
            children: HashMap::new(),
            released: FuturesUnordered::new(),
            next_serial: 0,
            orphans,
        })
    }

    /// Serves until nobody can send requests any more and every child is reaped.
    pub(super) async fn run(mut self) {
        // Some may have been adopted before the signal was watched for.
        self.reap();
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => break,
                },
                _ = self.ended.recv() => self.reap(),
                Some(id) = self.released.next() => self.kill_released(id).await,
            }
        }
        for id in self
            .children
            .values()
            .map(|entry| entry.id)
            .collect::<Vec<_>>()
        {
            self.kill_released(id).await;
        }
        while !self.children.is_empty() && self.ended.recv().await.is_some() {
            self.reap();
        }
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Spawn { command, reply } => {
                // If the caller has gone, dropping the answer releases the child.
                let _ = reply.send(self.spawn(command).await);
            }
            Request::Signal {
                child,
                signal,
                target,
                reply,
            } => {
                let _ = reply.send(self.signal(child, signal, target).await);
            }
        }
    }

    async fn spawn(&mut self, command: Command) -> Result<Spawned, Error> {
        let program = command.program().to_owned();
        let serial = self.next_serial;
        self.next_serial += 1;
        // The task waits here, so no status is reaped before the child is known.
        let forked = tokio::task::spawn_blocking(move || fork(&command, serial)).await;
        let (entry, outputs) = forked
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|source| Error::Spawn { program, source })?;
        let id = entry.id;
        let exit = entry.exit.subscribe();
        let held = entry.exit.clone();
        self.released.push(Box::pin(async move {
            held.closed().await;
            id
        }));
        self.children.insert(id.pid, entry);
        Ok(Spawned { id, exit, outputs })
    }

    async fn signal(&mut self, id: ChildId, signal: Signal, to: Target) -> Result<(), Error> {
        let pid = id.pid.as_raw_pid();
        if !self.is_alive(id) {
            return Err(Error::Gone { pid });
        }
        let sent = match to {
            Target::Process => kill_process(id.pid, signal),
            Target::Group => kill_process_group(id.pid, signal),
            Target::Tree => {
                kill_tree(id.pid).await;
                Ok(())
            }
        };
        sent.map_err(|errno| Error::Signal {
            pid,
            source: errno.into(),
        })
    }

    async fn kill_released(&mut self, id: ChildId) {
        if self.is_alive(id) {
            kill_tree(id.pid).await;
        }
    }

    /// Not reaped yet: its process id cannot be anybody else's.
    fn is_alive(&self, id: ChildId) -> bool {
        self.children
            .get(&id.pid)
            .is_some_and(|entry| entry.id == id)
    }

    fn reap(&mut self) {
        if self.orphans.is_some() {
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                self.ended(pid, status);
            }
            return;
        }
        // Children of others in this process keep their statuses.
        let pids: Vec<Pid> = self.children.keys().copied().collect();
        for pid in pids {
            if let Ok(Some((pid, status))) = waitpid(Some(pid), WaitOptions::NOHANG) {
                self.ended(pid, status);
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: rustix::process::WaitStatus) {
        let Some(exit) = Exit::from_status(status) else {
            return;
        };
        if let Some(entry) = self.children.remove(&pid) {
            entry.exit.send_replace(Some(exit));
        } else if let Some(orphans) = &self.orphans {
            orphans.inc();
            tracing::debug!(pid = pid.as_raw_pid(), %exit, "reaped an orphan");
        }
    }
}

/// Forks. The child is killed should nobody take the result any more.
fn fork(command: &Command, serial: u64) -> io::Result<(Entry, Option<(OwnedFd, OwnedFd)>)> {
    let mut child = command.to_std().spawn()?;
    let entry = Entry {
        id: ChildId {
            pid: Pid::from_child(&child),
            serial,
        },
        exit: watch::Sender::new(None),
    };
    let outputs = child.stdout.take().zip(child.stderr.take());
    let outputs = outputs.map(|(out, err)| (OwnedFd::from(out), OwnedFd::from(err)));
    Ok((entry, outputs))
}

async fn kill_tree(leader: Pid) {
    // The task waits here, so the leader is not reaped while it is being killed.
    let _ = tokio::task::spawn_blocking(move || tree::kill(leader)).await;
}
