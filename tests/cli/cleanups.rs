//! A cleanup that does not end: broken off within its limit, whatever it follows, and said.

use rustix::process::Signal;

use crate::lab::{Lab, QUICK, Ran, SLOW, finish};
use crate::versions::oldest_and_newest;

const ENDLESS: [&str; 2] = ["--cleanup", "INSERT INTO cleanups DEFAULT VALUES; SELECT pg_sleep(600)"];

/// The cleanup was broken off after `limit`, nothing of it is kept, and nothing runs any more.
fn broken_off(lab: &Lab, ran: &Ran, limit: &str) {
    let why = format!("it did not end within {limit} and was broken off");
    assert!(ran.said.contains(&why), "{}", ran.said);
    assert_eq!(lab.count("cleanups"), 0);
    lab.wait_for_nothing_left();
}

#[test]
fn a_cleanup_after_the_deadline_has_its_limit() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        let limits = ["--deadline", "2s", "--cleanup-limit", "300ms"];
        let mut arguments = vec!["run", "--json", "--sql", SLOW];
        arguments.extend(ENDLESS.iter().chain(&limits));
        let ran = lab.headcount(&arguments).ended(1);
        let run = ran.json();
        assert_eq!((&run["reason"], &run["attempt_count"]), (&"deadline".into(), &1.into()));
        let text = "the deadline of 2s passed; the cleanup failed, so what it removes is still there: ";
        assert!(run["error"].as_str().unwrap().starts_with(text), "{run}");
        broken_off(&lab, &ran, "300ms");
    }
}

#[test]
fn a_cleanup_after_a_signal_has_its_limit() {
    let lab = Lab::start();
    let mut arguments = vec!["run", "--sql", SLOW, "--cleanup-limit", "300ms"];
    arguments.extend(ENDLESS);
    let mut running = lab.spawn(&arguments);
    running.hear("workers seen 4");
    running.signal(Signal::INT);
    let ran = finish(running).ended(130);
    assert!(ran.said.contains("headcount: interrupted; the cleanup failed"), "{}", ran.said);
    broken_off(&lab, &ran, "300ms");
}

#[test]
fn a_cleanup_between_attempts_has_its_limit() {
    let lab = Lab::start();
    let _hog = lab.hog(5);
    let mut arguments = vec!["run", "--sql", SLOW, "--admission-wait", "0s", "--cleanup-limit", "300ms"];
    arguments.extend(ENDLESS);
    let ran = lab.headcount(&arguments).ended(1);
    assert!(ran.said.contains("headcount: the cleanup failed: "), "{}", ran.said);
    assert!(ran.said.contains("it did not end within 300ms and was broken off"), "{}", ran.said);
    assert!(ran.said.contains("; what it removes is still there"), "{}", ran.said);
    let rejected = "The attempt was rejected (1 of 4 required workers, pool_exhausted), and what it did";
    assert!(ran.out.contains(rejected) && ran.out.contains("undo it by hand"), "{}", ran.out);
    lab.wait("pg_stat_activity WHERE application_name LIKE 'headcount%'", 0);
}

#[test]
fn a_cleanup_that_fails_is_said_beside_what_failed_before_it() {
    let lab = Lab::start();
    let sql = "CREATE TABLE made AS SELECT sum(1 / (id - id)) FROM measurements";
    let ran = lab.headcount(&["run", "--sql", sql, "--cleanup", "DROP TABLE nowhere"]).ended(1);
    let line = ran.said.lines().find(|line| line.starts_with("headcount: ")).unwrap();
    assert!(line.contains("division by zero") && line.contains("22012"), "{}", ran.said);
    let why = "the cleanup failed, so what it removes is still there: table \"nowhere\" does not exist";
    assert!(line.contains(why), "{}", ran.said);
    assert!(ran.out.contains("What the cleanup undoes is still there: undo it by hand"), "{}", ran.out);
}

#[test]
fn a_cleanup_that_fails_for_the_same_reason_is_said_all_the_same() {
    let lab = Lab::start();
    let sql = "CREATE TABLE made AS SELECT sum(1 / (id - id)) FROM measurements";
    let ran = lab.headcount(&["run", "--sql", sql, "--cleanup", "SELECT 1 / 0"]).ended(1);
    let why = "the cleanup failed, so what it removes is still there: division by zero";
    assert!(ran.said.contains(why), "{}", ran.said);
}

#[test]
fn a_cleanup_that_the_deadline_meets_under_way_is_begun_again() {
    let lab = Lab::start();
    let hog = lab.hog(5);
    // The first cleanup takes long, the next one does not.
    lab.sql("CREATE SEQUENCE tries");
    let cleanup = "INSERT INTO cleanups SELECT now() WHERE nextval('tries') > 0;
                   SELECT pg_sleep(600) WHERE currval('tries') = 1";
    let timing = ["--admission-wait", "0s", "--deadline", "3s"];
    let mut arguments = vec!["run", "--json", "--sql", QUICK, "--cleanup", cleanup];
    arguments.extend(timing);
    let run = lab.headcount(&arguments).ended(1).json();
    assert_eq!((&run["error"], &run["attempt_count"]), (&"the deadline of 3s passed".into(), &1.into()));
    assert_eq!((lab.count("cleanups"), lab.count("tries WHERE last_value = 2")), (1, 1));
    drop(hog);
    lab.wait_for_nothing_left();
}
