//! The other subcommands.

use testkit::server::PrivateServer;

use crate::lab::{Lab, QUICK, each_version, headcount};
use crate::versions::{main_version, oldest_and_newest};

#[test]
fn explain_says_how_many_why_not_more_and_what_to_type() {
    let lab = Lab::start();
    let ran = lab.headcount(&["explain", "--sql", QUICK]).ended(0);
    assert!(ran.out.starts_with("planned: 4 of 4 workers (1 Gather), pool of 6 slots"), "{}", ran.out);
    lab.sql("CREATE FUNCTION dice(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 4; END'");
    let ran = lab.headcount(&["explain", "--sql", "SELECT sum(dice(id)) FROM measurements"]).ended(4);
    assert!(ran.out.contains("dice") && ran.out.contains("   fix: ALTER FUNCTION"), "{}", ran.out);
    let ran = lab.headcount(&["explain", "--json", "--target", "7", "--sql", QUICK]).ended(4);
    let explanation = ran.json();
    assert_eq!(
        (&explanation["plan"]["reachable"], &explanation["reasons"][0]["kind"]),
        (&6.into(), &"pool_size".into())
    );
    let ran = lab
        .headcount(&["explain", "--target", "4", "--sql", QUICK, "--set", "parallel_setup_cost=1000000"])
        .ended(4);
    assert!(ran.out.contains("   fix: --set parallel_setup_cost="), "{}", ran.out);
    // An object says what can be typed here, too.
    let costly = ["explain", "--json", "--sql", QUICK, "--set", "parallel_setup_cost=1000000"];
    let object = lab.headcount(&costly).ended(4).json();
    for reasons in [&object["reasons"], &object["statements"][0]["reasons"]] {
        let fix = reasons[0]["fixes"][0].as_str().unwrap();
        assert!(fix.starts_with("--set parallel_setup_cost="), "{fix}");
    }
    let ran = lab.headcount(&["explain", "--sql", "SELECT * FROM nope"]).ended(1);
    assert!(ran.said.contains("relation \"nope\" does not exist (SQLSTATE 42P01)"), "{}", ran.said);
}

#[test]
fn doctor_finds_what_a_run_would_stumble_over() {
    let lab = Lab::start();
    lab.sql("CREATE ROLE batch LOGIN; CREATE ROLE monitor LOGIN");
    let ran = lab.headcount(&["doctor"]).ended(0);
    // 13 does not notice that a client has died, and that is said.
    let of_13 = |line: &str| {
        main_version() < 14 && ["warn  orphans: ", "      hint: "].iter().any(|part| line.starts_with(part))
    };
    let good = |line: &str| {
        line.starts_with("ok ") || line.starts_with("      to have that: ALTER ROLE ") || of_13(line)
    };
    assert!(ran.out.lines().all(good), "{}", ran.out);
    lab.sql("CREATE ROLE reader LOGIN; ALTER ROLE reader SET default_transaction_read_only = on");
    let ran = lab.headcount(&["doctor", "--dsn", &lab.dsn_for("reader")]).ended(0);
    assert!(
        ran.out.contains("warn  writes: ") && ran.out.contains("fix: --set transaction_read_only=off"),
        "{}",
        ran.out
    );
    let (batch, monitor) = (lab.dsn_for("batch"), lab.dsn_for("monitor"));
    let ran = lab.headcount(&["doctor", "--dsn", &batch]).ended(0);
    assert!(
        ran.out.contains("warn  pool in sight: ")
            && ran.out.contains("GRANT pg_read_all_stats TO \"batch\";"),
        "{}",
        ran.out
    );
    let ran = lab.headcount(&["doctor", "--dsn", &batch, "--monitor-dsn", &monitor]).ended(4);
    assert!(ran.out.contains("fail  sight: "), "{}", ran.out);
    assert!(
        ran.out.contains("fail  cancel: ") && ran.out.contains("GRANT pg_signal_backend TO \"monitor\";"),
        "{}",
        ran.out
    );
    lab.sql("GRANT pg_read_all_stats, pg_signal_backend TO monitor");
    lab.headcount(&["doctor", "--dsn", &batch, "--monitor-dsn", &monitor]).ended(0);
    lab.sql("CREATE DATABASE closed");
    lab.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC");
    let ran = lab.headcount(&["doctor", "--dsn", &batch, "--reserve-database", "closed"]).ended(4);
    assert!(
        ran.out.contains("fail  reservation: slots of a fleet cannot be held in closed: "),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("permission denied for database \"closed\""), "{}", ran.out);
    lab.headcount(&["doctor", "--reserve-database", "closed"]).ended(0);
    // Without a fleet that names it, it is no more than a warning.
    lab.sql("CREATE DATABASE sales");
    lab.sql("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    let sales = batch.replace("/postgres", "/sales");
    let ran = lab.headcount(&["doctor", "--dsn", &sales]).ended(0);
    assert!(
        ran.out.contains("warn  reservation: slots of a fleet cannot be held in postgres: "),
        "{}",
        ran.out
    );
    let ran = lab.headcount(&["doctor", "--json", "--target", "7"]).ended(4);
    let pool =
        ran.json()["findings"].as_array().unwrap().iter().find(|f| f["check"] == "pool").cloned().unwrap();
    assert_eq!(pool["level"], "fail");
    // The server has 16 processes: it is the other setting, which takes no restart.
    let fix = "ALTER SYSTEM SET max_parallel_workers = 7; SELECT pg_reload_conf(); -- or more, or demand fewer workers";
    assert_eq!(pool["fix"], fix);
    lab.sql("ALTER SYSTEM SET max_parallel_workers = 7");
    lab.sql("SELECT pg_reload_conf()");
    lab.wait("pg_settings WHERE name = 'max_parallel_workers' AND setting = '7'", 1);
    assert!(lab.headcount(&["doctor", "--target", "7"]).ended(0).out.contains("ok    pool: 7 slots"));
}

#[test]
fn explain_looks_past_a_table_that_is_there_already_and_says_that_a_run_would_not() {
    each_version(|lab| {
        lab.sql("CREATE TABLE rollup (a int); CREATE MATERIALIZED VIEW totals AS SELECT 1");
        let view = "CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM measurements WITH NO DATA";
        // The oldest explains it without a look at the name.
        let looks = lab.number("SELECT current_setting('server_version_num')::bigint") >= 140_000;
        for script in [QUICK, &format!("SELECT 1; {QUICK}; SELECT 2"), view] {
            let ran = lab.headcount(&["explain", "--sql", script]).ended(0);
            assert!(ran.out.contains("planned: 4 of 4 workers (1 Gather)"), "{}", ran.out);
            let noted =
                ran.out.contains("note: what it makes is there already, and running it fails (42P07)");
            assert_eq!(noted, looks, "{}", ran.out);
            let ran = lab.headcount(&["run", "--sql", script]).ended(1);
            assert!(ran.said.contains("already exists (SQLSTATE 42P07)"), "{}", ran.said);
        }
        let object = lab.headcount(&["explain", "--json", "--sql", QUICK]).ended(0).json();
        assert_eq!(
            (&object["statements"][0]["taken"], &object["plan"]["reachable"]),
            (&looks.into(), &4.into())
        );
        // One ahead that drops it makes room for it.
        let script = format!("DROP TABLE rollup; {QUICK}");
        let ran = lab.headcount(&["explain", "--sql", &script]).ended(0);
        assert!(!ran.out.contains("note: "), "{}", ran.out);
    });
}

#[test]
fn doctor_says_in_its_object_what_can_be_typed() {
    let lab = Lab::start();
    lab.sql("ALTER ROLE postgres SET statement_timeout = '1h'");
    let object = lab.headcount(&["doctor", "--json"]).ended(0).json();
    let findings = object["findings"].as_array().unwrap();
    let timeout = findings.iter().find(|finding| finding["check"] == "timeout").unwrap();
    assert_eq!(timeout["fix"], "--set statement_timeout=0");
    assert_eq!(timeout["text"], "statement_timeout = 1h (set for the role) ends each longer statement");
    lab.sql(
        "ALTER ROLE postgres RESET statement_timeout; ALTER ROLE postgres SET lock_timeout = '5s';
         ALTER DATABASE postgres SET idle_in_transaction_session_timeout = '10min'",
    );
    let out = lab.headcount(&["doctor"]).ended(0).out;
    assert!(
        out.contains("ok    lock timeout: lock_timeout = 5s (set for the role) ends each longer wait"),
        "{out}"
    );
    assert!(
        out.contains(
            "warn  idle timeout: idle_in_transaction_session_timeout = 10min (set for the database)"
        ),
        "{out}"
    );
    assert!(out.contains("fix: --set idle_in_transaction_session_timeout=0"), "{out}");
}

#[test]
fn doctor_notices_a_server_that_does_not_say_what_its_sessions_do() {
    let lab = Lab::with(PrivateServer::builder().setting("track_activities", "off"));
    let ran = lab.headcount(&["doctor"]).ended(4);
    assert!(ran.out.contains("fail  activity: track_activities is off"), "{}", ran.out);
}

#[test]
fn a_run_whose_role_does_not_say_what_it_does_is_refused_with_the_fix() {
    for version in oldest_and_newest() {
        let lab = Lab::on(version);
        lab.sql("CREATE ROLE silent LOGIN; ALTER ROLE silent SET track_activities = off");
        let ran = lab.headcount(&["run", "--sql", "SELECT 1", "--dsn", &lab.dsn_for("silent")]).ended(4);
        assert!(ran.said.contains("refused before running: track_activities is off"), "{}", ran.said);
        assert!(ran.said.contains("fix: ALTER SYSTEM SET track_activities = on"), "{}", ran.said);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines[0], "adhoc: failed before its first attempt");
        assert_eq!(lines[2..], ["Nothing was run; do what the fix above says and run it again"]);
    }
}

#[test]
fn the_demo_shows_a_rejected_attempt_one_on_target_and_books_that_balance_over_a_cut_line() {
    let ran = headcount(&["demo", "--scale", "0.05", "--json"]).ended(0);
    assert!(ran.said.contains("   Workers Planned: 4\n   Workers Launched: 0\n"), "{}", ran.said);
    let run = ran.json();
    assert_eq!((&run["outcome"], &run["attempt_count"]), (&"on_target".into(), &2.into()));
    assert_eq!(
        (&run["attempts"][0]["verdict"], &run["attempts"][1]["verdict"]),
        (&"short".into(), &"enough".into())
    );
    let story = [
        "metrics: http://127.0.0.1:",
        "waiting for a lock",
        "too few",
        "cancelled",
        "cleaned up",
        "waiting: ",
        "on target",
        "5000 orders go from status O to P",
        "4850 updated, 100 already, 40 stale, 10 missing",
        "4850 updated, 100 already, 40 stale, 10 missing; highest version 1",
        "The books balance",
        "headcount_attempts_total",
    ];
    let mut rest = ran.said.as_str();
    for word in story {
        let at = rest.find(word).unwrap_or_else(|| panic!("{word:?} is missing in its place:\n{}", ran.said));
        rest = &rest[at + word.len()..];
    }
    // The order of the two depends on the seed alone, so it is not told here.
    for word in ["it was committed, and counts", "it was not committed, and is made again"] {
        assert!(ran.said.contains(word), "{word:?} is missing:\n{}", ran.said);
    }
    // A cut at a byte may leave one more commit in doubt: their number is not fixed.
    for metric in [
        "chunk_rows_total{task=\"ship_orders\",class=\"updated\"} 4850",
        "in_doubt_commits_total{task=\"ship_orders\"",
    ] {
        assert!(ran.said.contains(metric), "{metric} is missing:\n{}", ran.said);
    }
}

#[test]
fn completions_and_the_manual_page_know_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = headcount(&["completions", shell]).ended(0).out;
        assert!(script.contains("plan-shortfall") && script.contains("doctor"), "{shell}");
    }
    let page = headcount(&["man"]).ended(0).out;
    for word in [".TH headcount", "headcount run", "headcount doctor", "admission\\-wait"] {
        assert!(page.contains(word), "{word} is missing");
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let help = headcount(&["run", "--help"]).ended(0).out;
    for word in ["Examples:", "--min 50%", "Job file (TOML)", "Exit codes:"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
}

#[test]
fn maintenance_is_told_what_helps_where_something_does_and_a_missing_table_as_such() {
    let lab = Lab::start();
    lab.sql("CREATE TABLE bare AS SELECT generate_series(1, 1000) AS id");
    let run = |sql: &str, code| {
        let refusing =
            ["run", "--no-transaction", "--attempts", "1", "--plan-shortfall", "refuse", "--sql", sql];
        lab.headcount(&refusing).ended(code)
    };
    let closing = |out: &str| out.lines().last().unwrap().to_owned();
    for sql in ["VACUUM bare", "CREATE INDEX ON bare USING hash (id)"] {
        let alone = run(sql, 4);
        assert!(alone.said.contains("hint: none: ") && !alone.said.contains("fix: "), "{}", alone.said);
        assert!(
            closing(&alone.out).starts_with("Nothing was run; nothing gives it workers"),
            "{}",
            alone.out
        );
    }
    let built = run("CREATE INDEX ON bare (id)", 4);
    assert!(built.said.contains("fix: --set maintenance_work_mem=160MB"), "{}", built.said);
    assert_eq!(closing(&built.out), "Nothing was run; do what the fix above says and run it again");
    for (sql, sqlstate) in [
        ("VACUUM nope", "42P01"),
        ("CREATE INDEX ON nope (id)", "42P01"),
        ("CREATE INDEX ON bare (nope)", "42703"),
    ] {
        let missing = run(sql, 1);
        assert!(missing.said.contains(sqlstate), "{}", missing.said);
        assert!(!missing.said.contains("fix: "), "{}", missing.said);
    }
    lab.sql("ALTER TABLE bare SET (parallel_workers = 4)");
    let most = ["--set", "max_parallel_maintenance_workers=4", "--target", "4"];
    let built = lab.headcount(&[&["run", "--sql", "CREATE INDEX ON bare (id)"][..], &most].concat()).ended(0);
    assert!(built.said.contains("planned: at most 4 workers"), "{}", built.said);
}

/// What a program that keeps many objects has to know of each.
#[test]
fn each_object_has_its_versions_times_code_and_trace() {
    let lab = Lab::start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let dead = ["--dsn", "postgresql://me@127.0.0.1:1/sales"];
    let run = ["run", "--json", "--plan-shortfall", "ignore", "--sql"];
    let serial = ["explain", "--json", "--sql", "SELECT 1"];
    for (arguments, code) in [
        (&[&run[..], &["SELECT 1"]].concat()[..], 0),
        (&[&run[..], &["SELECT 1/0"]].concat(), 1),
        (&[&run[..], &["SELECT 1; COMMIT"]].concat(), 2),
        (&["run", "--json", "--nope"], 2),
        (&serial, 4),
        (&[&serial[..], &dead].concat(), 1),
        (&["doctor", "--json"], 0),
        (&[&["doctor", "--json"][..], &dead].concat(), 1),
        (
            &["update", "--json", "--table", "nowhere", "--key", "id", "--set", "a=1", "--keys", "/dev/null"],
            2,
        ),
    ] {
        let ran = lab.headcount_with(&[("TRACEPARENT", &parent)], arguments);
        let object = ran.json();
        assert_eq!((&object["exit_code"], ran.code), (&code.into(), Some(code)), "{arguments:?}: {object}");
        assert_eq!(object["schema_version"], 1);
        assert_eq!(object["headcount_version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(object["trace_id"], trace);
        let at = |field: &str| humantime::parse_rfc3339(object[field].as_str().unwrap()).unwrap();
        assert!(at("began_at") <= at("ended_at"), "{object}");
    }
    let without = lab.headcount(&[&run[..], &["SELECT 1"]].concat()).ended(0).json();
    assert!(without["trace_id"].is_null(), "{without}");
    let look = lab.headcount(&["watch", "--once", "--json"]).ended(0).json();
    assert_eq!(look["schema_version"], 1);
    assert!(look["pool"].is_object() && look["at"].is_string(), "{look}");
}
