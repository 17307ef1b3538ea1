//! What was typed wrong, or cannot work: one clear line, code 1 or 2, no password.

use std::io::Write;

use testkit::server::PrivateServer;

use crate::lab::{Lab, QUICK, SLOW, each_version, finish, headcount, spawn};
use crate::port::free_port;

const SECRET: &str = "gh3im-0815";

/// One line on standard error that contains `text`.
fn check(lab: &Lab, arguments: &[&str], code: i32, text: &str) {
    let mut all = vec!["run", "--quiet"];
    all.extend(arguments);
    let ran = lab.headcount(&all).ended(code);
    let said: Vec<&str> = ran.said.lines().collect();
    assert_eq!(said.len(), 1, "{}", ran.said);
    assert!(said[0].starts_with("headcount: ") && said[0].contains(text), "{}", ran.said);
    assert_eq!(ran.out, "");
}

#[test]
fn each_mistake_is_one_clear_line() {
    each_version(|lab| {
        check(&lab, &["--sql", "SELECT * FROM nope"], 1, "relation \"nope\" does not exist (SQLSTATE 42P01)");
        check(&lab, &["--sql", "SELEC 1"], 1, "syntax error at or near \"SELEC\" (SQLSTATE 42601)");
        check(
            &lab,
            &["--sql", "SELECT 1", "--min", "5"],
            2,
            "min_workers (--min): the minimum (5) is above the target (4)",
        );
        check(
            &lab,
            &["--sql", "SELECT 1", "--attempts", "0"],
            2,
            "max_attempts (--attempts): 0 is not within 1 to 100",
        );
        check(
            &lab,
            &["--sql", "SELECT 1", "--set", "work mem=1"],
            2,
            "\"work mem\" is not the name of a setting",
        );
        check(&lab, &["--sql", "SELECT 1; COMMIT; SELECT 2"], 2, "sql: COMMIT would end the transaction");
        check(&lab, &["--sql", " "], 2, "the statement is empty");
        check(&lab, &["--sql", "; -- nothing"], 2, "sql: there is no statement in it");
        check(&lab, &["--sql", "SELECT $1"], 2, "sql: $1 is a parameter");
        check(&lab, &["--sql", "COPY measurements TO STDOUT"], 2, "sql: COPY with STDOUT");
        check(&lab, &["--sql", "SELECT 1", "--set", "work_mem=abc"], 2, "--set work_mem: invalid value");
        check(&lab, &["--sql", "SELECT 1", "--set", "wrok_mem=1"], 2, "--set wrok_mem: unrecognized");
        let unseen = ["--sql", "SELECT 1", "--set", "track_activities=off"];
        check(&lab, &unseen, 2, "--set track_activities: it must stay on");
        check(&lab, &["--sql", "SELECT 1", "--settle", "0s"], 2, "settle: 0s is not within 10ms to 1m");
        check(&lab, &[], 2, "nothing to run");
        check(&lab, &["-f", "/nowhere.sql"], 2, "cannot read /nowhere.sql");
        check(&lab, &["--sql", "SELECT 1", "--otlp", "nonsense"], 2, "--otlp");
    });
}

#[test]
fn what_the_parser_refuses_is_one_line_and_one_object_too() {
    for (arguments, text) in [
        (&["run", "--nope"][..], "unexpected argument '--nope' found"),
        (&["run", "--sql"], "a value is required for '--sql <SQL>'"),
        (&["run", "--policy", "x"], "[possible values: prompt, classic]"),
        (&["run", "--attempts", "-1"], "unexpected argument '-1' found"),
        (&["update"], "required arguments were not provided: --table <TABLE>"),
        (&["explain", "--target", "four"], "invalid value 'four' for '--target <WORKERS>'"),
        (&["runn"], "unrecognized subcommand 'runn'; a similar subcommand exists: 'run'"),
    ] {
        let ran = headcount(arguments).ended(2);
        assert_eq!((ran.said.lines().count(), ran.out.as_str()), (1, ""), "{}", ran.said);
        assert!(ran.said.starts_with("headcount: ") && ran.said.contains(text), "{}", ran.said);
        let mut all = vec!["--task", "nightly"];
        all.splice(0..0, arguments.iter().copied());
        all.push("--json");
        let object = headcount(&all).ended(2).json();
        assert_eq!((&object["outcome"], &object["reason"]), (&"failed".into(), &"configuration".into()));
        assert!(object["error"].is_string());
    }
    let task = &headcount(&["run", "--json", "--task", "nightly", "--nope"]).ended(2).json()["task"];
    assert_eq!(task, "nightly");
    let help = headcount(&["run", "--help"]).ended(0);
    assert!(help.out.contains("--sql <SQL>") && help.said.is_empty(), "{}", help.said);
    assert!(headcount(&[]).ended(2).said.contains("Commands:"));
}

#[test]
fn an_error_of_the_monitors_connection_says_whose_it_is_and_the_code_is_one() {
    let lab = Lab::start();
    let free = free_port();
    let away = format!("postgresql://me@127.0.0.1:{free}/sales");
    let ran = lab.headcount(&["run", "--json", "--sql", "SELECT 1", "--monitor-dsn", &away]).ended(1);
    assert!(
        ran.said.contains(&format!("cannot connect to the monitor's server, 127.0.0.1:{free}/sales")),
        "{}",
        ran.said
    );
    assert!(ran.said.contains("(SQLSTATE 08006)"), "{}", ran.said);
    assert_eq!(ran.json()["sqlstate"], "08006");
    check(&lab, &["--sql", "SELECT 1", "--monitor-dsn", "host=h port=x"], 2, "--monitor-dsn: port");
}

#[test]
fn where_nobody_named_a_server_that_is_said() {
    let port = free_port().to_string();
    let arguments = ["run", "--sql", "SELECT 1", "--attempts", "1"];
    let ran = finish(spawn(&arguments, &[("PGPORT", &port)])).ended(1);
    assert!(ran.said.contains("no server was named: give a connection string"), "{}", ran.said);
    let ran = finish(spawn(&arguments, &[("PGPORT", &port), ("PGHOST", "127.0.0.1")])).ended(1);
    assert!(!ran.said.contains("no server was named"), "{}", ran.said);
}

#[test]
fn a_byte_order_mark_is_no_syntax_error() {
    let lab = Lab::start();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "\u{feff}SELECT 1").unwrap();
    let path = file.path().to_str().unwrap();
    lab.headcount(&["run", "--task", "bom", "--plan-shortfall", "ignore", "-f", path]).ended(0);
}

#[test]
fn a_server_that_never_answers_is_left_at_the_deadline() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!("postgresql://me@127.0.0.1:{}/sales", silent.local_addr().unwrap().port());
    let ran = headcount(&["run", "--json", "--dsn", &dsn, "--sql", "SELECT 1", "--deadline", "1s"]).ended(1);
    assert_eq!(ran.said.trim_end(), "headcount: the deadline of 1s passed");
    assert_eq!(ran.json()["reason"], "deadline");
}

#[test]
fn an_unknown_field_of_a_job_file_is_named_with_its_line() {
    let lab = Lab::start();
    let mut job = tempfile::NamedTempFile::new().unwrap();
    writeln!(job, "sql = \"SELECT 1\"\ntarget_wrokers = 4").unwrap();
    check(&lab, &["--job", job.path().to_str().unwrap()], 2, "line 2: unknown field `target_wrokers`");
}

#[test]
fn a_statement_that_refuses_a_transaction_names_the_option() {
    let lab = Lab::start();
    let vacuum = ["--plan-shortfall", "ignore", "--sql", "VACUUM measurements"];
    let with = |option: &'static str| [&["run", option], &vacuum[..]].concat();
    let ran = lab.headcount(&with("--quiet")).ended(1);
    assert!(ran.said.contains("(SQLSTATE 25001)\nhint: "), "{}", ran.said);
    assert!(ran.said.contains("--no-transaction"), "{}", ran.said);
    lab.headcount(&with("--no-transaction")).ended(0);
    let late = "SELECT set_config('transaction_isolation', 'serializable', true)";
    let ran = lab.headcount(&["run", "--plan-shortfall", "ignore", "--sql", late]).ended(1);
    assert!(ran.said.contains("--set transaction_isolation=") && !ran.said.contains("--no-"), "{}", ran.said);
}

#[test]
fn the_mode_of_the_transaction_is_set_by_an_option_and_a_script_that_sets_it_is_told_which() {
    each_version(|lab| {
        let script =
            "/* monthly */\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE;\nSELECT 1";
        let options = "--set transaction_isolation=serializable --set transaction_read_only=on --set \
                       transaction_deferrable=on";
        check(&lab, &["--sql", script], 2, "mode (line 2) comes too late, since Headcount has begun");
        check(&lab, &["--sql", script], 2, &format!("leave it out, and add {options}"));
        let seen = "SELECT 1 / (current_setting('transaction_isolation') = 'serializable' \
                    AND current_setting('transaction_read_only') = 'on' \
                    AND current_setting('transaction_deferrable') = 'on')::int";
        let with: Vec<&str> = ["run", "--plan-shortfall", "ignore", "--sql", seen]
            .into_iter()
            .chain(options.split(' '))
            .collect();
        lab.headcount(&with).ended(0);
        let level = ["--set", "Transaction_Isolation=repeatable read"];
        let seen = "SELECT 1 / (current_setting('transaction_isolation') = 'repeatable read')::int";
        lab.headcount(&[&["run", "--plan-shortfall", "ignore", "--sql", seen][..], &level].concat()).ended(0);
        check(
            &lab,
            &["--sql", "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1"],
            2,
            "add --set transaction_isolation=",
        );
        // What can be set at any time is left alone.
        let later = "SELECT 1; SET TRANSACTION READ ONLY; SET LOCAL work_mem = '1MB'; SELECT 2";
        lab.headcount(&["run", "--plan-shortfall", "ignore", "--sql", later]).ended(0);
    });
}

#[test]
fn a_wrong_password_and_a_wrong_dsn_are_not_repeated() {
    let lab = Lab::with(PrivateServer::builder().password("right"));
    let wrong = lab.dsn().replace("right", SECRET);
    let free = free_port();
    let away = format!("cannot connect to 127.0.0.1:{free}/sales");
    let cases = [
        (wrong.clone(), 1, "password authentication failed"),
        (format!("postgresql://me:{SECRET}@127.0.0.1:{free}/sales"), 1, &*away),
        (format!("postgresql://me:{SECRET}@127.0.0.1:1/sales?colour=blue"), 2, "colour"),
        (format!("host=127.0.0.1 password={SECRET} port=x"), 2, "port"),
    ];
    for (dsn, code, text) in cases {
        for subcommand in ["run", "explain"] {
            let ran = headcount(&[subcommand, "--json", "--dsn", &dsn, "--sql", "SELECT 1"]).ended(code);
            assert!(ran.said.contains(text), "{}", ran.said);
            assert!(ran.json()["error"].as_str().unwrap().contains(text));
            assert!(!ran.said.contains(SECRET) && !ran.out.contains(SECRET), "{}{}", ran.said, ran.out);
        }
        headcount(&["doctor", "--dsn", &dsn]).ended(code);
    }
    // A connection string where none belongs.
    let ran = headcount(&["run", &wrong]).ended(2);
    assert!(ran.said.contains("unexpected argument") && !ran.said.contains(SECRET), "{}", ran.said);
}

#[test]
fn a_bare_number_is_no_time() {
    let ran = headcount(&["run", "--sql", "SELECT 1", "--deadline", "60"]).ended(2);
    assert!(ran.said.contains("`60` is no time with a unit, such as 500ms, 2s, 1m or 2h"), "{}", ran.said);
}

#[test]
fn a_failure_is_a_json_object_too() {
    let lab = Lab::start();
    let ran = lab
        .headcount(&["run", "--json", "--task", "nightly", "--sql", "SELECT 1/0 FROM measurements"])
        .ended(1);
    let run = ran.json();
    assert_eq!(
        (&run["task"], &run["outcome"], &run["reason"]),
        (&"nightly".into(), &"failed".into(), &"sql".into())
    );
    assert_eq!((&run["sqlstate"], &run["rows"]), (&"22012".into(), &serde_json::Value::Null));
    assert!(run["error"].as_str().unwrap().contains("division by zero"));
}

#[test]
fn a_typing_error_is_found_before_any_wait_for_the_pool() {
    let lab = Lab::start();
    let _hog = lab.hog(6);
    for sql in ["SELEC 1", "SELECT 1; SELEC 2", "SELECT 1; SELECT FROM WHERE"] {
        let ran = lab.headcount(&["run", "--sql", sql, "--admission-wait", "1h"]).ended(1);
        assert_eq!(ran.said.lines().count(), 1, "{}", ran.said);
        assert!(ran.said.contains("(SQLSTATE 42601)"), "{}", ran.said);
    }
    lab.headcount(&["explain", "--sql", "SELEC 1"]).ended(1);
}

#[test]
fn a_result_that_cannot_be_written_is_code_6_and_one_that_nobody_reads_is_not() {
    let lab = Lab::start();
    let run = "\"$0\" run --quiet --json --sql 'SELECT 1 WHERE false' --plan-shortfall ignore";
    let full = finish(lab.spawn_by(&["sh", "-c", &format!("exec {run} > /dev/full")], &[])).ended(6);
    assert!(full.said.starts_with("headcount: cannot write to standard output: "), "{}", full.said);
    assert_eq!(full.said.lines().count(), 1, "{}", full.said);
    let closed = finish(lab.spawn_by(&["sh", "-c", &format!("{run} >&-; exit $?")], &[])).ended(6);
    let words = "headcount: cannot write to standard output: it is closed; only the output is lost (if the exit \
                 code is 6, the work is done: do not run it again)\n";
    assert_eq!(closed.said, words);
    finish(lab.spawn_by(&["sh", "-c", &format!("{run} > /dev/null; exit $?")], &[])).ended(0);
    let mut unread = lab.spawn(&["run", "--json", "-v", "--sql", QUICK]);
    unread.hear("enough workers");
    unread.stop_reading();
    let unread = finish(unread).ended(0);
    assert!(!unread.said.contains("cannot write"), "{}", unread.said);
    // What failed has its own code.
    let failed = "exec \"$0\" run --json --sql 'SELEC 1' > /dev/full";
    finish(lab.spawn_by(&["sh", "-c", failed], &[])).ended(1);
}

#[test]
fn quiet_prints_no_result_unless_it_is_asked_for_or_bad() {
    let lab = Lab::start();
    let vacuum = ["--plan-shortfall", "ignore", "--sql", "VACUUM measurements"];
    let ran = lab.headcount(&[&["run", "--quiet", "--no-transaction"][..], &vacuum].concat()).ended(0);
    assert_eq!((ran.out.as_str(), ran.said.as_str()), ("", ""));
    let _hog = lab.hog(5);
    let hopeless = ["run", "-q", "--sql", SLOW, "--attempts", "1", "--admission-wait", "0s"];
    let ran = lab.headcount(&hopeless).ended(3);
    assert!(ran.out.starts_with("adhoc: 1 of 4 workers, below the minimum of 2"), "{}", ran.out);
}

#[test]
fn a_file_that_is_not_there_names_the_task_all_the_same() {
    let ran = headcount(&["run", "--json", "-f", "/nowhere/nightly rollup.sql"]).ended(2);
    assert_eq!(ran.json()["task"], "nightly_rollup");
}

#[test]
fn metrics_are_not_written_over_a_file_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (keys, other, sql) = (path("keys"), path("other"), path("sql"));
    std::fs::write(&keys, "1\n").unwrap();
    std::fs::write(&sql, "SELECT 1").unwrap();
    std::os::unix::fs::symlink(&keys, &other).unwrap();
    let update = [
        "update",
        "--table",
        "t",
        "--key",
        "id",
        "--set",
        "a=b",
        "--dsn",
        "host=127.0.0.1 port=1",
        "--keys",
        &keys,
    ];
    for (arguments, words) in [
        ([&update[..], &["--textfile", &keys]].concat(), "--textfile: the keys are read from "),
        ([&update[..], &["--textfile", &other]].concat(), "--textfile: the keys are read from "),
        (
            [&update[..], &["--rejects", "r", "--textfile", "./r"]].concat(),
            "--textfile: the rejects are written to r",
        ),
        (
            vec!["run", "--dsn", "host=127.0.0.1 port=1", "-f", &sql, "--textfile", &sql],
            "--textfile: the statement is read from ",
        ),
    ] {
        let ran = headcount(&arguments).ended(2);
        assert!(ran.said.contains(words), "{}", ran.said);
    }
    assert_eq!(std::fs::read_to_string(&keys).unwrap(), "1\n");
    assert_eq!(std::fs::read_to_string(&sql).unwrap(), "SELECT 1");
}
