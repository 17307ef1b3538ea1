//! Bars, outcomes and pauses.

use std::time::Duration;

use crate::decide::attempt::{Attempts, Ended, Finished, Next, Outcome, Pause, Spacing};
use crate::decide::failure::FailureClass;
use crate::decide::verdict::{ShortReason, Verdict};
use proptest::prelude::*;

const CAP: Duration = Duration::from_secs(2);
const SPACING: Spacing = Spacing::Jittered(CAP);

fn attempts() -> Attempts {
    let mut attempts = Attempts::new(4, 2, 5, SPACING);
    attempts.begin();
    attempts
}

#[test]
fn all_attempts_but_the_last_must_reach_the_target() {
    let mut attempts = Attempts::new(4, 2, 3, SPACING);
    assert_eq!([attempts.begin(), attempts.begin(), attempts.begin()], [(1, 4), (2, 4), (3, 2)]);
}

#[test]
fn a_single_attempt_is_the_last() {
    assert_eq!(Attempts::new(4, 2, 1, SPACING).begin(), (1, 2));
}

fn finished(verdict: Verdict, achieved: u32, short: bool) -> Ended {
    Ended::Finished(Finished { verdict, achieved, short, unproven: false, within: 4 })
}

#[test]
fn the_outcome_follows_the_workers_and_the_verdict() {
    let outcome = |verdict, workers| attempts().on_ended(finished(verdict, workers, false), true, 0.0);
    assert_eq!(outcome(Verdict::Enough, 4), Next::Accept(Outcome::OnTarget));
    assert_eq!(outcome(Verdict::Enough, 2), Next::Accept(Outcome::AboveMinimum));
    assert_eq!(outcome(Verdict::FinishedEarly, 1), Next::Accept(Outcome::FinishedEarly));
    assert_eq!(outcome(Verdict::Unverified, 0), Next::Accept(Outcome::Unverified));
}

#[test]
fn launches_that_may_have_had_no_worker_make_no_run_on_target_and_hide_no_shortage() {
    let outcome = |verdict, achieved, short| {
        let ended = Ended::Finished(Finished { verdict, achieved, short, unproven: true, within: 4 });
        attempts().on_ended(ended, true, 0.0)
    };
    assert_eq!(outcome(Verdict::Enough, 4, false), Next::Accept(Outcome::Unverified));
    assert_eq!(outcome(Verdict::Enough, 2, false), Next::Accept(Outcome::Unverified));
    assert_eq!(outcome(Verdict::Enough, 3, true), Next::Accept(Outcome::Unverified), "another had three");
    assert_eq!(outcome(Verdict::Enough, 1, true), Next::Accept(Outcome::FinishedShort));
}

#[test]
fn a_result_that_was_proven_short_is_kept_and_says_so() {
    let short = Verdict::Short(ShortReason::PoolExhausted);
    let outcome = |verdict, workers| attempts().on_ended(finished(verdict, workers, true), true, 0.0);
    assert_eq!(outcome(short, 1), Next::Accept(Outcome::FinishedShort));
    assert_eq!(outcome(short, 3), Next::Accept(Outcome::AboveMinimum));
    assert_eq!(outcome(Verdict::Enough, 0), Next::Accept(Outcome::FinishedShort), "a later launch was short");
    // Without shares, as in the origin's window.
    let next = attempts().on_ended(finished(short, 1, false), true, 0.0);
    assert_eq!(next, Next::Accept(Outcome::FinishedShort));
}

#[test]
fn what_a_lowered_target_allows_is_never_on_target() {
    let mut attempts = Attempts::new(4, 2, 5, SPACING).lowered_to(1);
    assert_eq!(attempts.begin(), (1, 1));
    assert_eq!((attempts.target(), attempts.minimum()), (1, 1));
    let next = attempts.on_ended(finished(Verdict::Enough, 1, false), true, 0.0);
    assert_eq!(next, Next::Accept(Outcome::Lowered));
    assert_eq!(Attempts::new(4, 2, 1, SPACING).lowered_to(3).begin(), (1, 2));
    // Of a script that is known as it runs.
    for verdict in [Verdict::Enough, Verdict::FinishedEarly] {
        let ended =
            Ended::Finished(Finished { verdict, achieved: 1, short: false, unproven: false, within: 1 });
        assert_eq!(self::attempts().on_ended(ended, true, 0.0), Next::Accept(Outcome::Lowered));
    }
}

#[test]
fn a_full_pool_that_is_seen_needs_no_sleep() {
    let ended = Ended::Rejected(ShortReason::PoolExhausted, 2);
    assert_eq!(attempts().on_ended(ended, true, 0.5), Next::Retry(Pause::UntilRoom));
}

#[test]
fn what_the_pool_does_not_show_is_given_time() {
    for (reason, pool_seen) in [
        (ShortReason::PoolExhausted, false),
        (ShortReason::UnderLaunched, true),
        (ShortReason::NoLaunch, false),
    ] {
        let next = attempts().on_ended(Ended::Rejected(reason, 0), pool_seen, 1.0);
        assert_eq!(next, Next::Retry(Pause::For(CAP / 8)), "{reason:?}");
    }
}

#[test]
fn a_server_short_of_something_is_given_more_time() {
    for class in [FailureClass::NewSessionLater, FailureClass::NewTransactionLater] {
        let next = attempts().on_ended(Ended::Failed(class), true, 1.0);
        assert_eq!(next, Next::Retry(Pause::For(CAP / 2)));
    }
}

#[test]
fn a_failure_that_no_retry_can_help_fails_at_once() {
    assert_eq!(attempts().on_ended(Ended::Failed(FailureClass::Never), true, 0.0), Next::Fail);
}

fn any_end() -> impl Strategy<Value = Ended> {
    prop_oneof![
        (0u32..6).prop_map(|n| Ended::Rejected(ShortReason::PoolExhausted, n)),
        (0u32..6).prop_map(|n| Ended::Rejected(ShortReason::UnderLaunched, n)),
        (0u32..6).prop_map(|n| Ended::Rejected(ShortReason::NoLaunch, n)),
        Just(Ended::Failed(FailureClass::NewTransaction)),
        Just(Ended::Failed(FailureClass::NewTransactionLater)),
        Just(Ended::Failed(FailureClass::NewSession)),
        Just(Ended::Failed(FailureClass::NewSessionLater)),
    ]
}

proptest! {
    #[test]
    fn attempts_and_pauses_stay_within_their_bounds(
        ends in prop::collection::vec(any_end(), 1..40),
        max in 1u32..20,
        cap in 0u64..10_000,
        pool_seen: bool,
        draw in 0.0f64..1.0,
    ) {
        let cap = Duration::from_millis(cap);
        let mut attempts = Attempts::new(4, 2, max, Spacing::Jittered(cap));
        let mut best = 0;
        for end in ends {
            attempts.begin();
            prop_assert!(attempts.current() <= max);
            if let Ended::Rejected(_, workers) = end {
                best = best.max(workers);
            }
            let next = attempts.on_ended(end, pool_seen, draw);
            prop_assert_eq!(attempts.best(), best);
            match next {
                Next::Retry(Pause::For(pause)) => prop_assert!(pause <= cap * 4),
                Next::Retry(Pause::UntilRoom) => prop_assert!(pool_seen),
                Next::BelowMinimum | Next::Fail => {
                    prop_assert_eq!(attempts.current(), max, "it gives up at the last attempt only");
                    break;
                }
                Next::Accept(_) => prop_assert!(false, "nothing was finished"),
            }
        }
    }
}
