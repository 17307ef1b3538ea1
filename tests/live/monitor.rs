//! One monitor for all guarded queries of a process.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use headcount::event::FailReason;
use headcount::{Event, Headcount, Outcome};
use tokio::sync::watch;

use crate::harness::{Bench, chain, endpoint, eventually, on_oldest_and_latest, quick, soon};

on_oldest_and_latest! {
    a_hundred_guarded_queries_share_one_monitor_that_rests_when_they_are_done,
    two_jobs_at_once_each_have_their_own_workers_counted,
    a_server_that_has_no_connection_to_give_is_asked_again,
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

async fn a_server_that_has_no_connection_to_give_is_asked_again(major: u32) {
    let bench = Bench::alone_with(major, &[("max_connections", "6")]).await;
    let mut taken = Vec::new();
    let full = loop {
        match tokio_postgres::connect(&bench.dsn(), tokio_postgres::NoTls).await {
            Ok((client, connection)) => taken.push((client, tokio::spawn(connection))),
            Err(error) => break error,
        }
    };
    assert_eq!(full.code().unwrap().code(), "53300");
    let late = |attempts| {
        let headcount = Headcount::builder(endpoint(&bench.dsn()))
            .without_default_observers()
            .observer(bench.recorder.clone())
            .build();
        let mut job = quick(headcount.task("late")).attempts(attempts);
        job.settings_mut().retry_delay = Duration::from_millis(50);
        job
    };
    let counts = "SELECT count(*) FROM t WHERE nap(id, 5)";
    let hindered =
        |event: &Event| matches!(event, Event::StartHindered { cause, .. } if cause.contains("53300"));

    let error = soon("the end of its patience", Box::pin(late(3).execute(counts, &[]))).await.unwrap_err();
    let history = error.history().unwrap();
    assert!(history.waited >= Duration::from_millis(50) && history.attempts.is_empty(), "{history:?}");
    let failed = |event: &Event| matches!(event, Event::ExecutionEnded(facts) if facts.end == Err(FailReason::Connection));
    assert_eq!(bench.recorder.count(failed), 1, "a run that cannot connect is counted");
    assert_eq!((error.sqlstate(), bench.recorder.count(hindered)), (Some("53300"), 2), "{}", chain(&error));

    let releasing = async {
        eventually("it was turned away", async || bench.recorder.count(hindered) > 2).await;
        taken.clear();
    };
    let job = late(100);
    let (run, ()) = tokio::join!(Box::pin(job.execute(counts, &[])), releasing);
    assert_eq!(run.unwrap().outcome, Outcome::OnTarget);
}
