//! A panic ends as any failure does: a line, an object, metrics, a code, and nothing left on the server.

use std::fs;

use crate::lab::{Lab, SLOW};

const SECRET: &str = "gh3im-0815";

fn check(place: &str, words: &str) {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    let metrics = folder.path().join("a.prom");
    let environment = [("HEADCOUNT_TEST_PANIC", place), ("PGPASSWORD", SECRET), ("RUST_BACKTRACE", "1")];
    let run = ["run", "--json", "--verbose", "--log-format", "json", "--task", "rollup", "--sql", SLOW];
    let textfile = ["--textfile", metrics.to_str().unwrap()];
    let ran = lab.headcount_with(&environment, &[&run[..], &textfile].concat()).ended(101);
    let line = ran.said.lines().find(|line| line.starts_with("headcount: ")).unwrap();
    assert!(line.contains("src/panics.rs:"), "{line}");
    assert!(
        line.contains(words) && line.ends_with("look what took effect before you run it again"),
        "{line}"
    );
    assert_eq!(ran.said.matches("headcount: a mistake").count(), 1, "{}", ran.said);
    assert!(ran.said.contains("\"message\":\"panicked\""), "{}", ran.said);
    let object = ran.json();
    assert_eq!((&object["outcome"], &object["reason"]), (&"failed".into(), &"panicked".into()));
    assert_eq!((&object["task"], &object["exit_code"]), (&"rollup".into(), &101.into()));
    let metrics = fs::read_to_string(metrics).unwrap();
    assert!(metrics.contains("headcount_"), "{metrics}");
    for told in [&ran.said, &ran.out, &metrics] {
        assert!(!told.contains(SECRET), "{told}");
    }
    lab.wait_for_nothing_left();
}

#[test]
fn a_panic_of_the_job_is_told_and_leaves_nothing() {
    check("job", ": a test wanted it); please report it");
}

/// Its message was formatted, so nobody knows what is in it.
#[test]
fn a_panic_in_the_background_ends_the_command_and_shows_no_password() {
    check("task", "); please report it");
}
