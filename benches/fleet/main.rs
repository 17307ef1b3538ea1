//! What a queue of slots saves a fleet, and what it costs a job that is alone.
//!
//! `cargo bench --bench fleet`; `HEADCOUNT_BENCH=quick` makes a short run of it. The statements sleep instead
//! of working, so that two cores are enough for six jobs of five processes.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::print_stdout,
    reason = "a benchmark prints its table"
)]

#[path = "../guard/table.rs"]
mod table;

use std::time::{Duration, Instant};

use headcount::server::Endpoint;
use headcount::{Execution, Headcount, Policy};
use table::{Table, median};
use testkit::server::PrivateServer;
use tokio_postgres::{Client, NoTls};

const SCHEMA: &str = include_str!("../../tests/fleet/schema.sql");

const JOBS: usize = 6;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let quick = std::env::var("HEADCOUNT_BENCH").is_ok_and(|value| value == "quick");
    let mut table = Table::new("fleet");
    runtime.block_on(async {
        let server = start().await;
        alone(&server, &mut table, if quick { 10 } else { 40 }).await;
        crowd(&server, &mut table, if quick { 0.025 } else { 0.125 }).await;
        server.stop().await.unwrap();
    });
    table.print();
}

async fn start() -> PrivateServer {
    let server = PrivateServer::builder()
        .setting("max_parallel_workers", "6")
        .setting("max_worker_processes", "16")
        .setting("parallel_setup_cost", "0")
        .setting("parallel_tuple_cost", "0")
        .setting("min_parallel_table_scan_size", "0")
        .start()
        .await
        .unwrap();
    connect(&server).await.batch_execute(SCHEMA).await.unwrap();
    server
}

async fn connect(server: &PrivateServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.dsn(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn headcount(server: &PrivateServer) -> Headcount {
    Headcount::builder(Endpoint::from_dsn(&server.dsn()).unwrap()).connect().await.unwrap()
}

/// From the wish for slots to having them, for a job that is alone, beside what the server's round trips cost.
async fn alone(server: &PrivateServer, table: &mut Table, rounds: usize) {
    let client = connect(server).await;
    let headcount = headcount(server).await;
    let (mut trips, mut connects, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        client.simple_query("SELECT 1").await.unwrap();
        trips.push(began.elapsed());
        let began = Instant::now();
        let another = connect(server).await;
        connects.push(began.elapsed());
        drop(another);
        let job = headcount.task("alone").target(4).reserve();
        waits.push(job.execute("SELECT count(*) FROM slow WHERE doze(0)", &[]).await.unwrap().reserved_wait);
    }
    // The first one also looks for a proxy in between.
    let (first, later) = (waits[0], median(&waits[1..]));
    let (trip, opening) = (median(&trips), median(&connects));
    table.row(
        "reserving alone, its connection included",
        format!("{later:.1?}"),
        "a few round trips",
        format!("4 statements on a new connection; opening one {opening:.1?}, round trip {trip:.1?}; the first of a process, which looks for a proxy, {first:.1?}"),
    );
}

/// Six jobs of four workers on a pool of six, all at once, under all three policies.
async fn crowd(server: &PrivateServer, table: &mut Table, doze: f64) {
    let sql = format!("SELECT count(*) FROM slow WHERE doze({doze})");
    for (name, policy, reserve, figure) in [
        ("classic", Policy::Classic, false, "-"),
        ("prompt", Policy::Prompt, false, "-"),
        ("reserve", Policy::Prompt, true, "6 of 6, 0 wasted"),
    ] {
        let began = Instant::now();
        let mut running = Vec::new();
        for n in 0..JOBS {
            // A handle each: they know nothing of each other, as separate processes do not.
            let mut job = headcount(server).await.task(&format!("job{n}")).policy(policy);
            job.settings_mut().reserve = reserve;
            let sql = sql.clone();
            running.push(tokio::spawn(async move { job.execute(&sql, &[]).await.unwrap() }));
        }
        let mut ended: Vec<Execution<u64>> = Vec::new();
        for job in running {
            ended.push(job.await.unwrap());
        }
        let took = began.elapsed();
        let on_target = ended.iter().filter(|run| run.target_met).count();
        let failed = ended.iter().filter(|run| !run.outcome.is_accepted()).count();
        let attempts: u32 = ended.iter().map(|run| run.attempt_count).sum();
        let wasted: Duration = ended.iter().map(|run| run.wasted).sum();
        let lost = attempts as usize - (ended.len() - failed);
        table.row(
            &format!("6 jobs x 4 workers, pool of 6, {name}"),
            format!("{on_target} of 6 on target, {lost} attempts wasted"),
            figure,
            format!("{failed} failed, {wasted:.1?} of leader time wasted, all over after {took:.1?}"),
        );
    }
}
