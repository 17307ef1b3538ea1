//! What the environment asks for, and what of that cannot be had: said, and no reason to fail.

use std::os::unix::fs::PermissionsExt;

use testkit::server::PrivateServer;

use crate::lab::{Lab, QUICK, Ran, each_version, finish, headcount, spawn};

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
fn a_text_may_begin_with_a_comment() {
    let lab = Lab::start();
    run(&lab, &[], &["-- nightly\nSELECT 1", "--cleanup", "-- nothing\nSELECT 2"]).ended(0);
    let forgotten = run(&lab, &[], &["SELECT 1", "--cleanup", "--json"]).ended(2);
    assert!(forgotten.said.contains("a value is missing"), "{}", forgotten.said);
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

#[test]
fn a_text_is_the_value_that_it_is_with_psql_by_the_variables_of_its_session() {
    let lab = Lab::start();
    lab.sql(
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz, day date); INSERT INTO events VALUES (1)",
    );
    let update = ["update", "--table", "events", "--key", "id", "--keys-query", "SELECT 1 AS id"];
    let values = ["--set", "at=2024-07-01 00:00", "--set", "day=02/01/2024"];
    let environment = [("PGTZ", "Asia/Tokyo"), ("PGDATESTYLE", "SQL, DMY"), ("PGGEQO", "off")];
    lab.headcount_with(&environment, &[&update[..], &values].concat()).ended(0);
    assert_eq!(lab.count("events WHERE at = '2024-06-30 15:00Z' AND day = '2024-01-02'"), 1);
    let ran = lab.headcount_with(&[("PGTZ", "Mars/Olympus")], &["doctor"]).ended(1);
    assert!(ran.said.contains("\"TimeZone\": \"Mars/Olympus\""), "{}", ran.said);
}

#[test]
fn a_variable_that_cannot_be_obeyed_is_a_usage_error_that_names_it() {
    for (name, value) in [
        ("PGREQUIREPEER", "postgres"),
        ("PGREQUIREAUTH", "scram-sha-256"),
        ("PGCLIENTENCODING", "LATIN1"),
        ("PGGSSENCMODE", "require"),
        ("PGSSLMINPROTOCOLVERSION", "SSLv3"),
        ("PGSSLCRL", "/no/such/file"),
        ("PGTARGETSESSIONATTRS", "writable"),
    ] {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/certificates/root.crt");
        let dsn = format!("host=127.0.0.1 port=1 user=u sslmode=verify-ca sslrootcert={root}");
        let ran = finish(spawn(&["doctor", "--dsn", &dsn], &[(name, value)])).ended(2);
        let named = [name, "sslcrl"].iter().any(|name| ran.said.contains(&format!("headcount: {name}: ")));
        assert!(named, "{name}: {}", ran.said);
    }
}

#[test]
fn the_home_folder_is_the_systems_where_no_variable_names_it() {
    let ran = finish(spawn(&["doctor"], &[("PGSERVICE", "none"), ("PGSYSCONFDIR", "/no/such")])).ended(2);
    let home = std::env::home_dir().unwrap();
    let looked = format!("{}/.pg_service.conf or /no/such/pg_service.conf", home.display());
    // Tests run with the home of their user.
    let nowhere = ran.said.contains("`none` is not defined in ");
    assert!(nowhere && (ran.said.contains(&looked) || std::env::var_os("HOME").is_some()), "{}", ran.said);
    assert!(ran.said.contains("/.pg_service.conf or"), "{}", ran.said);
}

#[test]
fn a_user_that_the_system_has_no_name_for_must_be_told_one() {
    use std::os::unix::process::CommandExt as _;
    // Only root may be somebody else.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let program = env!("CARGO_BIN_EXE_headcount");
    let mut command = std::process::Command::new(program);
    command.env_clear().args(["doctor", "--dsn", "host=127.0.0.1 port=1"]).uid(54_321).gid(54_321);
    let output = match command.output() {
        // It may not even reach the program.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return,
        output => output.unwrap(),
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("set PGUSER"), "{:?}: {said}", output.status);
}

#[test]
fn names_that_are_not_utf_8_in_a_database_that_allows_them_keep_no_statement_from_running() {
    let lab = Lab::start();
    lab.sql("CREATE DATABASE old ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    let dsn = format!("{}/old", lab.dsn().rsplit_once('/').unwrap().0);
    let on =
        |sql: &str| finish(spawn(&["run", "--plan-shortfall", "ignore", "--sql", sql, "--dsn", &dsn], &[]));
    on("CREATE TABLE part (id int, note text) PARTITION BY RANGE (id)").ended(0);
    let partition = r#"DO $do$ BEGIN EXECUTE convert_from(
        convert_to('CREATE TABLE "p', 'SQL_ASCII') || '\xe4'::bytea
        || convert_to('" PARTITION OF part FOR VALUES FROM (0) TO (9)', 'SQL_ASCII'), 'SQL_ASCII'); END $do$"#;
    on(partition).ended(0);
    on("INSERT INTO part SELECT 1, convert_from('\\xe4'::bytea, 'SQL_ASCII')").ended(0);
    on("SELECT count(*) FROM part").ended(0);
    let ran = on("SELECT note FROM part").ended(1);
    assert!(ran.said.contains("(SQLSTATE 22021)") && ran.said.contains("SQL_ASCII"), "{}", ran.said);
}

/// Somebody's functions of the same names stand before the server's own.
#[test]
fn a_search_path_that_hides_the_servers_functions_hides_nothing_from_us() {
    each_version(|lab| {
        for (name, arguments, result) in [
            ("round", "numeric", "numeric"),
            ("round", "double precision", "double precision"),
            ("current_setting", "text", "text"),
            ("set_config", "text, text, boolean", "text"),
            ("unnest", "anyarray", "SETOF anyelement"),
            ("cardinality", "anyarray", "int"),
            ("clock_timestamp", "", "timestamptz"),
        ] {
            lab.sql(&format!(
                "CREATE SCHEMA IF NOT EXISTS hiding;
                 CREATE FUNCTION hiding.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql
                 AS $$ BEGIN RAISE EXCEPTION 'somebody''s own'; END $$"
            ));
        }
        lab.sql(
            "CREATE TABLE orders AS SELECT id, 'new' AS status FROM generate_series(1, 10) AS id;
             ALTER TABLE orders ADD PRIMARY KEY (id);
             ALTER DATABASE postgres SET search_path = hiding, pg_catalog, public",
        );
        let run = lab.headcount(&["run", "--target", "4", "--json", "--sql", QUICK]).ended(0).json();
        assert_eq!((&run["outcome"], &run["achieved_workers"]), (&"on_target".into(), &4.into()));
        let keys = ["--keys-query", "SELECT id FROM public.orders"];
        let update = ["update", "--table", "orders", "--key", "id", "--set", "status=submitted"];
        lab.headcount(&[&update[..], &keys, &["--expect", "status=new"]].concat()).ended(0);
        assert_eq!(lab.count("public.orders WHERE status = 'submitted'"), 10);
        lab.headcount(&["watch", "--once"]).ended(0);
        lab.headcount(&["explain", "--target", "4", "--sql", "SELECT count(*) FROM measurements"]).ended(0);
        lab.headcount(&["run", "--reserve", "--target", "4", "--sql", "SELECT count(*) FROM measurements"])
            .ended(0);
    });
}
