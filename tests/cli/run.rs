//! How runs end, and that nothing is left behind.

use std::io::Write;

use crate::lab::{Lab, QUICK, Ran, SLOW, each_version, finish};

/// Starts at once, whatever the pool looks like.
const AT_ONCE: [&str; 2] = ["--admission-wait", "0s"];

fn run(lab: &Lab, arguments: &[&str]) -> Ran {
    let mut all = vec!["run", "--json", "--task", "rollup"];
    all.extend(arguments);
    lab.headcount(&all)
}

#[test]
fn the_target_is_met_at_the_first_attempt() {
    each_version(|lab| {
        let run = run(&lab, &["--sql", QUICK]).ended(0).json();
        assert_eq!((&run["outcome"], &run["target_met"]), (&"on_target".into(), &true.into()));
        assert_eq!((&run["planned_workers"], &run["achieved_workers"]), (&4.into(), &4.into()));
        assert_eq!((&run["attempt_count"], &run["rows"]), (&1.into(), &10.into()));
        assert_eq!(run["attempts"][0]["verdict"], "enough");
        assert_eq!(lab.count("rollup"), 10);
    });
}

#[test]
fn the_target_is_met_at_a_later_attempt_when_others_leave() {
    each_version(|lab| {
        let hog = lab.hog(5);
        let mut running = lab.spawn(&["run", "--sql", QUICK, "--attempts", "100", AT_ONCE[0], AT_ONCE[1]]);
        running.hear("too few");
        running.hear("cancelled");
        drop(hog);
        running.hear("on target");
        let ran = finish(running).ended(0);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines.len(), 3, "{}", ran.out);
        assert!(lines[0].starts_with("adhoc: 4 of 4 workers, on target, at attempt "), "{}", ran.out);
        assert!(lines[1].contains("lost "), "{}", ran.out);
        assert_eq!(lab.count("rollup"), 10);
    });
}

#[test]
fn a_target_of_one_needs_no_minimum() {
    let lab = Lab::start();
    let run = run(&lab, &["--sql", QUICK, "--target", "1"]).ended(0).json();
    assert_eq!((&run["outcome"], &run["min_workers"]), (&"on_target".into(), &1.into()));
}

#[test]
fn a_limit_that_ended_it_is_named_with_the_option_that_allows_more() {
    each_version(|lab| {
        lab.sql("CREATE TABLE held (id int)");
        let _lock = lab.locks("held");
        let alone = ["run", "--plan-shortfall", "ignore", "--attempts", "1", "--sql"];
        let ended = |more: &[&str], expected: &str| {
            let ran = lab.headcount(&[&alone[..], more].concat()).ended(1);
            assert!(ran.said.contains(expected), "{}", ran.said);
            let last = ran.out.lines().last().unwrap_or_default().to_owned();
            assert_eq!(
                last,
                "Nothing was kept, what ran was rolled back; do what the hint above says and run it again"
            );
        };
        let nap = "SELECT pg_sleep(60)";
        ended(
            &[nap, "--set", "statement_timeout=50ms"],
            "hint: it is statement_timeout that ends a statement so early: allow more with --set statement_timeout=2h",
        );
        // EXPLAIN would wait, too.
        let waits = "DO $$ BEGIN PERFORM FROM held; END $$";
        ended(&[waits, "--set", "lock_timeout=50ms"], "with NOWAIT, it is lock_timeout that ends a wait");
    });
}

#[test]
fn what_helps_at_the_deadline_is_what_the_time_went_into() {
    let lab = Lab::start();
    let late = |more: &[&str], expected: &str| {
        let ran = lab.headcount(&[&["run", "--deadline", "2s"][..], more].concat()).ended(1);
        let last = ran.out.lines().last().unwrap();
        assert!(last.contains("give it a longer --deadline") && last.contains(expected), "{last}");
    };
    late(&["--sql", SLOW], "make the statement quicker");
    lab.sql("CREATE TABLE held (id int)");
    let lock = lab.locks("held");
    late(&["--sql", "SELECT count(*) FROM held"], "see what kept it from starting");
    drop(lock);
    let _hog = lab.hog(6);
    late(&["--sql", SLOW], "; others held the pool (`headcount watch` shows who): --ceiling auto ");
}

#[test]
fn a_server_that_only_reads_is_told_with_the_parameter_that_finds_the_other() {
    each_version(|lab| {
        let standby = lab.standby();
        let both = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres",
            standby.port(),
            lab.port()
        );
        let run = ["run", "--quiet", "--plan-shortfall", "ignore", "--sql", "CREATE TABLE made AS SELECT 1"];
        let ran = lab.headcount(&[&run[..], &["--dsn", &both]].concat()).ended(1);
        assert!(
            ran.said.contains("(SQLSTATE 25006)\nhint: this server only reads, and of several hosts"),
            "{}",
            ran.said
        );
        let found = format!("{both} target_session_attrs=read-write");
        lab.headcount(&[&run[..], &["--dsn", &found]].concat()).ended(0);
        // Not the table that the standby may know of by now.
        let run = [&run[..5], &["CREATE TABLE never_made AS SELECT 1"]].concat();
        let ran = lab.headcount(&[&run[..], &["--dsn", &standby.dsn()]].concat()).ended(1);
        assert!(
            ran.said.contains("hint: this server, database or role only reads (a standby"),
            "{}",
            ran.said
        );
        let ran = lab.headcount(&[&run[..], &["--set", "transaction_read_only=on"]].concat()).ended(1);
        assert!(
            ran.said.contains("leave out --set transaction_read_only, or what it writes"),
            "{}",
            ran.said
        );
        // An update is refused before anything is done, as its help says.
        let update = [
            "update",
            "--json",
            "--table",
            "cleanups",
            "--key",
            "at",
            "--set",
            "at=now",
            "--keys",
            "/dev/null",
        ];
        let ran = lab.headcount(&[&update[..], &["--dsn", &standby.dsn()]].concat()).ended(4);
        let object = ran.json();
        assert_eq!((&object["reason"], &object["exit_code"]), (&"refused".into(), &4.into()), "{object}");
        assert!(
            ran.said.contains("is a standby, which only reads") && ran.said.contains("hint: let --dsn lead"),
            "{}",
            ran.said
        );
        lab.runtime.block_on(standby.stop()).unwrap();
    });
}

#[test]
fn too_few_processes_name_the_setting() {
    // One process of the four is the logical replication launcher's.
    let lab = Lab::with_processes(4);
    let arguments = ["run", "--sql", QUICK, "--attempts", "2", "--min", "4", AT_ONCE[0], AT_ONCE[1]];
    let ran = lab.headcount(&arguments).ended(3);
    assert!(ran.said.contains("processes_exhausted"), "{}", ran.said);
    let last = ran.out.lines().last().unwrap();
    assert!(
        last.contains("had no process left for a worker") && last.contains("max_worker_processes"),
        "{last}"
    );
}

#[test]
fn a_full_pool_is_waited_for_before_the_first_attempt() {
    let lab = Lab::start();
    let hog = lab.hog(5);
    let mut running = lab.spawn(&["run", "--sql", QUICK]);
    running.hear("waiting: 5 of 6 slots of the pool are in use, 4 are needed");
    drop(hog);
    running.hear("attempt 1/5: target 4, minimum 2, best so far 0, pid ");
    running.hear("workers seen 4: on target");
    finish(running).ended(0);
}

#[test]
fn the_last_attempt_is_accepted_above_the_minimum() {
    each_version(|lab| {
        let _hog = lab.hog(3);
        let run = run(&lab, &["--sql", QUICK, "--attempts", "2", AT_ONCE[0], AT_ONCE[1]]).ended(0).json();
        assert_eq!((&run["outcome"], &run["target_met"]), (&"above_minimum".into(), &false.into()));
        assert_eq!((&run["achieved_workers"], &run["attempt_count"]), (&3.into(), &2.into()));
        assert_eq!(run["attempts"][0]["reason"], "pool_exhausted");
    });
}

#[test]
fn below_the_minimum_is_code_3_cleaned_up_after_each_attempt_with_nothing_left() {
    each_version(|lab| {
        let hog = lab.hog(5);
        let cleanup = ["--cleanup", "INSERT INTO cleanups DEFAULT VALUES"];
        let arguments = ["--sql", SLOW, "--attempts", "3", AT_ONCE[0], AT_ONCE[1], cleanup[0], cleanup[1]];
        let run = run(&lab, &arguments).ended(3).json();
        assert_eq!((&run["outcome"], &run["rows"]), (&"below_minimum".into(), &serde_json::Value::Null));
        assert_eq!((&run["achieved_workers"], &run["attempt_count"]), (&1.into(), &3.into()));
        let bars: Vec<_> = run["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| attempt["required_workers"].clone())
            .collect();
        assert_eq!(bars, [4, 4, 2]);
        assert_eq!(lab.count("cleanups"), 3);
        drop(hog);
        lab.wait_for_nothing_left();
    });
}

#[test]
fn a_plan_that_cannot_reach_the_target_is_code_4_where_that_is_refused_with_what_to_change() {
    each_version(|lab| {
        lab.sql("ALTER TABLE measurements SET (parallel_workers = 2)");
        let refusing = ["run", "--sql", QUICK, "--plan-shortfall", "refuse"];
        let ran = lab.headcount(&refusing).ended(4);
        assert!(
            ran.said.contains("refused before running: the plan can have 2 of the 4 workers demanded"),
            "{}",
            ran.said
        );
        assert!(
            ran.said.contains("fix: ALTER TABLE public.measurements SET (parallel_workers = 4)"),
            "{}",
            ran.said
        );
        assert_eq!(lab.count("pg_class WHERE relname = 'rollup'"), 0);
    });
}

#[test]
fn a_blind_monitor_is_code_4_with_the_grant() {
    each_version(|lab| {
        lab.sql("CREATE ROLE monitor LOGIN; GRANT SELECT ON pg_stat_activity TO monitor");
        let ran = lab.headcount(&["run", "--sql", QUICK, "--monitor-dsn", &lab.dsn_for("monitor")]).ended(4);
        assert!(ran.said.contains("fix: GRANT pg_read_all_stats TO \"monitor\";"), "{}", ran.said);
    });
}

#[test]
fn what_is_typed_wins_over_the_job_file() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rollup.sql"), QUICK).unwrap();
    let path = folder.path().join("nightly.toml");
    let job = "file = 'rollup.sql'\ntarget_workers = 3\nmin_workers = '50%'\n[settings]\nwork_mem = '8MB'\n";
    std::fs::write(&path, job).unwrap();
    let path = path.to_str().unwrap();
    let run = lab.headcount(&["run", "--json", "--job", path]).ended(0).json();
    assert_eq!(
        (&run["task"], &run["target_workers"], &run["min_workers"]),
        (&"rollup".into(), &3.into(), &2.into())
    );
    lab.sql("DROP TABLE rollup");
    let run =
        lab.headcount(&["run", "--json", "--job", path, "--target", "2", "--task", "mine"]).ended(0).json();
    assert_eq!(
        (&run["task"], &run["target_workers"], &run["min_workers"]),
        (&"mine".into(), &2.into(), &1.into())
    );
}

#[test]
fn several_statements_are_one_transaction() {
    let lab = Lab::start();
    let mut file = tempfile::Builder::new().suffix(".sql").tempfile().unwrap();
    writeln!(file, "CREATE TABLE a (id int); INSERT INTO a SELECT 1;\nSELECT 1/0;").unwrap();
    let path = file.path().to_str().unwrap();
    lab.headcount(&["run", "-f", path]).ended(1);
    assert_eq!(lab.count("pg_class WHERE relname = 'a'"), 0);
}

#[test]
fn outside_a_transaction_statements_run_one_by_one() {
    let lab = Lab::start();
    let script = "CREATE TABLE a (id int); VACUUM a; INSERT INTO a SELECT 1; SELECT 1/0";
    let ran = lab.headcount(&["run", "--no-transaction", "--sql", script]).ended(1);
    assert!(ran.said.contains("division by zero"), "{}", ran.said);
    assert_eq!(lab.count("a"), 1, "what ran before the error stays");
}

#[test]
fn an_index_that_a_cancelled_attempt_left_behind_is_told_with_the_cleanup_that_drops_it() {
    let lab = Lab::start();
    lab.sql(
        "CREATE FUNCTION napped(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
           AS 'BEGIN PERFORM pg_sleep(0.01); RETURN id; END'",
    );
    let _hog = lab.hog(6);
    // Not the table that the hog reads: whoever drops an index waits for those.
    lab.sql(
        "CREATE TABLE orders AS SELECT id FROM generate_series(1, 2000) AS id;
                  ALTER TABLE orders SET (parallel_workers = 6)",
    );
    let index = "CREATE INDEX CONCURRENTLY made ON orders (napped(id))";
    let cleanup = "DROP INDEX CONCURRENTLY IF EXISTS made";
    let wanted = ["run", "--no-transaction", "--sql", index, "--set", "max_parallel_maintenance_workers=4"];
    let mut arguments = wanted.to_vec();
    arguments.extend(AT_ONCE.iter().chain(&["--attempts", "2", "--launch-wait", "100ms"]));
    let ran = lab.headcount(&arguments).ended(1);
    assert!(ran.said.contains("(SQLSTATE 42P07)"), "{}", ran.said);
    assert!(ran.said.contains(&format!("fix: --cleanup '{cleanup}'")), "{}", ran.said);
    let invalid = "pg_index WHERE indexrelid = to_regclass('made') AND NOT indisvalid";
    assert_eq!(lab.count(invalid), 1);
    lab.sql(cleanup);
    // With it each attempt finds nothing in its way, and nothing is left.
    arguments.extend(["--cleanup", cleanup]);
    lab.headcount(&arguments).ended(3);
    assert_eq!(lab.count("pg_class WHERE relname = 'made'"), 0);
}

#[test]
fn a_lock_that_planning_waits_for_is_told_and_the_deadline_bounds_it() {
    let lab = Lab::start();
    lab.sql("BEGIN; LOCK TABLE measurements");
    let mut running = lab.spawn(&["run", "--sql", QUICK]);
    running.hear("inspecting the plan waits for a lock that backend ");
    let ran = lab.headcount(&["run", "--sql", QUICK, "--deadline", "300ms"]).ended(1);
    assert!(ran.said.contains("the deadline of 300ms passed"), "{}", ran.said);
    lab.sql("COMMIT");
    running.hear("on target");
    finish(running).ended(0);
}

#[test]
fn the_deadline_is_code_1_with_the_attempts_made() {
    let lab = Lab::start();
    let ran = run(&lab, &["--sql", SLOW, "--deadline", "2s"]).ended(1);
    let run = ran.json();
    assert_eq!((&run["outcome"], &run["reason"]), (&"failed".into(), &"deadline".into()));
    lab.wait_for_nothing_left();
}
