//! `make picture`: dashboards/below-minimum.png, what somebody sees who was woken.
//!
//! The chain as in the other tests, photographed: two runs below their minimum between good ones, pushed
//! to a real Pushgateway, on Prometheus' own page in a headless Chromium.

use std::process::Command;

use super::crowd::{Crowded, STATEMENT};
use super::file;
use super::programs::{Place, Program, headcount, output};

/// A run, and the time of ten scrapes in which it is the latest.
async fn run(crowded: &Crowded, push: &str, prometheus: &Program, code: i32, workers: u32) {
    let dsn = crowded.dsn();
    let job = ["run", "--task", "sales-report", "--dsn", &dsn, "--sql", STATEMENT, "--target", "4"];
    let rest = ["--min", "3", "--attempts", "3", "--admission-wait", "0s", "--push", push];
    let (ended, said) = headcount(&[&job[..], &rest].concat(), &[]).await;
    assert_eq!(ended, Some(code), "{said}");
    let achieved = format!("task:headcount_last_run_achieved_workers:latest == {workers}");
    prometheus.eventually(&format!("count_over_time(({achieved})[11s:1s]) >= 10")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes the README's picture; `make picture`"]
async fn below_the_minimum_is_photographed() {
    let crowded = Crowded::start().await;
    let pushgateway = Program::pushgateway();
    let prometheus =
        Program::prometheus(&Place { pushgateway: Some(pushgateway.address), ..Place::default() });
    let push = pushgateway.url();
    run(&crowded, &push, &prometheus, 0, 4).await;
    for _ in 0..2 {
        let neighbour = crowded.neighbour().await;
        run(&crowded, &push, &prometheus, 3, 1).await;
        crowded.leave(neighbour).await;
        run(&crowded, &push, &prometheus, 0, 4).await;
    }

    let shown = "{__name__=~\"task:headcount_last_run_(achieved|target|min)_workers:latest\"}";
    let page = format!(
        "{}/classic/graph?g0.expr={}&g0.tab=0&g0.range_input=1m&g0.step_input=1",
        prometheus.url(),
        super::programs::encoded(shown)
    );
    let picture = format!("--screenshot={}", file("dashboards/below-minimum.png").display());
    // Without its sandbox, which root cannot have; the page is our own.
    let flags =
        ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,850"];
    let time = "--virtual-time-budget=20000";
    output(Command::new("chromium").args(flags).args([time, &picture, &page]));
}
