//! Workers that nobody else can take: `max_parallel_workers` is each session's own ceiling, not the pool's size.

use headcount::{Execution, Job, Outcome, Raise, Rung};

use crate::harness::{Bench, Outsiders, POOL, on_each_version, quick, runs};

on_each_version! {
    a_raised_ceiling_has_its_workers_at_once_however_many_outsiders_hold_the_pool,
    a_raised_ceiling_leaves_processes_to_others,
    a_ceiling_never_exceeds_what_was_set_for_the_role_unless_that_is_asked_for,
    what_doctor_proposes_as_it_stands_keeps_workers_free,
    processes_that_are_left_to_others_are_waited_for,
    a_ceiling_that_cannot_be_raised_keeps_nobody_from_slots_that_are_free,
}

/// Half a second on four workers: long enough to be seen on a busy machine.
const WORK: &str = "SELECT count(*) FROM t WHERE nap(id, 5)";

async fn job_of(bench: &Bench, role: &str) -> Job {
    let leader = bench.dsn_of(role, bench.server().port());
    quick(bench.headcount_at(&leader, &bench.dsn()).await.task("ceiling")).minimum(4)
}

fn check_first<T>(run: &Execution<T>, rung: Rung) {
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1), "{:?}", run.attempts);
    assert_eq!(run.rung, Some(rung), "{:?}", run.ceiling);
    assert!(run.achieved_workers >= 4, "{:?}", run.attempts);
}

async fn a_raised_ceiling_has_its_workers_at_once_however_many_outsiders_hold_the_pool(major: u32) {
    let bench = Bench::alone(major).await;
    let role = bench.plain_role().await;
    for outsiders in [3, 6] {
        let others = Outsiders::start(&bench, "postgres", outsiders).await;
        others.hold(&bench, POOL).await;
        let job = job_of(&bench, &role).await.ceiling(Raise::Auto);
        for _ in 0..runs() {
            let run = job.execute_script(WORK).await.unwrap();
            check_first(&run, Rung::Ceiling);
            let ceiling = run.ceiling.unwrap();
            assert_eq!((ceiling.given, ceiling.workers), (POOL, 22));
        }
        drop(others);
    }
    // Outside of a transaction, too; and the next job has the old ceiling again.
    let mut job = job_of(&bench, &role).await.ceiling(Raise::To(12));
    job.settings_mut().transaction = false;
    let ceiling = job.execute_script(WORK).await.unwrap().ceiling.unwrap();
    assert_eq!((ceiling.given, ceiling.workers), (POOL, 12));
    let run = job_of(&bench, &role).await.execute_script(WORK).await.unwrap();
    assert_eq!((run.rung, run.ceiling.map(|c| c.workers)), (Some(Rung::Wait), Some(POOL)));
}

async fn a_raised_ceiling_leaves_processes_to_others(major: u32) {
    let bench = Bench::new(major).await;
    let workers = |job: Job| async move {
        let run = job.execute_script("SELECT 1").await.unwrap();
        run.ceiling.unwrap().workers
    };
    let job = || async { job_of(&bench, "postgres").await.minimum(0) };
    let mut greedy = job().await.ceiling(Raise::To(1000));
    assert_eq!(workers(greedy.clone()).await, 22, "24 processes less two");
    greedy.settings_mut().leave = 10;
    assert_eq!(workers(greedy.clone()).await, 14);
    greedy.settings_mut().leave = 24;
    assert_eq!(workers(greedy).await, POOL, "it is raised, never lowered");
    assert_eq!(workers(job().await.ceiling(Raise::To(3))).await, POOL, "it is raised, never lowered");
}

async fn a_ceiling_never_exceeds_what_was_set_for_the_role_unless_that_is_asked_for(major: u32) {
    let bench = Bench::alone(major).await;
    let role = bench.plain_role().await;
    let ceiling = async |above: bool| {
        let mut job = job_of(&bench, &role).await.minimum(0).ceiling(Raise::Auto);
        job.settings_mut().above_role = above;
        let run = job.execute_script("SELECT 1").await.unwrap();
        (run.ceiling.unwrap().workers, run.rung.unwrap())
    };
    bench.run("ALTER DATABASE postgres SET max_parallel_workers = 2").await;
    assert_eq!(ceiling(false).await, (2, Rung::Wait), "the database's own");
    bench.run(&format!("ALTER ROLE {role} SET max_parallel_workers = 8")).await;
    assert_eq!(ceiling(false).await, (8, Rung::Role));
    bench.run(&format!("ALTER ROLE {role} SET max_parallel_workers = 1")).await;
    assert_eq!(ceiling(false).await, (1, Rung::Wait), "it was not set in order to have more");
    bench.run(&format!("ALTER ROLE {role} IN DATABASE postgres SET max_parallel_workers = 5")).await;
    assert_eq!(ceiling(false).await, (5, Rung::Role), "the most special counts");
    assert_eq!(ceiling(true).await, (22, Rung::Ceiling));
}

async fn what_doctor_proposes_as_it_stands_keeps_workers_free(major: u32) {
    // With room beyond the pool; and with the server's own defaults, which have none.
    for (processes, pool) in [("16", "6"), ("8", "8")] {
        let settings = [("max_worker_processes", processes), ("max_parallel_workers", pool)];
        let bench = Bench::alone_with(major, &settings).await;
        let role = bench.plain_role().await;
        let outsider = format!("outsider_{}", bench.schema);
        bench.run(&format!("CREATE ROLE {outsider} LOGIN")).await;
        let dsn = bench.dsn_of(&role, bench.server().port());
        let endpoint = crate::harness::endpoint(&dsn);
        let kept_free = async || {
            let findings = headcount::server::doctor::examine(&endpoint, None, 4, None).await.unwrap();
            findings.into_iter().find(|finding| finding.check == "kept free").unwrap()
        };
        let proposed = kept_free().await.fix.unwrap().to_string();
        for statement in proposed.split_terminator(';') {
            bench.run(statement).await;
        }
        let finding = kept_free().await;
        assert_eq!(finding.fix, None, "{finding:?}");
        // Also from those who work in another database.
        bench.run("CREATE DATABASE other").await;
        let elsewhere = crate::harness::client(&bench.dsn().replace("/postgres?", "/other?")).await;
        let ceiling =
            elsewhere.query_one("SELECT current_setting('max_parallel_workers')", &[]).await.unwrap();
        let (theirs, all): (u32, u32) = (ceiling.get::<_, String>(0).parse().unwrap(), pool.parse().unwrap());
        assert!(theirs <= all && (processes == "16" || theirs < 4), "{theirs}");
        let others = Outsiders::start(&bench, &outsider, 6).await;
        others.hold(&bench, 2).await;
        let job = job_of(&bench, &role).await;
        for _ in 0..runs() {
            check_first(&job.execute_script(WORK).await.unwrap(), Rung::Role);
        }
        drop(others);
    }
}

/// Nothing is raised, so nothing is left to others either: it starts as it would without the option.
async fn a_ceiling_that_cannot_be_raised_keeps_nobody_from_slots_that_are_free(major: u32) {
    let settings = [("max_worker_processes", "8"), ("max_parallel_workers", "8")];
    let bench = Bench::alone_with(major, &settings).await;
    // Three, and one of replication's launcher.
    let hog = bench.hog(3).await;
    let mut job = bench.job().await.ceiling(Raise::Auto).minimum(4);
    job.settings_mut().admission_wait = std::time::Duration::from_mins(1);
    let run = job.execute_script(WORK).await.unwrap();
    assert_eq!((run.outcome, run.attempt_count), (Outcome::OnTarget, 1), "{run:?}");
    let waits = |event: &headcount::Event| matches!(event, headcount::Event::AdmissionStarted { .. });
    assert!(bench.recorder.find(waits).is_none(), "it waited for slots that were free");
    hog.release().await;
}

async fn processes_that_are_left_to_others_are_waited_for(major: u32) {
    let settings = [("max_worker_processes", "12"), ("max_parallel_workers", "6")];
    let bench = Bench::alone_with(major, &settings).await;
    // Six of the pool and one of replication's launcher: five processes are free, of which three are to be left.
    let hog = bench.hog(6).await;
    let mut job = bench.job().await.ceiling(Raise::Auto).minimum(4);
    job.settings_mut().leave = 3;
    job.settings_mut().admission_wait = std::time::Duration::from_mins(1);
    let (run, ()) = tokio::join!(job.execute_script(WORK), async {
        let waits = |event: &headcount::Event| matches!(event, headcount::Event::AdmissionStarted { .. });
        bench.recorder.wait_for(waits).await;
        hog.release().await;
    });
    check_first(&run.unwrap(), Rung::Ceiling);
    bench.nothing_is_left_behind().await;
}
