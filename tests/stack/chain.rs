//! From a run below its minimum to somebody who is woken, with real programs all the way.

use std::net::SocketAddr;
use std::time::Duration;

use headcount::pg::connect::Endpoint;
use headcount::telemetry::exporters::{Options, Telemetry};
use headcount::{Headcount, Job, Outcome, Settings};

use super::crowd::{Crowded, STATEMENT};
use super::dashboards::{Expression, expressions};
use super::programs::{Place, Program, free_port, headcount};
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
        headcount: None,
    };
    let prometheus = Program::prometheus(place);
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

/// A service that embeds the library and is scraped.
struct Service {
    telemetry: Telemetry,
    headcount: Headcount,
}

impl Service {
    async fn start(crowded: &Crowded, listen: SocketAddr) -> Self {
        let mut options = Options::new("rollup");
        options.listen = Some(listen);
        let telemetry = Telemetry::start(options, |_| None).await.unwrap();
        let endpoint = Endpoint::from_dsn(&crowded.dsn()).unwrap();
        let builder = Headcount::builder(endpoint).without_default_observers();
        let builder = telemetry.observers().into_iter().fold(builder, headcount::Builder::observer);
        Self { telemetry, headcount: builder.connect().await.unwrap() }
    }

    fn job(&self) -> Job {
        let mut settings = Settings::new("rollup");
        settings.max_attempts = 4;
        // The pool is full on purpose: do not wait for room.
        settings.admission_wait = Duration::ZERO;
        self.headcount.job(settings).target(4).minimum(2).cleanup("SELECT 1")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scraped_process_wakes_somebody_and_fills_every_panel() {
    let crowded = Crowded::start().await;
    let mut webhook = Webhook::start().await;
    let alertmanager = Program::alertmanager(webhook.address);
    let listen = free_port();
    let service = Service::start(&crowded, listen).await;
    let place =
        Place { pushgateway: None, alertmanager: Some(alertmanager.address), headcount: Some(listen) };
    let prometheus = Program::prometheus(place);

    // The zero from the start is what makes the first increase one.
    for observer in service.telemetry.observers() {
        observer.announce(&headcount::event::Scope { task: "rollup".into() });
    }
    prometheus.eventually("headcount_executions_total{task=\"rollup\"} == 0").await;

    let first = service.job().execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(first.outcome, Outcome::OnTarget);
    prometheus.eventually("task:headcount_last_run_success:latest{task=\"rollup\"} == 1").await;
    let neighbour = crowded.neighbour().await;
    let short = service.job().execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(short.outcome, Outcome::BelowMinimum);
    webhook.wait_for("firing", "HeadcountBelowMinimum", "rollup").await;
    crowded.leave(neighbour).await;
    let good = service.job().execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(good.outcome, Outcome::OnTarget);
    webhook.wait_for("resolved", "HeadcountBelowMinimum", "rollup").await;

    prometheus.eventually("headcount_executions_total{task=\"rollup\"} == 3").await;
    for Expression { place, promql, over_time } in expressions() {
        let answer = if over_time {
            prometheus.query_over_time(&promql).await
        } else {
            prometheus.query(&promql).await
        };
        let series = answer.unwrap_or_else(|said| panic!("{place}: {said}"));
        assert!(!series.is_empty(), "{place}: no series: {promql}");
    }
    assert!(service.telemetry.finish().await.is_empty());
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
        let series = format!("headcount_telemetry_lost_total{{exporter=\"{exporter}\"}} ");
        let line = text
            .lines()
            .find(|line| line.starts_with(&series))
            .unwrap_or_else(|| panic!("{exporter}\n{text}"));
        line[series.len()..].parse::<f64>().unwrap()
    };
    assert!(lost("otlp") >= 1.0 && lost("push") >= 1.0, "{text}");
}
