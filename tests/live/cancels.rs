//! A cancel that races the end of its statement hits that statement, or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use headcount::event::{AttemptVerdict, CancelMethod, ShortReason};
use headcount::{Event, Outcome, PlanShortfall};

use crate::harness::{Bench, POOL, Proxy, chain, eventually, on_oldest_and_latest, quick, soak_runs, soon};

on_oldest_and_latest!(
    a_statement_that_ignores_cancels_is_terminated,
    nothing_is_sent_on_a_session_while_a_request_to_cancel_is_not_answered,
    no_cancel_among_thousands_of_short_statements_hits_the_next_one,
);

/// It catches what a cancel raises, for as long as its session lives.
const STUBBORN: &str = "
CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$
BEGIN LOOP
  BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN INSERT INTO log VALUES ('caught'); END;
END LOOP; END $$";

async fn a_statement_that_ignores_cancels_is_terminated(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(STUBBORN).await;
    let hog = bench.hog(POOL).await;
    let mut job = bench.job().await.attempts(1).plan_shortfall(PlanShortfall::Ignore);
    job.settings_mut().launch_wait = Duration::from_millis(100);
    job.settings_mut().cancel_grace = Duration::from_millis(700);
    let run =
        soon("the execution", job.execute("DO $$ BEGIN PERFORM stubborn(); END $$", &[])).await.unwrap();
    assert_eq!(
        (run.outcome, run.attempts[0].reason),
        (Outcome::BelowMinimum, Some(ShortReason::PoolExhausted))
    );
    assert!(
        bench.recorder.stopped_by(CancelMethod::Cancel) && bench.recorder.stopped_by(CancelMethod::Terminate)
    );
    hog.release().await;
    let run = job.execute("SELECT count(*) FROM t WHERE nap(id, 5)", &[]).await.unwrap();
    assert_eq!(run.outcome, Outcome::OnTarget, "on a new session");
    bench.nothing_is_left_behind().await;
}

/// The request to cancel is under way for long, and the statement that is meant ends meanwhile: whatever came next on its
/// session could be hit.
async fn nothing_is_sent_on_a_session_while_a_request_to_cancel_is_not_answered(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let proxy = Proxy::start(bench.server().port()).await;
    proxy.hold_cancels(true);
    let headcount = bench.headcount_at(&bench.dsn(), &bench.dsn_of("postgres", proxy.port())).await;
    let job = quick(headcount.task("held")).attempts(2);
    let held = async {
        bench.recorder.wait_for(|event| matches!(event, Event::VerdictReached { .. })).await;
        let leader = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'headcount:held%'";
        let rests = format!("{leader} AND state = 'idle in transaction' AND query LIKE '%nap%'");
        eventually("the statement has ended", async || bench.number(&rests).await == 1).await;
        for _ in 0..100 {
            assert_eq!(bench.number(&rests).await, 1, "something was sent");
        }
        proxy.hold_cancels(false);
    };
    let (run, ()) = tokio::join!(job.execute("SELECT count(*) FROM t WHERE nap(id, 5)", &[]), held);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.attempt_count), (Outcome::FinishedShort, 1), "{run:?}");
    hog.release().await;
    bench.nothing_is_left_behind().await;
}

/// Statements in one attempt, at most: a cancel may also find the leader between two of them.
const MOST: usize = 12;

/// The pool is full and nobody has patience, so each attempt is short at its first tick. Its statements last
/// about as long as tick and cancel take together: some end before, some after, some in between. An
/// execution goes on until one of its attempts is kept.
async fn no_cancel_among_thousands_of_short_statements_hits_the_next_one(major: u32) {
    let bench = Bench::alone(major).await;
    let _hog = bench.hog(POOL).await;
    bench.run("CREATE UNLOGGED TABLE done (n bigint)").await;
    let mut job = bench.job().await.target(1).minimum(1).attempts(100);
    job.settings_mut().launch_wait = Duration::ZERO;
    job.settings_mut().admission_wait = Duration::ZERO;
    job.settings_mut().monitor_interval = Duration::from_millis(1);
    let random = Mutex::new(fastrand::Rng::with_seed(7));
    let (attempts, sent) = (AtomicU32::new(0), Arc::new(AtomicU32::new(0)));
    let (mut kept, mut kept_in_spite_of_a_cancel) = (BTreeMap::new(), 0);
    let enough = if soak_runs().is_some() { 10_000 } else { 2_000 };
    while sent.load(Ordering::Relaxed) < enough {
        let guarded = job.guard(|client| {
            let n = attempts.fetch_add(1, Ordering::Relaxed);
            let sent = Arc::clone(&sent);
            let lengths: Vec<u32> = {
                let mut random = random.lock().unwrap();
                (0..random.usize(1..=MOST)).map(|_| random.u32(0..800)).collect()
            };
            async move {
                let most = lengths.len();
                for length in lengths {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let insert = "INSERT INTO done SELECT $1 FROM pg_sleep($2)";
                    client.execute(insert, &[&i64::from(n), &(f64::from(length) / 1e6)]).await?;
                }
                Ok::<_, tokio_postgres::Error>((n, most))
            }
            .boxed()
        });
        let run = guarded.await.unwrap_or_else(|error| panic!("{}: {:?}", chain(&error), error.history()));
        match (run.outcome, run.value) {
            (Outcome::FinishedEarly | Outcome::FinishedShort, Some((n, most))) => {
                assert!(kept.insert(n, most).is_none());
                kept_in_spite_of_a_cancel +=
                    u32::from(run.attempts.last().unwrap().verdict == AttemptVerdict::Short);
            }
            (Outcome::BelowMinimum, None) => {}
            other => panic!("{other:?}"),
        }
    }
    let mut stored = BTreeMap::new();
    for row in bench.admin.query("SELECT n FROM done", &[]).await.unwrap() {
        *stored.entry(u32::try_from(row.get::<_, i64>(0)).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(stored, kept, "all of an attempt, or nothing");

    let pids: BTreeSet<i32> = bench.recorder.all().iter().filter_map(pid).collect();
    assert_eq!(pids.len(), 1, "one session had them all");
    let (attempts, kept) = (attempts.into_inner(), u32::try_from(kept.len()).unwrap());
    let facts = format!("{attempts} attempts, {kept} kept, {kept_in_spite_of_a_cancel} in spite of a cancel");
    assert!(
        kept > attempts / 50 && attempts - kept > attempts / 100 && kept_in_spite_of_a_cancel > 0,
        "no race: {facts}"
    );
}

const fn pid(event: &Event) -> Option<i32> {
    match event {
        Event::AttemptStarted { pid, .. } => Some(*pid),
        _ => None,
    }
}
