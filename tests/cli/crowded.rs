//! A server whose connections are all taken: what is waited for, how long, and that it is told.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::server::PrivateServer;

use crate::lab::{Lab, QUICK, Running, finish};

fn full() -> Lab {
    Lab::with(PrivateServer::builder().setting("max_connections", "6"))
}

/// Waits until it was turned away ten times, and returns for how long it has waited at the least.
fn turned_away(running: &mut Running) -> Duration {
    let line = running.hear("cannot start yet");
    assert!(line.contains("task=\"nightly\"") && line.contains("53300"), "{line}");
    let began = Instant::now();
    for _ in 1..10 {
        running.hear("cannot start yet");
    }
    began.elapsed()
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap())
}

/// With each refusal in the log.
const RUN: [&str; 9] =
    ["run", "--json", "-v", "--task", "nightly", "--attempts", "100", "--retry-delay", "100ms"];

#[test]
fn the_deadline_is_one_for_the_first_connection_and_all_that_follows() {
    let lab = full();
    let mut crowd = lab.crowd();
    let deadline = Duration::from_secs(5);
    let began = Instant::now();
    let mut running = lab.spawn(&[&RUN[..], &["--sql", QUICK, "--deadline", "5s"]].concat());
    let waited = turned_away(&mut running);
    // The monitor gets a connection now, and the leader none.
    crowd.pop();
    let ran = finish(running).ended(1);
    assert!(ran.said.contains("the deadline of 5s passed"), "{}", ran.said);
    assert!(ran.said.contains("started"), "the monitor was there: {}", ran.said);
    let took = began.elapsed();
    assert!(took < deadline + waited, "{took:?}, of which {waited:?} for the monitor");
    assert!(seconds(&ran.json()["waited_seconds"]) > waited);
}

#[test]
fn the_wait_for_the_first_connection_is_time_waited() {
    let lab = full();
    let crowd = lab.crowd();
    let mut running = lab.spawn(&[&RUN[..], &["--sql", QUICK]].concat());
    let waited = turned_away(&mut running);
    drop(crowd);
    let run = finish(running).ended(0).json();
    assert!(seconds(&run["waited_seconds"]) >= waited, "{waited:?}: {run}");
}

#[test]
fn a_role_that_may_have_one_connection_hears_that_a_run_takes_two() {
    let lab = Lab::start();
    lab.sql("CREATE ROLE lonely LOGIN CONNECTION LIMIT 1");
    let few = ["--attempts", "2", "--retry-delay", "100ms", "--sql", QUICK];
    let ran = lab.headcount(&[&["run", "--dsn", &lab.dsn_for("lonely")][..], &few].concat()).ended(1);
    assert!(ran.said.contains("too many connections for role \"lonely\" (SQLSTATE 53300)"), "{}", ran.said);
    assert!(ran.said.contains("hint: a run takes two connections at once"), "{}", ran.said);
    assert!(ran.said.contains("CONNECTION LIMIT of the role"), "{}", ran.said);
}

#[test]
fn a_run_that_was_never_let_in_says_how_long_it_waited() {
    let lab = full();
    let _crowd = lab.crowd();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.prom");
    let few = ["run", "--json", "--attempts", "4", "--retry-delay", "200ms", "--sql", QUICK];
    let ran = lab.headcount(&[&few[..], &["--textfile", file.to_str().unwrap()]].concat()).ended(1);
    let run = ran.json();
    assert_eq!((&run["reason"], &run["sqlstate"]), (&"connection".into(), &"53300".into()));
    // As patient as an attempt: pauses of up to 100, 200 and 400 ms, half of which is drawn.
    let least = Duration::from_millis(350);
    assert!(seconds(&run["waited_seconds"]) >= least, "{run}");
    let text = std::fs::read_to_string(file).unwrap();
    let figure = "headcount_last_run_duration_seconds{task=\"adhoc\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(figure));
    let took = line.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(Duration::from_secs_f64(took) >= least, "{text}");
}

#[test]
fn an_update_that_cannot_start_yet_says_so_and_is_done_when_it_is_let_in() {
    let lab = full();
    lab.sql("CREATE TABLE orders (id int PRIMARY KEY, status text); INSERT INTO orders VALUES (1, 'new')");
    let crowd = lab.crowd();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.csv");
    std::fs::write(&keys, "id\n1\n").unwrap();
    let mut running = lab.spawn(&[
        "update",
        "--table",
        "orders",
        "--key",
        "id",
        "--set",
        "status=submitted",
        "--keys",
        keys.to_str().unwrap(),
    ]);
    let line = running.hear("cannot start yet");
    assert!(line.contains("53300") && line.contains("trying again"), "{line}");
    drop(crowd);
    let ran = finish(running).ended(0);
    assert!(ran.out.contains("1 updated"), "{}", ran.out);
    assert_eq!(lab.count("orders WHERE status = 'submitted'"), 1);
}
