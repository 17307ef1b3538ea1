//! Rows per second of a chunked update on a durable server, against what people use today.
//!
//! All on one connection unless said otherwise, in transactions of 100, each on a fresh table; the
//! rounds of all ways take turns, and medians are compared. Installs its peers: `benches/update/install.sh`.
//!
//! `cargo bench --bench update`; `HEADCOUNT_BENCH=quick` makes a short run of it.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::print_stdout,
    reason = "a benchmark prints its table"
)]

#[path = "../guard/table.rs"]
mod table;

mod delay;
mod ways;

use std::time::Duration;

use table::{Table, median, ratio};
use testkit::server::PrivateServer;
use ways::Way;

const CHUNK: u32 = 100;

fn main() {
    let installed = std::process::Command::new("benches/update/install.sh").status().unwrap();
    assert!(installed.success(), "the peers are installed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(std::env::var("HEADCOUNT_BENCH").is_ok_and(|value| value == "quick")));
}

async fn measure(quick: bool) {
    let (keys, rounds) = if quick { (10_000, 1) } else { (100_000, 5) };
    let server =
        PrivateServer::builder().durable(true).setting("shared_buffers", "512MB").start().await.unwrap();
    let mut times: Vec<(Way, Vec<Duration>)> = Way::ALL.map(|way| (way, Vec::new())).into();
    for _ in 0..rounds {
        for (way, times) in &mut times {
            // A transaction per row waits for the disk with each: a part of the rows tells as much.
            let part = if *way == Way::RowByRow { 20 } else { 1 };
            times.push(way.time(&server, keys / part).await * part);
        }
    }
    let mut table = Table::new("chunked update, rows a second");
    let ours = times.iter().find(|(way, _)| *way == Way::Headcount).map(|(_, times)| median(times)).unwrap();
    for (way, times) in &times {
        let time = median(times);
        table.row(
            way.name(),
            format!("{:.0}", f64::from(keys) / time.as_secs_f64()),
            way.figure(),
            format!("ours is {:.2} x; median of {rounds}: {time:.2?}", ratio(time, ours)),
        );
    }
    table.print();
    far_away(&server, keys / 10).await;
    server.stop().await.unwrap();
}

/// With 10 ms of delay between us and the server.
async fn far_away(server: &PrivateServer, keys: u32) {
    let mut table = Table::new("the same with 10 ms of added network delay");
    let far = delay::proxy(server.port(), Duration::from_millis(5)).await;
    for way in [Way::Headcount, Way::Connections(4), Way::RowByRow] {
        // One transaction per row takes four round trips of 10 ms.
        let keys = if way == Way::RowByRow { keys / 100 } else { keys };
        let time = way.time_through(server, far, keys).await;
        table.row(
            way.name(),
            format!("{:.0}", f64::from(keys) / time.as_secs_f64()),
            "",
            format!("{keys} rows"),
        );
    }
    table.print();
}
