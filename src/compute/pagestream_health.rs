//! Decides from counters of errors whether reading pages keeps failing. Pure: the time
//! is passed in.
//!
//! A compute that points at the wrong pageserver shows in two counters that keep
//! rising: refresh requests of its postgres, and misrouted requests that a pageserver
//! counts. Either may rise a little while a shard moves; that is no fault. So:
//!
//! 1. A counter *rises* while no more than [`Rule::gap`] passes between two increases.
//! 2. Reading fails once a counter has risen for [`Rule::after`].
//! 3. It works again once that counter has been quiet for [`Rule::quiet`].
//!
//! deploy/prometheus/rules/pagestream-errors.yaml is the same rule for Prometheus, with
//! the default times: `increase(…[1m]) > 0`, `for: 5m`, `keep_firing_for: 5m`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Rising for this long is a fault.
    pub after: Duration,
    /// Quiet for this long is the end of it.
    pub quiet: Duration,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            after: Duration::from_mins(5),
            quiet: Duration::from_mins(5),
        }
    }
}

impl Rule {
    /// The longest pause between two increases of a counter that rises: a fifth of
    /// [`Rule::after`], so that one burst is never enough.
    pub fn gap(&self) -> Duration {
        self.after / 5
    }
}

/// A counter that has kept rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault<'a> {
    /// Which counter, as it was observed under.
    pub counter: &'a str,
    /// Since when it rises.
    pub since: Instant,
}

/// What is known of the counters.
#[derive(Debug, Default)]
pub struct PagestreamHealth {
    rule: Rule,
    counters: BTreeMap<String, Counter>,
}

#[derive(Debug)]
struct Counter {
    value: u64,
    /// First and last increase of the rise under way, or of the one that is a fault.
    rise: Option<(Instant, Instant)>,
    failing: bool,
}

impl PagestreamHealth {
    /// Knows no counter yet.
    pub const fn new(rule: Rule) -> Self {
        Self {
            rule,
            counters: BTreeMap::new(),
        }
    }

    /// Takes a reading. The first one of a counter only says where it stands: its past
    /// is not this compute's. A counter that falls was started anew.
    pub fn observe(&mut self, counter: &str, value: u64, now: Instant) {
        let Some(known) = self.counters.get_mut(counter) else {
            let rise = None;
            let failing = false;
            let counter = counter.to_owned();
            self.counters.insert(
                counter,
                Counter {
                    value,
                    rise,
                    failing,
                },
            );
            return;
        };
        let increased = value > known.value || (value < known.value && value > 0);
        known.value = value;
        // A rise that ended before this increase is no part of the one that begins.
        known.settle(&self.rule, now);
        if increased {
            let began = known.rise.map_or(now, |(began, _)| began);
            known.rise = Some((began, now));
        }
    }

    /// Forgets counters that are not read any more, such as those of a pageserver
    /// that a shard has left.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.counters.retain(|name, _| keep(name));
    }

    /// The counter that has failed for longest, if any fails now.
    pub fn fault(&mut self, now: Instant) -> Option<Fault<'_>> {
        for counter in self.counters.values_mut() {
            counter.settle(&self.rule, now);
        }
        let failing = self.counters.iter().filter(|(_, counter)| counter.failing);
        failing
            .filter_map(|(name, counter)| {
                let (since, _) = counter.rise?;
                let counter = name.as_str();
                Some(Fault { counter, since })
            })
            .min_by_key(|fault| fault.since)
    }

    /// When the answer may change though no counter does.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = self.counters.values();
        deadlines
            .filter_map(|counter| counter.deadline(&self.rule))
            .min()
    }
}

impl Counter {
    /// What the passing of time alone has made of it.
    fn settle(&mut self, rule: &Rule, now: Instant) {
        let Some((began, last)) = self.rise else {
            return;
        };
        let fails = began + rule.after;
        self.failing |= fails <= last + rule.gap() && fails <= now;
        let quiet = now.saturating_duration_since(last);
        let over = if self.failing {
            quiet >= rule.quiet
        } else {
            quiet > rule.gap()
        };
        if over {
            self.failing = false;
            self.rise = None;
        }
    }

    fn deadline(&self, rule: &Rule) -> Option<Instant> {
        let (began, last) = self.rise?;
        if self.failing {
            return Some(last + rule.quiet);
        }
        let fails = began + rule.after;
        (fails <= last + rule.gap()).then_some(fails)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Readings at seconds, and whether reading fails after each.
    fn run(readings: &[(u64, u64)]) -> Vec<bool> {
        let start = Instant::now();
        let mut health = PagestreamHealth::default();
        readings
            .iter()
            .map(|&(second, value)| {
                let now = start + Duration::from_secs(second);
                health.observe("c", value, now);
                health.fault(now).is_some()
            })
            .collect()
    }

    /// One increase every `step` seconds from 0 to `end`.
    fn rising(end: u64, step: usize) -> Vec<(u64, u64)> {
        (0..=end)
            .step_by(step)
            .enumerate()
            .map(|(count, second)| (second, count as u64))
            .collect()
    }

    #[test]
    fn a_counter_that_keeps_rising_fails_after_five_minutes() {
        // The first reading is no increase.
        let failing = run(&rising(330, 15));
        let first = failing.iter().position(|failing| *failing);
        assert_eq!(first, Some(21), "at 315 s: 300 s after the first increase");
    }

    #[test]
    fn a_burst_and_a_slow_drip_are_no_fault() {
        let mut burst = vec![(0, 0), (1, 1000), (2, 5000)];
        burst.extend((0..60).map(|n| (n * 15, 5000)));
        assert!(!run(&burst).contains(&true));
        assert!(!run(&rising(3600, 61)).contains(&true));
    }

    #[test]
    fn it_works_again_after_five_quiet_minutes() {
        let mut readings = rising(315, 15);
        let end = readings.last().unwrap().1;
        readings.extend((330..=630).step_by(15).map(|second| (second, end)));
        let failing = run(&readings);
        // The last increase was at 315 s.
        assert!(failing[40], "still failing at 600 s");
        assert!(!failing[41], "well at 615 s");
        // One more increase then begins a new rise, it does not go on with the old one.
        readings.push((640, end + 1));
        assert_eq!(run(&readings).last(), Some(&false));
    }

    #[test]
    fn a_counter_that_was_started_anew_still_counts() {
        let mut readings = rising(315, 15);
        for reading in readings.iter_mut().skip(10) {
            reading.1 -= 9;
        }
        assert_eq!(run(&readings).last(), Some(&true));
        let mut back_to_nothing = rising(315, 15);
        back_to_nothing.push((330, 0));
        back_to_nothing.push((615, 0));
        assert_eq!(run(&back_to_nothing).last(), Some(&false));
    }

    #[test]
    fn the_past_of_a_counter_is_not_ours() {
        let readings: Vec<_> = (0..60).map(|n| (n * 15, 1_000_000)).collect();
        assert!(!run(&readings).contains(&true));
    }

    #[test]
    fn a_forgotten_counter_fails_no_more() {
        let start = Instant::now();
        let mut health = PagestreamHealth::default();
        for (second, value) in rising(315, 15) {
            health.observe("gone", value, start + Duration::from_secs(second));
        }
        let end = start + Duration::from_secs(315);
        assert_eq!(health.fault(end).map(|fault| fault.counter), Some("gone"));
        health.retain(|name| name != "gone");
        assert_eq!(health.fault(end), None);
        assert_eq!(health.deadline(), None);
    }

    proptest! {
        /// Whoever asks at each deadline misses no change.
        #[test]
        fn nothing_changes_before_the_deadline(
            steps in proptest::collection::vec((1u64..120, 0u64..2), 1..60),
        ) {
            let mut now = Instant::now();
            let mut health = PagestreamHealth::default();
            let mut value = 0;
            health.observe("c", value, now);
            for (pause, more) in steps {
                let before = health.fault(now).is_some();
                let next = now + Duration::from_secs(pause);
                let deadline = health.deadline();
                let changes = health.fault(next).is_some() != before;
                if changes {
                    prop_assert!(deadline.is_some_and(|at| now < at && at <= next));
                }
                now = next;
                value += more;
                health.observe("c", value, now);
            }
        }
    }
}
