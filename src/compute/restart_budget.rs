//! When a postgres that ended by itself is started again. Pure.
//!
//! Waits double from 1 s to 30 s and start anew after 10 minutes of health. More than
//! five unplanned exits within 10 minutes are a crash loop, which is reported; when
//! the budget is spent the process ends (exit code 75), so that whoever supervises it
//! can back off for longer than one process should.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// Exits within this time count towards a crash loop; a run that lasted longer
/// resets the waits.
pub const WINDOW: Duration = Duration::from_mins(10);
/// This many exits within [`WINDOW`] are reported as a crash loop.
pub const CRASH_LOOP: usize = 5;
/// This many exits within [`WINDOW`] spend the budget.
pub const BUDGET: usize = 10;

/// What to do about an unplanned exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start again after this wait.
    Restart {
        /// How long to wait.
        after: Duration,
        /// Whether this is a crash loop by now.
        crash_looping: bool,
    },
    /// Give up.
    Spent,
}

/// Counts unplanned exits.
#[derive(Debug)]
pub struct RestartBudget {
    exits: VecDeque<Instant>,
    backoff: Backoff,
}

impl Default for RestartBudget {
    fn default() -> Self {
        Self {
            exits: VecDeque::new(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

impl RestartBudget {
    /// Takes note of an exit of a postgres that had served since `served_since`
    /// (`None` if it never did), and decides. `random` is uniform in `0.0..1.0`.
    pub fn exited(&mut self, now: Instant, served_since: Option<Instant>, random: f64) -> Decision {
        if served_since.is_some_and(|since| now.duration_since(since) >= WINDOW) {
            self.exits.clear();
            self.backoff.reset();
        }
        self.exits.push_back(now);
        while self
            .exits
            .front()
            .is_some_and(|exit| now.duration_since(*exit) > WINDOW)
        {
            self.exits.pop_front();
        }
        if self.exits.len() >= BUDGET {
            return Decision::Spent;
        }
        Decision::Restart {
            after: self.backoff.next(random),
            crash_looping: self.exits.len() > CRASH_LOOP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_exits_become_a_crash_loop_and_then_spend_the_budget() {
        let now = Instant::now();
        let mut budget = RestartBudget::default();
        let decisions: Vec<_> = (0..10)
            .map(|_| budget.exited(now, Some(now), 1.0))
            .collect();
        assert_eq!(
            decisions[0],
            Decision::Restart {
                after: Duration::from_secs(1),
                crash_looping: false
            }
        );
        assert_eq!(
            decisions[5],
            Decision::Restart {
                after: Duration::from_secs(30),
                crash_looping: true
            }
        );
        assert_eq!(decisions[9], Decision::Spent);
    }

    #[test]
    fn ten_minutes_of_health_forgive() {
        let start = Instant::now();
        let mut budget = RestartBudget::default();
        for _ in 0..8 {
            budget.exited(start, None, 1.0);
        }
        let later = start + WINDOW;
        assert_eq!(
            budget.exited(later, Some(start), 1.0),
            Decision::Restart {
                after: Duration::from_secs(1),
                crash_looping: false
            }
        );
    }
}
