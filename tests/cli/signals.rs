//! Signals: an orderly end, an end at once, and no chance to do either.

use headcount::pg::embedded::Binaries;
use rustix::process::Signal;

use crate::lab::{Lab, QUICK, SLOW, finish};

const CLEANUP: [&str; 2] = ["--cleanup", "INSERT INTO cleanups DEFAULT VALUES"];

fn interrupted(signal: Signal, code: i32) {
    let lab = Lab::start();
    let mut running = lab.spawn(&["run", "--sql", SLOW, "--task", "nightly", CLEANUP[0], CLEANUP[1]]);
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
fn an_interrupted_run_is_a_json_object_and_its_metrics_are_written() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    let metrics = folder.path().join("run.prom");
    let listen = ["--listen", "0", "--textfile", metrics.to_str().unwrap()];
    let mut running =
        lab.spawn(&["run", "--json", "--sql", SLOW, listen[0], listen[1], listen[2], listen[3]]);
    running.hear("metrics: ");
    lab.wait("pg_stat_activity WHERE backend_type = 'parallel worker'", 4);
    running.signal(Signal::INT);
    let run = finish(running).ended(130).json();
    assert_eq!((&run["outcome"], &run["reason"]), (&"failed".into(), &"interrupted".into()));
    let text = std::fs::read_to_string(metrics).unwrap();
    assert!(
        text.contains("headcount_executions_failed_total{task=\"adhoc\",reason=\"interrupted\"} 1"),
        "{text}"
    );
}

#[test]
fn a_second_signal_leaves_at_once() {
    let lab = Lab::start();
    let mut running = lab.spawn(&["run", "--sql", SLOW, "--cleanup", "SELECT pg_sleep(600)"]);
    running.hear("workers seen 4");
    running.signal(Signal::INT);
    lab.wait("pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'", 1);
    running.signal(Signal::INT);
    finish(running).ended(130);
}

#[test]
fn a_killed_command_leaves_no_query_and_a_free_pool() {
    let all = Binaries::all();
    assert!(!all.is_empty());
    // Left alone it would run for minutes, longer than anybody waits here.
    let endless = SLOW.replace("0.005", "0.05");
    for binaries in all {
        let lab = Lab::on(binaries);
        let mut running = lab.spawn(&["run", "--sql", &endless]);
        running.hear("workers seen 4");
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
    for binaries in Binaries::all() {
        let needed = binaries.major() < 14;
        let lab = Lab::on(binaries);
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
