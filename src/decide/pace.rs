//! How often a statement is sampled once its verdict is known.
//!
//! Later launches are still to be seen, unless the plan has none left. A launch grows for some time after its first worker,
//! and its size is known only from samples at the full rate. Else a launch that takes a tenth of the time so far is worth a
//! sample: what is shorter costs little, and the server has better things to do.

use std::time::Duration;

/// The longest time between two samples, unless the caller's own is longer.
pub const LONGEST: Duration = Duration::from_millis(100);
/// How long a launch may still grow after its last new worker, beyond the time that its workers settle in.
const MARGIN: Duration = Duration::from_millis(50);

/// Which workers of a plan are still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Those of the launch that was seen last, or of a later one.
    Growth,
    /// Those of a later launch: all that the plan can have at once are there.
    Launches,
    /// None: each launch runs once, and all of their workers were there.
    Nothing,
}

/// The time to the next sample: `elapsed` since the statement began, `since_growth` since its last new worker was seen.
/// `shortest` is the time between samples that lead to a verdict.
#[must_use]
pub fn interval(
    outlook: Outlook,
    elapsed: Duration,
    since_growth: Duration,
    settle: Duration,
    shortest: Duration,
) -> Duration {
    let longest = LONGEST.max(shortest);
    match outlook {
        Outlook::Growth if since_growth < settle + MARGIN => shortest,
        Outlook::Growth | Outlook::Launches => (elapsed / 10).clamp(shortest, longest),
        Outlook::Nothing => longest,
    }
}

#[cfg(test)]
mod tests {
    use super::Outlook::{Growth, Launches, Nothing};
    use super::*;

    #[test]
    fn samples_are_frequent_while_a_launch_may_grow_and_then_as_far_apart_as_what_may_follow_allows() {
        let after = |outlook, elapsed: u64, since_growth: u64| {
            let [elapsed, since_growth, settle, shortest] =
                [elapsed, since_growth, 100, 10].map(Duration::from_millis);
            interval(outlook, elapsed, since_growth, settle, shortest).as_millis()
        };
        let growth = |elapsed, since_growth| after(Growth, elapsed, since_growth);
        assert_eq!([growth(140, 130), growth(50, 200), growth(300, 200)], [10, 10, 30]);
        assert_eq!([growth(1_000, 990), growth(3_600_000, 3_600_000), growth(3_600_000, 5)], [100, 100, 10]);
        assert_eq!([after(Launches, 50, 5), after(Launches, 300, 5), after(Nothing, 50, 5)], [10, 30, 100]);
        let slow = Duration::from_secs(2);
        for outlook in [Growth, Launches, Nothing] {
            assert_eq!(interval(outlook, Duration::from_secs(1), Duration::from_secs(1), slow, slow), slow);
            assert_eq!(interval(outlook, Duration::from_secs(90), Duration::from_secs(9), slow, slow), slow);
        }
    }
}
