//! Telemetry as it leaves the command.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use headcount::telemetry::names;
use rustix::process::Signal;

use crate::lab::{Lab, QUICK, Ran, SLOW, finish, headcount, spawn};
use crate::port::free_port;

/// Receives one request and says 200; returns its first line and its body.
fn receive(listener: &TcpListener) -> (String, String) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    reader.read_line(&mut request).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if header.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    (request, String::from_utf8(body).unwrap())
}

#[test]
fn a_run_pushes_its_metrics_and_writes_them_to_a_file() {
    let lab = Lab::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let receiver = std::thread::spawn(move || receive(&listener));
    let arguments =
        ["run", "--task", "rollup", "--sql", QUICK, "--push", &url, "--textfile", file.to_str().unwrap()];
    let ran = lab.headcount(&arguments).ended(0);
    assert!(!ran.said.contains("warning"), "{}", ran.said);
    let (request, pushed) = receiver.join().unwrap();
    assert!(request.starts_with("POST /metrics/job/headcount"), "{request}");
    let written = std::fs::read_to_string(&file).unwrap();
    for text in [pushed, written] {
        assert!(text.contains("headcount_last_run_achieved_workers{task=\"rollup\"} 4"), "{text}");
        assert!(text.contains("headcount_executions_successful_total{task=\"rollup\"} 1"), "{text}");
    }
}

#[test]
fn a_run_that_finds_no_server_is_a_failed_run_to_those_who_watch() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let dsn = "postgres://nobody@127.0.0.1:1/none";
    let arguments =
        ["run", "--dsn", dsn, "--task", "rollup", "--sql", QUICK, "--textfile", file.to_str().unwrap()];
    lab.headcount(&arguments).ended(1);
    let written = std::fs::read_to_string(&file).unwrap();
    let failed = "headcount_executions_failed_total{task=\"rollup\",reason=\"connection\"} 1";
    for line in [failed, "headcount_last_run_success{task=\"rollup\"} 0"] {
        assert!(written.contains(line), "{written}");
    }
}

#[test]
fn an_update_that_cannot_begin_is_a_failed_run_to_those_who_watch() {
    let lab = Lab::start();
    lab.sql("CREATE TABLE orders (id int PRIMARY KEY, status text)");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = empty.path().to_str().unwrap();
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&keys, "1\n").unwrap();
    let keys = keys.path().to_str().unwrap();
    lab.sql("INSERT INTO orders VALUES (1, 'new')");
    let (here, nowhere) = (lab.dsn(), "postgres://nobody@127.0.0.1:1/none");
    for (dsn, table, keys, code) in [
        (nowhere, "orders", keys, 1),
        (&here, "nosuch", keys, 2),
        (&here, "orders", "/nosuch", 2),
        (&here, "orders", empty, 5),
        (&here, "orders", keys, 0),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let receiver = std::thread::spawn(move || receive(&listener).1);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ship.prom");
        let update = ["update", "--task", "ship", "--key", "id", "--set", "status=shipped"];
        let place = ["--dsn", dsn, "--table", table, "--keys", keys, "--reconnect-wait", "1s"];
        let exporters = ["--push", &url, "--textfile", file.to_str().unwrap()];
        let ran = lab.headcount(&[&update[..], &place, &exporters].concat()).ended(code);
        for text in [receiver.join().unwrap(), std::fs::read_to_string(&file).unwrap()] {
            let success = format!("headcount_last_run_success{{task=\"ship\"}} {}\n", u8::from(code == 0));
            assert!(text.contains(&success), "{}{text}", ran.said);
            assert!(text.contains("\nheadcount_last_run_timestamp_seconds{task=\"ship\"} "), "{text}");
            let succeeded = text.contains("\nheadcount_last_success_timestamp_seconds{");
            assert_eq!(succeeded, code == 0, "{text}");
        }
    }
}

/// Who looks at night what an update would do has not done it: no alert may end by that.
#[test]
fn a_dry_run_is_no_run_of_its_task() {
    let lab = Lab::start();
    lab.sql("CREATE TABLE orders (id int PRIMARY KEY, status text); INSERT INTO orders VALUES (1, 'new')");
    let folder = tempfile::tempdir().unwrap();
    let (file, keys) = (folder.path().join("ship.prom"), folder.path().join("keys"));
    std::fs::write(&keys, "1\n").unwrap();
    let update = ["update", "--task", "ship", "--table", "orders", "--key", "id", "--set", "status=shipped"];
    let more = ["--keys", keys.to_str().unwrap(), "--textfile", file.to_str().unwrap()];
    for (dry, counts) in [(&["--dry-run"][..], false), (&[], true)] {
        lab.headcount(&[&update[..], &more, dry].concat()).ended(0);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.contains("headcount_last_run_"), counts, "{text}");
        assert_eq!(text.contains("headcount_last_success_"), counts, "{text}");
    }
}

/// As a Pushgateway keeps it: `HeadcountNotRunning` goes by it.
#[test]
fn a_failed_run_leaves_the_last_success_in_its_file() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let run = |sql, code| {
        lab.headcount(&["run", "--task", "rollup", "--sql", sql, "--textfile", file.to_str().unwrap()])
            .ended(code);
        let text = std::fs::read_to_string(&file).unwrap();
        let success = "headcount_last_success_timestamp_seconds{task=\"rollup\"} ";
        let at = text.lines().find_map(|line| line.strip_prefix(success).map(ToOwned::to_owned));
        (at.expect("the last success"), text.contains("headcount_last_run_success{task=\"rollup\"} 1"))
    };
    let (first, good) = run(QUICK, 0);
    assert!(good);
    // The table is there already.
    for _ in 0..2 {
        assert_eq!(run(QUICK, 1), (first.clone(), false));
    }
}

#[test]
fn what_is_refused_as_it_was_typed_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("typed.prom");
    let dsn = ["--dsn", "postgres://nobody@127.0.0.1:1/none", "--textfile", file.to_str().unwrap()];
    let none =
        ["update", "--table", "orders", "--key", "id", "--set", "a=1", "--keys", "keys", "--chunk", "0"];
    let unread = ["run", "--file", "/nosuch"];
    for typed in [&none[..], &unread] {
        headcount(&[typed, &dsn].concat()).ended(2);
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(!written.contains("headcount_last_run_"), "{written}");
    }
}

#[test]
fn a_run_that_a_silent_server_keeps_waiting_ends_for_the_same_reason_everywhere() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!("postgres://me@{}/none?sslmode=disable", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let check = |ran: Ran, reason: &str| {
        assert_eq!(ran.json()["reason"], reason);
        let written = std::fs::read_to_string(&file).unwrap();
        let failed = format!("headcount_executions_failed_total{{task=\"rollup\",reason=\"{reason}\"}} 1");
        assert!(written.contains(&failed), "{written}");
    };
    let textfile = file.to_str().unwrap();
    let run = ["run", "--json", "--dsn", &dsn, "--task", "rollup", "--sql", QUICK, "--textfile", textfile];
    let mut hasty = run.to_vec();
    hasty.extend(["--deadline", "300ms"]);
    check(headcount(&hasty).ended(1), "deadline");
    let _ = silent.accept().unwrap();
    let running = spawn(&run, &[]);
    let _connecting = silent.accept().unwrap();
    running.signal(Signal::INT);
    check(finish(running).ended(130), "interrupted");
}

/// What happens in each run that reaches its target at once.
const HAPPENED: [&str; 4] = ["AdmissionEnded", "ExecutionEnded", "MonitorPolled", "VerdictReached"];

#[test]
fn a_real_run_exports_what_the_contract_promises_of_it_and_nothing_beyond() {
    let lab = Lab::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    lab.headcount(&["run", "--task", "rollup", "--sql", QUICK, "--textfile", file.to_str().unwrap()])
        .ended(0);
    let written = std::fs::read_to_string(&file).unwrap();
    let exported: BTreeSet<&str> =
        written.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let contract: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    let promised: BTreeSet<&str> = names::ALL
        .iter()
        .filter(|metric| metric.fed_by.iter().any(|event| HAPPENED.contains(event)))
        .map(|metric| metric.name)
        .collect();
    let missing: Vec<_> = promised.difference(&exported).collect();
    let beyond: Vec<_> = exported.difference(&contract).collect();
    assert!(missing.is_empty() && beyond.is_empty(), "missing {missing:?}, beyond {beyond:?}");
}

#[test]
fn what_did_not_arrive_is_said_without_a_password_and_does_not_fail_the_run() {
    let lab = Lab::start();
    let port = free_port();
    let url = format!("http://me:gh3im@127.0.0.1:{port}");
    let ran =
        lab.headcount(&["run", "--sql", QUICK, "--push", &url, "--textfile", "/nowhere/a.prom"]).ended(0);
    let warnings: Vec<&str> =
        ran.said.lines().filter(|line| line.starts_with("headcount: warning: ")).collect();
    assert_eq!(warnings.len(), 2, "{}", ran.said);
    assert!(
        warnings[0].contains(&format!("127.0.0.1:{port}")) && !ran.said.contains("gh3im"),
        "{}",
        ran.said
    );
}

#[test]
fn metrics_can_be_read_while_it_runs() {
    let lab = Lab::start();
    let mut running = lab.spawn(&["run", "--task", "rollup", "--sql", SLOW, "--listen", "0"]);
    let line = running.hear("metrics: http://");
    let address = line.trim().trim_start_matches("metrics: http://").trim_end_matches("/metrics").to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    running.hear("workers seen 4");
    let mut scrape = TcpStream::connect(address).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    scrape.read_to_string(&mut text).unwrap();
    assert!(text.contains("headcount_pool_workers{state=\"used\"} 4"), "{text}");
    assert!(text.contains("headcount_executions_total{task=\"rollup\"} 0"), "{text}");
    running.signal(Signal::INT);
    finish(running).ended(130);
}

#[test]
fn log_lines_take_the_place_of_progress() {
    let lab = Lab::start();
    let ran = lab.headcount(&["run", "--task", "rollup", "--sql", QUICK, "--log-format", "json"]).ended(0);
    let messages: Vec<String> = ran
        .said
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(messages, ["started", "enough workers", "finished on target"]);
}
