//! A cancel that races the end of its statement hits that statement, or nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use headcount::{Event, Outcome};

use crate::harness::{Bench, POOL, chain};

#[tokio::test]
async fn no_cancel_of_ten_thousand_hits_another_statement_than_its_own_on_15() {
    race(15, 10_000).await;
}

#[tokio::test]
async fn no_cancel_of_a_thousand_hits_another_statement_than_its_own_on_13() {
    race(13, 1_000).await;
}

#[tokio::test]
async fn no_cancel_of_a_thousand_hits_another_statement_than_its_own_on_18() {
    race(18, 1_000).await;
}

/// The pool is full and nobody has patience, so each statement is short at the first tick. It lasts
/// about as long as tick and cancel take together: some end before, some after, some in between.
async fn race(major: u32, statements: i32) {
    let bench = Bench::new(major).await;
    let _hog = bench.hog(POOL).await;
    bench.run("CREATE TABLE done (n int)").await;
    let mut job = bench.job().await.target(1).minimum(1).attempts(1);
    job.settings_mut().launch_wait = Duration::ZERO;
    job.settings_mut().admission_wait = Duration::ZERO;
    job.settings_mut().monitor_interval = Duration::from_millis(1);
    let (mut kept, mut kept_in_spite_of_a_cancel) = (BTreeSet::new(), 0);
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..statements {
        let seconds = f64::from(random.u32(0..1500)) / 1e6;
        let guarded = job.guard(|client| {
            let insert = "INSERT INTO done SELECT $1 FROM pg_sleep($2)";
            async move { client.execute(insert, &[&n, &seconds]).await }.boxed()
        });
        let run = guarded.await.unwrap_or_else(|error| panic!("statement {n}: {}", chain(&error)));
        match run.outcome {
            Outcome::FinishedEarly => {
                assert_eq!(run.value, Some(1));
                kept.insert(n);
                kept_in_spite_of_a_cancel += u32::from(run.attempts[0].verdict == "short");
            }
            Outcome::BelowMinimum => assert_eq!(run.value, None),
            other => panic!("statement {n}: {other:?}"),
        }
    }
    let rows = bench.admin.query("SELECT n FROM done", &[]).await.unwrap();
    assert_eq!(rows.len(), kept.len(), "none twice");
    let stored: BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert!(stored == kept, "differs: {:?}", stored.symmetric_difference(&kept).collect::<Vec<_>>());

    let pids: BTreeSet<i32> = bench.recorder.all().iter().filter_map(pid).collect();
    assert_eq!(pids.len(), 1, "one session had them all");
    let cancelled = statements as usize - kept.len();
    let share = statements as usize / 50;
    assert!(cancelled > share && kept.len() > share, "no race: {cancelled} cancelled, {} kept", kept.len());
    assert!(kept_in_spite_of_a_cancel > 0, "no result arrived during a cancel");
}

const fn pid(event: &Event) -> Option<i32> {
    match event {
        Event::AttemptStarted { pid, .. } => Some(*pid),
        _ => None,
    }
}
