//! Slots of a pool that others never leave alone: held one by one until there are enough, and given back.

use std::time::Duration;

use headcount::event::{GatheringEnd, HandOver};
use headcount::{Event, Execution, Job, Outcome, Refusal, Rung};
use testkit::server::Shutdown;

use crate::harness::{
    Bench, Outsiders, POOL, eventually, on_each_version, on_oldest_and_latest, quick, runs, soon,
};

on_each_version! {
    slots_that_others_leave_for_moments_are_gathered_for_the_first_attempt,
    slots_are_held_until_a_late_gather_has_its_workers,
    where_processes_are_scarce_slots_are_given_back_first,
    a_guarantee_takes_the_highest_way_that_holds_and_refuses_where_none_does,
    placeholders_have_the_statements_role,
}

on_oldest_and_latest! {
    a_role_that_sees_nothing_gathers_too,
    slots_are_held_for_so_long_and_given_back,
    nothing_is_held_after_a_deadline_or_a_stop,
    one_execution_gathers_at_a_time,
    a_restart_while_slots_are_held_costs_nothing,
    what_is_left_to_others_is_not_held,
    the_last_connections_are_left_to_others,
    what_is_guaranteed_does_not_start_before_it_is_held,
}

/// Half a second on four workers.
const WORK: &str = "SELECT count(*) FROM t WHERE nap(id, 5)";
/// The same, half a second after it has begun.
const LATE: &str =
    "SELECT count(*) FROM t WHERE nap(id, 5) AND id >= (SELECT count(*) FROM (SELECT pg_sleep(0.5)) s) - 1";
/// Sessions that hold a slot, or the right to.
const HOLDING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hold=%'";

/// All four workers or nothing, gathered at once, with time to.
fn gathers(job: Job) -> Job {
    let mut job = quick(job).minimum(4).gather();
    job.settings_mut().gather_after = Duration::ZERO;
    job.settings_mut().admission_wait = Duration::from_mins(1);
    job
}

fn check_first<T>(run: &Execution<T>) {
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1), "{:?}", run.attempts);
    assert_eq!((run.rung, run.attempts[0].gathered), (Some(Rung::Gather), 4), "{:?}", run.attempts);
}

async fn no_slot_is_held(bench: &Bench) {
    eventually("nothing is held", async || bench.number(HOLDING).await == 0).await;
}

async fn nothing_is_held(bench: &Bench) {
    no_slot_is_held(bench).await;
    bench.nothing_is_left_behind().await;
}

fn ends(end: GatheringEnd) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::GatheringEnded { end: other, .. } if *other == end)
}

fn holds(slots: u32) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::SlotsHeld { held, .. } if *held == slots)
}

async fn slots_that_others_leave_for_moments_are_gathered_for_the_first_attempt(major: u32) {
    let bench = Bench::alone(major).await;
    let role = bench.plain_role().await;
    let leader = bench.dsn_of(&role, bench.server().port());
    for outsiders in [3, 6] {
        let others = Outsiders::start(&bench, "postgres", outsiders).await;
        others.hold(&bench, POOL).await;
        let job = gathers(bench.headcount_at(&leader, &bench.dsn()).await.task("gathers"));
        for _ in 0..runs() / 4 {
            check_first(&job.execute_script(WORK).await.unwrap());
        }
        drop(others);
    }
    assert!(bench.recorder.find(ends(GatheringEnd::HandedOver(HandOver::WhileHeld))).is_some());
    nothing_is_held(&bench).await;
}

async fn slots_are_held_until_a_late_gather_has_its_workers(major: u32) {
    let bench = Bench::alone(major).await;
    let others = Outsiders::start(&bench, "postgres", 3).await;
    others.hold(&bench, POOL).await;
    let job = gathers(bench.headcount().await.task("gathers"));
    for _ in 0..runs() / 6 {
        check_first(&job.execute_script(LATE).await.unwrap());
    }
    drop(others);
    nothing_is_held(&bench).await;
}

/// Its own workers are all that it may see.
async fn a_role_that_sees_nothing_gathers_too(major: u32) {
    let bench = Bench::alone(major).await;
    let role = bench.plain_role().await;
    let leader = bench.dsn_of(&role, bench.server().port());
    let others = Outsiders::start(&bench, "postgres", 3).await;
    others.hold(&bench, POOL).await;
    let job = gathers(bench.headcount_at(&leader, &leader).await.task("gathers"));
    for _ in 0..runs() / 6 {
        check_first(&job.execute_script(WORK).await.unwrap());
    }
    drop(others);
    nothing_is_held(&bench).await;
}

async fn where_processes_are_scarce_slots_are_given_back_first(major: u32) {
    let settings = [("max_worker_processes", "8"), ("max_parallel_workers", "8")];
    let bench = Bench::alone_with(major, &settings).await;
    // With one of replication's launcher five are free: four, and no four more.
    let hog = bench.hog(2).await;
    let job = gathers(bench.headcount().await.task("gathers"));
    let run = job.execute_script(WORK).await.unwrap();
    // A slot may not be free yet when the statement starts.
    assert!(run.outcome.is_accepted() && run.attempts.iter().all(|attempt| attempt.gathered == 4), "{run:?}");
    assert!(bench.recorder.find(ends(GatheringEnd::HandedOver(HandOver::AfterCancel))).is_some());
    hog.release().await;
    nothing_is_held(&bench).await;
}

async fn slots_are_held_for_so_long_and_given_back(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let mut job = gathers(bench.headcount().await.task("gathers"));
    job.settings_mut().gather_at_most = Duration::from_millis(100);
    let (run, ()) = tokio::join!(job.execute_script(WORK), async {
        let end = bench.recorder.wait_for(ends(GatheringEnd::LetGo)).await;
        let Event::GatheringEnded { held, need, took, idle, .. } = end else { unreachable!() };
        assert_eq!((held, need), (1, 4));
        assert!(idle >= Duration::from_millis(95) && idle <= took, "{idle:?}, {took:?}");
        hog.release().await;
    });
    check_first(&run.unwrap());
    nothing_is_held(&bench).await;
}

async fn nothing_is_held_after_a_deadline_or_a_stop(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 1).await;
    let headcount = bench.headcount().await;
    let job = gathers(headcount.task("gathers")).deadline(Duration::from_secs(1));
    let run = job.execute_script(WORK).await;
    assert!(run.unwrap_err().to_string().contains("deadline"));
    no_slot_is_held(&bench).await;
    assert!(bench.recorder.find(ends(GatheringEnd::Interrupted)).is_some());
    // The same of a future that is dropped.
    let job = gathers(headcount.task("gathers"));
    let held = bench.recorder.count(holds(1));
    tokio::select! {
        run = job.execute_script(WORK) => panic!("there was no room: {run:?}"),
        () = eventually("a slot is held", async || bench.recorder.count(holds(1)) > held) => {}
    }
    no_slot_is_held(&bench).await;
    hog.release().await;
    bench.nothing_is_left_behind().await;
}

async fn one_execution_gathers_at_a_time(major: u32) {
    let bench = Bench::new(major).await;
    let hog = bench.hog(POOL - 3).await;
    let headcount = bench.headcount().await;
    let (first, second) = (gathers(headcount.task("first")), gathers(headcount.task("second")));
    let run = async {
        tokio::join!(first.execute_script(WORK), second.execute_script(WORK), async {
            bench.recorder.wait_for(holds(3)).await;
            assert_eq!(bench.recorder.count(|event| matches!(event, Event::GatheringStarted { .. })), 1);
            hog.release().await;
        })
    };
    let (first, second, ()) = soon("both", run).await;
    check_first(&first.unwrap());
    check_first(&second.unwrap());
    nothing_is_held(&bench).await;
}

async fn a_restart_while_slots_are_held_costs_nothing(major: u32) {
    let mut bench = Bench::alone_with(major, &[("synchronous_commit", "on")]).await;
    let _hog = bench.hog(POOL - 1).await;
    let job = gathers(bench.headcount().await.task("gathers"));
    let restarting = async {
        bench.recorder.wait_for(holds(1)).await;
        bench.server().restart(Shutdown::Immediate).await.unwrap();
    };
    let (run, ()) = soon("the execution", async { tokio::join!(job.execute_script(WORK), restarting) }).await;
    check_first(&run.unwrap());
    bench.reconnect().await;
    nothing_is_held(&bench).await;
}

/// On 19 autovacuum has workers of the pool, so some of its slots are left, too.
async fn what_is_left_to_others_is_not_held(major: u32) {
    let settings = [("max_worker_processes", "8"), ("max_parallel_workers", "6")];
    let bench = Bench::alone_with(major, &settings).await;
    for (leave, most) in [(if major >= 19 { 3 } else { 5 }, 3), (8, 0)] {
        let mut job = gathers(bench.headcount().await.task("gathers"));
        job.settings_mut().leave = leave;
        let run = job.execute_script(WORK).await.unwrap();
        // What there is is enough to start.
        assert!(run.outcome.is_accepted() && run.attempts[0].gathered == most, "{run:?}");
        assert!(bench.recorder.find(holds(4)).is_none());
    }
    let told = |event: &Event| matches!(event, Event::StartHindered { cause, .. } if cause.contains("left to others"));
    assert_eq!(bench.recorder.count(told), 1, "why nothing was held");
    nothing_is_held(&bench).await;
}

/// A server that is full of them is worse than one job that waits.
async fn the_last_connections_are_left_to_others(major: u32) {
    let settings = [("max_connections", "10"), ("superuser_reserved_connections", "0")];
    let bench = Bench::alone_with(major, &settings).await;
    let role = bench.plain_role().await;
    let leader = bench.dsn_of(&role, bench.server().port());
    let job = gathers(bench.headcount_at(&leader, &bench.dsn()).await.task("gathers"));
    let (_first, _second) = (bench.client().await, bench.client().await);
    let run = job.execute_script(WORK).await.unwrap();
    assert_eq!(
        (run.outcome, run.attempts[0].gathered),
        (Outcome::OnTarget, 0),
        "it waits for room as others do"
    );
    let told =
        |event: &Event| matches!(event, Event::StartHindered { cause, .. } if cause.contains("connections"));
    assert!(bench.recorder.find(told).is_some(), "{:?}", bench.recorder.all());
    nothing_is_held(&bench).await;
}

/// Its pool is the one that counts, whatever the monitor may have.
async fn placeholders_have_the_statements_role(major: u32) {
    let bench = Bench::alone(major).await;
    let (batch, monitor) = (bench.plain_role().await, format!("monitor_{}", bench.schema));
    bench
        .run(&format!(
            "CREATE ROLE {monitor} LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO {monitor};
             ALTER ROLE {monitor} SET max_parallel_workers = 2"
        ))
        .await;
    let dsn = |role: &str| bench.dsn_of(role, bench.server().port());
    let job = gathers(bench.headcount_at(&dsn(&batch), &dsn(&monitor)).await.task("gathers"));
    check_first(&job.execute_script(WORK).await.unwrap());
    nothing_is_held(&bench).await;
}

async fn what_is_guaranteed_does_not_start_before_it_is_held(major: u32) {
    let settings = [("max_worker_processes", "8"), ("max_parallel_workers", "6")];
    let bench = Bench::alone_with(major, &settings).await;
    let hog = bench.hog(3).await;
    let mut job = quick(bench.headcount().await.task("guaranteed")).guarantee();
    job.settings_mut().gather_after = Duration::ZERO;
    let run = job.execute_script(WORK).await.unwrap();
    assert_eq!((run.outcome, run.attempt_count, run.min_workers), (Outcome::BelowMinimum, 0, 4), "{run:?}");
    assert!(run.waited >= Duration::from_millis(400), "{run:?}");
    hog.release().await;
    nothing_is_held(&bench).await;
}

async fn a_guarantee_takes_the_highest_way_that_holds_and_refuses_where_none_does(major: u32) {
    let rung = async |bench: &Bench, role: &str, target: u32| {
        let leader = bench.dsn_of(role, bench.server().port());
        let job = bench.headcount_at(&leader, &bench.dsn()).await.task("guaranteed").guarantee();
        job.target(target).minimum(1).execute_script("SELECT 1").await.map(|run| run.rung.unwrap())
    };
    let bench = Bench::alone(major).await;
    let role = bench.plain_role().await;
    assert_eq!(rung(&bench, &role, 4).await.unwrap(), Rung::Ceiling, "24 processes, a pool of {POOL}");
    bench.run(&format!("ALTER ROLE {role} SET max_parallel_workers = {POOL}")).await;
    assert_eq!(rung(&bench, &role, 4).await.unwrap(), Rung::Gather, "the role's own is not exceeded");
    bench.run("ALTER DATABASE postgres SET max_parallel_workers = 2").await;
    bench.run("ALTER DATABASE template1 SET max_parallel_workers = 2").await;
    bench.run("ALTER SYSTEM SET max_parallel_workers = 2").await;
    bench.run("SELECT pg_reload_conf()").await;
    assert_eq!(rung(&bench, &role, 4).await.unwrap(), Rung::Role);

    let settings = [("max_worker_processes", "8"), ("max_parallel_workers", "8")];
    let bench = Bench::alone_with(major, &settings).await;
    assert_eq!(rung(&bench, "postgres", 4).await.unwrap(), Rung::Gather, "the server's defaults");
    let refused = rung(&bench, "postgres", 9).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Refusal::NoGuarantee));
    let told = refused.to_string();
    for part in
        ["nothing guarantees 9 workers", "others leave 0 workers", "19 processes", "more than 6 slots"]
    {
        assert!(told.contains(part), "{told}");
    }
}
