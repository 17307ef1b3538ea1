//! Each launch is judged by itself: small ones, late ones, several at once, one after the other; statement by
//! statement in a script; in a server that has no process left.

use std::sync::Arc;

use headcount::event::{AttemptVerdict, CancelMethod, CancelResult, ShortReason};
use headcount::{Error, Event, Execution, Job, Outcome};

use crate::harness::{Bench, Hog, POOL, Proxy, chain, client, eventually, on_each_version, quick, soak_runs};

on_each_version! {
    small_gathers_before_the_main_one_are_no_starved_large_one,
    a_small_gather_is_waited_out_where_the_pool_cannot_be_seen,
    indexes_of_partitions_are_launches_of_their_own,
    queries_of_a_procedure_a_block_and_a_function_are_launches_of_their_own,
    a_pool_that_is_full_now_and_then_condemns_no_serial_phase,
    a_starved_statement_of_a_script_is_tried_again_alone,
    launches_that_come_again_and_may_have_had_no_worker_are_not_called_on_target,
    a_statement_that_starves_behind_one_that_had_its_workers_is_not_hidden_by_it,
    short_statements_that_meet_a_full_pool_are_not_called_on_target_and_strict_keeps_none,
    what_a_statement_of_a_script_was_accepted_with_is_what_the_run_achieved,
    a_cursor_never_has_workers_and_is_not_condemned_for_that,
    what_a_script_calls_is_judged_though_its_plan_shows_no_workers,
    a_serial_statement_beside_a_short_one_makes_it_no_success,
    a_script_goes_back_to_its_own_savepoints,
    what_a_kept_statement_lacked_is_told_though_a_later_one_was_tried_again,
    with_a_cleanup_the_whole_script_is_tried_again,
    outside_a_transaction_what_ran_before_a_lost_session_is_not_run_again,
    statements_with_smaller_plans_are_not_judged_and_are_counted,
    a_later_gather_without_workers_is_kept_and_told,
    a_later_query_of_a_procedure_without_workers_is_told_by_the_servers_own_counters,
    a_later_gather_without_workers_is_cancelled_where_every_launch_counts,
    a_later_gather_without_workers_is_rolled_back_where_that_is_wanted,
    processes_that_replication_holds_are_named,
    a_request_to_cancel_another_clients_statement_never_hits_its_next_one,
}

/// Tables that a scan spreads over so many workers.
const SIZES: &str = "
CREATE TABLE t1 (id int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 1);
CREATE TABLE t2 (id int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 2);
CREATE TABLE t4 (id int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 4);
INSERT INTO t1 SELECT g, 'x' FROM generate_series(1, 100) g;
INSERT INTO t2 SELECT g, 'x' FROM generate_series(1, 100) g;
INSERT INTO t4 SELECT g, 'x' FROM generate_series(1, 100) g;
GRANT SELECT ON t1, t2, t4 TO PUBLIC;
ANALYZE t1; ANALYZE t2; ANALYZE t4;";

const IMMUTABLE_NAP: &str = "
CREATE FUNCTION napped(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
  AS 'BEGIN PERFORM pg_sleep(0.005); RETURN id; END';";

/// A Gather of two, and when it is over one of four.
const SMALL_THEN_LARGE: &str =
    "SELECT count(*) FROM t4 WHERE nap(id, 20) AND id > (SELECT count(*) FROM t2 WHERE nap(id, 5)) - 10000";

async fn sized(major: u32) -> Bench {
    let bench = Bench::new(major).await;
    bench.run(SIZES).await;
    bench
}

/// Parallel plans cost nothing, so that small tables have them.
fn eager(job: Job) -> Job {
    job.set("parallel_setup_cost", "0").set("parallel_tuple_cost", "0")
}

/// On target at the first attempt: once; in a soak a quarter of its runs, since most claims are tried on four versions.
async fn healthy(job: &Job, sql: &str) {
    for _ in 0..soak_runs().map_or(1, |runs| runs.div_ceil(4)) {
        let run = job.execute_script(sql).await.unwrap();
        let attempts: Vec<_> = run.attempts.iter().map(|a| (a.reason, a.workers)).collect();
        assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1), "{sql}: {attempts:?}");
    }
}

async fn small_gathers_before_the_main_one_are_no_starved_large_one(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await);
    healthy(&job, SMALL_THEN_LARGE).await;
    let together = "SELECT count(*) FROM t4 WHERE nap(id, 20) AND id > (SELECT count(*) FROM \
        (SELECT id FROM t1 WHERE nap(id, 5) OFFSET 0) a, (SELECT id FROM t2 WHERE nap(id, 5) OFFSET 0) b \
        WHERE a.id < b.id) - 100000";
    let job = job.set("enable_hashjoin", "off").set("enable_mergejoin", "off");
    healthy(&job, together).await;
    bench.nothing_is_left_behind().await;
}

async fn a_small_gather_is_waited_out_where_the_pool_cannot_be_seen(major: u32) {
    let bench = sized(major).await;
    let role = format!("plain_{}", bench.schema);
    bench.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let dsn = bench.dsn_of(&role, bench.server().port());
    let job = quick(bench.headcount_at(&dsn, &dsn).await.task("plain")).minimum(4);
    healthy(&job, SMALL_THEN_LARGE).await;
    bench.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

async fn indexes_of_partitions_are_launches_of_their_own(major: u32) {
    let bench = sized(major).await;
    bench.run(IMMUTABLE_NAP).await;
    bench
        .run(
            "CREATE TABLE parts (id int, pad text) PARTITION BY RANGE (id);
             CREATE TABLE few PARTITION OF parts FOR VALUES FROM (0) TO (100) WITH (fillfactor = 10, parallel_workers = 1);
             CREATE TABLE many PARTITION OF parts FOR VALUES FROM (100) TO (1000) WITH (fillfactor = 10, parallel_workers = 4);
             INSERT INTO parts SELECT g, repeat('x', 600) FROM generate_series(1, 300) g; ANALYZE parts",
        )
        .await;
    let job = bench.job().await.set("max_parallel_maintenance_workers", "4");
    healthy(&job, "CREATE INDEX ON parts (napped(id))").await;
    healthy(&job, "CREATE INDEX ON t1 (napped(id)); CREATE INDEX ON t4 (napped(id))").await;
}

async fn queries_of_a_procedure_a_block_and_a_function_are_launches_of_their_own(major: u32) {
    let bench = sized(major).await;
    bench
        .run(
            "CREATE PROCEDURE nightly() LANGUAGE plpgsql AS 'BEGIN
               PERFORM count(*) FROM t2 WHERE nap(id, 8); PERFORM count(*) FROM t4 WHERE nap(id, 20); END';
             CREATE FUNCTION rollup() RETURNS SETOF bigint LANGUAGE plpgsql AS 'BEGIN
               RETURN QUERY SELECT count(*) FROM t2 WHERE nap(id, 8);
               RETURN QUERY SELECT count(*) FROM t4 WHERE nap(id, 20); END'",
        )
        .await;
    let job = eager(bench.job().await);
    for sql in [
        "CALL nightly()",
        "DO $$ BEGIN PERFORM count(*) FROM t2 WHERE nap(id, 8); PERFORM count(*) FROM t4 WHERE nap(id, 20); END $$",
        // Before 14, RETURN QUERY has no workers.
        if major < 14 { "SELECT 1 FROM t4 WHERE nap(id, 20)" } else { "SELECT * FROM rollup()" },
        &format!("EXPLAIN (ANALYZE) {SMALL_THEN_LARGE}"),
        &format!("COPY ({SMALL_THEN_LARGE}) TO '/dev/null'"),
    ] {
        healthy(&job, sql).await;
    }
}

async fn a_pool_that_is_full_now_and_then_condemns_no_serial_phase(major: u32) {
    let bench = sized(major).await;
    let sql = "WITH b AS MATERIALIZED (SELECT pg_sleep(2.5)) SELECT count(*) FROM t4 WHERE nap(id, 20) AND id > (SELECT 0 FROM b)";
    let job = eager(bench.job().await);
    let began = || bench.recorder.count(|event| matches!(event, Event::AttemptStarted { .. }));
    for _ in 0..soak_runs().map_or(1, |runs| runs.div_ceil(20)) {
        let before = began();
        let rivals = async {
            eventually("the attempt has begun", async || began() > before).await;
            for _ in 0..2 {
                let hog = bench.hog(POOL).await;
                // Seen to be full at some looks.
                bench.recorder.wait_for_polls(5).await;
                hog.release().await;
                bench.recorder.wait_for_polls(5).await;
            }
        };
        let (run, ()) = tokio::join!(job.execute(sql, &[]), rivals);
        let run = run.unwrap();
        assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1), "{run:?}");
    }
}

/// A first statement that has its workers, a serial one, and a third one that starves until the hog lets go.
const SCRIPT: &str = "
    CREATE TABLE first AS SELECT count(*), (SELECT nextval('calls')) AS call FROM t4 WHERE nap(id, 5);
    SELECT pg_sleep(1.5);
    CREATE TABLE second AS SELECT count(*) FROM t4 WHERE nap(id, 20)";

/// Takes the pool as soon as the first launch has had its verdict, and its workers are gone.
async fn hog_after_the_first(bench: &Bench) -> Hog {
    bench.recorder.wait_for(|event| matches!(event, Event::VerdictReached { .. })).await;
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
    eventually("the first launch is over", async || bench.number(workers).await == 0).await;
    bench.hog(POOL).await
}

/// The same, until an attempt was rejected.
async fn hog_until_rejected(bench: &Bench) {
    let hog = hog_after_the_first(bench).await;
    let short = |event: &Event| matches!(event, Event::AttemptEnded(facts) if !facts.end.is_accepted());
    bench.recorder.wait_for(short).await;
    hog.release().await;
}

async fn a_starved_statement_of_a_script_is_tried_again_alone(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).attempts(50);
    let (run, ()) = tokio::join!(job.execute_script(SCRIPT), hog_until_rejected(&bench));
    let run = run.unwrap();
    assert_eq!((run.outcome, run.value), (Outcome::OnTarget, Some(1)), "{run:?}");
    assert!(run.attempt_count > 1, "{run:?}");
    assert_eq!(bench.number("SELECT last_value FROM calls").await, 1, "the first statement ran once");
    assert_eq!(bench.number("SELECT count FROM second").await, 100);
    bench.nothing_is_left_behind().await;
}

/// Runs a script; once its first launch is over, somebody takes so many workers and keeps them to its end.
async fn beside_a_hog(bench: &Bench, job: &Job, sql: &str, workers: u32) -> Execution<u64> {
    let hogging = async {
        bench.recorder.wait_for(|event| matches!(event, Event::VerdictReached { .. })).await;
        let used = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
        eventually("the first launch is over", async || bench.number(used).await == 0).await;
        let hog = bench.hog(workers).await;
        bench.recorder.wait_for(|event| matches!(event, Event::ExecutionEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(job.execute_script(sql), hogging);
    run.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)))
}

/// A statement that has its workers, and a pause.
const FIRST: &str =
    "CREATE TEMP TABLE first AS SELECT count(*) FROM t4 WHERE nap(id, 5); SELECT pg_sleep(1.5);";

async fn a_statement_that_starves_behind_one_that_had_its_workers_is_not_hidden_by_it(major: u32) {
    let make = "CREATE PROCEDURE nightly() LANGUAGE plpgsql AS 'BEGIN PERFORM count(*) FROM t4 WHERE nap(id, 25); END';
        CREATE FUNCTION rollup() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM count(*) FROM t4 WHERE nap(id, 25); END'";
    for last in
        ["CALL nightly()", "EXPLAIN (ANALYZE) SELECT count(*) FROM t4 WHERE nap(id, 25)", "SELECT rollup()"]
    {
        let bench = sized(major).await;
        bench.run(make).await;
        let job = eager(bench.job().await).attempts(1);
        let run = beside_a_hog(&bench, &job, &format!("{FIRST} {last}"), POOL).await;
        // From 18 on the server's counters may name it.
        assert!(matches!(run.outcome, Outcome::Unverified | Outcome::FinishedShort), "{last}: {run:?}");
        assert!(!run.target_met, "{last}: {run:?}");
    }
}

async fn short_statements_that_meet_a_full_pool_are_not_called_on_target_and_strict_keeps_none(major: u32) {
    let short = "SELECT count(*) FROM t4 WHERE nap(id, 3);";
    for strict in [false, true] {
        let bench = sized(major).await;
        let mut job = eager(bench.job().await).attempts(1);
        job.settings_mut().strict = strict;
        let run = beside_a_hog(&bench, &job, &format!("{FIRST} {short} {short} {short}"), POOL).await;
        if strict {
            assert_eq!((run.outcome, run.value), (Outcome::BelowMinimum, None), "{run:?}");
        } else {
            assert!(matches!(run.outcome, Outcome::Unverified | Outcome::FinishedShort), "{run:?}");
        }
        assert!(!run.target_met, "{run:?}");
    }
}

async fn what_a_statement_of_a_script_was_accepted_with_is_what_the_run_achieved(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).attempts(2);
    let sql = format!("{FIRST} SELECT count(*) FROM t4 WHERE nap(id, 20)");
    let run = beside_a_hog(&bench, &job, &sql, POOL - 2).await;
    assert_eq!((run.outcome, run.attempt_count), (Outcome::AboveMinimum, 2), "{run:?}");
    assert_eq!((run.achieved_workers, run.target_met), (2, false), "{run:?}");
}

async fn what_a_script_calls_is_judged_though_its_plan_shows_no_workers(major: u32) {
    let bench = sized(major).await;
    bench
        .run("CREATE FUNCTION rollup() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM count(*) FROM t4 WHERE nap(id, 20); END'")
        .await;
    let sql = "SET LOCAL work_mem = '8MB'; SELECT rollup()";
    let job = eager(bench.job().await).attempts(1);
    let run = job.execute_script(sql).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4), "{run:?}");
    // One slot is left.
    let _hog = bench.hog(POOL - 1).await;
    let run = job.execute_script(sql).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::BelowMinimum, 1), "{run:?}");
    let error = run.required().unwrap_err();
    assert!(error.is_below_minimum() && error.history().is_some_and(|run| run.attempt_count == 1), "{error}");
    let behind = eager(bench.job().await).attempts(1);
    let run = behind.execute_script(&format!("{FIRST} SELECT rollup()")).await.unwrap();
    assert_eq!((run.outcome, run.target_met), (Outcome::BelowMinimum, false), "{run:?}");
}

async fn a_serial_statement_beside_a_short_one_makes_it_no_success(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).attempts(1);
    let serial = "UPDATE sleepers SET id = id WHERE nap(1, 20);";
    // Too short for the monitor, and nobody in its way.
    let run = job.execute_script(&format!("{serial} SELECT count(*) FROM t2 WHERE id < 0")).await.unwrap();
    assert!(!matches!(run.outcome, Outcome::AboveMinimum), "{run:?}");
    // Others have the pool, which is nothing to it.
    let _hog = bench.hog(POOL).await;
    let insert = "INSERT INTO log SELECT 'x' FROM t4 WHERE nap(id, 20)";
    for sql in [insert, &format!("SET LOCAL work_mem = '8MB'; {insert}")] {
        let run = job.execute_script(sql).await.unwrap();
        assert_eq!(run.outcome, Outcome::Lowered, "{sql}: {run:?}");
    }
}

async fn a_cursor_never_has_workers_and_is_not_condemned_for_that(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).attempts(1);
    let cursor = "DECLARE c CURSOR FOR SELECT count(*) FROM t4 WHERE nap(id, 20); FETCH ALL FROM c";
    let _hog = bench.hog(POOL).await;
    let run = job.execute_script(cursor).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((run.outcome, run.attempt_count), (Outcome::Lowered, 1), "{run:?}");
}

async fn launches_that_come_again_and_may_have_had_no_worker_are_not_called_on_target(major: u32) {
    let again = "SELECT count(*) FROM generate_series(1, 3) v(x) LEFT JOIN (SELECT id FROM t4 WHERE nap(id, 25) OFFSET 0) s ON s.id > v.x";
    let block = "DO $$ BEGIN PERFORM count(*) FROM t4 WHERE nap(id, 25); PERFORM count(*) FROM t4 WHERE nap(id, 25); END $$";
    for sql in [again, block] {
        let bench = sized(major).await;
        let job = eager(bench.job().await).attempts(1).set("enable_material", "off");
        let job = job.set("enable_hashjoin", "off").set("enable_mergejoin", "off");
        // Whoever takes the whole pool takes it while the first launch still has its four.
        let starving = async {
            bench.recorder.wait_for(|event| matches!(event, Event::VerdictReached { .. })).await;
            let hog = bench.hog_beyond_the_pool(POOL).await;
            bench.recorder.wait_for(|event| matches!(event, Event::ExecutionEnded(_))).await;
            hog.release().await;
        };
        let (run, ()) = tokio::join!(job.execute_script(sql), starving);
        let run = run.unwrap();
        assert_eq!((run.outcome, run.target_met), (Outcome::Unverified, false), "{run:?}");
        assert!(run.attempts[0].launches_unproven, "{run:?}");
        healthy(&job, sql).await;
        bench.nothing_is_left_behind().await;
    }
}

async fn a_script_goes_back_to_its_own_savepoints(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await);
    let script = "SAVEPOINT a; INSERT INTO log VALUES ('gone'); SELECT count(*) FROM t4 WHERE nap(id, 20);
        ROLLBACK TO a; INSERT INTO log VALUES ('kept'); ROLLBACK TRANSACTION TO SAVEPOINT a; RELEASE a;
        INSERT INTO log VALUES ('last'); SELECT count(*) FROM t4 WHERE nap(id, 20)";
    healthy(&job, script).await;
    assert_eq!(
        bench.number("SELECT count(*) FROM log WHERE what = 'last'").await,
        bench.number("SELECT count(*) FROM log").await
    );
}

async fn what_a_kept_statement_lacked_is_told_though_a_later_one_was_tried_again(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).attempts(50);
    let script = format!("SELECT count(*) FROM t1; {TWICE}; SELECT count(*) FROM t4 WHERE nap(id, 20)");
    let (run, ()) = tokio::join!(job.execute_script(&script), hog_until_rejected(&bench));
    let run = run.unwrap();
    assert!(run.attempt_count > 1, "{run:?}");
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::FinishedShort, 0), "{run:?}");
    assert_eq!((run.short_launches, run.unjudged_statements), (1, 1), "{run:?}");
    bench.nothing_is_left_behind().await;
}

async fn with_a_cleanup_the_whole_script_is_tried_again(major: u32) {
    let bench = sized(major).await;
    // It would wait for ever for what stays of the first attempt.
    let job = eager(bench.job().await).attempts(50).cleanup("DROP TABLE IF EXISTS first");
    let starving = async {
        let hog = hog_after_the_first(&bench).await;
        let cleaned = |event: &Event| matches!(event, Event::CleanupEnded { ok: true, .. });
        bench.recorder.wait_for(cleaned).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(job.execute_script(SCRIPT), starving);
    assert_eq!(run.unwrap().outcome, Outcome::OnTarget);
    assert!(bench.number("SELECT last_value FROM calls").await > 1, "the first statement ran again");
    bench.nothing_is_left_behind().await;
}

async fn outside_a_transaction_what_ran_before_a_lost_session_is_not_run_again(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).attempts(5).no_transaction();
    let script = "SET application_name = 'mine'; INSERT INTO log VALUES ('once'); SELECT count(*) FROM t4 WHERE nap(id, 20);
        INSERT INTO log SELECT current_setting('application_name')";
    let killing = async {
        bench.recorder.wait_for(|event| matches!(event, Event::VerdictReached { .. })).await;
        bench.run(&format!("SELECT pg_terminate_backend({})", bench.recorder.pid())).await;
    };
    let (run, ()) = tokio::join!(job.execute_script(script), killing);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 2), "{run:?}");
    assert_eq!(bench.number("SELECT count(*) FROM log WHERE what = 'once'").await, 1);
    assert_eq!(
        bench.number("SELECT count(*) FROM log WHERE what = 'mine'").await,
        1,
        "settings are made again"
    );
    bench.nothing_is_left_behind().await;
}

async fn statements_with_smaller_plans_are_not_judged_and_are_counted(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await);
    let script = "SELECT count(*) FROM t1; INSERT INTO log SELECT 'x' FROM t1;
        SELECT count(*) FROM t4 WHERE nap(id, 20); SELECT count(*) FROM t1";
    let run = job.execute_script(script).await.unwrap();
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1), "{run:?}");
    assert_eq!(run.unjudged_statements, 3);
    let judged = bench.recorder.count(|event| matches!(event, Event::VerdictReached { .. }));
    assert_eq!(judged, 1);
}

/// A Gather of four, a serial phase, and another Gather of four.
const TWICE: &str = "WITH a AS MATERIALIZED (SELECT count(*) AS n FROM t4 WHERE nap(id, 5)),
    b AS MATERIALIZED (SELECT n, pg_sleep(1.5) FROM a)
    SELECT count(*) FROM t4 WHERE nap(id, 25) AND id > (SELECT n FROM b) - 10000";

/// Runs it, while others take the pool once its first Gather has its workers, and keep it to the end.
async fn starved_later(bench: &Bench, job: &Job) -> Execution<u64> {
    let starving = async {
        let hog = hog_after_the_first(bench).await;
        bench.recorder.wait_for(|event| matches!(event, Event::ExecutionEnded(_))).await;
        hog.release().await;
    };
    let (run, ()) = tokio::join!(job.execute(TWICE, &[]), starving);
    run.unwrap()
}

async fn a_later_gather_without_workers_is_kept_and_told(major: u32) {
    let bench = sized(major).await;
    let run = starved_later(&bench, &eager(bench.job().await)).await;
    assert_eq!((run.outcome, run.value, run.attempt_count), (Outcome::FinishedShort, Some(1), 1), "{run:?}");
    assert_eq!((run.achieved_workers, run.short_launches, run.target_met), (0, 1, false));
    let told = |event: &Event| matches!(event, Event::LaunchShort { short, .. } if short.reason == ShortReason::PoolExhausted && short.got == 0);
    assert!(bench.recorder.find(told).is_some());
    bench.nothing_is_left_behind().await;
}

async fn a_later_query_of_a_procedure_without_workers_is_told_by_the_servers_own_counters(major: u32) {
    if major < 18 {
        return;
    }
    // The counters are the database's, and tell of us only where nobody else runs anything there.
    let bench = Bench::alone(major).await;
    bench.run("CREATE ROLE gate").await;
    bench.run("CREATE DATABASE apart").await;
    let apart = format!("postgresql://postgres@127.0.0.1:{}/apart", bench.server().port());
    let setup = client(&apart).await;
    setup.batch_execute(SIZES).await.unwrap();
    let procedure = "
        CREATE FUNCTION nap(id int, ms int) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1000
          AS 'BEGIN PERFORM pg_sleep(ms / 1000.0); RETURN true; END';
        CREATE PROCEDURE nightly() LANGUAGE plpgsql AS 'BEGIN
          PERFORM count(*) FROM t4 WHERE nap(id, 20); ALTER ROLE gate SET work_mem TO DEFAULT;
          PERFORM count(*) FROM t4 WHERE nap(id, 5); END'";
    // This session stays, and is idle.
    setup.batch_execute(procedure).await.unwrap();
    let job = eager(quick(bench.headcount_at(&apart, &apart).await.task("nightly")));
    for starves in [true, false] {
        // The procedure waits for the role, which somebody is about to drop.
        bench.run("BEGIN; DROP ROLE gate").await;
        let starving = async {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            eventually("the procedure waits", async || bench.number(waits).await == 1).await;
            let hog = if starves { Some(bench.hog(POOL).await) } else { None };
            bench.run("ROLLBACK").await;
            bench.recorder.wait_for(|event| matches!(event, Event::ExecutionEnded(_))).await;
            if let Some(hog) = hog {
                hog.release().await;
            }
        };
        let (run, ()) = tokio::join!(job.execute("CALL nightly()", &[]), starving);
        let run = run.unwrap();
        let expected = if starves { (Outcome::FinishedShort, 0, 1) } else { (Outcome::OnTarget, 4, 0) };
        assert_eq!((run.outcome, run.achieved_workers, run.short_launches), expected, "{run:?}");
    }
}

async fn a_later_gather_without_workers_is_cancelled_where_every_launch_counts(major: u32) {
    let bench = sized(major).await;
    let run = starved_later(&bench, &eager(bench.job().await).every_launch().attempts(1)).await;
    assert_eq!((run.outcome, run.value), (Outcome::BelowMinimum, None), "{run:?}");
    assert_eq!(
        (run.attempts[0].verdict, run.attempts[0].reason),
        (AttemptVerdict::Short, Some(ShortReason::PoolExhausted))
    );
    bench.nothing_is_left_behind().await;
}

async fn a_later_gather_without_workers_is_rolled_back_where_that_is_wanted(major: u32) {
    let bench = sized(major).await;
    let job = eager(bench.job().await).strict().attempts(1);
    let run = starved_later(&bench, &job).await;
    assert_eq!((run.outcome, run.value), (Outcome::BelowMinimum, None), "{run:?}");
    bench.nothing_is_left_behind().await;
    // What cannot be rolled back is refused.
    let field = |error: Error| error.to_string().split(':').next().unwrap().to_owned();
    let error = job.clone().no_transaction().execute("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(field(error), "strict");
    let error = job.query("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(field(error), "strict");
    let error = job.watch(1, async || Ok::<_, Error>(())).await.unwrap_err();
    assert_eq!(field(error), "strict");
}

async fn processes_that_replication_holds_are_named(major: u32) {
    // Logical replication's launcher is one of four, and three subscriptions are the others.
    let settings = [
        ("max_worker_processes", "4"),
        ("max_parallel_workers", "4"),
        ("wal_level", "logical"),
        ("max_logical_replication_workers", "4"),
        ("max_sync_workers_per_subscription", "0"),
        ("max_replication_slots", "10"),
        ("max_wal_senders", "10"),
    ];
    let bench = Bench::alone_with(major, &settings).await;
    bench.run("CREATE DATABASE source").await;
    let port = bench.server().port();
    let dsn = format!("postgresql://postgres@127.0.0.1:{port}/source");
    let source = client(&dsn).await;
    source.batch_execute("CREATE TABLE x (a int); CREATE PUBLICATION p FOR TABLE x").await.unwrap();
    bench.run("CREATE TABLE public.x (a int)").await;
    for n in 1..=3 {
        let slot = format!("SELECT pg_create_logical_replication_slot('s{n}', 'pgoutput')");
        source.query(&slot, &[]).await.unwrap();
        bench
            .run(&format!(
                "CREATE SUBSCRIPTION s{n} CONNECTION 'host=127.0.0.1 port={port} user=postgres dbname=source' \
                 PUBLICATION p WITH (create_slot = false, slot_name = 's{n}', copy_data = false)"
            ))
            .await;
    }
    let held = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%'";
    eventually("replication holds all processes", async || bench.number(held).await == 4).await;
    let run =
        bench.job().await.attempts(2).execute("SELECT count(*) FROM t WHERE nap(id, 20)", &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::BelowMinimum, 0), "{run:?}");
    let reasons: Vec<_> = run.attempts.iter().map(|attempt| attempt.reason).collect();
    assert_eq!(reasons, [Some(ShortReason::ProcessesExhausted); 2]);
    for n in 1..=3 {
        bench.run(&format!("ALTER SUBSCRIPTION s{n} DISABLE")).await;
    }
    eventually("replication has let go", async || bench.number(held).await <= 1).await;
    let run =
        bench.job().await.minimum(1).target(3).execute("SELECT count(*) FROM t WHERE nap(id, 20)", &[]).await;
    assert_eq!(run.unwrap().outcome, Outcome::OnTarget);
}

async fn a_request_to_cancel_another_clients_statement_never_hits_its_next_one(major: u32) {
    let bench = sized(major).await;
    let hog = bench.hog(POOL - 1).await;
    let other = Arc::new(bench.client().await);
    other.batch_execute("SET max_parallel_workers_per_gather = 4").await.unwrap();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // The request is under way until the statement that is meant has ended, and the next one runs.
    let proxy = Proxy::start(bench.server().port()).await;
    proxy.hold_cancels(true);
    let headcount = bench.headcount_at(&bench.dsn(), &bench.dsn_of("postgres", proxy.port())).await;
    let job = quick(headcount.task("late")).attempts(1);
    let watched = job.watch(pid, || {
        let other = other.clone();
        // A client of its own: nobody has it wait for the answer to our request.
        let statements = tokio::spawn(async move {
            let first = other.query("SELECT count(*) FROM t4 WHERE nap(id, 4)", &[]).await;
            let next = other.query("SELECT pg_sleep(1)", &[]).await;
            assert!(next.is_ok(), "the next statement was hit: {next:?}");
            first.map(drop)
        });
        async move { statements.await.unwrap() }
    });
    let late = async {
        let next = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND query = 'SELECT pg_sleep(1)'"
        );
        eventually("the next statement runs", async || bench.number(&next).await == 1).await;
        proxy.hold_cancels(false);
    };
    let (run, ()) = tokio::join!(watched, late);
    let run = run.unwrap();
    assert!(run.outcome.is_accepted(), "it had ended by itself: {run:?}");
    let missed = |event: &Event| {
        matches!(
            event,
            Event::CancelAnswered { result: CancelResult::Missed, method: CancelMethod::Cancel, .. }
        )
    };
    assert!(bench.recorder.count(missed) > 0, "the request came too late");
    hog.release().await;
    bench.nothing_is_left_behind().await;
}
