//! What lies between done and not done: a target that the plan cannot have, a launch that starves after the
//! verdict; and the options that ask for more.

use testkit::server::PrivateServer;

use crate::lab::{Lab, QUICK, Ran, WORKERS, each_version, finish, headcount};

/// A Gather of four, a wait for a lock, and another Gather of four.
const TWICE: &str = "CREATE TABLE rollup AS
    WITH first AS MATERIALIZED
        (SELECT count(*) AS n FROM measurements WHERE id % 50 <> 0 OR pg_sleep(0.005) IS NOT NULL),
    pause AS MATERIALIZED (SELECT n, pg_advisory_xact_lock(42) FROM first)
    SELECT count(*) FROM measurements
    WHERE (id % 20 <> 0 OR pg_sleep(0.005) IS NOT NULL) AND id > (SELECT n FROM pause) - 100000";

/// Runs it, while others take the whole pool once its first Gather is over, and keep it to the end.
fn starved_later(lab: &Lab, arguments: &[&str]) -> Ran {
    starved_by(lab, 6, arguments)
}

/// The same with so many workers of others.
fn starved_by(lab: &Lab, others: u32, arguments: &[&str]) -> Ran {
    lab.sql("SELECT pg_advisory_lock(42)");
    let mut all = vec!["run", "--sql", TWICE];
    all.extend(arguments);
    let running = lab.spawn(&all);
    lab.wait("pg_locks WHERE locktype = 'advisory' AND NOT granted", 1);
    lab.wait(WORKERS, 0);
    let _hog = lab.hog(others);
    lab.sql("SELECT pg_advisory_unlock(42)");
    finish(running)
}

#[test]
fn a_launch_that_starves_after_the_verdict_is_code_7_and_kept() {
    each_version(|lab| {
        let run = starved_later(&lab, &["--json"]).ended(7).json();
        assert_eq!((&run["outcome"], &run["target_met"]), (&"finished_short".into(), &false.into()));
        assert_eq!((&run["achieved_workers"], &run["short_launches"]), (&0.into(), &1.into()));
        assert_eq!((&run["attempt_count"], &run["rows"]), (&1.into(), &1.into()));
        let (planned, ran) =
            (run["planning_seconds"].as_f64().unwrap(), run["ran_seconds"].as_f64().unwrap());
        assert!(planned > 0.0 && planned < ran, "{run:#}");
        let attempt = &run["attempts"][0];
        assert_eq!(
            (&attempt["accepted"], &attempt["short_reason"]),
            (&true.into(), &"pool_exhausted".into())
        );
        assert_eq!(lab.count("rollup"), 1);
    });
}

#[test]
fn code_7_says_that_it_is_done_and_not_to_be_repeated() {
    let lab = Lab::start();
    let ran = starved_later(&lab, &[]).ended(7);
    assert!(ran.said.contains("a later launch had 0 of 4 workers after "), "{}", ran.said);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines[0],
        "adhoc: 0 of 4 workers, finished below the minimum of 2, at attempt 1 of 5, 1 row, 1 launch was short"
    );
    assert!(lines[2].contains("do not run it again; others held the pool"), "{}", ran.out);
}

#[test]
fn a_later_launch_that_found_no_process_names_that_and_not_the_pool() {
    // One process of the four is the logical replication launcher's, and the pool has room for one more.
    let lab = Lab::with_processes(4);
    let ran = starved_by(&lab, 3, &["--target", "3"]).ended(7);
    let last = ran.out.lines().last().unwrap();
    assert!(last.contains("do not run it again; the server had no process left for a worker"), "{last}");
    assert!(!last.contains("others held the pool"), "{last}");
}

#[test]
fn every_launch_and_strict_keep_nothing_of_it() {
    each_version(|lab| {
        for option in ["--every-launch", "--strict"] {
            let run = starved_later(&lab, &["--json", "--attempts", "1", option]).ended(3).json();
            assert_eq!((&run["outcome"], &run["rows"]), (&"below_minimum".into(), &serde_json::Value::Null));
            let attempt = &run["attempts"][0];
            assert_eq!(
                (&attempt["reason"], &attempt["accepted"]),
                (&"pool_exhausted".into(), &false.into()),
                "{option}"
            );
            lab.wait_for_nothing_left();
        }
    });
}

#[test]
fn code_3_says_what_a_dba_types_and_what_the_job_can_do_itself() {
    each_version(|lab| {
        let hog = lab.hog(6);
        let count = "SELECT count(*) FROM measurements WHERE id % 20 <> 0 OR pg_sleep(0.005) IS NOT NULL";
        let starved = ["run", "--sql", count, "--attempts", "1", "--admission-wait", "0s"];
        let ran = lab.headcount(&starved).ended(3);
        let meaning = ran.out.lines().nth(2).unwrap();
        assert!(meaning.contains("others held the pool (`headcount watch` shows who): "), "{meaning}");
        let typed = meaning.split_once("for its role: ").unwrap().1;
        assert!(typed.starts_with("ALTER ROLE postgres SET max_parallel_workers = 10"), "{meaning}");
        // Either way helps while the others still hold it.
        let ceiling = [&starved[..], &["--ceiling", "auto", "--json"]].concat();
        let run = lab.headcount(&ceiling).ended(0).json();
        assert_eq!((&run["outcome"], &run["rung"]), (&"on_target".into(), &"ceiling".into()));
        lab.sql(typed.split_once(", or accept").unwrap().0);
        let run = lab.headcount(&[&starved[..], &["--json"]].concat()).ended(0).json();
        assert_eq!((&run["outcome"], &run["rung"]), (&"on_target".into(), &"role".into()));
        drop(hog);
    });
}

#[test]
fn a_ceiling_that_cannot_be_meant_is_a_usage_error() {
    for (options, words) in [
        (&["--ceiling", "auto", "--reserve"][..], "ceiling: "),
        (&["--ceiling", "auto", "--set", "max_parallel_workers=9"], "ceiling: "),
        (&["--ceiling", "half"], "`half` is neither `auto` nor a number of workers"),
        (&["--ceiling", "0"], "ceiling: "),
        (&["--above-role"], "--above-role: it needs a --ceiling"),
        (&["--leave", "5"], "--leave: it needs a --ceiling"),
    ] {
        let ran = headcount(&[&["run", "--sql", "SELECT 1"], options].concat()).ended(2);
        assert!(ran.said.contains(words), "{}", ran.said);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nightly.toml");
    std::fs::write(&path, "sql = 'SELECT 1'\nceiling = \"most\"\n").unwrap();
    let ran = headcount(&["run", "--job", path.to_str().unwrap()]).ended(2);
    assert!(ran.said.contains("line 2: `most` is neither"), "{}", ran.said);
}

#[test]
fn strict_without_a_transaction_of_ours_is_a_usage_error() {
    let lab = Lab::start();
    let ran = headcount(&["run", "--strict", "--no-transaction", "--sql", "VACUUM"]).ended(2);
    assert!(ran.said.contains("'--strict' cannot be used with '--no-transaction'"), "{}", ran.said);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nightly.toml");
    std::fs::write(&path, "sql = 'VACUUM'\nstrict = true\ntransaction = false\n").unwrap();
    let ran = lab.headcount(&["run", "--quiet", "--job", path.to_str().unwrap()]).ended(2);
    assert!(ran.said.starts_with("headcount: ") && ran.said.contains("strict: "), "{}", ran.said);
    assert_eq!(ran.said.lines().count(), 1, "{}", ran.said);
}

#[test]
fn a_plan_that_cannot_have_the_target_is_lowered_and_says_so() {
    each_version(|lab| {
        lab.sql("ALTER TABLE measurements SET (parallel_workers = 2)");
        let run = lab.headcount(&["run", "--json", "--sql", QUICK]).ended(0).json();
        assert_eq!((&run["outcome"], &run["target_met"]), (&"lowered".into(), &false.into()));
        assert_eq!((&run["lowered_to"], &run["target_workers"]), (&2.into(), &2.into()));
        assert_eq!((&run["achieved_workers"], &run["planned_workers"]), (&2.into(), &2.into()));
        lab.sql("DROP TABLE rollup");
        let ran = lab.headcount(&["run", "--sql", QUICK]).ended(0);
        assert!(
            ran.said.contains("target lowered to 2, which is all that the plan can have"),
            "{}",
            ran.said
        );
        assert!(
            ran.out.starts_with("adhoc: 2 of 2 workers, all that its plan can use (4 were asked for)"),
            "{}",
            ran.out
        );
    });
}

#[test]
fn statements_that_are_not_judged_are_counted() {
    let lab = Lab::start();
    let script = format!("SELECT 1; {QUICK}; SELECT 2");
    let run = lab.headcount(&["run", "--json", "--sql", &script]).ended(0).json();
    assert_eq!((&run["outcome"], &run["unjudged_statements"]), (&"on_target".into(), &2.into()));
}

/// It is done, but may be lost: that is no matter of course.
#[test]
fn a_quiet_run_tells_of_a_wait_for_a_standby_that_somebody_cancelled() {
    // What the test asks itself waits for nobody.
    let builder = PrivateServer::builder().setting("synchronous_standby_names", "nobody");
    let lab = Lab::with(builder.setting("synchronous_commit", "local"));
    let statement = "CREATE TABLE rollup AS SELECT id FROM measurements";
    let running = lab.spawn(&[
        "run",
        "--quiet",
        "--min",
        "0",
        "--plan-shortfall",
        "ignore",
        "--set",
        "synchronous_commit=on",
        "--sql",
        statement,
    ]);
    lab.wait("pg_stat_activity WHERE wait_event = 'SyncRep'", 1);
    lab.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    let ran = finish(running).ended(0);
    assert!(ran.out.contains("a failover may undo it"), "{}\n{}", ran.out, ran.said);
}
