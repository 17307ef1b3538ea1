//! Signals: an orderly end, an end at once, and no chance to do either.

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, QUICK, Ran, SLOW, WORKERS, finish};
use crate::stopped::Stopped;
use crate::versions::oldest_and_newest;

const CLEANUP: [&str; 2] = ["--cleanup", "INSERT INTO cleanups DEFAULT VALUES"];

fn interrupted(signal: Signal, code: i32) {
    let lab = Lab::start();
    // Whoever runs these tests may have left SIGHUP ignored.
    let starter = ["env", "--default-signal=HUP"];
    let arguments = ["run", "--sql", SLOW, "--task", "nightly", CLEANUP[0], CLEANUP[1]];
    let mut running = lab.spawn_by(&starter, &arguments);
    running.hear("workers seen 4");
    running.signal(signal);
    running.hear("cancelled");
    let ran = finish(running).ended(code);
    assert!(
        ran.said.contains("cleaned up") && ran.said.contains("nothing of it is running any more"),
        "{}",
        ran.said
    );
    assert_eq!(lab.count("cleanups"), 1);
    // It was over before the command was.
    assert_eq!(lab.count("pg_stat_activity WHERE backend_type = 'parallel worker'"), 0);
    lab.wait_for_nothing_left();
}

#[test]
fn an_interrupted_run_cancels_rolls_back_and_cleans_up() {
    interrupted(Signal::INT, 130);
}

#[test]
fn a_terminated_run_does_the_same() {
    interrupted(Signal::TERM, 143);
}

#[test]
fn a_run_whose_terminal_went_away_does_the_same() {
    interrupted(Signal::HUP, 129);
}

#[test]
fn processes_that_did_not_end_are_told_and_not_said_to_be_gone() {
    for format in [&[][..], &["--json"]] {
        let lab = Lab::start();
        let arguments = [&["run", "--sql", SLOW, "--cancel-grace", "100ms", "-v"], format].concat();
        let mut running = lab.spawn(&arguments);
        running.hear("enough workers");
        let leader = "SELECT leader_pid::bigint FROM pg_stat_activity WHERE leader_pid IS NOT NULL LIMIT 1";
        let stopped = Stopped::new(lab.number(leader).try_into().unwrap());
        running.signal(Signal::TERM);
        let ran = finish(running).ended(143);
        assert!(ran.said.contains("of its processes did not end in time"), "{}", ran.said);
        assert!(!ran.said.contains("nothing of it is running"), "{}", ran.said);
        if format.is_empty() {
            assert!(ran.out.contains("look at pg_stat_activity"), "{}", ran.out);
        } else {
            assert!(ran.json()["processes_left"].as_u64() > Some(0), "{}", ran.out);
        }
        drop(stopped);
        lab.wait_for_nothing_left();
    }
}

#[test]
fn under_nohup_a_run_outlives_its_terminal() {
    let lab = Lab::start();
    let mut running = lab.spawn_by(&["nohup"], &["run", "--sql", QUICK]);
    running.hear("workers seen 4");
    running.signal(Signal::HUP);
    finish(running).ended(0);
    assert_eq!(lab.count("rollup"), 10);
}

#[test]
fn an_interrupted_run_is_a_json_object_and_its_metrics_are_written() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    let metrics = folder.path().join("run.prom");
    let listen = ["--listen", "0", "--textfile", metrics.to_str().unwrap()];
    let mut running =
        lab.spawn(&["run", "--json", "--sql", SLOW, listen[0], listen[1], listen[2], listen[3]]);
    running.hear("metrics: ");
    lab.wait(WORKERS, 4);
    running.signal(Signal::INT);
    let run = finish(running).ended(130).json();
    assert_eq!((&run["outcome"], &run["reason"]), (&"failed".into(), &"interrupted".into()));
    let text = std::fs::read_to_string(metrics).unwrap();
    assert!(
        text.contains("headcount_executions_failed_total{task=\"adhoc\",reason=\"interrupted\"} 1"),
        "{text}"
    );
}

/// Interrupted when the second attempt or a later one has its workers, which it says in these words.
fn interrupted_later(signal: Signal, others: &[&str], words: &str) -> Ran {
    let lab = Lab::start();
    let hog = lab.hog(5);
    let mut arguments = vec!["run", "--sql", SLOW, "--attempts", "100", "--admission-wait", "0s"];
    arguments.extend(CLEANUP);
    arguments.extend(others);
    let mut running = lab.spawn(&arguments);
    running.hear("too few");
    drop(hog);
    running.hear(words);
    running.signal(signal);
    let ran = finish(running);
    lab.wait_for_nothing_left();
    ran
}

#[test]
fn the_history_of_an_interrupted_run_is_in_its_json_and_its_metrics() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let folder = tempfile::tempdir().unwrap();
        let metrics = folder.path().join("run.prom");
        let others = ["--json", "--textfile", metrics.to_str().unwrap(), "-v"];
        let ran = interrupted_later(signal, &others, "enough workers").ended(code);
        let run = ran.json();
        let attempts = run["attempts"].as_array().unwrap();
        assert!(attempts.len() > 1, "{run}");
        assert_eq!((&run["attempt_count"], &run["achieved_workers"]), (&attempts.len().into(), &4.into()));
        let last = attempts.last().unwrap();
        assert_eq!(
            (&last["verdict"], &last["workers"], &last["accepted"]),
            (&"failed".into(), &4.into(), &false.into())
        );
        let ran_seconds = |attempt: &Value| attempt["ran_seconds"].as_f64().unwrap();
        assert!(ran_seconds(last) > 0.0);
        let wasted = run["wasted_seconds"].as_f64().unwrap();
        assert!((wasted - attempts.iter().map(ran_seconds).sum::<f64>()).abs() < 1e-4, "{run}");
        assert!(run["waited_seconds"].as_f64().unwrap() > 0.0, "{run}");
        // Microseconds, as in every other object.
        for field in ["waited_seconds", "wasted_seconds"] {
            let digits = run[field].to_string();
            assert!(digits.split_once('.').is_none_or(|(_, digits)| digits.len() <= 6), "{digits}");
        }
        let text = std::fs::read_to_string(metrics).unwrap();
        for line in ["last_run_achieved_workers{task=\"adhoc\"} 4", "last_run_success{task=\"adhoc\"} 0"] {
            assert!(text.contains(&format!("headcount_{line}")), "{text}");
        }
    }
}

#[test]
fn the_history_of_an_interrupted_run_is_said_in_three_lines() {
    let ran = interrupted_later(Signal::TERM, &[], "workers seen 4").ended(143);
    assert!(ran.said.contains("headcount: terminated; nothing of it is running any more"), "{}", ran.said);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("adhoc: terminated at attempt "), "{}", ran.out);
    assert!(lines[0].ends_with(" of 100, at best 4 of 4 workers"), "{}", ran.out);
    assert!(lines[1].starts_with("Time: ran 0 ms, waited ") && lines[1].contains("lost "), "{}", ran.out);
    assert_eq!(
        lines[2..],
        ["Nothing was kept, what ran was rolled back; run it again when you like"],
        "{}",
        ran.out
    );
}

#[test]
fn a_second_signal_leaves_at_once_and_nothing_stays_on_the_server() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let mut running = lab.spawn(&["run", "--sql", SLOW, "--cleanup", "SELECT pg_sleep(600)"]);
        running.hear("workers seen 4");
        running.signal(Signal::INT);
        lab.wait("pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'", 1);
        running.signal(Signal::INT);
        let ran = finish(running).ended(130);
        assert!(ran.said.contains("look what took effect before you run it again"), "{}", ran.said);
        lab.wait_for_nothing_left();
    }
}

#[test]
fn a_killed_command_leaves_no_query_and_a_free_pool() {
    // Left alone it would run for minutes, longer than anybody waits here.
    let endless = SLOW.replace("0.005", "0.05");
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let mut running = lab.spawn(&["run", "--sql", &endless]);
        running.hear("workers seen 4");
        running.kill_group();
        assert_eq!(finish(running).code, None);
        lab.wait_for_nothing_left();
    }
}

#[test]
fn a_command_killed_while_its_plan_is_inspected_leaves_nothing() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        lab.sql(
            "CREATE FUNCTION slow_to_plan() RETURNS int LANGUAGE plpgsql IMMUTABLE
               AS 'BEGIN PERFORM pg_sleep(600); RETURN 1; END'",
        );
        let running = lab.spawn(&["run", "--sql", "SELECT slow_to_plan() FROM measurements"]);
        lab.wait("pg_stat_activity WHERE wait_event = 'PgSleep'", 1);
        running.kill_group();
        assert_eq!(finish(running).code, None);
        lab.wait_for_nothing_left();
    }
}

#[test]
fn a_command_killed_while_its_plan_waits_for_a_lock_leaves_nothing() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let _locker = lab.locks("measurements");
        for command in ["run", "explain"] {
            let running = lab.spawn(&[command, "--sql", SLOW]);
            lab.wait("pg_locks WHERE NOT granted AND relation = 'measurements'::regclass", 1);
            running.kill_group();
            assert_eq!(finish(running).code, None);
            // The lock is still held: nobody may wait for it any more.
            lab.wait_for_nothing_left();
        }
    }
}

#[test]
fn an_explain_that_waits_for_a_lock_says_so_and_a_signal_ends_it_on_the_server() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let locker = lab.locks("measurements");
        let mut running = lab.spawn(&["explain", "--sql", SLOW]);
        running.hear("inspecting the plan waits for a lock that backend ");
        running.signal(Signal::INT);
        let ran = finish(running).ended(130);
        assert!(ran.said.contains("interrupted; nothing of it is running any more"), "{}", ran.said);
        // It was over before the command was.
        assert_eq!(lab.count("pg_locks WHERE NOT granted"), 0);
        let mut running = lab.spawn(&["explain", "--sql", SLOW]);
        running.hear("inspecting the plan waits for a lock that backend ");
        drop(locker);
        assert!(finish(running).ended(0).out.contains("planned: 4 of 4 workers"));
    }
}

#[test]
fn a_command_killed_while_it_waits_in_the_queue_leaves_it() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let endless = SLOW.replace("0.005", "0.05");
        let reserve = |task| ["run", "--reserve", "--task", task, "--sql", &endless];
        let mut first = lab.spawn(&reserve("first"));
        first.hear("workers seen 4");
        let mut second = lab.spawn(&reserve("second"));
        second.hear("next in the queue");
        let mut third = lab.spawn(&reserve("third"));
        third.hear("in the queue for 4 slots");
        third.kill_group();
        assert_eq!(finish(third).code, None);
        // Both are still before it.
        lab.wait("pg_stat_activity WHERE application_name LIKE '%headcount:third%'", 0);
        for running in [second, first] {
            running.signal(Signal::INT);
            finish(running).ended(130);
        }
        lab.wait_for_nothing_left();
    }
}

#[test]
fn a_command_killed_while_it_cleans_up_on_a_new_session_leaves_nothing() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let mut running = lab.spawn(&["run", "--sql", SLOW, "--cleanup", "SELECT pg_sleep(600)"]);
        running.hear("workers seen 4");
        let leader =
            "application_name LIKE 'headcount:adhoc%' AND leader_pid IS NULL AND query LIKE 'CREATE%'";
        lab.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {leader}"));
        lab.wait("pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'", 1);
        running.kill_group();
        assert_eq!(finish(running).code, None);
        lab.wait_for_nothing_left();
    }
}

/// The arguments of each process that was started against this server to watch over a job.
fn watchdogs(lab: &Lab) -> Vec<String> {
    let read = |folder: &std::path::Path, file: &str| {
        std::fs::read_to_string(folder.join(file)).unwrap_or_default().replace('\0', " ")
    };
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes
        .filter(|process| read(process, "environ").contains(&lab.dsn()))
        .map(|process| read(&process, "cmdline"))
        .filter(|arguments| arguments.contains("headcount watchdog"))
        .collect()
}

#[test]
fn a_watchdog_is_there_where_the_server_needs_one_and_ends_with_the_job() {
    for version in oldest_and_newest() {
        let needed = version < 14;
        let lab = Lab::on(version);
        let mut running = lab.spawn(&["run", "--sql", QUICK, "--dsn", &lab.dsn()]);
        running.hear("workers seen 4");
        let found = watchdogs(&lab);
        assert_eq!(found.len(), usize::from(needed), "{found:?}");
        // What others can read of it has no connection string.
        assert!(
            found.iter().all(|arguments| arguments.trim_end().ends_with("headcount watchdog")),
            "{found:?}"
        );
        finish(running).ended(0);
        let began = std::time::Instant::now();
        while !watchdogs(&lab).is_empty() {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "it outlives its job");
            std::thread::yield_now();
        }
        assert_eq!(lab.count("rollup"), 10);
    }
}
