//! Walks start-ups and busy computes through the policy on a made-up clock.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::report::status::render;
use crate::report::{PostgresPhase, Snapshot, StepFacts};

const MS: Duration = Duration::from_millis(1);

/// A sink that always works, driven by a clock that jumps.
struct Run {
    start: Instant,
    now: Instant,
    policy: WritePolicy,
    desired: ComputeSpecStatus,
    written: Option<ComputeSpecStatus>,
    writes: Vec<Duration>,
}

impl Run {
    fn new(limits: Limits) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            policy: WritePolicy::new(limits, start),
            desired: ComputeSpecStatus::default(),
            written: None,
            writes: Vec::new(),
        }
    }

    /// The compute's facts change now.
    fn set(&mut self, snapshot: &Snapshot) {
        let elapsed = i64::try_from((self.now - self.start).as_secs()).unwrap();
        let now = Timestamp::from_second(elapsed).unwrap();
        self.desired = render(snapshot, &self.desired, now);
        self.policy
            .observe(compare(self.written.as_ref(), &self.desired), self.now);
    }

    /// Time passes; what is due is written.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.policy.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.policy.wrote(self.now, 0.0);
            self.written = Some(self.desired.clone());
            self.writes.push(self.now - self.start);
        }
        self.now = end;
    }
}

/// The snapshots of an ordinary start-up, in order.
fn start_up() -> Vec<Snapshot> {
    let mut snapshot = Snapshot::new("compute", Timestamp::UNIX_EPOCH);
    let mut all = vec![snapshot.clone()];
    let mut step = |change: &dyn Fn(&mut Snapshot)| {
        change(&mut snapshot);
        all.push(snapshot.clone());
    };
    step(&|s| {
        s.state = ComputeState::ConfigurationPending;
        s.observed_generation = Some(1);
    });
    step(&|s| s.state = ComputeState::Init);
    step(&|s| s.safekeepers = StepFacts::Running { last_error: None });
    step(&|s| s.safekeepers = StepFacts::Done("Synced"));
    step(&|s| s.basebackup = StepFacts::Running { last_error: None });
    step(&|s| s.basebackup = StepFacts::Done("Fetched"));
    step(&|s| s.configuration.step = StepFacts::Done("Reloaded"));
    step(&|s| s.postgres.phase = PostgresPhase::Starting);
    step(&|s| s.postgres.phase = PostgresPhase::Accepting);
    step(&|s| s.catalog.step = StepFacts::Running { last_error: None });
    step(&|s| s.catalog.step = StepFacts::Done("Applied"));
    step(&|s| {
        s.state = ComputeState::Running;
        s.durations.total = Some(MS);
    });
    all
}

#[test]
fn a_start_up_makes_at_most_eight_writes_at_any_pace() {
    for pace in [0, 1, 20, 60, 100, 260, 300, 500, 900, 1200] {
        let mut run = Run::new(Limits::API_SERVER);
        for snapshot in start_up() {
            run.set(&snapshot);
            run.pass(MS * pace);
        }
        run.pass(Duration::from_secs(1));
        assert!(
            run.writes.len() <= 8,
            "{} writes at {pace} ms a step",
            run.writes.len()
        );
        let written = run.written.unwrap();
        assert_eq!(
            written.state,
            Some(ComputeState::Running),
            "at {pace} ms a step"
        );
    }
}

#[test]
fn a_fast_start_up_shares_one_write() {
    let mut run = Run::new(Limits::API_SERVER);
    for snapshot in start_up() {
        run.set(&snapshot);
        run.pass(MS);
    }
    run.pass(Duration::from_secs(1));
    assert_eq!(run.writes.len(), 1);
}

#[test]
fn counters_that_never_rest_are_written_four_times_a_minute() {
    let mut run = Run::new(Limits::API_SERVER);
    let mut snapshot = start_up().pop().unwrap();
    run.set(&snapshot);
    run.pass(Duration::from_secs(1));
    let before = run.writes.len();
    for _ in 0..600 {
        snapshot.pagestream.request_errors += 1;
        run.set(&snapshot);
        run.pass(Duration::from_secs(1));
    }
    let writes = run.writes.len() - before;
    assert!(
        (35..=40).contains(&writes),
        "{writes} writes in ten minutes"
    );
}

#[test]
fn readiness_is_written_at_once_even_after_a_burst() {
    let mut run = Run::new(Limits::API_SERVER);
    let mut snapshot = start_up().pop().unwrap();
    run.set(&snapshot);
    run.pass(Duration::from_secs(1));
    for restarts in 0..20 {
        snapshot.postgres.restarts = restarts;
        run.set(&snapshot);
        run.pass(MS * 500);
    }
    let before = run.now;
    snapshot.postgres.phase = PostgresPhase::Exited;
    run.set(&snapshot);
    let due = run.policy.due().unwrap();
    assert!(
        due <= before + Limits::API_SERVER.settle_urgent,
        "{:?} late",
        due - before
    );
}

#[test]
fn a_state_that_comes_and_goes_before_its_write_is_not_written() {
    let mut run = Run::new(Limits::API_SERVER);
    let mut snapshot = start_up().pop().unwrap();
    run.set(&snapshot);
    run.pass(Duration::from_secs(1));
    let before = run.writes.len();
    snapshot.state = ComputeState::RefreshConfiguration;
    run.set(&snapshot);
    run.pass(MS * 10);
    snapshot.state = ComputeState::Running;
    run.set(&snapshot);
    assert!(!run.policy.is_pending());
    run.pass(Duration::from_mins(1));
    assert_eq!(run.writes.len(), before);
}

#[test]
fn an_equal_status_needs_no_write_although_time_has_passed() {
    let snapshot = start_up().pop().unwrap();
    let empty = ComputeSpecStatus::default();
    let earlier = render(&snapshot, &empty, Timestamp::from_second(1).unwrap());
    let later = render(&snapshot, &empty, Timestamp::from_second(9).unwrap());
    assert_ne!(earlier, later);
    assert_eq!(compare(Some(&earlier), &later), Change::None);
}

#[test]
fn changes_are_told_apart() {
    let running = start_up().pop().unwrap();
    let check = |change: fn(&mut Snapshot), expected: Change| {
        let mut changed = running.clone();
        change(&mut changed);
        let empty = ComputeSpecStatus::default();
        let before = render(&running, &empty, Timestamp::UNIX_EPOCH);
        let after = render(&changed, &before, Timestamp::UNIX_EPOCH);
        assert_eq!(compare(Some(&before), &after), expected);
    };
    check(|_| {}, Change::None);
    check(
        |s| s.pagestream.misrouted_requests = Some(4),
        Change::Routine,
    );
    check(
        |s| s.last_active_at = Some(Timestamp::UNIX_EPOCH),
        Change::Routine,
    );
    check(|s| s.postgres.restarts = 1, Change::Notable);
    check(|s| s.observed_generation = Some(2), Change::Notable);
    check(|s| s.state = ComputeState::Configuration, Change::Notable);
    check(
        |s| s.state = ComputeState::TerminationPendingFast,
        Change::Urgent,
    );
    check(
        |s| s.postgres.phase = PostgresPhase::CrashLooping,
        Change::Urgent,
    );
    let refuse = |s: &mut Snapshot| {
        s.rejection = Some(crate::spec::revision::Rejection {
            generation: 2,
            origin: String::new(),
            reason: "ValidationFailed",
            message: String::new(),
        });
    };
    check(refuse, Change::Urgent);
}

proptest! {
    /// However the facts jump about, the writes stay within the burst, one write per
    /// refill and one per routine interval.
    #[test]
    fn writes_are_bounded_by_time(steps in prop::collection::vec((0_usize..13, 0_u32..4000, any::<u64>()), 1..200)) {
        let phases = start_up();
        let mut run = Run::new(Limits::API_SERVER);
        for (phase, pause, counter) in steps {
            let mut snapshot = phases[phase].clone();
            snapshot.pagestream.request_errors = counter >> 1;
            run.set(&snapshot);
            run.pass(MS * pause);
        }
        let quarter_minutes = (run.now - run.start).as_secs() / 15 + 1;
        prop_assert!(run.writes.len() as u64 <= 8 + 2 * quarter_minutes);
    }
}
