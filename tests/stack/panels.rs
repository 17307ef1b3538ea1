//! A service that is scraped, an update that is scraped, a run that is pushed: no panel stays empty.

use std::time::Duration;

use headcount::server::Endpoint;
use headcount::{ChunkSize, Headcount, Keys, Outcome};
use serde_json::Value;

use super::crowd::{Crowded, SCRIPT, STATEMENT};
use super::dashboards::{Expression, expressions};
use super::line::{CommitFault, Proxy};
use super::programs::{Place, Program, free_port, headcount};
use super::service::Service;
use super::webhook::Webhook;

/// Whose panels are looked at: the service's, the update's, and the pushed run's.
const TASKS: [&str; 3] = ["rollup", "ship", "report"];

/// A run during which the monitor is lost, until that is seen, and back, until that is.
async fn run_blind(service: &Service, crowded: &Crowded, prometheus: &Program) {
    let neighbour = crowded.neighbour().await;
    let mut waits = service.waits();
    let job = service.job(Duration::from_mins(1));
    let cutting = async {
        waits.recv().await.unwrap();
        service.blind();
        prometheus.eventually("task:headcount_monitor_blind_seconds:open > 0").await;
        service.line.refuse(false);
        prometheus.eventually("task:headcount_monitor_blind_seconds:recent > 0").await;
        crowded.leave(neighbour).await;
    };
    let (run, ()) = tokio::join!(job.execute(STATEMENT, &[]), cutting);
    run.unwrap().required().unwrap();
    prometheus.eventually("absent(task:headcount_monitor_blind_seconds:open)").await;
}

/// A run whose second launch starves, and one whose plan cannot have the target.
async fn run_short_and_lowered(service: &Service, crowded: &Crowded, prometheus: &Program) {
    let mut verdicts = service.verdicts();
    let job = service.job(Duration::from_mins(1));
    let starving = crowded.neighbour_between(async {
        verdicts.recv().await.unwrap();
    });
    let (run, neighbour) = tokio::join!(job.execute_script(SCRIPT), starving);
    let run = run.unwrap();
    assert_eq!((run.outcome, run.short_launches, run.unjudged_statements), (Outcome::FinishedShort, 1, 1));
    crowded.leave(neighbour).await;
    prometheus.eventually("task:headcount_last_run_finished_short:latest{task=\"rollup\"} == 1").await;
    let run = job.target(6).execute(STATEMENT, &[]).await.unwrap();
    assert_eq!((run.outcome, run.lowered_to), (Outcome::Lowered, Some(4)));
    prometheus.eventually("task:headcount_lowered_runs:consecutive{task=\"rollup\"} == 1").await;
    prometheus.eventually("task:headcount_last_run_lowered:latest{task=\"rollup\"} == 1").await;
}

/// Updates a hundred rows over a line on which the answer to a COMMIT is lost.
async fn ship(service: &Service, crowded: &Crowded, status: &str) {
    let line = Proxy::start(crowded.server.port()).await;
    line.break_next_commit(CommitFault::AnswerLost);
    let dsn = crowded.dsn_by(&line);
    let observers = service.telemetry.observers();
    let endpoint = Endpoint::from_dsn(&dsn).unwrap();
    let updater = Headcount::builder(endpoint).without_default_observers().observers(observers).build();
    let update = updater.update("orders").task("ship").key(["id"]).set("status", status);
    let report = update.chunk(ChunkSize::Keys(10)).run(Keys::rows(1..=100)).await.unwrap();
    assert_eq!((report.updated, report.reconnects, report.in_doubt.committed), (100, 1, 1));
}

/// Whether any value of any series of a range is above zero.
fn is_above_zero(series: &[Value]) -> bool {
    let values = series.iter().flat_map(|one| one["values"].as_array().into_iter().flatten());
    values.filter_map(|pair| pair[1].as_str()?.parse::<f64>().ok()).any(|value| value > 0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scraped_process_wakes_somebody_and_fills_every_panel() {
    let crowded = Crowded::with_orders(100).await;
    let mut webhook = Webhook::start().await;
    let alertmanager = Program::alertmanager(webhook.address);
    let pushgateway = Program::pushgateway();
    let listen = free_port();
    let service = Service::start(&crowded, |exporters| exporters.listen = Some(listen)).await;
    let prometheus = Program::prometheus(&Place {
        pushgateway: Some(pushgateway.address),
        alertmanager: Some(alertmanager.address),
        headcount: vec![listen],
        ..Place::default()
    });

    // Over before a scrape has seen the task at all.
    ship(&service, &crowded, "shipped").await;
    let in_doubt = "task:headcount_in_doubt_commits:recent{task=\"ship\", resolution=\"committed\"}";
    prometheus.eventually(&format!("{in_doubt} == 1")).await;

    let first = service.job(Duration::ZERO).execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(first.outcome, Outcome::OnTarget);
    prometheus.eventually("task:headcount_last_run_success:latest{task=\"rollup\"} == 1").await;
    let neighbour = crowded.neighbour().await;
    let short = service.job(Duration::ZERO).execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(short.outcome, Outcome::BelowMinimum);
    webhook.wait_for("firing", "HeadcountBelowMinimum", "rollup").await;
    // A run that nobody scraped: its only attempt is rejected, and its spans are lost.
    let nobody = format!("http://{}", free_port());
    let (dsn, push) = (crowded.dsn(), pushgateway.url());
    let report = ["run", "--task", "report", "--dsn", &dsn, "--sql", STATEMENT, "--admission-wait", "0s"];
    let once = ["--attempts", "1", "--push", &push, "--otlp", &nobody];
    let (code, said) = headcount(&[&report[..], &once].concat(), &[]).await;
    assert_eq!(code, Some(3), "{said}");
    prometheus.eventually("task:headcount_last_run_success:latest{task=\"report\"} == 0").await;
    crowded.leave(neighbour).await;
    let reserved = service.job(Duration::ZERO).reserve().execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(reserved.outcome, Outcome::OnTarget);
    ship(&service, &crowded, "billed").await;
    prometheus.eventually(&format!("{in_doubt} == 2")).await;
    run_blind(&service, &crowded, &prometheus).await;
    // There is room, and it looks; and holds it.
    let good = service.job(Duration::from_mins(1)).gather().execute(STATEMENT, &[]).await.unwrap();
    assert_eq!(good.outcome, Outcome::OnTarget);
    webhook.wait_for("resolved", "HeadcountBelowMinimum", "rollup").await;
    run_short_and_lowered(&service, &crowded, &prometheus).await;
    webhook.wait_for("firing", "HeadcountFinishedShort", "rollup").await;

    prometheus.eventually("headcount_executions_total{task=\"rollup\"} == 7").await;
    // Of each expression, for which tasks it had something to show at some moment.
    let mut empty = Vec::new();
    for (at, Expression { place, .. }) in expressions("").into_iter().enumerate() {
        let mut shown = false;
        for task in TASKS {
            // Without what only fills an empty panel.
            let promql = expressions(task).swap_remove(at).promql.replace(" or vector(0)", "");
            let series = prometheus.query_over_time(&promql).await;
            let series = series.unwrap_or_else(|said| panic!("{place}: {said}"));
            shown |= is_above_zero(&series);
        }
        if !shown {
            empty.push(place);
        }
    }
    assert!(empty.is_empty(), "nothing to show: {empty:#?}");
    assert!(service.telemetry.finish().await.is_empty());
}
