//! One monitor for all guarded queries of a process.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use headcount::{Event, Outcome};
use tokio::sync::watch;

use crate::harness::{Bench, eventually, on_each_version, quick, soon};

on_each_version! {
    a_hundred_guarded_queries_share_one_monitor_that_rests_when_they_are_done,
    two_jobs_at_once_each_have_their_own_workers_counted,
}

const MONITORS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'headcount:monitor'";

async fn a_hundred_guarded_queries_share_one_monitor_that_rests_when_they_are_done(major: u32) {
    let bench = Bench::alone(major).await;
    let headcount = bench.headcount().await;
    let gate = Arc::new(watch::Sender::new(false));
    let jobs = join_all((0..100).map(|n| {
        let job = quick(headcount.task("crowd"));
        let gate = gate.clone();
        tokio::spawn(async move {
            job.guard(|client| {
                let mut open = gate.subscribe();
                async move {
                    let row = client.query_one("SELECT $1::int", &[&n]).await?;
                    let _ = open.wait_for(|open| *open).await;
                    Ok::<i32, tokio_postgres::Error>(row.get(0))
                }
                .boxed()
            })
            .await
        })
    }));
    let watching = async {
        eventually("all hundred are under way", async || {
            bench.recorder.count(|event| matches!(event, Event::AttemptStarted { .. })) == 100
        })
        .await;
        bench.recorder.wait_for_polls(5).await;
        assert_eq!(bench.number(MONITORS).await, 1);
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'headcount:crowd %'";
        assert_eq!(bench.number(sessions).await, 100);
        gate.send_replace(true);
    };
    let (runs, ()) = soon("a hundred jobs", async { tokio::join!(jobs, watching) }).await;
    for (n, run) in runs.into_iter().enumerate() {
        let run = run.unwrap().unwrap();
        assert_eq!((run.outcome, run.value), (Outcome::FinishedEarly, Some(i32::try_from(n).unwrap())));
    }
    // The server's own clock: nobody asks it anything for a while.
    eventually("the monitor rests", async || {
        let before = bench.recorder.polls();
        bench.run("SELECT pg_sleep(0.3)").await;
        bench.recorder.polls() == before
    })
    .await;
    assert_eq!(bench.number(MONITORS).await, 1, "and stays connected");
}

async fn two_jobs_at_once_each_have_their_own_workers_counted(major: u32) {
    let bench = Bench::new(major).await;
    let headcount = bench.headcount().await;
    let sql = "SELECT count(*) FROM t WHERE nap(id, 10)";
    let (wide, narrow) = (headcount.task("wide"), headcount.task("narrow").target(2).minimum(1));
    let (wide, narrow) = tokio::join!(wide.execute(sql, &[]), narrow.execute(sql, &[]));
    let (wide, narrow) = (wide.unwrap(), narrow.unwrap());
    assert_eq!((wide.outcome, wide.achieved_workers), (Outcome::OnTarget, 4));
    assert_eq!((narrow.outcome, narrow.achieved_workers), (Outcome::OnTarget, 2));
    assert_eq!(bench.number(MONITORS).await, 1);
}
