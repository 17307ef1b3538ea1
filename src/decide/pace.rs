//! How often a statement is sampled once its verdict is known.
//!
//! Later launches are still to be seen. A launch grows for some time after its first worker, and its size is known only
//! from samples at the full rate. Else a launch that takes a tenth of the time so far is worth a sample: what is shorter
//! costs little, and the server has better things to do.

use std::time::Duration;

/// The longest time between two samples, unless the caller's own is longer.
pub const LONGEST: Duration = Duration::from_millis(100);
/// How long a launch may still grow after its last new worker, beyond the time that its workers settle in.
const MARGIN: Duration = Duration::from_millis(50);

/// The time to the next sample: `elapsed` since the statement began, `since_growth` since its last new worker was seen.
/// `shortest` is the time between samples that lead to a verdict.
#[must_use]
pub fn interval(elapsed: Duration, since_growth: Duration, settle: Duration, shortest: Duration) -> Duration {
    if since_growth < settle + MARGIN {
        return shortest;
    }
    (elapsed / 10).clamp(shortest, LONGEST.max(shortest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_frequent_while_a_launch_may_grow_and_then_as_long_apart_as_a_tenth_of_the_time_so_far() {
        let after = |elapsed: u64, since_growth: u64| {
            let [elapsed, since_growth, settle, shortest] =
                [elapsed, since_growth, 100, 10].map(Duration::from_millis);
            interval(elapsed, since_growth, settle, shortest).as_millis()
        };
        assert_eq!([after(140, 130), after(50, 200), after(300, 200)], [10, 10, 30]);
        assert_eq!([after(1_000, 990), after(3_600_000, 3_600_000), after(3_600_000, 5)], [100, 100, 10]);
        let slow = Duration::from_secs(2);
        assert_eq!(interval(Duration::from_secs(1), Duration::from_secs(1), slow, slow), slow);
        assert_eq!(interval(Duration::from_secs(90), Duration::from_secs(9), slow, slow), slow);
    }
}
