//! Each kind of statement that can have workers gets them, and so do closures and other clients.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use headcount::{Error, Event, Job, Outcome, PlanShortfall, Refusal};

use crate::harness::{Bench, POOL, chain, on_each_version};
use crate::versions::main_version_from;

on_each_version! {
    select_into_and_several_gathers_and_union_all_have_their_workers,
    parameters_cost_no_worker,
    partitioned_tables_have_their_workers,
    create_index_has_its_workers,
    refresh_has_its_workers_where_the_server_allows_it,
    a_script_is_one_transaction,
    a_closure_has_its_workers_and_is_rolled_back_when_rejected,
    a_closure_that_leaves_a_transaction_open_or_ends_ours_is_an_error,
    the_future_of_a_foreign_client_is_guarded_by_its_pid,
    what_a_foreign_client_does_next_is_not_cancelled,
    vacuum_runs_outside_a_transaction,
    the_invalid_index_of_a_cancelled_concurrent_build_is_cleaned_up,
}

async fn on_target(job: &Job, sql: &str) -> Option<u64> {
    let run = job.execute(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)));
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4), "{sql}: {run:?}");
    run.value
}

async fn select_into_and_several_gathers_and_union_all_have_their_workers(major: u32) {
    let bench = Bench::new(major).await;
    // A pool for two: the second Gather finds the slots of the first still taken.
    let job = bench.job().await.set("max_parallel_workers", "12");
    let slow = "SELECT count(*) AS n FROM t WHERE nap(id, 5)";
    assert_eq!(
        on_target(&job, "SELECT grp, count(*) AS n INTO made FROM t WHERE nap(id, 5) GROUP BY grp").await,
        Some(5)
    );
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    // `execute` of a SELECT counts its rows.
    assert_eq!(on_target(&job, &format!("SELECT ({slow}) + ({slow} AND id > 0)")).await, Some(1));
    let union = format!("CREATE TABLE both_ways AS {slow} UNION ALL {slow} AND id > 0");
    assert_eq!(on_target(&job, &union).await, Some(2));
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM both_ways").await, 400);
    bench.nothing_is_left_behind().await;
}

async fn parameters_cost_no_worker(major: u32) {
    let bench = Bench::new(major).await;
    let sql = "CREATE TABLE made AS SELECT id FROM t WHERE nap(id, $1) AND id <= $2 AND pad = $3";
    let run = bench.job().await.execute(sql, &[&10_i32, &120_i32, &"x"]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers, run.value), (Outcome::OnTarget, 4, Some(120)));
}

async fn partitioned_tables_have_their_workers(major: u32) {
    let bench = Bench::new(major).await;
    bench
        .run(
            "CREATE TABLE parts (id int, pad char(600)) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (101) WITH (fillfactor = 10, parallel_workers = 8);
             CREATE TABLE high PARTITION OF parts FOR VALUES FROM (101) TO (999) WITH (fillfactor = 10, parallel_workers = 8);
             INSERT INTO parts SELECT id, pad FROM t; ANALYZE parts;",
        )
        .await;
    let sql = "CREATE TABLE made AS SELECT count(*) AS n FROM parts WHERE nap(id, 10)";
    assert_eq!(on_target(&bench.job().await, sql).await, Some(1));
    assert_eq!(bench.number("SELECT n FROM made").await, 200);
}

/// For an index on an expression, which must be immutable: here it only claims to be.
const IMMUTABLE_NAP: &str = "
CREATE FUNCTION napped(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
  AS 'BEGIN PERFORM pg_sleep(0.025); RETURN id; END';";

async fn create_index_has_its_workers(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(IMMUTABLE_NAP).await;
    let job = bench.job().await.set("max_parallel_maintenance_workers", "4");
    on_target(&job, "CREATE INDEX made ON t (napped(id))").await;
    assert!(bench.has("made").await);
}

async fn refresh_has_its_workers_where_the_server_allows_it(major: u32) {
    let bench = Bench::new(major).await;
    bench.run("CREATE MATERIALIZED VIEW v AS SELECT grp, count(*) AS n FROM t WHERE nap(id, 5) GROUP BY grp WITH NO DATA").await;
    let job = bench.job().await.plan_shortfall(PlanShortfall::Refuse);
    let run = job.execute("REFRESH MATERIALIZED VIEW v", &[]).await;
    if major < 14 {
        let error = run.unwrap_err();
        assert_eq!(error.refusal(), Some(Refusal::PlanTooNarrow));
        assert!(error.to_string().contains("before PostgreSQL 14"), "{error}");
        return;
    }
    let run = run.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4));
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM v").await, 200);
}

async fn a_script_is_one_transaction(major: u32) {
    let bench = Bench::new(major).await;
    let script = "CREATE TABLE first AS SELECT 1 AS one;
                  CREATE TABLE made AS SELECT grp, count(*) AS n FROM t WHERE nap(id, 10) GROUP BY grp;
                  INSERT INTO log SELECT 'done' FROM made";
    let hog = bench.hog(POOL - 1).await;
    let run = bench.job().await.attempts(1).execute_script(script).await.unwrap();
    assert_eq!(run.outcome, Outcome::BelowMinimum);
    assert!(!bench.has("first").await, "rolled back as a whole");
    hog.release().await;
    let run = bench.job().await.attempts(1).execute_script(script).await.unwrap();
    assert_eq!((run.outcome, run.value), (Outcome::OnTarget, Some(5)));
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 5);

    let hopeless = "TRUNCATE log; INSERT INTO log SELECT 'again' FROM t WHERE nap(id, 10)";
    let refusing = bench.job().await.plan_shortfall(PlanShortfall::Refuse);
    let error = refusing.execute_script(hopeless).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::PlanTooNarrow), "{error}");
    assert!(error.to_string().contains("statement 2: a statement that modifies rows"), "{error}");
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 5, "refused before it ran");
}

async fn a_closure_has_its_workers_and_is_rolled_back_when_rejected(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 2).await;
    let calls = AtomicU32::new(0);
    let job = bench.job().await.attempts(50);
    let guarded = job.guard(|client| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            client.execute("INSERT INTO log VALUES ($1)", &[&format!("call {call}")]).await?;
            let row = client.query_one("SELECT count(*) FROM t WHERE nap(id, 10)", &[]).await?;
            Ok::<i64, tokio_postgres::Error>(row.get(0))
        }
        .boxed()
    });
    let letting_go = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(guarded, letting_go);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.value), (Outcome::OnTarget, Some(200)));
    assert!(run.attempt_count >= 2);
    assert_eq!(calls.load(Ordering::Relaxed), run.attempt_count, "called once an attempt");
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1, "rejected calls left their rows behind");
    bench.nothing_is_left_behind().await;
}

async fn a_closure_that_leaves_a_transaction_open_or_ends_ours_is_an_error(major: u32) {
    let bench = Bench::new(major).await;
    let closing = async |job: Job, sql: &'static str| {
        let guarded = job.guard(|client| async move { client.batch_execute(sql).await }.boxed());
        guarded.await.expect_err(sql)
    };
    let open = closing(bench.job().await.no_transaction(), "BEGIN; INSERT INTO log VALUES ('open')").await;
    assert_eq!(open.sqlstate(), Some("25000"), "{}", chain(&open));
    assert!(chain(&open).contains("it left a transaction open"), "{}", chain(&open));
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 0, "rolled back, and said so");
    let ended = closing(bench.job().await, "INSERT INTO log VALUES ('ended'); COMMIT").await;
    assert!(chain(&ended).contains("it ended the transaction that it was given"), "{}", chain(&ended));
    let error = bench.job().await.execute("COMMIT", &[]).await.unwrap_err();
    assert!(error.is_configuration() && error.to_string().contains("COMMIT would end"), "{error}");
    bench.nothing_is_left_behind().await;
}

async fn the_future_of_a_foreign_client_is_guarded_by_its_pid(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let foreign = bench.client().await;
    foreign.batch_execute("SET max_parallel_workers_per_gather = 4").await.unwrap();
    let pid: i32 = foreign.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let job = bench.job().await.attempts(50).cleanup("INSERT INTO log VALUES ('undone')");
    let calls = AtomicU32::new(0);
    let work = async || {
        calls.fetch_add(1, Ordering::Relaxed);
        let counted = foreign.query_one("SELECT count(*) FROM t WHERE nap(id, 10)", &[]).await;
        let sqlstate =
            counted.as_ref().err().and_then(|error| error.code().map(|code| code.code().to_owned()));
        bench.run(&format!("INSERT INTO log VALUES ('{}')", sqlstate.as_deref().unwrap_or("counted"))).await;
        counted.map(|row| row.get::<_, i64>(0))
    };
    let letting_go = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(job.watch(pid, work), letting_go);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.value, run.achieved_workers), (Outcome::OnTarget, Some(200), 4));
    assert!(run.attempt_count >= 2);
    assert_eq!(calls.load(Ordering::Relaxed), run.attempt_count, "called once an attempt");
    let logged =
        async |what: &str| bench.number(&format!("SELECT count(*) FROM log WHERE what = '{what}'")).await;
    let rejected = i64::from(run.attempt_count) - 1;
    assert_eq!(logged("57014").await, rejected, "each rejected one was cancelled, and no other way");
    assert_eq!((logged("undone").await, logged("counted").await), (rejected, 1));
    let still: i32 = foreign.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(still, pid, "the session was not terminated");

    let called = AtomicU32::new(0);
    let nobody =
        bench.job().await.watch(-1, async || Ok::<_, Error>(called.fetch_add(1, Ordering::Relaxed))).await;
    let error = nobody.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::BlindMonitor), "{}", chain(&error));
    assert!(error.to_string().contains("the monitor's server has no backend -1"), "{error}");
    assert_eq!(called.load(Ordering::Relaxed), 0, "nothing is started that cannot be watched");
}

async fn what_a_foreign_client_does_next_is_not_cancelled(major: u32) {
    let bench = Bench::new(major).await;
    let foreign = bench.client().await;
    let pid: i32 = foreign.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let job = bench.job().await;
    let work = async || {
        foreign.batch_execute("SELECT 1").await.unwrap();
        std::future::pending::<Result<(), Error>>().await
    };
    let seen = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptStarted { .. })).await;
        bench.recorder.wait_for_polls(5).await;
    };
    tokio::select! {
        ended = job.watch(pid, work) => panic!("{ended:?}"),
        () = seen => {}
    }
    // The guarded future is dropped: what it ran is cancelled, and that has ended.
    foreign.batch_execute("SELECT pg_sleep(0.5)").await.unwrap();
}

async fn vacuum_runs_outside_a_transaction(major: u32) {
    let bench = Bench::new(major).await;
    bench.run("CREATE INDEX ON t (id); CREATE INDEX ON t (grp); DELETE FROM t WHERE id > 150").await;
    let vacuumed = async || bench.number("SELECT pg_stat_get_vacuum_count('t'::regclass)").await;
    let within = bench.job().await.set("max_parallel_maintenance_workers", "4");
    let within = within.plan_shortfall(PlanShortfall::Refuse);
    let job = within.clone().no_transaction();
    let error = job.execute("VACUUM t", &[]).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::PlanTooNarrow), "two indexes have one worker: {error}");
    bench.run("CREATE INDEX ON t (pad); CREATE INDEX ON t (id, grp); CREATE INDEX ON t (grp, id)").await;
    let error = job.execute("VACUUM (PARALLEL 2) t", &[]).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::PlanTooNarrow), "{error}");
    assert!(error.to_string().contains("VACUUM (PARALLEL 2)"), "{error}");
    let error = within.execute("VACUUM t", &[]).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("25001"), "inside a transaction it is refused by the server");
    assert_eq!(vacuumed().await, 0);

    let before = bench.number("SELECT pg_relation_size('t')").await;
    let run = job.execute("VACUUM t", &[]).await.unwrap();
    // Its workers may be gone before anybody has seen them.
    assert!(matches!(run.outcome, Outcome::OnTarget | Outcome::FinishedEarly), "{run:?}");
    assert_eq!(run.attempt_count, 1, "{run:?}");
    assert!(
        bench.number("SELECT pg_relation_size('t')").await < before,
        "the deleted rows at its end are cut off"
    );
    crate::harness::eventually("the server has counted it", async || vacuumed().await == 1).await;
    bench.nothing_is_left_behind().await;
}

/// The process that decodes what others change meanwhile names the session as its leader, as a parallel worker does.
#[tokio::test]
async fn repack_has_its_workers_and_the_process_that_decodes_for_it_is_none_of_them() {
    let Some(version) = main_version_from(19) else { return };
    let bench = Bench::new(version).await;
    bench.run(IMMUTABLE_NAP).await;
    bench.run("ALTER TABLE t ADD PRIMARY KEY (id); CREATE INDEX ON t (napped(id))").await;
    let within = bench.job().await.set("max_parallel_maintenance_workers", "4");
    on_target(&within, "REPACK t").await;
    let error = within.execute("REPACK (CONCURRENTLY) t", &[]).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("25001"), "{}", chain(&error));
    on_target(&within.no_transaction(), "REPACK (CONCURRENTLY) t").await;
    bench.nothing_is_left_behind().await;
}

async fn the_invalid_index_of_a_cancelled_concurrent_build_is_cleaned_up(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(IMMUTABLE_NAP).await;
    let hog = bench.hog(POOL).await;
    let mut job = bench
        .job()
        .await
        .attempts(50)
        .no_transaction()
        .set("max_parallel_maintenance_workers", "4")
        .cleanup(
            "INSERT INTO log SELECT 'invalid' FROM pg_index WHERE indexrelid = to_regclass('made') AND NOT indisvalid;
             DROP INDEX IF EXISTS made",
        );
    job.settings_mut().launch_wait = Duration::from_millis(300);
    let letting_go = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) =
        tokio::join!(job.execute("CREATE INDEX CONCURRENTLY made ON t (napped(id))", &[]), letting_go);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4));
    assert_eq!(bench.number("SELECT count(*) FROM log").await, i64::from(run.attempt_count) - 1);
    assert_eq!(
        bench
            .number("SELECT indisvalid::int::bigint FROM pg_index WHERE indexrelid = to_regclass('made')")
            .await,
        1
    );
    bench.nothing_is_left_behind().await;
}
