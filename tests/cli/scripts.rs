//! What a text of SQL may hold, and how a script must leave its session.

use std::io::Write;

use tempfile::NamedTempFile;
use testkit::server::PrivateServer;

use crate::lab::{Lab, Ran, each_version, headcount};
use crate::port::free_port;

const ADD: &str = "INSERT INTO cleanups DEFAULT VALUES";

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Refused with one line, by a command that has no server to ask.
fn refused(arguments: &[&str], words: &str) {
    let nobody = format!("postgresql://me@127.0.0.1:{}/sales", free_port());
    let ran = headcount(&[arguments, &["--dsn", &nobody]].concat()).ended(2);
    assert!(ran.said.contains(words) && ran.said.lines().count() == 1, "{}", ran.said);
    assert_eq!(ran.out, "");
}

#[test]
fn what_is_no_sql_is_refused_with_its_line_before_anything_is_connected() {
    for (bytes, words) in [
        (&b"SELECT 1;\nSELECT '\0'"[..], "line 2 has a NUL character"),
        (b"\xff\xfeS\0E\0L\0E\0C\0T\0 \x001\0", "is in UTF-16: save it as UTF-8"),
        (b"SELECT 1;\nSELECT '\xe4'", "line 2 is not in UTF-8"),
        (b"SELECT 1;\n\\set ON_ERROR_STOP on\n", "sql: `\\set` (line 2) is a command of psql"),
        (b"\\copy t from 'f'", "`\\copy` is a command of psql"),
        (b"COPY t FROM stdin;\n1\n\\.\n", "COPY with STDIN (line 1) needs a client that sends the data"),
        (b"SELECT 1;\nCOPY t TO STDOUT;", "COPY with STDOUT (line 2)"),
    ] {
        let file = file(bytes);
        let path = file.path().to_str().unwrap();
        refused(&["run", "-f", path], words);
        refused(&["explain", "-f", path], words);
    }
    let job = file(b"sql = \"SELECT '\\u0000'\"");
    refused(&["run", "--job", job.path().to_str().unwrap()], "sql: it has a NUL character");
    let job = file(b"sql = 'SELECT 1'\n[settings]\nwork_mem = \"\\u0000\"");
    let path = job.path().to_str().unwrap();
    refused(&["run", "--job", path], "--set work_mem: its value has a NUL character");
    let undo = ["run", "--sql", "SELECT 1", "--cleanup", "\\i undo.sql"];
    refused(&undo, "cleanup: `\\i` is a command of psql");
}

/// Nothing is said of what stands in strings, and a name is not taken for a stream.
#[test]
fn what_only_looks_like_it_runs() {
    let lab = Lab::start();
    lab.sql("CREATE TABLE stdin (stdout int); CREATE TABLE seen (text text)");
    for sql in [
        "COPY (SELECT 1 AS stdout) TO PROGRAM 'cat > /dev/null'",
        "COPY stdin (stdout) TO PROGRAM 'cat > /dev/null'",
        "INSERT INTO seen VALUES ('\\set; COMMIT'), (E'it\\'s; COMMIT'), ($a$;\\i$a$), (E'a'\n '\\'; COMMIT')",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$; SELECT f() -- COMMIT; \\q",
    ] {
        for manner in [&[][..], &["--no-transaction"]] {
            lab.sql("DROP FUNCTION IF EXISTS f()");
            let arguments = ["run", "--quiet", "--plan-shortfall", "ignore", "--sql", sql];
            lab.headcount(&[&arguments[..], manner].concat()).ended(0);
        }
    }
    assert_eq!(lab.count("seen"), 8);
}

/// Until 18; 19 knows it no more.
#[test]
fn a_session_whose_strings_have_escapes_is_read_so() {
    each_version(|lab| {
        if lab.number("SELECT current_setting('server_version_num')::bigint") >= 190_000 {
            return;
        }
        lab.sql(
            "CREATE TABLE seen (text text); CREATE ROLE old LOGIN; GRANT ALL ON seen TO old;
             ALTER ROLE old SET standard_conforming_strings = off; ALTER ROLE old SET escape_string_warning = off",
        );
        let run = |sql: &str, manner: &[&str]| {
            let dsn = lab.dsn_for("old");
            let arguments = ["run", "--quiet", "--plan-shortfall", "ignore", "--dsn", &dsn, "--sql", sql];
            lab.headcount(&[&arguments[..], manner].concat())
        };
        for manner in [&[][..], &["--no-transaction"]] {
            lab.sql("TRUNCATE seen");
            let hidden = "INSERT INTO seen VALUES ('it\\'s; COMMIT'); INSERT INTO seen VALUES ('\\';')";
            run(hidden, manner).ended(0);
            assert_eq!(lab.count("seen"), 2);
        }
        // Hidden in a string as others read it.
        let ran = run("SELECT 'a\\''; COMMIT; SELECT 'b'''", &[]).ended(2);
        assert!(ran.said.contains("COMMIT would end the transaction"), "{}", ran.said);
    });
}

fn apart(lab: &Lab, sql: &str) -> Ran {
    lab.headcount(&["run", "--plan-shortfall", "ignore", "--no-transaction", "--sql", sql])
}

#[test]
fn a_script_that_would_leave_a_transaction_or_a_role_behind_is_refused_and_nothing_runs() {
    let lab = Lab::with(PrivateServer::builder().setting("max_prepared_transactions", "2"));
    for (sql, words) in [
        (format!("BEGIN; {ADD}"), "the transaction that it begins is not ended"),
        (format!("{ADD}; COMMIT; BEGIN; {ADD}"), "is not ended"),
        (format!("BEGIN; {ADD}; PREPARE TRANSACTION 'left'"), "add COMMIT PREPARED 'left'"),
        (format!("{ADD}; SET ROLE pg_monitor"), "a role is left set"),
    ] {
        let ran = apart(&lab, &sql).ended(2);
        assert!(ran.said.contains(words), "{}", ran.said);
        assert_eq!(ran.out, "", "never done and kept");
    }
    let prepared = format!("{ADD}; PREPARE TRANSACTION 'left'");
    let ran = lab.headcount(&["run", "--plan-shortfall", "ignore", "--sql", &prepared]).ended(2);
    assert!(ran.said.contains("PREPARE TRANSACTION would end the transaction"), "{}", ran.said);
    assert_eq!(lab.number("SELECT count(*) FROM pg_prepared_xacts"), 0);
    assert_eq!(lab.count("cleanups"), 0);

    let tidy = format!("BEGIN; {ADD}; COMMIT; BEGIN; {ADD}; ROLLBACK; SET ROLE pg_monitor; RESET ROLE");
    apart(&lab, &tidy).ended(0);
    apart(&lab, &format!("BEGIN; {ADD}; PREPARE TRANSACTION 'a'; COMMIT PREPARED 'a'")).ended(0);
    assert_eq!(lab.count("cleanups"), 2);
}

#[test]
fn a_script_that_goes_on_after_a_failed_statement_keeps_the_role_that_it_set() {
    let lab = Lab::start();
    lab.sql(
        "CREATE ROLE clerk; CREATE SEQUENCE tries; CREATE TABLE done (by text);
         GRANT ALL ON tries, done TO clerk;
         CREATE FUNCTION once() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('tries') < 2 THEN RAISE EXCEPTION USING ERRCODE = '40001'; END IF; RETURN 1; END $$",
    );
    apart(&lab, "SET ROLE clerk; SELECT once(); INSERT INTO done SELECT current_user; RESET ROLE").ended(0);
    assert_eq!(lab.number("SELECT count(*) FROM done WHERE by = 'clerk'"), 1);
}

/// No text shows it.
#[test]
fn a_role_that_a_function_leaves_set_is_not_that_of_the_cleanup() {
    let lab = Lab::start();
    let ran = lab
        .headcount(&[
            "run",
            "--plan-shortfall",
            "ignore",
            "--no-transaction",
            "--sql",
            "SELECT set_config('role', 'pg_monitor', false); SELECT 1 / 0",
            "--cleanup",
            "CREATE TABLE cleaned AS SELECT current_user::text AS by",
        ])
        .ended(1);
    assert!(!ran.said.contains("the cleanup failed"), "{}", ran.said);
    assert_eq!(lab.number("SELECT count(*) FROM cleaned WHERE by = session_user"), 1);
}

#[test]
fn a_procedure_that_commits_is_told_the_option() {
    let lab = Lab::start();
    lab.sql("CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'");
    let ran = lab.headcount(&["run", "--plan-shortfall", "ignore", "--sql", "CALL p()"]).ended(1);
    assert!(ran.said.contains("(SQLSTATE 2D000)") && ran.said.contains("--no-transaction"), "{}", ran.said);
    apart(&lab, "CALL p()").ended(0);
}

#[test]
fn an_error_in_a_script_names_the_statement_and_its_line() {
    let lab = Lab::start();
    lab.sql("CREATE TABLE amounts (amount int)");
    for (script, place) in [
        (
            "SELECT 1;\nSELECT 2;\n\nINSERT INTO amounts\nVALUES (1), (1 / 0);",
            "(SQLSTATE 22012), in statement 3 of 3, at line 4",
        ),
        (
            "SELECT 1;\nSELECT 2 AS \"\u{e4}\",\n  nothing FROM amounts;\nSELECT 3",
            "(SQLSTATE 42703), in statement 2 of 3, at line 3",
        ),
        ("SELECT 1,\n nothing", "(SQLSTATE 42703), at line 2"),
        ("SELECT 1;\n\nSELECT 2,;\nSELECT 3", "(SQLSTATE 42601), in statement 2 of 3, at line 3"),
        ("SELECT 1; SELECT 1 / 0", "(SQLSTATE 22012), in statement 2 of 2, at line 1"),
    ] {
        let script = file(script.as_bytes());
        let path = script.path().to_str().unwrap();
        for more in [&[][..], &["--no-transaction"]] {
            let run = ["run", "--plan-shortfall", "ignore", "--attempts", "1", "-f", path];
            let ran = lab.headcount(&[&run[..], more].concat()).ended(1);
            assert!(ran.said.contains(place), "{}", ran.said);
        }
    }
    let ran = lab.headcount(&["run", "--sql", "SELECT 1 / 0", "--plan-shortfall", "ignore"]).ended(1);
    assert!(ran.said.contains("division by zero (SQLSTATE 22012)"), "{}", ran.said);
}
