//! Faults: sessions, monitors, servers and commits that are lost; callers that give up; cleanups
//! that fail. The documented outcome each time, and no orphan left on the server.

use std::time::Duration;

use futures_util::FutureExt;
use headcount::event::Verdict;
use headcount::event::{AttemptVerdict, FailReason, Resolution};
use headcount::{Error, Event, Execution, Headcount, Job, Outcome};
use testkit::server::Shutdown;
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Bench, CommitFault, LIMIT, POOL, Proxy, chain, eventually, main_version, on_oldest_and_latest, quick,
    soon,
};

on_oldest_and_latest! {
    a_killed_leader_costs_an_attempt,
    a_killed_worker_costs_an_attempt_and_no_session,
    a_killed_monitor_comes_back_and_the_verdict_waits_for_it,
    a_monitor_that_stays_away_leaves_the_result_unverified,
    a_fast_restart_costs_attempts_and_no_more,
    an_immediate_restart_costs_attempts_and_no_more,
    a_server_that_is_away_at_first_is_waited_for,
    sessions_that_died_while_idle_are_replaced,
    a_cut_line_leaves_no_orphan_on_a_server_that_did_not_notice,
    a_commit_that_never_arrived_is_made_again,
    a_commit_that_never_arrived_is_made_again_though_the_server_noticed_nothing,
    a_commit_whose_answer_was_lost_counts_once,
    a_dropped_future_is_cancelled_rolled_back_and_cleaned_up,
    a_deadline_is_an_error_that_leaves_nothing_behind,
    a_cancel_by_somebody_else_is_an_error,
    a_cleanup_that_fails_is_an_error,
    a_cleanup_that_fails_does_not_hide_what_failed_before,
    a_cleanup_action_has_a_transaction_of_its_own,
}

/// At least 0.8 s with four workers.
const ROLLUP: &str = "CREATE TABLE made AS SELECT grp, count(*) AS n FROM t WHERE nap(id, 20) GROUP BY grp";

/// The same, after a second of the leader's alone.
const LATE_ROLLUP: &str = "CREATE TABLE made AS SELECT grp, count(*) AS n FROM t
   WHERE id > (SELECT nap(0, 1000)::int - 1) AND nap(id, 10) GROUP BY grp";

fn unwrap<T>(run: Result<Execution<T>, Error>) -> Execution<T> {
    run.unwrap_or_else(|error| panic!("{}; {:#?}", chain(&error), error.history()))
}

/// The first attempt has its workers: it is in full swing.
async fn in_full_swing(bench: &Bench) {
    let enough = |event: &Event| matches!(event, Event::VerdictReached { verdict: Verdict::Enough, .. });
    bench.recorder.wait_for(enough).await;
}

async fn started(bench: &Bench) {
    bench.recorder.wait_for(|event| matches!(event, Event::AttemptStarted { .. })).await;
}

/// The rollup was made in the second attempt, once, and the first was cleaned up after.
async fn made_at_the_second_attempt<T>(bench: &Bench, run: &Execution<T>, sqlstate: &str) {
    assert_eq!(
        (run.outcome, run.achieved_workers, run.attempt_count),
        (Outcome::OnTarget, 4, 2),
        "{:#?}",
        run.attempts
    );
    assert_eq!(
        (run.attempts[0].verdict, run.attempts[0].sqlstate.as_deref()),
        (AttemptVerdict::Failed, Some(sqlstate))
    );
    let lost =
        |event: &Event| matches!(event, Event::SessionLost { sqlstate: it } if it.as_str() == sqlstate);
    let restored = |event: &Event| matches!(event, Event::SessionRestored { .. });
    assert_eq!((bench.recorder.count(lost), bench.recorder.count(restored)), (1, 1));
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    assert_eq!(bench.number("SELECT count(*) FROM log WHERE what = 'undone'").await, 1);
    bench.nothing_is_left_behind().await;
}

async fn a_killed_leader_costs_an_attempt(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await.cleanup("INSERT INTO log VALUES ('undone')");
    let killing = async {
        in_full_swing(&bench).await;
        bench.run(&format!("SELECT pg_terminate_backend({})", bench.recorder.pid())).await;
    };
    let (run, ()) = tokio::join!(job.execute(ROLLUP, &[]), killing);
    made_at_the_second_attempt(&bench, &unwrap(run), "57P01").await;
}

async fn a_killed_worker_costs_an_attempt_and_no_session(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await.cleanup("INSERT INTO log VALUES ('undone')");
    let killing = async {
        in_full_swing(&bench).await;
        let leader = bench.recorder.pid();
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE leader_pid =";
        bench.run(&format!("{kill} {leader} AND pid <> {leader} LIMIT 1")).await;
        leader
    };
    let (run, leader) = tokio::join!(job.execute(ROLLUP, &[]), killing);
    let run = unwrap(run);
    assert_eq!((run.outcome, run.achieved_workers, run.attempt_count), (Outcome::OnTarget, 4, 2));
    assert_eq!(
        (run.attempts[0].verdict, run.attempts[0].sqlstate.as_deref()),
        (AttemptVerdict::Failed, Some("57P01"))
    );
    let told = |event: &Event| matches!(event, Event::SessionLost { .. } | Event::SessionRestored { .. });
    assert_eq!(bench.recorder.find(told), None);
    assert_eq!(bench.recorder.pid(), leader, "the session lived on");
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    assert_eq!(bench.number("SELECT count(*) FROM log WHERE what = 'undone'").await, 1);
    bench.nothing_is_left_behind().await;
}

const KILL_MONITOR: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headcount:monitor'";

async fn a_killed_monitor_comes_back_and_the_verdict_waits_for_it(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await;
    let killing = async {
        started(&bench).await;
        bench.run(KILL_MONITOR).await;
        bench.recorder.wait_for(|event| matches!(event, Event::MonitorLost { .. })).await;
        bench.recorder.wait_for(|event| matches!(event, Event::MonitorRestored { .. })).await;
        let verdict = bench.recorder.find(|event| matches!(event, Event::VerdictReached { .. }));
        assert_eq!(verdict, None, "no evidence, no verdict");
    };
    let (run, ()) = tokio::join!(job.execute(LATE_ROLLUP, &[]), killing);
    let run = unwrap(run);
    assert_eq!((run.outcome, run.achieved_workers, run.attempt_count), (Outcome::OnTarget, 4, 1));
}

async fn a_monitor_that_stays_away_leaves_the_result_unverified(major: u32) {
    let bench = Bench::new(major).await;
    let proxy = Proxy::start(bench.server().port()).await;
    let headcount = bench.headcount_at(&bench.dsn(), &bench.dsn_of("postgres", proxy.port())).await;
    let job = quick(headcount.task("unverified"));
    let cutting = async {
        started(&bench).await;
        proxy.refuse(true);
        proxy.cut();
    };
    let (run, ()) = tokio::join!(job.execute(LATE_ROLLUP, &[]), cutting);
    let run = unwrap(run);
    assert_eq!((run.outcome, run.target_met, run.value), (Outcome::Unverified, false, Some(5)));
    assert_eq!((run.attempt_count, run.attempts[0].verdict), (1, AttemptVerdict::Unverified));
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    assert_eq!(bench.recorder.count(|event| matches!(event, Event::MonitorRestored { .. })), 0);

    proxy.refuse(false);
    let run = unwrap(job.execute("SELECT count(*) FROM t WHERE nap(id, 10)", &[]).await);
    assert_eq!(run.outcome, Outcome::OnTarget, "and sees again later");
}

async fn a_fast_restart_costs_attempts_and_no_more(major: u32) {
    restart(major, Shutdown::Fast).await;
}

async fn an_immediate_restart_costs_attempts_and_no_more(major: u32) {
    restart(major, Shutdown::Immediate).await;
}

async fn restart(major: u32, mode: Shutdown) {
    // What is committed must survive the server, though not the machine.
    let mut bench = Bench::alone_with(major, &[("synchronous_commit", "on")]).await;
    let mut job = bench.job().await.attempts(30).cleanup("INSERT INTO log VALUES ('undone')");
    job.settings_mut().retry_delay = Duration::from_secs(1);
    let restarting = async {
        in_full_swing(&bench).await;
        bench.server().restart(mode).await.unwrap();
    };
    let (run, ()) = soon("the execution", async { tokio::join!(job.execute(ROLLUP, &[]), restarting) }).await;
    bench.reconnect().await;
    let run = unwrap(run);
    assert_eq!((run.outcome, run.achieved_workers, run.value), (Outcome::OnTarget, 4, Some(5)));
    let (accepted, failed) = run.attempts.split_last().unwrap();
    assert!(accepted.accepted && !failed.is_empty());
    assert!(failed.iter().all(|attempt| attempt.verdict == AttemptVerdict::Failed), "{failed:#?}");
    assert_eq!(failed[0].workers, 4);
    assert!(bench.recorder.find(|event| matches!(event, Event::MonitorRestored { .. })).is_some());
    assert_eq!(bench.number("SELECT sum(n)::bigint FROM made").await, 200);
    assert!(bench.number("SELECT count(*) FROM log").await >= 1, "cleaned up once the server was back");
    bench.nothing_is_left_behind().await;
}

async fn a_server_that_is_away_at_first_is_waited_for(major: u32) {
    let mut bench = Bench::alone_with(major, &[("synchronous_commit", "on")]).await;
    let mut job = bench.job().await.attempts(30);
    job.settings_mut().retry_delay = Duration::from_secs(1);
    bench.server().halt(Shutdown::Fast).await.unwrap();
    let resuming = async {
        bench.recorder.wait_for(|event| matches!(event, Event::ExecutionStarted { .. })).await;
        bench.server().resume().await.unwrap();
    };
    let (run, ()) = soon("the execution", async { tokio::join!(job.execute(ROLLUP, &[]), resuming) }).await;
    let run = unwrap(run);
    assert_eq!(run.outcome, Outcome::OnTarget);
    let hindered = bench.recorder.all().into_iter().rev().find_map(|event| match event {
        Event::StartHindered { waited, .. } => Some(waited),
        _ => None,
    });
    assert!(hindered.is_some_and(|waited| waited <= run.waited), "{hindered:?}: {run:?}");
    bench.reconnect().await;
    bench.nothing_is_left_behind().await;
}

async fn sessions_that_died_while_idle_are_replaced(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await;
    let sql = "SELECT count(*) FROM t WHERE nap(id, 5)";
    assert_eq!(unwrap(job.execute(sql, &[]).await).outcome, Outcome::OnTarget);
    let ours = "application_name LIKE 'headcount:%'";
    bench.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")).await;
    eventually("the old sessions are gone", async || {
        bench.number(&format!("SELECT count(*) FROM pg_stat_activity WHERE {ours}")).await == 0
    })
    .await;
    let run = unwrap(job.execute(sql, &[]).await);
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1));
}

async fn a_cut_line_leaves_no_orphan_on_a_server_that_did_not_notice(major: u32) {
    let bench = Bench::new(major).await;
    let proxy = Proxy::start(bench.server().port()).await;
    let headcount = bench.headcount_at(&bench.dsn_of("postgres", proxy.port()), &bench.dsn()).await;
    let job = quick(headcount.task("cut")).cleanup("INSERT INTO log VALUES ('undone')");
    let cutting = async {
        in_full_swing(&bench).await;
        proxy.cut_in_silence();
        let leader = bench.recorder.pid();
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptEnded(_))).await;
        let orphans = format!("SELECT count(*) FROM pg_stat_activity WHERE {leader} IN (pid, leader_pid)");
        assert_eq!(bench.number(&orphans).await, 0, "gone before the next attempt begins");
    };
    let (run, ()) = tokio::join!(job.execute(ROLLUP, &[]), cutting);
    made_at_the_second_attempt(&bench, &unwrap(run), "08006").await;
}

async fn a_commit_that_never_arrived_is_made_again(major: u32) {
    commit_fault(major, CommitFault::Swallowed, Resolution::Aborted).await;
}

async fn a_commit_that_never_arrived_is_made_again_though_the_server_noticed_nothing(major: u32) {
    commit_fault(major, CommitFault::SwallowedInSilence, Resolution::Aborted).await;
}

async fn a_commit_whose_answer_was_lost_counts_once(major: u32) {
    commit_fault(major, CommitFault::AnswerLost, Resolution::Committed).await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_on_a_line_that_stays_open_counts_once() {
    commit_fault(main_version(), CommitFault::AnswerLostInSilence, Resolution::Committed).await;
}

#[tokio::test]
async fn a_statement_whose_answer_was_lost_on_a_line_that_stays_open_is_tried_again() {
    let bench = Bench::new(main_version()).await;
    let proxy = Proxy::start(bench.server().port()).await;
    let headcount = bench.headcount_at(&bench.dsn_of("postgres", proxy.port()), &bench.dsn()).await;
    let job = quick(headcount.task("mute")).cleanup("INSERT INTO log VALUES ('undone')");
    let losing = async {
        in_full_swing(&bench).await;
        proxy.mute();
    };
    let (run, ()) = tokio::join!(job.execute(ROLLUP, &[]), losing);
    made_at_the_second_attempt(&bench, &unwrap(run), "08006").await;
}

async fn commit_fault(major: u32, fault: CommitFault, expected: Resolution) {
    let bench = Bench::new(major).await;
    let proxy = Proxy::start(bench.server().port()).await;
    let through = bench.dsn_of("postgres", proxy.port());
    let job = quick(bench.headcount_at(&through, &bench.dsn()).await.task("doubt"));
    proxy.break_next_commit(fault);
    let guarded = job.guard(|client| {
        async move {
            client.execute("INSERT INTO log VALUES ('work')", &[]).await?;
            client.execute("SELECT count(*) FROM t WHERE nap(id, 5)", &[]).await
        }
        .boxed()
    });
    let run = unwrap(soon("the execution", guarded).await);
    let resolved = bench.recorder.find(|event| matches!(event, Event::CommitResolved { .. }));
    assert_eq!(resolved, Some(Event::CommitResolved { resolution: expected }));
    assert_eq!((run.outcome, run.value), (Outcome::OnTarget, Some(1)));
    assert_eq!(run.attempt_count, if expected == Resolution::Committed { 1 } else { 2 });
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1, "exactly once");
    assert_eq!(bench.recorder.count(|event| *event == Event::CommitInDoubt), 1);
    bench.nothing_is_left_behind().await;
}

#[tokio::test]
async fn a_stop_while_nobody_knows_what_became_of_a_commit_is_told_as_doubt() {
    let bench = Bench::new(main_version()).await;
    let proxy = Proxy::start(bench.server().port()).await;
    let through = bench.dsn_of("postgres", proxy.port());
    let stop = CancellationToken::new();
    let job = quick(bench.headcount_at(&through, &bench.dsn()).await.task("doubt")).stop(stop.clone());
    proxy.break_next_commit(CommitFault::AnswerLost);
    let guarded = job
        .guard(|client| async move { client.execute("INSERT INTO log VALUES ('work')", &[]).await }.boxed());
    let stopping = async {
        // The session stays, and there will be no other: nobody answers when the fate is asked.
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptStarted { .. })).await;
        proxy.refuse(true);
        bench.recorder.wait_for(|event| *event == Event::CommitInDoubt).await;
        stop.cancel();
    };
    let (run, ()) = tokio::join!(soon("the execution", guarded), stopping);
    let error = run.unwrap_err();
    assert!(error.is_in_doubt() && !error.is_stopped(), "{}", chain(&error));
    let resolved = bench.recorder.find(|event| matches!(event, Event::CommitResolved { .. }));
    assert_eq!(resolved, Some(Event::CommitResolved { resolution: Resolution::Unresolved }));
    assert_eq!(bench.recorder.executions()[0].end, Err(FailReason::InDoubt));
    assert_eq!(
        bench.number("SELECT count(*) FROM log").await,
        1,
        "it took effect: a second run would do it again"
    );
}

#[tokio::test]
async fn a_stop_while_a_commit_takes_long_learns_what_became_of_it() {
    let bench = Bench::new(main_version()).await;
    bench
        .run(
            "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN PERFORM pg_sleep(600); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION doze()",
        )
        .await;
    let stop = CancellationToken::new();
    let mut job = bench.job().await.stop(stop.clone());
    job.settings_mut().cancel_grace = Duration::from_millis(200);
    let guarded = job
        .guard(|client| async move { client.execute("INSERT INTO log VALUES ('work')", &[]).await }.boxed());
    let stopping = async {
        let committing =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%COMMIT' AND state = 'active'";
        eventually("it commits", async || bench.number(committing).await == 1).await;
        stop.cancel();
    };
    let (run, ()) = tokio::join!(soon("the execution", guarded), stopping);
    let error = run.unwrap_err();
    assert!(error.is_stopped(), "{}", chain(&error));
    let resolved = bench.recorder.find(|event| matches!(event, Event::CommitResolved { .. }));
    assert_eq!(resolved, Some(Event::CommitResolved { resolution: Resolution::Aborted }));
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 0);
    bench.nothing_is_left_behind().await;
}

fn unreplicated(event: &Event) -> bool {
    *event == Event::CommitResolved { resolution: Resolution::Unreplicated }
}

#[tokio::test]
async fn a_commit_whose_wait_for_a_standby_was_cut_short_is_told_as_that() {
    // Setups and questions of the test's own wait for nobody.
    let settings = [("synchronous_standby_names", "nobody"), ("synchronous_commit", "local")];
    let bench = Bench::alone_with(main_version(), &settings).await;
    let stop = CancellationToken::new();
    let mut job = bench.job().await.stop(stop.clone()).minimum(0).set("synchronous_commit", "on");
    job.settings_mut().cancel_grace = Duration::from_millis(200);
    job.settings_mut().plan_shortfall = headcount::PlanShortfall::Ignore;
    let stopping = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("it waits for the standby", async || bench.number(waits).await == 1).await;
        stop.cancel();
    };
    let insert = "INSERT INTO log VALUES ('work')";
    let (run, ()) = tokio::join!(soon("the execution", job.execute(insert, &[])), stopping);
    assert!(run.unwrap().unreplicated);
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1, "on this server it is there");
    assert!(bench.recorder.count(unreplicated) == 1);
}

/// COMMIT is answered as ever then; a warning of the server says it.
#[tokio::test]
async fn a_commit_whose_wait_for_a_standby_somebody_cancelled_is_told_as_that() {
    let settings = [("synchronous_standby_names", "nobody"), ("synchronous_commit", "local")];
    let bench = Bench::alone_with(main_version(), &settings).await;
    // Whoever asks to hear no warnings, for the statement or for the session.
    let hushed = format!("{}%20-c%20client_min_messages%3Derror", bench.dsn());
    for (transaction, dsn) in [(true, bench.dsn()), (false, bench.dsn()), (false, hushed)] {
        let job = bench.headcount_at(&dsn, &dsn).await.task("unheard").minimum(0);
        let mut job = job.set("synchronous_commit", "on");
        job.settings_mut().plan_shortfall = headcount::PlanShortfall::Ignore;
        job.settings_mut().transaction = transaction;
        let job = if dsn == bench.dsn() { job.set("client_min_messages", "error") } else { job };
        let cancelling = async {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            eventually("it waits for the standby", async || bench.number(waits).await == 1).await;
            bench
                .run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
                .await;
        };
        let insert = "INSERT INTO log VALUES ('work')";
        let (run, ()) = tokio::join!(soon("the execution", job.execute(insert, &[])), cancelling);
        assert!(run.unwrap().unreplicated, "in a transaction of ours: {transaction}; {dsn}");
    }
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 3, "on this server all are there");
    assert_eq!(bench.recorder.count(unreplicated), 3);
}

async fn a_dropped_future_is_cancelled_rolled_back_and_cleaned_up(major: u32) {
    let bench = Bench::new(major).await;
    let headcount = bench.headcount().await;
    let job = quick(headcount.task("dropped")).cleanup("INSERT INTO log VALUES ('undone')");
    for (drops, statement) in [(1, ROLLUP), (2, LATE_ROLLUP)] {
        tokio::select! {
            run = job.execute(statement, &[]) => panic!("it ended: {run:?}"),
            () = nth_attempt(&bench, drops) => {}
        }
        let ended = bench.recorder.executions().last().unwrap().clone();
        assert_eq!((ended.end, ended.attempts), (Err(FailReason::Interrupted), 1));
    }
    assert!(headcount.shutdown(LIMIT).await);
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 2);
    assert!(!bench.has("made").await);
    bench.nothing_is_left_behind().await;
}

async fn nth_attempt(bench: &Bench, n: usize) {
    eventually("the attempt began", async || {
        bench.recorder.count(|event| matches!(event, Event::AttemptStarted { .. })) == n
    })
    .await;
    bench.recorder.wait_for_polls(3).await;
}

async fn a_deadline_is_an_error_that_leaves_nothing_behind(major: u32) {
    let bench = Bench::new(major).await;
    let job =
        bench.job().await.deadline(Duration::from_millis(700)).cleanup("INSERT INTO log VALUES ('undone')");
    let error = job.execute(LATE_ROLLUP, &[]).await.unwrap_err();
    assert!(error.is_deadline(), "{}", chain(&error));
    let history = error.history().unwrap();
    assert_eq!((history.attempt_count, history.attempts[0].verdict), (1, AttemptVerdict::Failed));
    assert!(history.wasted > Duration::ZERO);
    assert_eq!(bench.recorder.executions()[0].end, Err(FailReason::Deadline));
    // At once, not eventually: the error says that it is over.
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1);
    assert!(!bench.has("made").await);
    bench.nothing_is_left_behind().await;
}

async fn a_cancel_by_somebody_else_is_an_error(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await.cleanup("INSERT INTO log VALUES ('undone')");
    let cancelling = async {
        in_full_swing(&bench).await;
        bench.run(&format!("SELECT pg_cancel_backend({})", bench.recorder.pid())).await;
    };
    let (run, ()) = tokio::join!(job.execute(ROLLUP, &[]), cancelling);
    let error = run.unwrap_err();
    assert_eq!((error.sqlstate(), error.is_retryable()), (Some("57014"), false));
    assert_eq!(error.history().unwrap().attempt_count, 1);
    assert_eq!(bench.number("SELECT count(*) FROM log").await, 1);
    assert!(!bench.has("made").await);
    bench.nothing_is_left_behind().await;
}

async fn a_cleanup_that_fails_is_an_error(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let job = bench.job().await.cleanup("INSERT INTO nowhere VALUES (1)");
    let error = job.execute(ROLLUP, &[]).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.sqlstate()), ("the cleanup failed", Some("42P01")));
    assert!(error.cleanup_failure().unwrap().contains("nowhere"), "{error:?}");
    assert_eq!(bench.recorder.count(|event| matches!(event, Event::CleanupEnded { ok: false, .. })), 1);
    assert_eq!(error.history().unwrap().attempt_count, 1, "the attempt that it should have undone");
    hog.release().await;
    assert!(!bench.has("made").await);
    bench.nothing_is_left_behind().await;
}

async fn a_cleanup_that_fails_does_not_hide_what_failed_before(major: u32) {
    let bench = Bench::new(major).await;
    let job = bench.job().await.cleanup("DROP TABLE nowhere");
    let error = job.execute("CREATE TABLE made AS SELECT sum(1 / (id - id)) FROM t", &[]).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.sqlstate()), ("the statement failed", Some("22012")));
    assert!(error.cleanup_failure().unwrap().contains("nowhere"), "{error:?}");
    bench.nothing_is_left_behind().await;
}

async fn a_cleanup_action_has_a_transaction_of_its_own(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let headcount: Headcount = bench.headcount().await;
    let job: Job = quick(headcount.task("action")).attempts(2).cleanup_with(|client| {
        async move {
            client.batch_execute("INSERT INTO log VALUES ('one'); SAVEPOINT inside").await?;
            client.execute("INSERT INTO log VALUES ('two')", &[]).await?;
            Ok::<(), tokio_postgres::Error>(())
        }
        .boxed()
    });
    let run = unwrap(job.execute(ROLLUP, &[]).await);
    assert_eq!((run.outcome, run.attempt_count), (Outcome::BelowMinimum, 2));
    assert_eq!(
        bench.number("SELECT count(*) FROM log").await,
        4,
        "a savepoint needs a transaction, and it committed"
    );
    hog.release().await;
    bench.nothing_is_left_behind().await;
}
