//! The four ways an execution ends, with a pool that others use too.

use headcount::event::{AttemptVerdict, CancelMethod, FailReason, ShortReason};
use headcount::{Event, Outcome, PlanShortfall};

use crate::harness::{Bench, POOL, on_each_version, soon};

/// 2 s of naps, shared by whoever takes part.
const ROLLUP: &str = "CREATE TABLE made AS SELECT grp, count(*) AS n FROM t WHERE nap(id, 10) GROUP BY grp";

on_each_version! {
    the_target_is_met_at_the_first_attempt,
    a_hog_that_lets_go_gives_a_later_attempt_its_workers,
    the_last_attempt_is_accepted_above_the_minimum,
    below_the_minimum_each_attempt_is_cleaned_up_and_nothing_is_left_behind,
    a_session_with_a_pool_size_of_its_own_is_short_for_that_reason,
}

async fn the_target_is_met_at_the_first_attempt(major: u32) {
    let bench = Bench::new(major).await;
    let run =
        bench.job().await.cleanup("INSERT INTO log VALUES ('undone')").execute(ROLLUP, &[]).await.unwrap();
    assert_eq!((run.outcome, run.target_met, run.value), (Outcome::OnTarget, true, Some(5)));
    assert_eq!((run.achieved_workers, run.planned_workers, run.attempt_count), (4, Some(4), 1));
    assert_eq!((run.attempts[0].verdict, run.attempts[0].accepted), (AttemptVerdict::Enough, true));
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    assert_eq!(
        bench.number("SELECT count(*) FROM log").await,
        0,
        "an accepted attempt is not cleaned up after"
    );
    bench.nothing_is_left_behind().await;
}

async fn a_hog_that_lets_go_gives_a_later_attempt_its_workers(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(4).await;
    let job = bench.job().await.attempts(50).cleanup("INSERT INTO log VALUES ('undone')");
    let letting_go = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(job.execute(ROLLUP, &[]), letting_go);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.achieved_workers, run.value), (Outcome::OnTarget, 4, Some(5)));
    assert!(run.attempt_count >= 2);
    let (accepted, rejected) = run.attempts.split_last().unwrap();
    assert_eq!((accepted.verdict, accepted.workers), (AttemptVerdict::Enough, 4));
    for attempt in rejected {
        assert_eq!(
            (attempt.verdict, attempt.reason),
            (AttemptVerdict::Short, Some(ShortReason::PoolExhausted)),
            "{attempt:?}"
        );
        assert_eq!((attempt.required_workers, attempt.accepted), (4, false));
    }
    assert_eq!(rejected[0].workers, POOL - 4);
    assert_eq!(bench.number("SELECT count(*) FROM log").await, i64::try_from(rejected.len()).unwrap());
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    assert!(run.wasted < run.waited + run.ran, "{run:?}");
    bench.nothing_is_left_behind().await;
}

async fn the_last_attempt_is_accepted_above_the_minimum(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 3).await;
    let run = bench.job().await.attempts(2).execute(ROLLUP, &[]).await.unwrap();
    assert_eq!((run.outcome, run.target_met, run.value), (Outcome::AboveMinimum, false, Some(5)));
    assert_eq!((run.achieved_workers, run.attempt_count), (3, 2));
    let bars: Vec<_> =
        run.attempts.iter().map(|attempt| (attempt.required_workers, attempt.verdict)).collect();
    assert_eq!(bars, [(4, AttemptVerdict::Short), (2, AttemptVerdict::Enough)]);
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    hog.release().await;
    bench.nothing_is_left_behind().await;
}

async fn below_the_minimum_each_attempt_is_cleaned_up_and_nothing_is_left_behind(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let job = bench.job().await.attempts(3).cleanup("INSERT INTO log VALUES ('undone')");
    let run = soon("the execution", job.execute(ROLLUP, &[])).await.unwrap();
    assert_eq!((run.outcome, run.target_met, run.value), (Outcome::BelowMinimum, false, None));
    assert_eq!((run.achieved_workers, run.attempt_count), (1, 3));
    let bars: Vec<_> = run
        .attempts
        .iter()
        .map(|attempt| (attempt.required_workers, attempt.reason, attempt.workers))
        .collect();
    let short = Some(ShortReason::PoolExhausted);
    assert_eq!(bars, [(4, short, 1), (4, short, 1), (2, short, 1)]);

    assert_eq!(bench.number("SELECT count(*) FROM log WHERE what = 'undone'").await, 3);
    assert!(!bench.has("made").await);
    let drained = |event: &Event| matches!(event, Event::WorkersDrained { left: 0, .. });
    assert_eq!(bench.recorder.count(drained), 3);
    assert_eq!(bench.recorder.count(|event| matches!(event, Event::CleanupEnded { ok: true, .. })), 3);
    assert!(
        bench.recorder.stopped_by(CancelMethod::Cancel)
            && !bench.recorder.stopped_by(CancelMethod::Terminate)
    );
    let ends: Vec<_> = bench.recorder.executions().iter().map(|facts| facts.end).collect();
    assert_eq!(ends, [Err(FailReason::BelowMinimum)]);
    hog.release().await;
    bench.nothing_is_left_behind().await;
}

async fn a_session_with_a_pool_size_of_its_own_is_short_for_that_reason(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await.attempts(2).set("max_parallel_workers", "3");
    let run = job.plan_shortfall(PlanShortfall::Ignore).execute(ROLLUP, &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::AboveMinimum, 3));
    // The monitor's session has room for more.
    assert_eq!(run.attempts[0].reason, Some(ShortReason::PoolExhausted));
    bench.nothing_is_left_behind().await;
}
