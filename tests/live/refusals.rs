//! What can never have its workers is refused before anything runs, with the reason and the fix.

use headcount::event::FailReason;
use headcount::{Event, Job, Outcome, PlanShortfall, Refusal};

use crate::harness::{Bench, POOL, chain, on_each_version};

on_each_version! {
    an_unsafe_function_is_named,
    a_small_table_is_named,
    a_setting_and_the_pools_size_are_named,
    each_statement_of_a_script_is_to_reach_the_target_where_none_is_to_be_lowered,
    a_lowered_target_is_what_the_plan_can_have,
    an_ignored_shortfall_runs_all_the_same,
}

/// It leaves a trace that no rollback removes. The second one only claims to be safe.
const RINGS: &str = "
CREATE FUNCTION ring(int) RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('calls') $$;
CREATE FUNCTION safe_ring(int) RETURNS bigint LANGUAGE sql PARALLEL SAFE AS $$ SELECT nextval('calls') $$;";

/// Refused with these words and this fix, and nothing ran.
async fn refused(bench: &Bench, job: &Job, sql: &str, words: &str, fix: &str) {
    let error = job.execute(sql, &[]).await.expect_err(sql);
    assert_eq!(error.refusal(), Some(Refusal::PlanTooNarrow), "{}", chain(&error));
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.fixes().iter().any(|it| it.to_string().contains(fix)), "{:?}", error.fixes());
    assert!(bench.nothing_ran().await, "{sql}");
    assert!(!bench.recorder.all().iter().any(|event| matches!(event, Event::AttemptStarted { .. })));
    let ended = bench.recorder.executions().last().unwrap().clone();
    assert_eq!((ended.end, ended.attempts), (Err(FailReason::Refused), 0));
    bench.nothing_is_left_behind().await;
}

async fn refusing(bench: &Bench) -> Job {
    bench.job().await.plan_shortfall(PlanShortfall::Refuse)
}

async fn an_unsafe_function_is_named(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(RINGS).await;
    let (name, schema) = (format!("{}.ring(integer)", bench.schema), &bench.schema);
    let fix = format!("ALTER FUNCTION {schema}.ring(integer) PARALLEL SAFE");
    let job = refusing(&bench).await;
    refused(&bench, &job, "SELECT count(ring(id)) FROM t", &name, &fix).await;
    refused(&bench, &job, "CREATE TABLE made AS SELECT ring(id) FROM t", &name, &fix).await;
}

async fn a_small_table_is_named(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(RINGS).await;
    bench.run("CREATE TABLE small AS SELECT g AS id FROM generate_series(1, 100) g; ANALYZE small").await;
    let job = refusing(&bench).await.set("min_parallel_table_scan_size", "8MB");
    let fix = "parallel_workers = 4";
    refused(&bench, &job, "SELECT count(safe_ring(id)) FROM small", &format!("{}.small", bench.schema), fix)
        .await;
}

async fn a_setting_and_the_pools_size_are_named(major: u32) {
    let bench = Bench::new(major).await;
    bench.run(RINGS).await;
    let sql = "SELECT count(safe_ring(id)) FROM t";
    let job = refusing(&bench).await.set("max_parallel_workers_per_gather", "1");
    refused(&bench, &job, sql, "max_parallel_workers_per_gather", "max_parallel_workers_per_gather = 4")
        .await;
    let job = refusing(&bench).await.set("max_parallel_workers", "3");
    refused(&bench, &job, sql, "max_parallel_workers", "max_parallel_workers = 4").await;
    let job = refusing(&bench).await.target(POOL + 2);
    refused(&bench, &job, sql, &format!("{POOL} "), &format!("max_parallel_workers = {}", POOL + 2)).await;
    // Without a plan to inspect there is still the pool.
    refused(&bench, &job, "CREATE INDEX ON t (id)", &format!("the pool has {POOL} slots"), "").await;
}

/// In a script that each statement has to pass for itself; and nobody is refused who accepts a serial run.
async fn each_statement_of_a_script_is_to_reach_the_target_where_none_is_to_be_lowered(major: u32) {
    let bench = Bench::new(major).await;
    bench.run("CREATE TABLE narrow AS SELECT * FROM t; ANALYZE narrow").await;
    bench.run("ALTER TABLE narrow SET (parallel_workers = 1)").await;
    // What a function of the first one's might change would make the second one uncertain.
    let script = "SELECT count(*) FROM t; SELECT count(*) FROM narrow";
    let job = refusing(&bench).await.set("parallel_setup_cost", "0").set("parallel_tuple_cost", "0");
    let error = job.execute_script(script).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::PlanTooNarrow), "{}", chain(&error));
    let run = job.minimum(0).execute_script(script).await.unwrap();
    assert!(run.outcome.is_accepted(), "{run:?}");
}

async fn a_lowered_target_is_what_the_plan_can_have(major: u32) {
    let bench = Bench::new(major).await;
    bench.run("ALTER TABLE t SET (parallel_workers = 3)").await;
    bench.run(RINGS).await;
    let job = bench.job().await;
    let sql = "SELECT count(*) FROM t WHERE nap(id, 5)";
    let run = job.execute(sql, &[]).await.unwrap();
    assert_eq!((run.outcome, run.target_met, run.lowered_to), (Outcome::Lowered, false, Some(3)));
    assert_eq!(
        (run.achieved_workers, run.planned_workers, run.attempts[0].required_workers),
        (3, Some(3), 3)
    );
    let lowered = |event: &Event| matches!(event, Event::TargetLowered { target: 3, cause, .. } if cause.contains("parallel_workers"));
    assert!(bench.recorder.find(lowered).is_some());

    // A quiet night's small table is no reason to fail: the minimum is lowered, too.
    let run = job.minimum(4).execute("SELECT count(*) FROM t WHERE nap(id, 5)", &[]).await.unwrap();
    assert_eq!((run.outcome, run.min_workers), (Outcome::Lowered, 3));
}

async fn an_ignored_shortfall_runs_all_the_same(major: u32) {
    let bench = Bench::new(major).await;
    bench.run("ALTER TABLE t SET (parallel_workers = 3)").await;
    let job = bench.job().await.plan_shortfall(PlanShortfall::Ignore);
    let run = job.execute("SELECT count(*) FROM t WHERE nap(id, 5)", &[]).await.unwrap();
    // All that was planned was there, in a pool with room: no evidence against it.
    assert_eq!((run.outcome, run.achieved_workers, run.attempt_count), (Outcome::FinishedEarly, 3, 1));
}
