//! Rows: streamed after the verdict, from the accepted attempt and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use headcount::event::FailReason;
use headcount::{Event, Execution, Outcome, PlanShortfall, Rows};

use crate::harness::{Bench, POOL, chain, eventually, on_oldest_and_latest};

on_oldest_and_latest! {
    more_rows_than_are_held_back_stream_to_the_caller,
    rows_that_come_only_at_the_end_are_waited_for,
    rows_of_a_rejected_attempt_never_reach_the_caller,
    rows_below_the_minimum_are_none,
    rows_that_end_before_the_verdict_are_handed_over,
    rows_dropped_unread_are_cancelled_and_rolled_back,
    an_error_among_the_rows_is_an_error,
    rows_that_flow_end_at_the_deadline,
    rows_that_nobody_reads_end_at_the_deadline,
}

/// 2,000 rows, about 2 s of naps.
const MANY: &str = "SELECT t.id * 100 + g FROM t, generate_series(1, 10) AS g WHERE nap(t.id + g, 1)";

async fn read(run: Execution<Rows>) -> (Vec<i32>, Execution<u64>) {
    let mut rows = run.value.expect("rows");
    let mut read = Vec::new();
    while let Some(row) = rows.next().await.unwrap_or_else(|error| panic!("{}", chain(&error))) {
        read.push(row.get(0));
    }
    let end = rows.finish().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    (read, end)
}

async fn more_rows_than_are_held_back_stream_to_the_caller(major: u32) {
    let bench = Bench::new(major).await;
    let run = bench.job().await.query(MANY, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(run.outcome, Outcome::OnTarget);
    let (rows, end) = read(run).await;
    assert_eq!((rows.len(), end.value), (2000, Some(2000)));
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), 2000, "each row once");
    assert_eq!((end.outcome, end.achieved_workers, end.attempt_count), (Outcome::OnTarget, 4, 1));
    bench.nothing_is_left_behind().await;
}

async fn rows_that_come_only_at_the_end_are_waited_for(major: u32) {
    let bench = Bench::new(major).await;
    let sql = "SELECT grp, count(*) FROM t WHERE nap(id, $1) GROUP BY grp ORDER BY grp";
    let run =
        bench.job().await.query(sql, &[&10_i32]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(run.outcome, Outcome::OnTarget);
    let (rows, end) = read(run).await;
    assert_eq!((rows, end.value), (vec![0, 1, 2, 3, 4], Some(5)));
    assert_eq!(end.achieved_workers, 4);
}

async fn rows_of_a_rejected_attempt_never_reach_the_caller(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 2).await;
    // Each cleanup makes the next attempt's rows tell themselves from the last one's.
    let job = bench.job().await.attempts(50).cleanup("INSERT INTO log VALUES ('undone')");
    // Rows that fill the server's buffer, which it sends when it is full: some come before the verdict.
    let sql = "SELECT (SELECT count(*) FROM log)::int, repeat('x', 9000) FROM t, generate_series(1, 10) AS g
               WHERE nap(t.id + g, 3)";
    let letting_go = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(job.query(sql, &[]), letting_go);
    let (rows, end) = read(run.unwrap_or_else(|error| panic!("{}", chain(&error)))).await;
    assert!(end.attempt_count >= 2);
    let rejected = i32::try_from(end.attempt_count).unwrap() - 1;
    assert_eq!(
        (rows.len(), end.value, end.outcome),
        (2000, Some(2000), Outcome::OnTarget),
        "{:#?}",
        bench.recorder.all()
    );
    assert!(
        rows.iter().all(|&attempt| attempt == rejected),
        "rows of attempts {:?}",
        rows.iter().collect::<BTreeSet<_>>()
    );
    bench.nothing_is_left_behind().await;
}

async fn rows_below_the_minimum_are_none(major: u32) {
    let bench = Bench::new(major).await;
    let _hog = bench.hog(POOL - 1).await;
    let run = bench
        .job()
        .await
        .attempts(2)
        .query(MANY, &[])
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(run.value.is_none());
    assert_eq!((run.outcome, run.attempt_count, run.achieved_workers), (Outcome::BelowMinimum, 2, 1));
    assert_eq!(bench.recorder.executions().len(), 1);
}

async fn rows_that_end_before_the_verdict_are_handed_over(major: u32) {
    let bench = Bench::new(major).await;
    for (sql, count) in [("SELECT id FROM t WHERE id < 0", 0), ("SELECT id FROM t WHERE id <= 20", 20)] {
        let (rows, end) =
            read(bench.job().await.plan_shortfall(PlanShortfall::Ignore).query(sql, &[]).await.unwrap())
                .await;
        assert_eq!((rows.len() as u64, end.value), (count, Some(count)));
        assert!(end.outcome.is_accepted());
    }
}

async fn rows_dropped_unread_are_cancelled_and_rolled_back(major: u32) {
    let bench = Bench::new(major).await;
    let headcount = bench.headcount().await;
    let job = crate::harness::quick(headcount.task("dropped")).cleanup("INSERT INTO log VALUES ('undone')");
    let mut rows =
        job.query(MANY, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error))).value.unwrap();
    rows.next().await.unwrap().unwrap();
    drop(rows);
    assert!(headcount.shutdown(crate::harness::LIMIT).await);
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1);
    bench.nothing_is_left_behind().await;
    eventually("the session is closed", async || {
        bench.number("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'headcount:dropped%' AND state = 'active'").await == 0
    })
    .await;
}

async fn an_error_among_the_rows_is_an_error(major: u32) {
    let bench = Bench::new(major).await;
    let sql = "SELECT 1 / (t.id - 190) FROM t WHERE nap(id, 10)";
    let failed = match bench.job().await.query(sql, &[]).await {
        Err(error) => error,
        Ok(run) => {
            let mut rows = run.value.unwrap();
            loop {
                match rows.next().await {
                    Ok(row) => assert!(row.is_some(), "the rows ended without the error"),
                    Err(error) => break error,
                }
            }
        }
    };
    assert_eq!(failed.sqlstate(), Some("22012"));
    assert!(failed.history().is_some());
    bench.nothing_is_left_behind().await;
}

async fn rows_that_flow_end_at_the_deadline(major: u32) {
    let bench = Bench::new(major).await;
    let undone = "INSERT INTO log VALUES ('undone')";
    let job = bench.job().await.deadline(Duration::from_secs(3)).cleanup(undone);
    // A minute of naps for five processes.
    let endless = "SELECT t.id FROM t, generate_series(1, 1500) AS g WHERE nap(t.id + g, 1)";
    let run = job.query(endless, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let mut rows = run.value.expect("rows");
    let error = loop {
        match rows.next().await {
            Ok(row) => assert!(row.is_some(), "they ended before"),
            Err(error) => break error,
        }
    };
    assert!(error.is_deadline() && error.history().is_some(), "{}", chain(&error));
    assert!(error.is_end_seen() && error.processes_left() == 0 && error.cleanup_failure().is_none());
    bench.nothing_is_left_behind().await;
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1);
    let ended = bench.recorder.find(|event| matches!(event, Event::ExecutionEnded(_)));
    let Some(Event::ExecutionEnded(facts)) = ended else { panic!("it is over") };
    assert_eq!(facts.end, Err(FailReason::Deadline));
    assert!(rows.next().await.unwrap().is_none());
}

async fn rows_that_nobody_reads_end_at_the_deadline(major: u32) {
    let bench = Bench::new(major).await;
    let mut job = bench.job().await.deadline(Duration::from_secs(2));
    job.settings_mut().cancel_grace = Duration::from_millis(100);
    // More than any socket holds, so that the server waits for its reader.
    let wide = "SELECT repeat('x', 10000) FROM t, generate_series(1, 100) AS g WHERE nap(t.id + g, 0)";
    let run = job.query(wide, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let mut rows = run.value.expect("rows");
    bench.nothing_is_left_behind().await;
    let error = rows.next().await.expect_err("late");
    assert!(error.is_deadline(), "{}", chain(&error));
    let error =
        job.query("SELECT id FROM t WHERE nap(id, 0)", &[]).await.unwrap().value.unwrap().finish().await;
    assert!(error.is_ok(), "{error:?}");
}
