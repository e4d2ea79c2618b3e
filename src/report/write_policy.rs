//! When a status is worth a write. Pure: time and randomness are passed in.
//!
//! # Guarantees
//!
//! 1. A status that differs from the written one in nothing but times is not written.
//! 2. What people wait for ([`Change::Urgent`]) is written at once.
//! 3. Other changes of state and conditions wait for [`Limits::settle`], so that
//!    those of one moment share a write.
//! 4. Counters, positions, progress and texts are written at most every
//!    [`Limits::routine`].
//! 5. Changes beyond a burst are paced by [`Limits::refill`], and a few writes are
//!    kept back for urgent ones.
//!
//! With [`Limits::API_SERVER`] a start-up of a few seconds makes at most eight
//! writes, and a compute whose counters never rest makes fewer than four a minute.

use std::time::{Duration, Instant};

use crate::api::status::{ComputeSpecStatus, ComputeState, Condition, ConditionStatus};

/// How much a desired status differs from the written one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// In nothing, or in transition times alone.
    None,
    /// In counters, positions, durations, progress or the text of a message.
    Routine,
    /// In the state, a condition, a generation or the postgres process.
    Notable,
    /// In something that people wait for: readiness, acceptance of the spec, the end.
    Urgent,
}

/// Compares a desired status with the one written last, if any was.
pub fn compare(written: Option<&ComputeSpecStatus>, desired: &ComputeSpecStatus) -> Change {
    let Some(written) = written else {
        return if is_awaited(desired.state) {
            Change::Urgent
        } else {
            Change::Notable
        };
    };
    if awaited_facts(written) != awaited_facts(desired)
        || (written.state != desired.state && is_awaited(desired.state))
    {
        return Change::Urgent;
    }
    if without_routine(written) != without_routine(desired) {
        Change::Notable
    } else if without_times(written) != without_times(desired) {
        Change::Routine
    } else {
        Change::None
    }
}

/// States that a start-up, a reconfiguration or a termination ends in.
const fn is_awaited(state: Option<ComputeState>) -> bool {
    matches!(
        state,
        Some(
            ComputeState::Running
                | ComputeState::Failed
                | ComputeState::TerminationPendingFast
                | ComputeState::TerminationPendingImmediate
                | ComputeState::Terminated
        )
    )
}

/// Whether the compute is ready, and whether which generation was accepted, as far
/// as it is known.
fn awaited_facts(status: &ComputeSpecStatus) -> [Option<(ConditionStatus, &str, Option<i64>)>; 2] {
    let find = |type_: &str| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    };
    let ready = find("Ready").map(|ready| match ready.status {
        // Before the first start-up ends, reasons change and nobody waits for them.
        ConditionStatus::True => (ready.status, ready.reason.as_str(), None),
        _ => (ConditionStatus::False, "", None),
    });
    let refused = find("SpecAccepted")
        .filter(|accepted| accepted.status == ConditionStatus::False)
        .map(|accepted| {
            (
                accepted.status,
                accepted.reason.as_str(),
                accepted.observed_generation,
            )
        });
    [ready, refused]
}

/// The status without times that say nothing new.
fn without_times(status: &ComputeSpecStatus) -> ComputeSpecStatus {
    ComputeSpecStatus {
        conditions: status
            .conditions
            .iter()
            .map(|condition| Condition {
                last_transition_time: String::new(),
                ..condition.clone()
            })
            .collect(),
        ..status.clone()
    }
}

/// The status without what may change every moment.
fn without_routine(status: &ComputeSpecStatus) -> ComputeSpecStatus {
    let mut rest = without_times(status);
    for condition in &mut rest.conditions {
        condition.message.clear();
    }
    if let Some(lsn) = &mut rest.lsn {
        lsn.commit = None;
    }
    ComputeSpecStatus {
        last_active_at: None,
        startup_durations: None,
        progress: None,
        pagestream: None,
        ..rest
    }
}

/// How often one sink may be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// How long an urgent change waits for others to join it.
    pub settle_urgent: Duration,
    /// How long a notable change waits for others to join it.
    pub settle: Duration,
    /// Shortest time between a routine write and the write before it; up to a fifth
    /// is added at random, so that a fleet does not write in step.
    pub routine: Duration,
    /// Notable and urgent writes that may follow each other without a pause.
    pub burst: u32,
    /// Writes of the burst that only urgent changes may use.
    pub reserve: u32,
    /// How long it takes until one more write is allowed after a burst.
    pub refill: Duration,
}

impl Limits {
    /// For objects on the API server, where each write costs the cluster.
    pub const API_SERVER: Self = Self {
        settle_urgent: Duration::from_millis(50),
        settle: Duration::from_millis(250),
        routine: Duration::from_secs(15),
        burst: 8,
        reserve: 3,
        refill: Duration::from_secs(15),
    };

    /// For a local file, which costs next to nothing.
    pub const FILE: Self = Self {
        settle_urgent: Duration::ZERO,
        settle: Duration::from_millis(10),
        routine: Duration::from_secs(1),
        burst: 100,
        reserve: 0,
        refill: Duration::from_millis(100),
    };
}

/// Decides when the next write is due.
#[derive(Debug)]
pub struct WritePolicy {
    limits: Limits,
    /// Writes of the burst that are left, as of `counted_at`; parts of one count.
    allowance: f64,
    counted_at: Instant,
    next_routine: Instant,
    /// What is to be written, and since when.
    pending: Option<(Change, Instant)>,
}

impl WritePolicy {
    /// Nothing was written yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            allowance: f64::from(limits.burst),
            counted_at: now,
            next_routine: now,
            pending: None,
        }
    }

    /// Takes note of how the newest status differs from the written one.
    pub fn observe(&mut self, change: Change, now: Instant) {
        self.pending = match (change, self.pending) {
            (Change::None, _) => None,
            (_, Some((pending, since))) if pending == change => Some((pending, since)),
            _ => Some((change, now)),
        };
    }

    /// Whether there is something to write.
    pub const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When it is to be written; `None` when there is nothing.
    pub fn due(&self) -> Option<Instant> {
        let (change, since) = self.pending?;
        Some(match change {
            Change::None => return None,
            Change::Routine => since.max(self.next_routine),
            Change::Notable => (since + self.limits.settle).max(self.allowed(self.limits.reserve)),
            Change::Urgent => (since + self.limits.settle_urgent).max(self.allowed(0)),
        })
    }

    /// When one write is allowed while `reserve` others stay available.
    fn allowed(&self, reserve: u32) -> Instant {
        let missing = f64::from(reserve) + 1.0 - self.allowance;
        if missing <= 0.0 {
            self.counted_at
        } else {
            self.counted_at + self.limits.refill.mul_f64(missing)
        }
    }

    /// Takes note of a write. `random` is uniform in `0.0..1.0`.
    pub fn wrote(&mut self, now: Instant, random: f64) {
        if self
            .pending
            .is_some_and(|(change, _)| change > Change::Routine)
        {
            let refilled = now
                .duration_since(self.counted_at)
                .div_duration_f64(self.limits.refill);
            let allowance = (self.allowance + refilled).min(self.limits.burst.into());
            self.allowance = (allowance - 1.0).max(0.0);
            self.counted_at = now;
        }
        let jitter = 1.0 + random.clamp(0.0, 1.0) / 5.0;
        self.next_routine = now + self.limits.routine.mul_f64(jitter);
        self.pending = None;
    }
}

#[cfg(test)]
mod tests;
