//! Every command at every moment: while a job is under way, as it ends, and after. The
//! jobs are held up and ended by the test; postgres is a program that sleeps.
//!
//! Whatever comes when, each command is answered, its effect is not lost, and the
//! process ends when it is asked to.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::access::Access;
use crate::compute::StopSignal;
use crate::compute::config::Limits;
use crate::compute::error::Error;
use crate::compute::postgres::{Postgres, PostgresConfig, StopBudget};
use crate::compute::reconfigure::Reconfigured;
use crate::compute::refresh::Refreshed;
use crate::compute::stop::Stopped;
use crate::http::control::{ConfigureError, Request, TerminateMode};
use crate::lsn::Lsn;
use crate::spec::revision::SourceEvent;
use crate::spec::{ComputeSpec, no_secrets, parse_document};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Parent;

/// Everything awaited here comes about long before.
const LIMIT: Duration = Duration::from_mins(1);

/// A job that waits for the test to end it.
struct Begun {
    name: &'static str,
    cancel: CancellationToken,
    finish: oneshot::Sender<JobDone>,
}

struct Stage {
    source: mpsc::Sender<SourceEvent>,
    control: mpsc::Sender<Request>,
    signals: mpsc::Sender<StopSignal>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    begun: mpsc::UnboundedReceiver<Begun>,
    /// Names of the jobs that began so far.
    names: Vec<&'static str>,
    owner: JoinHandle<Ending>,
    spawner: Spawner,
    directory: TempDir,
}

/// A spec with a role of this name.
fn spec(role: &str) -> Arc<ComputeSpec> {
    let text = format!(
        "apiVersion: glowplug.dev/v1alpha1
kind: ComputeSpec
metadata: {{name: main}}
spec:
  tenantId: 9ef87a5bf0d92544f6fafeeb3239695c
  timelineId: de200bd42b49cc1814412c7e592dd6e9
  postgres: {{flavor: Vanilla}}
  storage:
    safekeepers: {{endpoints: [\"sk-0:5454\"]}}
    pageservers: {{shards: [{{number: 0, libpq: \"postgresql://ps-0:6400\"}}]}}
  roles: [{{name: {role}}}]
"
    );
    let parsed = parse_document(&text, &no_secrets).unwrap();
    Arc::new(parsed.spec.unwrap())
}

fn accepted(role: &str, generation: i64) -> SourceEvent {
    SourceEvent::Accepted(Revision {
        spec: spec(role),
        generation,
        hash: role.to_owned(),
        origin: "the test".to_owned(),
    })
}

fn config(directory: &Path) -> ComputeConfig {
    ComputeConfig {
        compute_id: "test".to_owned(),
        pgdata: directory.join("pgdata"),
        pg_bin_dir: directory.to_owned(),
        socket_dir: directory.join("s"),
        listen_addresses: String::new(),
        trust_loopback: false,
        run_as: None,
        strict_overcommit: false,
        superuser: "cloud_admin".to_owned(),
        privileged_role: "neon_superuser".to_owned(),
        internal_http_port: 0,
        trace: Parent::default(),
        limits: Limits {
            failed_linger: None,
            terminated_linger: LIMIT * 10,
            probe_interval: None,
            stop: StopBudget::default(),
            ..Limits::default()
        },
    }
}

/// A program that is asked for its version, and otherwise sleeps.
fn write_postgres(directory: &Path) {
    let program = directory.join("postgres");
    let script = "#!/bin/sh\n\
        case \"$1\" in --version) echo 'postgres (PostgreSQL) 15.18';; *) exec sleep 600;; esac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Stage {
    fn set() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        write_postgres(directory.path());
        let spawner = Spawner::start().unwrap();
        let first = Snapshot::new("test", jiff::Timestamp::now());
        let (snapshot, snapshots) = snapshot_channel(&first);
        let (source, source_events) = mpsc::channel(4);
        let (control, requests) = mpsc::channel(4);
        let (signals, stops) = mpsc::channel(4);
        let (events, _) = mpsc::channel(1);
        let inputs = Inputs {
            source: source_events,
            control: requests,
            signals: stops,
        };
        let outputs = Outputs {
            snapshot,
            events,
            http: reqwest::Client::new(),
            metrics: Arc::new(Metrics::new().unwrap()),
            access: Access::default(),
            look_again: None,
        };
        let (tell, begun) = mpsc::unbounded_channel();
        let perform: Perform = Box::new(move |name, cancel, work| {
            let (finish, finished) = oneshot::channel();
            let cancel = cancel.clone();
            tell.send(Begun {
                name,
                cancel,
                finish,
            })
            .unwrap();
            Box::pin(async move {
                let done = finished.await.unwrap_or(JobDone::Lost);
                drop(work);
                done
            })
        });
        let config = config(directory.path());
        let owner = run_with(config, first, spawner.clone(), inputs, outputs, perform);
        Self {
            source,
            control,
            signals,
            snapshots,
            begun,
            names: Vec::new(),
            owner: tokio::spawn(owner),
            spawner,
            directory,
        }
    }

    fn state(&self) -> ComputeState {
        self.snapshots.borrow().state
    }

    /// The job that begins next.
    async fn job(&mut self) -> Begun {
        let begun = tokio::time::timeout(LIMIT, self.begun.recv()).await;
        let begun = begun.expect("a job begins").expect("the owner lives");
        self.names.push(begun.name);
        begun
    }

    async fn postgres(&self) -> Running {
        let settings = PostgresConfig {
            bin_dir: self.directory.path().to_owned(),
            pgdata: self.directory.path().join("pgdata"),
            run_as: None,
            storage_token: None,
            structured_log: false,
        };
        let spec = self.current();
        Running {
            postgres: Postgres::start(&self.spawner, &settings).await.unwrap(),
            relay: None,
            configured: spec.clone(),
            spec,
            start_lsn: Lsn(8),
            pg_version: 150_018,
            started_at: Instant::now(),
            monitor: None,
        }
    }

    /// The spec that is being applied or in force.
    fn current(&self) -> Arc<ComputeSpec> {
        let snapshot = self.snapshots.borrow();
        snapshot.spec.as_ref().unwrap().spec.clone()
    }

    /// How a job of this name ends well, unless it was called off.
    async fn success(&self, begun: &Begun) -> JobDone {
        let called_off = begun.cancel.is_cancelled();
        match begun.name {
            "startup" if called_off => JobDone::Startup(Box::new(Err(Error::Cancelled))),
            "startup" => JobDone::Startup(Box::new(Ok(self.postgres().await))),
            "reconfigure" if called_off => JobDone::Reconfigured(Err(Error::Cancelled)),
            "reconfigure" => JobDone::Reconfigured(Ok(Reconfigured {
                configured: self.current(),
                catalog_applied: true,
            })),
            "refresh" if called_off => JobDone::Refreshed(Err(Error::Cancelled)),
            "refresh" => JobDone::Refreshed(Ok(Refreshed {
                configured: self.current(),
                probed: None,
            })),
            "catalog" => JobDone::CatalogRetried(Ok(Reconfigured {
                configured: self.current(),
                catalog_applied: true,
            })),
            "stop" => JobDone::Stopped(Stopped {
                lsn: Some(Lsn(16)),
                forced: false,
            }),
            other => panic!("unknown job {other}"),
        }
    }

    /// Ends every job well until `wanted` comes about.
    async fn until<T>(&mut self, what: &str, wanted: impl Future<Output = T>) -> T {
        let give_up = tokio::time::sleep(LIMIT);
        tokio::pin!(wanted, give_up);
        loop {
            tokio::select! {
                done = &mut wanted => return done,
                begun = self.begun.recv() => {
                    let Some(begun) = begun else {
                        // The owner has ended: what it answered is there.
                        return tokio::time::timeout(LIMIT, wanted).await.expect(what);
                    };
                    self.names.push(begun.name);
                    let done = self.success(&begun).await;
                    // A job that was called off meanwhile waits for nobody.
                    let _ = begun.finish.send(done);
                }
                () = &mut give_up => panic!("{what}: in state {}", self.state()),
            }
        }
    }

    async fn until_state(&mut self, wanted: ComputeState) {
        let mut snapshots = self.snapshots.clone();
        let reached = async move {
            snapshots.wait_for(|now| now.state == wanted).await.unwrap();
        };
        self.until(&format!("never {wanted}"), reached).await;
    }
}

/// What the owner is doing when a command comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Empty,
    Startup,
    Running,
    Reconfiguration,
    Refresh,
    Failed,
    Restart,
    Stop,
    Terminated,
}

impl Moment {
    const ALL: [Self; 9] = [
        Self::Empty,
        Self::Startup,
        Self::Running,
        Self::Reconfiguration,
        Self::Refresh,
        Self::Failed,
        Self::Restart,
        Self::Stop,
        Self::Terminated,
    ];

    const fn is_terminating(self) -> bool {
        matches!(self, Self::Stop | Self::Terminated)
    }

    /// Brings the owner there; returns the job that is under way.
    async fn reach(self, stage: &mut Stage) -> Option<Begun> {
        if self == Self::Empty {
            return None;
        }
        stage.source.send(accepted("first", 1)).await.unwrap();
        let startup = stage.job().await;
        match self {
            Self::Startup => return Some(startup),
            Self::Failed => {
                let failed = JobDone::Startup(Box::new(Err(Error::NoPageserver)));
                startup.finish.send(failed).ok().unwrap();
                stage.until_state(ComputeState::Failed).await;
                return None;
            }
            _ => {}
        }
        let running = stage.postgres().await;
        let postmaster = running.postgres.pid();
        let done = JobDone::Startup(Box::new(Ok(running)));
        startup.finish.send(done).ok().unwrap();
        stage.until_state(ComputeState::Running).await;
        match self {
            Self::Reconfiguration => {
                stage.source.send(accepted("second", 2)).await.unwrap();
                Some(stage.job().await)
            }
            Self::Refresh => {
                stage.refresh().await.await.unwrap().unwrap();
                Some(stage.job().await)
            }
            Self::Restart => {
                let pid = nix::unistd::Pid::from_raw(postmaster);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                stage.until_state(ComputeState::Init).await;
                None
            }
            Self::Stop | Self::Terminated => {
                let _answer = stage.terminate(TerminateMode::Fast).await;
                let stop = stage.job().await;
                if self == Self::Stop {
                    return Some(stop);
                }
                let done = stage.success(&stop).await;
                stop.finish.send(done).ok().unwrap();
                stage.until_state(ComputeState::Terminated).await;
                None
            }
            _ => None,
        }
    }
}

type TerminateAnswer = oneshot::Receiver<
    Result<crate::http::control::TerminateOutcome, crate::http::control::Refusal>,
>;
type ConfigureAnswer = oneshot::Receiver<Result<Arc<Snapshot>, ConfigureError>>;
type RefreshAnswer = oneshot::Receiver<Result<(), crate::http::control::Refusal>>;

impl Stage {
    async fn terminate(&self, mode: TerminateMode) -> TerminateAnswer {
        let (reply, answer) = oneshot::channel();
        let request = Request::Terminate { mode, reply };
        self.control.send(request).await.unwrap();
        answer
    }

    async fn configure(&self, role: &str) -> ConfigureAnswer {
        let (reply, answer) = oneshot::channel();
        let spec = Box::new((*spec(role)).clone());
        let trace = Parent::default();
        let request = Request::Configure { spec, trace, reply };
        self.control.send(request).await.unwrap();
        answer
    }

    async fn refresh(&self) -> RefreshAnswer {
        let (reply, answer) = oneshot::channel();
        self.control.send(Request::Refresh { reply }).await.unwrap();
        answer
    }

    /// A stop at once, and the end of the process.
    async fn end(mut self, what: &str) -> Ending {
        // The owner may have ended already.
        let _ = self.signals.send(StopSignal::Quit).await;
        let owner = std::mem::replace(&mut self.owner, tokio::spawn(async { Ending::Internal }));
        self.until(what, owner).await.unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Configure,
    NewSpec,
    Refresh,
    TerminateFast,
    TerminateImmediate,
    Stop,
    Quit,
}

impl Command {
    const ALL: [Self; 7] = [
        Self::Configure,
        Self::NewSpec,
        Self::Refresh,
        Self::TerminateFast,
        Self::TerminateImmediate,
        Self::Stop,
        Self::Quit,
    ];
}

/// What is still owed to whoever gave a command.
enum Pending {
    Configure(ConfigureAnswer),
    NewSpec,
    Refresh(RefreshAnswer),
    Terminate(TerminateAnswer),
    Signal,
}

/// When the job that is under way ends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The command is taken while the job goes on, which then ends well.
    After,
    /// Both are there when the owner looks.
    With,
    /// The job has ended well when the command comes.
    Before,
    /// Both are there, and the job's task panicked.
    Lost,
}

async fn give(stage: &Stage, command: Command) -> Pending {
    match command {
        Command::Configure => Pending::Configure(stage.configure("configured").await),
        Command::NewSpec => {
            stage.source.send(accepted("newest", 9)).await.unwrap();
            Pending::NewSpec
        }
        Command::Refresh => Pending::Refresh(stage.refresh().await),
        Command::TerminateFast => Pending::Terminate(stage.terminate(TerminateMode::Fast).await),
        Command::TerminateImmediate => {
            Pending::Terminate(stage.terminate(TerminateMode::Immediate).await)
        }
        Command::Stop => {
            stage.signals.send(StopSignal::Stop).await.unwrap();
            Pending::Signal
        }
        Command::Quit => {
            stage.signals.send(StopSignal::Quit).await.unwrap();
            Pending::Signal
        }
    }
}

/// Lets everybody else get on.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn play(moment: Moment, command: Command, end: End) {
    let what = format!("{command:?} at {moment:?}, its job ending {end:?}");
    let mut stage = Stage::set();
    let held = moment.reach(&mut stage).await;
    let held_startup = held.as_ref().is_some_and(|begun| begun.name == "startup");
    let before = stage.names.len();
    let pending = match held {
        None => give(&stage, command).await,
        Some(begun) => match end {
            End::After => {
                let pending = give(&stage, command).await;
                settle().await;
                let done = stage.success(&begun).await;
                let _ = begun.finish.send(done);
                pending
            }
            End::With => {
                let done = stage.success(&begun).await;
                let pending = give(&stage, command).await;
                let _ = begun.finish.send(done);
                pending
            }
            End::Before => {
                let done = stage.success(&begun).await;
                let _ = begun.finish.send(done);
                settle().await;
                give(&stage, command).await
            }
            End::Lost => {
                let pending = give(&stage, command).await;
                drop(begun.finish);
                pending
            }
        },
    };
    check(stage, moment, pending, held_startup, before, end, &what).await;
}

async fn check(
    mut stage: Stage,
    moment: Moment,
    pending: Pending,
    held_startup: bool,
    before: usize,
    end: End,
    what: &str,
) {
    match pending {
        Pending::Configure(answer) => {
            let answer = stage.until(what, answer).await.expect(what);
            if moment.is_terminating() {
                assert!(matches!(answer, Err(ConfigureError::Refused(_))), "{what}");
            } else {
                let snapshot = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
                let applied = snapshot.spec.as_ref().unwrap().spec.clone();
                assert_eq!(applied, spec("configured"), "{what}");
            }
        }
        Pending::NewSpec if moment.is_terminating() => {}
        Pending::NewSpec => {
            let mut snapshots = stage.snapshots.clone();
            let applied = async move {
                let wanted = spec("newest");
                let in_force = |now: &Arc<Snapshot>| {
                    let facts = now.spec.as_ref();
                    now.state == ComputeState::Running && facts.is_some_and(|f| f.spec == wanted)
                };
                snapshots.wait_for(in_force).await.unwrap();
            };
            stage.until(what, applied).await;
        }
        Pending::Refresh(answer) => {
            let answer = stage.until(what, answer).await.expect(what);
            let refused = moment.is_terminating() || moment == Moment::Empty;
            assert_eq!(answer.is_err(), refused, "{what}");
            // A start-up that was lost leaves no postgres that could wait for pages.
            let lost = held_startup && end == End::Lost;
            if !refused && !lost {
                stage.until_state(ComputeState::Running).await;
                let looked = |name: &&str| ["refresh", "startup"].contains(name);
                let joined = held_startup || moment == Moment::Refresh;
                assert!(joined || stage.names[before..].iter().any(looked), "{what}");
            }
        }
        Pending::Terminate(answer) => {
            stage.until(what, answer).await.expect(what).expect(what);
        }
        Pending::Signal => {}
    }
    assert_eq!(stage.end(what).await, Ending::Stopped, "{what}");
}

#[tokio::test]
async fn every_command_at_every_moment_is_answered_and_not_lost() {
    for moment in Moment::ALL {
        let ends: &[End] = match moment {
            Moment::Startup | Moment::Reconfiguration | Moment::Refresh | Moment::Stop => {
                &[End::After, End::With, End::Before, End::Lost]
            }
            _ => &[End::With],
        };
        for command in Command::ALL {
            for end in ends {
                play(moment, command, *end).await;
            }
        }
    }
}

#[tokio::test]
async fn all_who_ask_for_a_termination_are_answered_alike() {
    let mut stage = Stage::set();
    Moment::Running.reach(&mut stage).await;
    let mut answers = Vec::new();
    for mode in [
        TerminateMode::Fast,
        TerminateMode::Immediate,
        TerminateMode::Fast,
    ] {
        answers.push(stage.terminate(mode).await);
    }
    for answer in answers {
        let outcome = stage.until("no answer", answer).await.unwrap().unwrap();
        assert_eq!(outcome.lsn, Some(Lsn(16)));
    }
    assert_eq!(stage.names, ["startup", "stop"]);
    assert_eq!(stage.end("no end").await, Ending::Stopped);
}

#[tokio::test]
async fn a_storm_of_refreshes_joins_the_one_under_way() {
    let mut stage = Stage::set();
    let refresh = Moment::Refresh.reach(&mut stage).await.unwrap();
    for _ in 0..100 {
        stage.refresh().await.await.unwrap().unwrap();
    }
    let done = stage.success(&refresh).await;
    refresh.finish.send(done).ok().unwrap();
    stage.until_state(ComputeState::Running).await;
    assert_eq!(stage.snapshots.borrow().pagestream.request_errors, 101);
    assert_eq!(stage.names, ["startup", "refresh"]);
    assert_eq!(stage.end("no end").await, Ending::Stopped);
}

#[tokio::test]
async fn each_configure_is_answered_by_what_became_of_its_own_spec() {
    let mut stage = Stage::set();
    Moment::Running.reach(&mut stage).await;
    let first = stage.configure("first-change").await;
    let job = stage.job().await;
    let second = stage.configure("second-change").await;
    settle().await;
    let refused = Error::ConfigurationRefused("work_mem".to_owned());
    job.finish
        .send(JobDone::Reconfigured(Err(refused)))
        .ok()
        .unwrap();
    let first = stage.until("no answer", first).await.unwrap();
    assert!(matches!(first, Err(ConfigureError::Failed(_))), "{first:?}");
    let second = stage.until("no answer", second).await.unwrap().unwrap();
    assert_eq!(second.spec.as_ref().unwrap().spec, spec("second-change"));
    assert_eq!(stage.end("no end").await, Ending::Stopped);
}

#[tokio::test]
async fn a_lost_job_leaves_a_postgres_that_served_before_serving() {
    for moment in [Moment::Reconfiguration, Moment::Refresh] {
        let mut stage = Stage::set();
        let held = moment.reach(&mut stage).await.unwrap();
        drop(held.finish);
        stage.until_state(ComputeState::Running).await;
        let snapshot = stage.snapshots.borrow().clone();
        assert_eq!(snapshot.postgres.phase, PostgresPhase::Accepting);
        assert!(
            snapshot
                .error
                .as_ref()
                .unwrap()
                .contains("fault of glowplug")
        );
        assert_eq!(stage.end("no end").await, Ending::Stopped);
    }
}
