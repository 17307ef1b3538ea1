//! What is not held against a statement, and what is.

use std::time::Duration;

use headcount::event::ShortReason;
use headcount::{Event, Outcome};

use crate::harness::{Bench, POOL, chain, eventually, on_each_version};

/// Shorter than any wait below.
const LAUNCH_WAIT: Duration = Duration::from_millis(300);

on_each_version! {
    a_serial_phase_of_seconds_is_not_cancelled_while_the_pool_has_room,
    a_full_pool_that_starts_no_worker_is_short_after_launch_wait,
    time_spent_waiting_for_a_lock_is_not_held_against_it,
    a_lock_wait_is_not_held_against_it_when_the_pool_is_unseen_either,
    a_lock_that_the_plan_waits_for_is_time_waited,
    a_pool_smaller_than_an_ignored_target_is_not_waited_for,
}

/// The scan's filter is known only after this much of the leader's time alone.
fn after(first: &str) -> String {
    format!("SELECT count(*) FROM t WHERE id > (SELECT {first}::int - 1) AND nap(id, 10)")
}

async fn a_serial_phase_of_seconds_is_not_cancelled_while_the_pool_has_room(major: u32) {
    let bench = Bench::new(major).await;
    let mut job = bench.job().await;
    job.settings_mut().launch_wait = LAUNCH_WAIT;
    // A busy machine may need long for the last of four.
    job.settings_mut().settle = Duration::from_secs(5);
    let run = job.attempts(1).execute(&after("nap(0, 2500)"), &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers, run.attempt_count), (Outcome::OnTarget, 4, 1));
    assert!(run.attempts[0].verdict_after.unwrap() >= Duration::from_millis(2500));
    assert!(!bench.recorder.all().iter().any(|event| matches!(event, Event::CancelAnswered { .. })));
}

async fn a_full_pool_that_starts_no_worker_is_short_after_launch_wait(major: u32) {
    let bench = Bench::new(major).await;
    let _hog = bench.hog(POOL).await;
    let mut job = bench.job().await;
    job.settings_mut().launch_wait = LAUNCH_WAIT;
    // A busy machine may need long for the last of four.
    job.settings_mut().settle = Duration::from_secs(5);
    let run = job.attempts(1).execute(&after("nap(0, 1)"), &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::BelowMinimum, 0));
    assert_eq!(run.attempts[0].reason, Some(ShortReason::PoolExhausted));
    assert!(run.attempts[0].verdict_after.unwrap() >= LAUNCH_WAIT);
}

/// A lock that EXPLAIN does not need, because a function takes it.
/// Without workers of its own: the next Gather would find their slots still taken.
const READS_LOCKED: &str = "
CREATE TABLE locked (id int);
GRANT ALL ON locked TO PUBLIC;
CREATE FUNCTION reads_locked() RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE SET max_parallel_workers_per_gather = 0
  AS 'BEGIN PERFORM 1 FROM locked; RETURN true; END';";

async fn time_spent_waiting_for_a_lock_is_not_held_against_it(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(READS_LOCKED).await;
    let hog = bench.hog(POOL).await;
    let dsn = bench.dsn();
    waits_for_a_lock(&bench, &dsn, async || hog.release().await).await;
}

async fn a_lock_wait_is_not_held_against_it_when_the_pool_is_unseen_either(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(READS_LOCKED).await;
    let role = format!("plain_{}", bench.schema);
    bench.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let dsn = bench.dsn_of(&role, bench.server().port());
    waits_for_a_lock(&bench, &dsn, async || {}).await;
}

/// The statement waits for a lock for three times `launch_wait`, and then has its workers.
async fn waits_for_a_lock(bench: &Bench, dsn: &str, before_release: impl AsyncFnOnce()) {
    let locker = bench.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut job = bench.headcount_at(dsn, dsn).await.task("waits").attempts(1);
    job.settings_mut().launch_wait = LAUNCH_WAIT;
    // A busy machine may need long for the last of four.
    job.settings_mut().settle = Duration::from_secs(5);
    job.settings_mut().admission_wait = Duration::ZERO;
    let statement = after("reads_locked()");
    let releasing = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptStarted { .. })).await;
        let looks_in_that_time =
            3 * LAUNCH_WAIT.as_millis() / job.clone().settings_mut().monitor_interval.as_millis();
        bench.recorder.wait_for_polls(usize::try_from(looks_in_that_time).unwrap()).await;
        let verdict = bench.recorder.find(|event| matches!(event, Event::VerdictReached { .. }));
        assert_eq!(verdict, None);
        before_release().await;
        // A slot is free a moment after its worker has gone, when the postmaster has noticed.
        bench.recorder.wait_for_polls(50).await;
        locker.batch_execute("COMMIT").await.unwrap();
    };
    let (run, ()) = tokio::join!(job.execute(&statement, &[]), releasing);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.achieved_workers, run.attempt_count), (Outcome::OnTarget, 4, 1));
}

async fn a_lock_that_the_plan_waits_for_is_time_waited(major: u32) {
    let bench = Bench::new(major).await;
    let locker = bench.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let holder: i32 = locker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let job = bench.job().await;
    let sql = "SELECT count(*) FROM t WHERE nap(id, 5)";

    let error = job.clone().deadline(Duration::from_secs(1)).execute(sql, &[]).await.unwrap_err();
    assert!(error.is_deadline(), "{}", chain(&error));
    let history = error.history().unwrap();
    assert!(history.waited >= blocked(&bench, holder), "{history:?}");

    let releasing = async {
        eventually("it is blocked again", async || bench.recorder.count(is_blocked) == 2).await;
        locker.batch_execute("COMMIT").await.unwrap();
    };
    let (run, ()) = tokio::join!(job.execute(sql, &[]), releasing);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1));
    assert!(run.waited >= blocked(&bench, holder), "{run:?}");
    assert!(run.attempts[0].waited < run.waited, "the attempt itself waited for room alone: {run:?}");
}

const fn is_blocked(event: &Event) -> bool {
    matches!(event, Event::PlanBlocked { .. })
}

/// How long the plan had waited when that was last said.
fn blocked(bench: &Bench, holder: i32) -> Duration {
    let said = bench.recorder.all().into_iter().rev().find_map(|event| match event {
        Event::PlanBlocked { by, waited, .. } => Some((by, waited)),
        _ => None,
    });
    let (by, waited) = said.expect("the plan was blocked");
    assert_eq!(by, holder);
    waited
}

async fn a_pool_smaller_than_an_ignored_target_is_not_waited_for(major: u32) {
    let bench = Bench::new(major).await;
    let mut job = bench.job().await.target(POOL + 2).minimum(POOL).attempts(2);
    job.settings_mut().admission_wait = Duration::from_hours(1);
    job.settings_mut().plan_shortfall = headcount::PlanShortfall::Ignore;
    let run = crate::harness::soon("an attempt", job.execute(&after("nap(0, 1)"), &[])).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::AboveMinimum, POOL));
}
