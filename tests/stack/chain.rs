//! From a run below its minimum to somebody who is woken, with real programs all the way.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use headcount::Outcome;

use super::crowd::{Crowded, STATEMENT};
use super::programs::{Place, Program, free_port, headcount, output};
use super::service::Service;
use super::webhook::{Post, Webhook};

/// A run that demands four workers, two at least: its exit code and what it told people.
async fn run(crowded: &Crowded, arguments: &[&str]) -> (Option<i32>, String) {
    let job = ["run", "--task", "rollup", "--target", "4", "--min", "2", "--attempts", "4"];
    let dsn = crowded.dsn();
    let rest = ["--dsn", &dsn, "--sql", STATEMENT, "--admission-wait", "0s"];
    headcount(&[&job[..], &rest, arguments].concat(), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_run_below_its_minimum_wakes_somebody_and_a_good_run_resolves_it() {
    let crowded = Crowded::start().await;
    let mut webhook = Webhook::start().await;
    let alertmanager = Program::alertmanager(webhook.address);
    let pushgateway = Program::pushgateway();
    let place = Place {
        pushgateway: Some(pushgateway.address),
        alertmanager: Some(alertmanager.address),
        ..Place::default()
    };
    let prometheus = Program::prometheus(&place);
    let push = pushgateway.url();

    let neighbour = crowded.neighbour().await;
    let (code, said) = run(&crowded, &["--push", &push]).await;
    assert_eq!(code, Some(3), "{said}");
    let posts = webhook.wait_for("firing", "HeadcountBelowMinimum", "rollup").await;
    let Post { path, body: page } = posts.last().unwrap();
    assert_eq!(path, "/page");
    assert_eq!(page["commonLabels"]["severity"], "page");
    let alert = &page["alerts"][0];
    assert_eq!(alert["annotations"]["runbook"], "dashboards/README.md#headcountbelowminimum");
    let description = alert["annotations"]["description"].as_str().unwrap();
    assert!(description.contains("rollup had at most 1 workers"), "{description}");

    crowded.leave(neighbour).await;
    let (code, said) = run(&crowded, &["--push", &push]).await;
    assert_eq!(code, Some(0), "{said}");
    webhook.wait_for("resolved", "HeadcountBelowMinimum", "rollup").await;
    // Of the bad run nothing is left: what counts is the latest.
    prometheus.eventually("absent(ALERTS{alertstate=\"firing\", task=\"rollup\"})").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_leaves_a_textfile_wakes_somebody_and_a_good_run_resolves_it() {
    let crowded = Crowded::with_orders(2).await;
    let mut webhook = Webhook::start().await;
    let alertmanager = Program::alertmanager(webhook.address);
    let textfiles = tempfile::tempdir().unwrap();
    let node = Program::node_exporter(textfiles.path());
    let prometheus = Program::prometheus(&Place {
        alertmanager: Some(alertmanager.address),
        node: Some(node.address),
        ..Place::default()
    });
    let textfile = textfiles.path().join("rollup.prom").display().to_string();

    let neighbour = crowded.neighbour().await;
    // Another task on that host, whose file has series of the same names.
    let other = textfiles.path().join("ship.prom");
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "1\n2\n").unwrap();
    let ship = ["update", "--task", "ship", "--table", "orders", "--key", "id", "--set", "status=shipped"];
    let (dsn, keys) = (crowded.dsn(), keys.path().to_str().unwrap());
    let rest = ["--dsn", &dsn, "--keys", keys, "--textfile", other.to_str().unwrap()];
    let (code, said) = headcount(&[&ship[..], &rest].concat(), &[]).await;
    assert_eq!(code, Some(0), "{said}");
    // Nobody takes its spans: the file is written after that is known.
    let nobody = format!("http://{}", free_port());
    let (code, said) = run(&crowded, &["--textfile", &textfile, "--otlp", &nobody]).await;
    assert_eq!(code, Some(3), "{said}");
    webhook.wait_for("firing", "HeadcountBelowMinimum", "rollup").await;
    for file in ["rollup.prom", "ship.prom"] {
        promtool_finds_no_fault(&textfiles.path().join(file));
    }
    // A run that is over has no `instance`: its counters hold the figures of that run, from which no
    // increase is taken. Whose file it is says `host`.
    let host = node.address;
    let relabelled =
        format!("headcount_last_run_success{{instance=\"\", host=\"{host}\", task=\"rollup\"}} == 0");
    prometheus.eventually(&relabelled).await;
    prometheus.eventually("task:headcount_attempts:recent{verdict=\"short\", task=\"rollup\"} == 4").await;
    prometheus.eventually("ALERTS{alertname=\"HeadcountTelemetryLost\", task=\"rollup\"}").await;
    prometheus.eventually("count({__name__=~\"headcount_.+\", instance=\"\", task=\"ship\"})").await;
    prometheus.eventually("absent({__name__=~\"headcount_.+\", instance!=\"\"})").await;
    // Else the collector has met a series twice, and has kept one.
    prometheus.eventually("node_textfile_scrape_error == 0").await;
    let lost = "count(headcount_telemetry_lost_total{exporter=\"otlp\"}) == 2";
    prometheus.eventually(lost).await;

    crowded.leave(neighbour).await;
    let (code, said) = run(&crowded, &["--textfile", &textfile]).await;
    assert_eq!(code, Some(0), "{said}");
    webhook.wait_for("resolved", "HeadcountBelowMinimum", "rollup").await;
    prometheus.eventually("absent(ALERTS{alertstate=\"firing\", task=\"rollup\"})").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_run_that_nobody_watched_is_told_of_until_one_that_was_watched_is_pushed() {
    let crowded = Crowded::start().await;
    let mut webhook = Webhook::start().await;
    let alertmanager = Program::alertmanager(webhook.address);
    let pushgateway = Program::pushgateway();
    let prometheus = Program::prometheus(&Place {
        pushgateway: Some(pushgateway.address),
        alertmanager: Some(alertmanager.address),
        ..Place::default()
    });
    let push = pushgateway.url();

    // It loses its monitor while it waits for room, and ends before that is back.
    let service = Service::start(&crowded, |exporters| exporters.push = Some(push.clone())).await;
    let neighbour = crowded.neighbour().await;
    let mut waits = service.waits();
    let job = service.job(Duration::from_mins(1));
    let blinding = async {
        waits.recv().await.unwrap();
        service.blind();
        crowded.leave(neighbour).await;
    };
    let (ended, ()) = tokio::join!(job.execute(STATEMENT, &[]), blinding);
    assert_eq!(ended.unwrap().outcome, Outcome::Unverified);
    assert_eq!(service.telemetry.finish().await, []);
    webhook.wait_for("firing", "HeadcountMonitorBlind", "rollup").await;
    let blind = "task:headcount_monitor_blind_seconds:over{task=\"rollup\"}";
    prometheus.eventually(&format!("{blind} > 0")).await;

    let (code, said) = run(&crowded, &["--push", &push]).await;
    assert_eq!(code, Some(0), "{said}");
    webhook.wait_for("resolved", "HeadcountMonitorBlind", "rollup").await;
    // What the Pushgateway keeps of the run before must not pass for a blindness of this one.
    prometheus.eventually(&format!("{blind} == 0")).await;
    prometheus.eventually("absent(ALERTS{alertstate=\"firing\", task=\"rollup\"})").await;
}

/// The format, names and help of a file that a real run has left.
fn promtool_finds_no_fault(file: &Path) {
    let text = std::fs::File::open(file).unwrap();
    let said = output(Command::new("promtool").args(["check", "metrics"]).stdin(text));
    assert_eq!(said, "", "{}", file.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_succeeds_when_nobody_takes_its_telemetry_and_says_what_was_lost() {
    let crowded = Crowded::start().await;
    let nobody = free_port();
    let folder = tempfile::tempdir().unwrap();
    let textfile = folder.path().join("rollup.prom").display().to_string();
    let push = format!("http://{nobody}");
    let (code, said) = run(&crowded, &["--push", &push, "--otlp", &push, "--textfile", &textfile]).await;
    assert_eq!(code, Some(0), "{said}");
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("warning: ")).collect();
    assert_eq!(warnings.len(), 2, "{said}");

    // What is written last knows of it, and is what HeadcountTelemetryLost rests on.
    let text = std::fs::read_to_string(&textfile).unwrap();
    let lost = |exporter: &str| {
        let series = format!("headcount_telemetry_lost_total{{task=\"rollup\",exporter=\"{exporter}\"}} ");
        let line = text
            .lines()
            .find(|line| line.starts_with(&series))
            .unwrap_or_else(|| panic!("{exporter}\n{text}"));
        line[series.len()..].parse::<f64>().unwrap()
    };
    assert!(lost("otlp") >= 1.0 && lost("push") >= 1.0, "{text}");
}
