//! Who may see and stop whom, and what is kept secret.

use std::fmt::Write as _;
use std::time::Duration;

use headcount::event::{CancelResult, FailReason, ShortReason};
use headcount::server::doctor::{self, Level};
use headcount::{Event, Headcount, Job, Keys, Outcome, Refusal};
use testkit::server::PrivateServer;

use crate::harness::{Bench, POOL, chain, delay, endpoint, on_each_version, plain_server, quick};
use crate::versions::main_version_from;

on_each_version! {
    a_monitor_is_refused_until_it_may_see_and_cancel_and_told_how,
    a_pool_that_cannot_be_seen_is_not_waited_for,
    a_monitor_on_another_server_is_refused,
    a_login_that_becomes_another_role_is_guarded_all_the_same,
    a_function_that_was_taken_from_everybody_is_named_before_the_work_and_by_doctor,
}

const ROLLUP: &str = "CREATE TABLE made AS SELECT grp, count(*) AS n FROM t WHERE nap(id, 10) GROUP BY grp";
const SLOW: &str = "SELECT count(*) FROM t WHERE nap(id, 10)";

/// The refusal, and the statement in its first fix.
async fn refusal(bench: &Bench, job: &Job) -> (Refusal, String) {
    let error = job.execute(ROLLUP, &[]).await.unwrap_err();
    let refusal = error.refusal().unwrap_or_else(|| panic!("{}", chain(&error)));
    assert!(!bench.recorder.all().iter().any(|event| matches!(event, Event::AttemptStarted { .. })));
    assert_eq!(bench.recorder.executions().last().unwrap().end, Err(FailReason::Refused));
    (refusal, error.fixes()[0].to_string().split_inclusive(';').next().unwrap().to_owned())
}

async fn a_monitor_is_refused_until_it_may_see_and_cancel_and_told_how(major: u32) {
    let bench = Bench::new(major).await;
    let (leader, monitor) = (format!("lead_{}", bench.schema), format!("look_{}", bench.schema));
    bench.run(&format!("CREATE ROLE {leader} LOGIN; CREATE ROLE {monitor} LOGIN")).await;
    let port = bench.server().port();
    let headcount = bench.headcount_at(&bench.dsn_of(&leader, port), &bench.dsn_of(&monitor, port)).await;
    let job = quick(headcount.task("watched"));

    let (refused, fix) = refusal(&bench, &job).await;
    assert_eq!(
        (refused, &*fix),
        (Refusal::BlindMonitor, &*format!("GRANT pg_read_all_stats TO \"{monitor}\";"))
    );
    bench.run(&format!("GRANT SELECT ON pg_stat_activity TO {monitor}")).await;
    assert_eq!(
        refusal(&bench, &job).await.0,
        Refusal::BlindMonitor,
        "that grant shows no other role's workers"
    );

    bench.run(&fix).await;
    let (refused, fix) = refusal(&bench, &job).await;
    assert_eq!(
        (refused, &*fix),
        (Refusal::MayNotCancel, &*format!("GRANT pg_signal_backend TO \"{monitor}\";"))
    );
    assert!(!bench.has("made").await);

    bench.run(&fix).await;
    let run = job.execute(ROLLUP, &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4));
    let hog = bench.hog(POOL - 1).await;
    let run = job.attempts(1).execute("SELECT count(*) FROM t WHERE nap(id, 10)", &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::BelowMinimum, 1), "it really cancels");
    hog.release().await;

    // Taken away while the statement runs.
    let hog = bench.hog(POOL).await;
    let mut job = quick(headcount.task("denied")).attempts(2);
    job.settings_mut().admission_wait = Duration::ZERO;
    job.settings_mut().cancel_grace = Duration::from_secs(1);
    job.settings_mut().launch_wait = Duration::from_secs(1);
    let taken = async {
        bench.recorder.wait_for(|event| matches!(event, Event::AttemptStarted { max_attempts: 2, .. })).await;
        bench.run(&format!("REVOKE pg_signal_backend FROM {monitor}")).await;
    };
    let (run, ()) = tokio::join!(job.execute("SELECT count(*) FROM t WHERE nap(id, 100)", &[]), taken);
    let error = chain(&run.unwrap_err());
    assert!(
        error.contains("the monitor's role may not signal it") && error.contains("pg_signal_backend"),
        "{error}"
    );
    let denied = |event: &Event| matches!(event, Event::CancelAnswered { result: CancelResult::Denied, .. });
    let told = bench.recorder.count(denied);
    assert!((2..=8).contains(&told), "asked again, and not all the time: {told}");
    hog.release().await;
    bench
        .run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{leader}'"))
        .await;
    bench.nothing_is_left_behind().await;
}

async fn a_pool_that_cannot_be_seen_is_not_waited_for(major: u32) {
    let bench = Bench::new(major).await;
    let role = format!("plain_{}", bench.schema);
    bench.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let dsn = bench.dsn_of(&role, bench.server().port());
    let mut job = bench.headcount_at(&dsn, &dsn).await.task("plain").attempts(2);
    job.settings_mut().admission_wait = Duration::from_hours(1);
    job.settings_mut().launch_wait = Duration::from_millis(200);
    let hog = bench.hog(POOL).await;
    let run = job.execute(SLOW, &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::BelowMinimum, 0));
    assert_eq!(run.attempts[0].reason, Some(ShortReason::NoLaunch), "it cannot know that the pool is full");
    let unseen = |event: &Event| {
        matches!(event, Event::AdmissionEnded { end: headcount::event::Admitted::Unseen, pool: None, .. })
    };
    assert_eq!(bench.recorder.count(unseen), 2);
    hog.release().await;
    // A worker without work is gone before it is seen: a number alone condemns nobody.
    let hog = bench.hog(POOL - 1).await;
    let run = job.execute(SLOW, &[]).await.unwrap();
    let unverified = (run.outcome, run.achieved_workers, run.attempt_count);
    assert_eq!(unverified, (Outcome::Unverified, 1, 1));
    hog.release().await;
    assert_eq!(job.execute(ROLLUP, &[]).await.unwrap().outcome, Outcome::OnTarget);
}

/// What dynamic credentials do: whoever logs in becomes the owner, and may not see the login's own row.
async fn a_login_that_becomes_another_role_is_guarded_all_the_same(major: u32) {
    let bench = Bench::new(major).await;
    let (login, owner) = (format!("login_{}", bench.schema), format!("owner_{}", bench.schema));
    bench
        .run(&format!(
            "CREATE ROLE {owner}; CREATE ROLE {login} LOGIN IN ROLE {owner}; ALTER ROLE {login} SET role = '{owner}';
             CREATE TABLE todo (id int PRIMARY KEY, done text); INSERT INTO todo VALUES (1); GRANT ALL ON todo TO {owner}"
        ))
        .await;
    let dsn = bench.dsn_of(&login, bench.server().port());
    let headcount = bench.headcount_at(&dsn, &dsn).await;
    let mut job = quick(headcount.task("becomes"));
    let run = job.execute(ROLLUP, &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4));
    let its_tables =
        format!("SELECT count(*) FROM pg_tables WHERE tablename = 'made' AND tableowner = '{owner}'");
    assert_eq!(bench.number(&its_tables).await, 1);

    // A role of the job's own, and slots.
    job.settings_mut().settings.push(("role".to_owned(), login.clone()));
    job.settings_mut().reserve = true;
    let run = job.execute("SELECT count(*) FROM t WHERE nap(id, 10)", &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::OnTarget, 4));
    job.settings_mut().reserve = false;

    let hog = bench.hog(POOL).await;
    job.settings_mut().launch_wait = Duration::from_millis(200);
    let run = job.attempts(1).execute(SLOW, &[]).await.unwrap();
    assert_eq!((run.outcome, run.achieved_workers), (Outcome::BelowMinimum, 0), "it really cancels");
    hog.release().await;

    let update = headcount.update("todo").key(["id"]).set("done", "yes");
    let report = update.run(Keys::rows(["1"])).await.unwrap();
    assert_eq!(report.updated, 1);
    let findings = doctor::examine(&endpoint(&dsn), None, 4, None).await.unwrap();
    let failed: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Fail).collect();
    assert!(failed.is_empty(), "{failed:?}");
    bench.nothing_is_left_behind().await;
}

async fn a_function_that_was_taken_from_everybody_is_named_before_the_work_and_by_doctor(major: u32) {
    let bench = Bench::alone(major).await;
    let role = format!("plain_{}", bench.schema);
    bench.run(&format!("CREATE ROLE {role} LOGIN; CREATE TABLE todo (id int PRIMARY KEY, done text); INSERT INTO todo VALUES (1); GRANT ALL ON todo TO {role}")).await;
    let dsn = bench.dsn_of(&role, bench.server().port());
    let headcount = bench.headcount_at(&dsn, &dsn).await;
    let (job, update) =
        (quick(headcount.task("hardened")), headcount.update("todo").key(["id"]).set("done", "yes"));
    for (function, needed) in [
        ("pg_postmaster_start_time()", true),
        ("pg_current_xact_id_if_assigned()", true),
        ("set_config(text,text,boolean)", true),
        ("pg_advisory_lock(integer,integer)", false),
    ] {
        bench.run(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")).await;
        let findings = doctor::examine(&endpoint(&dsn), None, 4, Some("postgres")).await.unwrap();
        let named = findings.iter().find(|finding| finding.level == Level::Fail).unwrap();
        assert!(named.text.contains(function), "{named:?}");
        if needed {
            let began = |event: &Event| matches!(event, Event::AttemptStarted { .. });
            let before = bench.recorder.count(began);
            let error = job.execute(ROLLUP, &[]).await.unwrap_err();
            assert!(
                chain(&error).contains(function) && error.sqlstate() == Some("42501"),
                "{}",
                chain(&error)
            );
            assert_eq!(bench.recorder.count(began), before, "{function}");
            let error = update.run(Keys::rows(["1"])).await.unwrap_err();
            assert!(chain(&error).contains(function), "{}", chain(&error));
        }
        let fix = named.fix.as_ref().unwrap().to_string();
        bench.run(&fix).await;
    }
    assert_eq!(job.execute(ROLLUP, &[]).await.unwrap().outcome, Outcome::OnTarget);
    assert_eq!(update.run(Keys::rows(["1"])).await.unwrap().updated, 1);
}

async fn a_monitor_on_another_server_is_refused(major: u32) {
    let bench = Bench::new(major).await;
    let elsewhere = plain_server(major).await.dsn();
    let job = bench.headcount_at(&bench.dsn(), &elsewhere).await.task("elsewhere");
    let error = job.execute(ROLLUP, &[]).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::BlindMonitor));
    assert!(error.to_string().contains("not the server that runs the statement"), "{error}");
    assert!(!bench.has("made").await);
}

/// The server is the right one: the monitor comes to look when the session has ended.
#[tokio::test]
async fn a_session_that_ended_before_the_monitor_looked_is_a_lost_one_and_no_refusal() {
    let Some(major) = main_version_from(14) else { return };
    let bench = Bench::new(major).await;
    let leader = format!("lead_{}", bench.schema);
    bench
        .run(&format!("CREATE ROLE {leader} LOGIN; ALTER ROLE {leader} SET idle_session_timeout = '30ms'"))
        .await;
    let far = delay::proxy(bench.server().port(), Duration::from_millis(50)).await;
    let monitor = bench.dsn_of("postgres", far);
    let leader = bench.dsn_of(&leader, bench.server().port());
    let job = bench.headcount_at(&leader, &monitor).await.task("idle").attempts(2);
    let error = job.execute(ROLLUP, &[]).await.unwrap_err();
    assert_eq!(error.refusal(), None, "{}", chain(&error));
    assert!(error.is_connection_lost(), "{}", chain(&error));
    let hindered = |event: &Event| matches!(event, Event::StartHindered { .. });
    assert_eq!(bench.recorder.count(hindered), 1, "it is tried again");
}

#[tokio::test]
async fn a_password_is_in_no_error_and_no_debug_text() {
    let server = PrivateServer::builder().password("right").start().await.unwrap();
    let wrong = server.dsn_for("postgres", "postgres").replace("postgres@", "postgres:hunter2@");
    let error = Headcount::connect(&wrong).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("28P01"));
    let builder = Headcount::builder(endpoint(&wrong));
    let mut shown = format!("{error:?} {error} {} {builder:?} {:?}", chain(&error), endpoint(&wrong));
    for unusable in
        ["postgresql://u:hunter2@h:port/d", "host=h password=hunter2 port=x", "host=h password='hunter2"]
    {
        let error = Headcount::connect(unusable).await.unwrap_err();
        assert!(error.is_configuration(), "{unusable}");
        let _ = write!(shown, "{error:?} {}", chain(&error));
    }
    let headcount = Headcount::connect(&server.dsn()).await.unwrap();
    let _ = write!(shown, "{headcount:?} {:?}", headcount.task("t"));
    assert!(!shown.contains("hunter2") && !shown.contains("right"), "{shown}");
}
