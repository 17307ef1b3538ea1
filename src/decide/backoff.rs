//! How long to wait when nothing tells when it will be better.
//!
//! Exponential from `first`, capped, with the upper half drawn at random, so that jobs that failed
//! together do not return together. The draw comes in from outside, and the cap is applied last: a
//! delay is never longer than the option says.

use std::time::Duration;

/// A server that is starting, or short of memory or connections, takes so many times longer to recover.
const LONGER: u32 = 4;

/// A sequence of delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay before the second try, before jitter.
    pub first: Duration,
    /// No delay is longer.
    pub cap: Duration,
}

/// With so little time left another try is not worth it.
const NEAR: Duration = Duration::from_millis(20);

impl Backoff {
    /// A sequence that reaches its cap with the fourth delay.
    #[must_use]
    pub fn up_to(cap: Duration) -> Self {
        Self { first: cap / 8, cap }
    }

    /// The same with four times the delays where the cause needs longer
    /// ([`FailureClass::needs_longer`](super::failure::FailureClass::needs_longer)).
    #[must_use]
    pub fn patient(cap: Duration, needs_longer: bool) -> Self {
        Self::up_to(if needs_longer { cap.saturating_mul(LONGER) } else { cap })
    }

    /// The delay after `failures` failures in a row (1 or more); `draw` is in `0.0..1.0`.
    ///
    /// Between half of the exponential step and all of it; zero only if the cap is.
    #[must_use]
    pub fn delay(&self, failures: u32, draw: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let step = self.first.saturating_mul(1 << doublings).min(self.cap);
        let draw = if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 1.0 };
        step.mul_f64(0.5 + draw / 2.0).min(self.cap)
    }

    /// The same where only so much time is left: half of that at most, so that there are tries up to its end. `None`
    /// where that is near (20 ms).
    #[must_use]
    pub fn delay_within(&self, left: Duration, failures: u32, draw: f64) -> Option<Duration> {
        (left >= NEAR).then(|| self.delay(failures, draw).min(left / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let backoff = Backoff::up_to(Duration::from_secs(2));
        let delays: Vec<u128> = (1..=6).map(|n| backoff.delay(n, 1.0).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 2000, 2000]);
    }

    proptest! {
        #[test]
        fn tries_go_on_until_no_time_is_left(wait in 0u64..600_000, first in 1u64..5_000, draw in 0.0..1.0) {
            let backoff = Backoff { first: Duration::from_millis(first), cap: Duration::from_secs(5) };
            let (mut left, mut tries) = (Duration::from_millis(wait), 0);
            while let Some(pause) = backoff.delay_within(left, tries + 1, draw) {
                left -= pause;
                tries += 1;
                prop_assert!(tries < 300);
            }
            prop_assert!(left < NEAR);
        }

        #[test]
        fn a_delay_stays_between_half_its_step_and_the_cap(
            first in 0u64..10_000, cap in 0u64..10_000, failures: u32, draw: f64
        ) {
            let backoff = Backoff { first: Duration::from_millis(first), cap: Duration::from_millis(cap) };
            let delay = backoff.delay(failures, draw);
            prop_assert!(delay <= backoff.cap);
            prop_assert!(delay >= backoff.first.min(backoff.cap) / 2);
        }
    }
}
