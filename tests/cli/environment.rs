//! What the environment asks for, and what of that cannot be had: said, and no reason to fail.

use std::os::unix::fs::PermissionsExt;

use headcount::pg::embedded::PrivateServer;

use crate::lab::{Lab, Ran, finish, headcount, spawn};

/// Ends at once, with whatever workers.
const ANYTHING: [&str; 4] = ["run", "--plan-shortfall", "ignore", "--sql"];

fn run(lab: &Lab, environment: &[(&str, &str)], more: &[&str]) -> Ran {
    let mut all = ANYTHING.to_vec();
    all.extend(more);
    lab.headcount_with(environment, &all)
}

#[test]
fn telemetry_that_the_environment_cannot_have_never_stops_a_job() {
    let lab = Lab::start();
    for (name, value, said) in [
        ("RUST_LOG", "headcount=loud", "headcount: warning: RUST_LOG: "),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector", "headcount: warning: OTEL_EXPORTER_OTLP_ENDPOINT: "),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke", "headcount: warning: OTEL_EXPORTER_OTLP_PROTOCOL: "),
    ] {
        let ran = run(&lab, &[(name, value)], &["SELECT 1"]).ended(0);
        assert_eq!(ran.said.matches(said).count(), 1, "{}", ran.said);
    }
    // What is typed is meant.
    run(&lab, &[], &["SELECT 1", "--otlp", "collector"]).ended(2);
}

#[test]
fn the_schedulers_trace_is_appended_without_a_collector() {
    let lab = Lab::start();
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let itself = "CREATE TABLE itself AS SELECT current_query() AS query";
    let ran = run(&lab, &[("TRACEPARENT", traceparent)], &[itself, "--trace-comment"]).ended(0);
    assert_eq!(lab.count(&format!("itself WHERE query LIKE '%{traceparent}%'")), 1, "{}", ran.said);
    let ran = run(&lab, &[], &["SELECT 1", "--trace-comment"]).ended(0);
    assert!(ran.said.contains("warning: --trace-comment has nothing to append"), "{}", ran.said);
}

#[test]
fn a_password_file_that_others_may_read_is_named() {
    let lab = Lab::with(PrivateServer::builder().password("right"));
    let dsn = lab.dsn().replace(":right@", "@");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, "*:*:*:*:right\n").unwrap();
    let ran = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let arguments = ["run", "--quiet", "--plan-shortfall", "ignore", "--sql", "SELECT 1", "--dsn", &dsn];
        finish(spawn(&arguments, &[("HOME", home.path().to_str().unwrap())]))
    };
    assert_eq!(ran(0o600).ended(0).said, "");
    let said = ran(0o644).ended(1).said;
    let warning =
        format!("headcount: warning: password file {} is not used: others may read it", file.display());
    assert_eq!(said.matches(&warning).count(), 1, "{said}");
    assert!(!said.contains("right"), "{said}");
}

#[test]
fn a_demo_without_a_postgresql_says_so_and_promises_nothing() {
    let arguments = ["demo", "--json"];
    let ran = finish(spawn(&arguments, &[("HEADCOUNT_PG_BIN", "/nowhere")])).ended(2);
    assert_eq!(ran.said.lines().count(), 1, "{}", ran.said);
    assert!(ran.said.contains("`/nowhere` holds no runnable `postgres` and `initdb`"), "{}", ran.said);
    assert_eq!(ran.json()["reason"], "configuration");
    headcount(&["demo", "--scale", "0"]).ended(2);
}
