//! Which events are worth a request, and which repeat one that stands there already.
//! Pure: time is passed in.
//!
//! # Guarantees
//!
//! 1. An event with the reason and note of one published in the last six minutes
//!    becomes a repetition of it.
//! 2. A reason may burst to [`BURST`] requests, repetitions included; afterwards it
//!    gets one per [`REFILL`]. A noisy reason does not silence another.
//! 3. What is held back is counted: the next repetition that gets through carries
//!    the whole count.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Event;

/// Requests that one reason may make without a pause.
pub const BURST: u32 = 25;
/// How long it takes until a reason gets one more request after its burst.
pub const REFILL: Duration = Duration::from_mins(5);
/// How long an event may be repeated after it was last seen.
const SERIES_LIFE: Duration = Duration::from_mins(6);
/// Events that are remembered; the oldest is forgotten for another.
const MAX_SERIES: usize = 64;

/// What to do with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Create it.
    Create,
    /// It stands there under this name; it was seen so many times.
    Repeat {
        /// Name of the Event object.
        name: String,
        /// Times it was seen, this one included.
        count: i32,
    },
    /// Say nothing.
    Suppress,
}

#[derive(Debug)]
struct Series {
    reason: &'static str,
    note: String,
    name: String,
    count: i32,
    last_seen: Instant,
}

#[derive(Debug)]
struct Allowance {
    left: f64,
    counted_at: Instant,
}

/// What was published, and what may still be.
#[derive(Debug, Default)]
pub struct EventBudget {
    series: VecDeque<Series>,
    by_reason: BTreeMap<&'static str, Allowance>,
}

impl EventBudget {
    /// Decides about an event that happens now, and charges for it.
    pub fn decide(&mut self, event: &Event, now: Instant) -> Verdict {
        self.series
            .retain(|series| now.duration_since(series.last_seen) < SERIES_LIFE);
        let affordable = self.charge(event.reason, now);
        let known = self
            .series
            .iter_mut()
            .find(|series| series.reason == event.reason && series.note == event.note);
        match known {
            Some(series) => {
                series.count = series.count.saturating_add(1);
                series.last_seen = now;
                if affordable {
                    Verdict::Repeat {
                        name: series.name.clone(),
                        count: series.count,
                    }
                } else {
                    Verdict::Suppress
                }
            }
            None if affordable => Verdict::Create,
            None => Verdict::Suppress,
        }
    }

    fn charge(&mut self, reason: &'static str, now: Instant) -> bool {
        let allowance = self.by_reason.entry(reason).or_insert(Allowance {
            left: BURST.into(),
            counted_at: now,
        });
        let refilled = now
            .duration_since(allowance.counted_at)
            .div_duration_f64(REFILL);
        allowance.left = (allowance.left + refilled).min(BURST.into());
        allowance.counted_at = now;
        let affordable = allowance.left >= 1.0;
        if affordable {
            allowance.left -= 1.0;
        }
        affordable
    }

    /// The event stands there under this name now.
    pub fn created(&mut self, event: &Event, name: String, now: Instant) {
        if self.series.len() == MAX_SERIES {
            self.series.pop_front();
        }
        self.series.push_back(Series {
            reason: event.reason,
            note: event.note.clone(),
            name,
            count: 1,
            last_seen: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::EventKind;

    fn event(reason: &'static str, note: &str) -> Event {
        Event {
            kind: EventKind::Warning,
            reason,
            note: note.to_owned(),
        }
    }

    #[test]
    fn a_thousand_equal_events_in_a_minute_are_one_object_and_few_requests() {
        let (mut budget, start) = (EventBudget::default(), Instant::now());
        let event = event("PagestreamErrors", "shard 0 does not answer");
        assert_eq!(budget.decide(&event, start), Verdict::Create);
        budget.created(&event, "main.1".into(), start);
        let mut repeats = 0;
        for n in 1..1000 {
            let verdict = budget.decide(&event, start + Duration::from_millis(60 * n));
            repeats += u32::from(verdict != Verdict::Suppress);
        }
        assert_eq!(repeats, BURST - 1);
        let later = start + REFILL + Duration::from_secs(1);
        assert_eq!(
            budget.decide(&event, later),
            Verdict::Repeat {
                name: "main.1".into(),
                count: 1001
            }
        );
    }

    #[test]
    fn another_note_is_another_event() {
        let (mut budget, now) = (EventBudget::default(), Instant::now());
        let first = event("SpecRejected", "spec.mode: unknown");
        budget.decide(&first, now);
        budget.created(&first, "main.1".into(), now);
        let second = event("SpecRejected", "spec.lsn: malformed");
        assert_eq!(budget.decide(&second, now), Verdict::Create);
    }

    #[test]
    fn a_noisy_reason_does_not_silence_another() {
        let (mut budget, now) = (EventBudget::default(), Instant::now());
        for n in 0..100 {
            budget.decide(&event("PostgresExited", &n.to_string()), now);
        }
        let noisy = event("PostgresExited", "again");
        assert_eq!(budget.decide(&noisy, now), Verdict::Suppress);
        assert_eq!(budget.decide(&noisy, now + REFILL), Verdict::Create);
        assert_eq!(
            budget.decide(&event("SpecRejected", ""), now),
            Verdict::Create
        );
    }

    #[test]
    fn an_old_event_is_not_repeated_but_made_anew() {
        let (mut budget, now) = (EventBudget::default(), Instant::now());
        let event = event("PostgresStarted", "");
        budget.decide(&event, now);
        budget.created(&event, "main.1".into(), now);
        assert_eq!(budget.decide(&event, now + SERIES_LIFE), Verdict::Create);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut budget, now) = (EventBudget::default(), Instant::now());
        for n in 0..1000 {
            budget.created(&event("SpecRejected", &n.to_string()), n.to_string(), now);
        }
        assert_eq!(budget.series.len(), MAX_SERIES);
    }
}
