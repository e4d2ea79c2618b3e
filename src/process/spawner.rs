//! The handles on the task that owns the children.

use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot, watch};

use super::reaper::{ChildId, Reaper, Request, Spawned, Target};
use super::{Command, Error, Exit, Line, Lines, Signal, Stream};

/// Requests that may wait while a child is being forked.
const QUEUE: usize = 64;

/// Most that is kept of each output of a tool, in bytes.
const MAX_OUTPUT: usize = 4 * 1024 * 1024;

/// Most that an error quotes of a tool's stderr, in bytes.
const MAX_QUOTE: usize = 2048;

/// How long a tool's output is awaited after its exit: a daemon that it left behind
/// may hold the pipes for ever.
const DRAIN: Duration = Duration::from_millis(500);

/// Starts child processes. Cheap to clone; the task behind it ends with the last
/// clone and the last [`Child`].
#[derive(Clone, Debug)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
}

impl Spawner {
    /// Starts the task that owns the children; call it inside a runtime. Processes
    /// that others in this program started are left alone.
    pub fn start() -> Result<Self, Error> {
        Self::launch(None)
    }

    /// Like [`Spawner::start`], and reaps every orphan: as PID 1, or by becoming the
    /// subreaper of its descendants (prctl(2), `PR_SET_CHILD_SUBREAPER`). It takes
    /// the exit status of *every* child of this process, so a program has one of
    /// these and starts no process by other means. `orphans` counts them.
    pub fn start_as_init(orphans: IntCounter) -> Result<Self, Error> {
        let own = rustix::process::getpid();
        if own != rustix::process::Pid::INIT {
            rustix::process::set_child_subreaper(Some(own))
                .map_err(|errno| Error::Watch(errno.into()))?;
        }
        Self::launch(Some(orphans))
    }

    fn launch(orphans: Option<IntCounter>) -> Result<Self, Error> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let reaper = Reaper::new(receiver, orphans).map_err(Error::Watch)?;
        tokio::spawn(reaper.run());
        Ok(Self { requests })
    }

    /// Starts a child. If this is cancelled, the child is killed.
    pub async fn spawn(&self, command: Command) -> Result<Child, Error> {
        let name = command.name();
        let program = command.program().to_owned();
        let (reply, answer) = oneshot::channel();
        let request = Request::Spawn { command, reply };
        self.requests
            .send(request)
            .await
            .map_err(|_| Error::Closed)?;
        let Spawned { id, exit, outputs } = answer.await.map_err(|_| Error::Closed)??;
        let lines = outputs.map(|(stdout, stderr)| Lines::new(stdout, stderr));
        let lines = lines
            .transpose()
            .map_err(|source| Error::Spawn { program, source })?;
        tracing::debug!(program = %name, pid = id.pid.as_raw_pid(), "started a child");
        Ok(Child {
            name,
            id,
            exit,
            lines,
            requests: self.requests.clone(),
        })
    }

    /// Runs a tool to its end and returns what it wrote, at most 4 MiB of each
    /// output. Kills it when `limit` has passed, or when this is cancelled.
    pub async fn run(&self, command: Command, limit: Duration) -> Result<Output, Error> {
        let mut child = self.spawn(command.lines()).await?;
        let mut output = Output {
            program: child.name.clone(),
            exit: Exit::Code(0),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        match tokio::time::timeout(limit, output.collect(&mut child)).await {
            Ok(()) => Ok(output),
            Err(_) => Err(Error::TimedOut {
                output: output.quote(),
                program: output.program,
                limit,
            }),
        }
    }
}

/// A child process. Dropping it while the child runs kills it and what it started.
#[derive(Debug)]
pub struct Child {
    name: String,
    id: ChildId,
    exit: watch::Receiver<Option<Exit>>,
    lines: Option<Lines>,
    requests: mpsc::Sender<Request>,
}

impl Child {
    /// Its process id, which is also its group's.
    pub fn pid(&self) -> i32 {
        self.id.pid.as_raw_pid()
    }

    /// The program's file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its output, once, if [`Command::lines`] asked for it.
    pub fn take_lines(&mut self) -> Option<Lines> {
        self.lines.take()
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end, without a deadline. Cancel safe; may be called again.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            // The owning task went with the runtime, and killed the child.
            _ => Exit::Signal(Signal::KILL.as_raw()),
        }
    }

    /// Signals the child alone.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.send(signal, Target::Process).await
    }

    /// Signals its process group.
    pub async fn signal_group(&self, signal: Signal) -> Result<(), Error> {
        self.send(signal, Target::Group).await
    }

    /// Kills its process group and all its descendants (SIGKILL).
    pub async fn kill_tree(&self) -> Result<(), Error> {
        self.send(Signal::KILL, Target::Tree).await
    }

    async fn send(&self, signal: Signal, target: Target) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Signal {
            child: self.id,
            signal,
            target,
            reply,
        };
        self.requests
            .send(request)
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// What a tool wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    program: String,
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Makes an end without success an error that quotes stderr.
    pub fn require_success(self) -> Result<Self, Error> {
        if self.exit.success() {
            return Ok(self);
        }
        Err(Error::Failed {
            output: self.quote(),
            program: self.program,
            exit: self.exit,
        })
    }

    /// Reads until the tool has ended and its output too, or [`DRAIN`] has passed.
    async fn collect(&mut self, child: &mut Child) {
        let mut lines = child.take_lines();
        let ended = async {
            self.exit = child.wait().await;
            tokio::time::sleep(DRAIN).await;
        };
        let (stdout, stderr) = (&mut self.stdout, &mut self.stderr);
        let drained = async {
            while let Some(line) = next(&mut lines).await {
                let kept = match line.stream {
                    Stream::Stdout => &mut *stdout,
                    Stream::Stderr => &mut *stderr,
                };
                let room = MAX_OUTPUT.saturating_sub(kept.len());
                kept.extend(line.bytes.iter().chain(b"\n").take(room));
            }
        };
        tokio::select! {
            () = ended => {}
            () = drained => self.exit = child.wait().await,
        }
    }

    /// The end of stderr on one line.
    fn quote(&self) -> String {
        let from = self.stderr.len().saturating_sub(MAX_QUOTE);
        let text = String::from_utf8_lossy(&self.stderr[from..]);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join(" | ")
    }
}

async fn next(lines: &mut Option<Lines>) -> Option<Line> {
    match lines {
        Some(lines) => lines.next().await,
        None => None,
    }
}
