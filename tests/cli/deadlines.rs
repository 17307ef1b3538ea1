//! A deadline holds whatever the line does, and what could not be seen is not said.

use std::time::{Duration, Instant};

use crate::lab::{Lab, Running, SLOW, finish, spawn};
use crate::line::Line;

/// Far above the deadline, the grace, and what a server may be away at the end; below any limit for slots.
const BOUND: Duration = Duration::from_secs(45);

const UNSEEN: &str = "the deadline of 4s passed; nobody could see whether it still runs";

/// Two workers each, so that three have room.
fn run(lab: &Lab, line: &Line, more: &[&str]) -> Running {
    let dsn = lab.dsn().replace(&format!(":{}/", lab.port()), &format!(":{}/", line.port));
    assert_ne!(dsn, lab.dsn());
    let sql = SLOW.replace("rollup", &format!("made_{}", more.concat().len()));
    let demand = ["run", "--target", "2", "--min", "1", "--deadline", "4s", "--cancel-grace", "200ms"];
    let arguments = [&demand[..], &["--cleanup-limit", "1s", "--dsn", &dsn, "--sql", &sql], more].concat();
    spawn(&arguments, &[])
}

#[test]
fn a_line_that_stays_open_and_forwards_nothing_ends_with_the_deadline() {
    let lab = Lab::start();
    let line = Line::to(&lab.runtime, lab.port());
    let began = Instant::now();
    let mut plain = run(&lab, &line, &["--json", "--verbose"]);
    let mut reserving = run(&lab, &line, &["--reserve", "--task", "reserving"]);
    let mut undoing =
        run(&lab, &line, &["--cleanup", "DELETE FROM cleanups", "--task", "undoing", "--verbose"]);
    plain.hear("enough workers");
    reserving.hear("on target");
    undoing.hear("enough workers");
    line.go_silent();

    let plain = finish(plain).ended(1);
    assert!(plain.said.contains(UNSEEN) && !plain.said.contains("cleanup"), "{}", plain.said);
    let object = plain.json();
    assert_eq!(
        (&object["reason"], &object["processes_left"]),
        (&"deadline".into(), &serde_json::Value::Null)
    );

    let reserving = finish(reserving).ended(1);
    assert!(reserving.said.contains(UNSEEN) && !reserving.said.contains("cleanup"), "{}", reserving.said);
    let last = reserving.out.lines().last().unwrap();
    assert!(last.starts_with("The server does not answer, and may still run it: look at "), "{last}");

    let undoing = finish(undoing).ended(1);
    assert!(
        undoing.said.contains("; the cleanup failed, so what it removes is still there: "),
        "{}",
        undoing.said
    );
    assert!(undoing.out.contains("What the cleanup undoes is still there"), "{}", undoing.out);
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
}
