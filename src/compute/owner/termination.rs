//! How a compute ends: postgres stopped within a budget, everyone answered.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Owner;
use super::jobs::JobDone;
use crate::api::status::ComputeState;
use crate::compute::StopSignal;
use crate::compute::state::Event;
use crate::compute::stop::Stopped;
use crate::http::control::TerminateOutcome;
use crate::report::{EventKind, PostgresPhase, Sessions, StorageWaits};

/// Beyond the budget for stopping postgres: what a job may take to notice that it was
/// called off.
const GRACE: Duration = Duration::from_secs(10);

impl Owner {
    pub(super) fn on_signal(&mut self, signal: StopSignal) {
        let again = self.signalled;
        self.signalled = true;
        info!(?signal, again, "asked to stop");
        if self.snapshot.state == ComputeState::Terminated {
            self.finished = true;
            return;
        }
        if again || signal == StopSignal::Quit {
            self.escalate.cancel();
        }
        self.terminate(Event::TerminateImmediate);
    }

    /// Begins the termination, or hastens one under way.
    pub(super) fn terminate(&mut self, event: Event) {
        let under_way = self.snapshot.state.is_terminating();
        if !self.transition(event) || under_way {
            return;
        }
        self.event(EventKind::Normal, "ShutdownStarted", "asked to stop");
        self.ending = crate::compute::ending::Ending::Stopped;
        let limit = self.config.limits.stop.fast + self.config.limits.stop.immediate + GRACE;
        self.timers = super::Timers {
            end: Some(Instant::now() + limit),
            ..Default::default()
        };
        match &self.job {
            Some(job) => job.cancel.cancel(),
            None => self.stop(),
        }
    }

    /// A job that ran when the termination came has made way for it.
    pub(super) fn on_job_done_while_terminating(&mut self, done: JobDone) {
        match done {
            JobDone::Stopped(stopped) => self.on_stopped(stopped),
            JobDone::Startup(result) => {
                self.running = result.ok();
                self.stop();
            }
            _ => self.stop(),
        }
    }

    pub(super) fn on_stopped(&mut self, stopped: Stopped) {
        self.snapshot.postgres.phase = PostgresPhase::Absent;
        self.snapshot.postgres.pid = None;
        self.snapshot.lsn.last_shutdown = stopped.lsn;
        self.snapshot.lsn.commit = stopped.lsn.or(self.snapshot.lsn.commit);
        self.snapshot.relay = None;
        self.snapshot.monitor.sessions = Sessions::default();
        self.snapshot.monitor.waits = StorageWaits::default();
        if stopped.forced {
            warn!("postgres did not stop in time and was killed; nothing acknowledged is lost");
            self.event(EventKind::Warning, "ShutdownForced", "postgres was killed");
        }
        let fast = self.snapshot.state == ComputeState::TerminationPendingFast && !self.signalled;
        self.transition(Event::PostgresStopped);
        self.event(
            EventKind::Normal,
            "ShutdownCompleted",
            "postgres has stopped",
        );
        self.waiters.terminated(TerminateOutcome {
            lsn: stopped.lsn,
            already: false,
        });
        let linger = if fast {
            self.config.limits.terminated_linger
        } else {
            Duration::default()
        };
        self.timers.end = Some(Instant::now() + linger);
    }

    pub(super) fn on_timer(&mut self) {
        let now = Instant::now();
        if super::Timers::due(&mut self.timers.end, now) {
            self.finished = true;
        }
        if super::Timers::due(&mut self.timers.restart, now) {
            self.next_job();
        }
        if super::Timers::due(&mut self.timers.catalog_retry, now) {
            self.retry_catalog();
        }
        if super::Timers::due(&mut self.timers.scrape, now) {
            self.scrape_pageservers();
        }
        if super::Timers::due(&mut self.timers.pagestream, now) {
            self.judge_pagestream();
        }
        if super::Timers::due(&mut self.timers.probe, now) {
            self.probe_shards();
        }
        // The next round finds out whether there is anything to look for.
        super::Timers::due(&mut self.timers.lookup, now);
        if super::Timers::due(&mut self.timers.refresh, now) {
            self.next_job();
        }
    }
}
