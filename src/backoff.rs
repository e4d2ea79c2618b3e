//! How long to wait before the next attempt. Pure: randomness comes from the caller.

use std::time::Duration;

/// Exponential backoff with full jitter below a cap: attempt `n` waits between half
/// of and all of `first * 2^n`, never longer than `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first wait is at most `first`, each later one at most twice the one
    /// before, and none longer than `cap`.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            attempts: 0,
        }
    }

    /// The next wait. `random` is uniform in `0.0..1.0`, such as `rand::random()`.
    pub fn next(&mut self, random: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX));
        self.attempts = self.attempts.saturating_add(1);
        let longest = doubled.min(self.cap);
        longest.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// How many waits were handed out since the start or the last reset.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts anew, after a success.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::from_millis(500));
    }

    #[test]
    fn a_thousand_attempts_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        assert!((0..1000).all(|_| backoff.next(0.3) <= Duration::from_secs(30)));
    }
}
