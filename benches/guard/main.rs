//! What guarding costs and saves, as ratios within one run, against a private server.
//!
//! `cargo bench --bench guard`; `HEADCOUNT_BENCH=quick` makes a short run of it.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::print_stdout,
    reason = "a benchmark prints its table"
)]

mod crowd;
mod event;
mod overhead;
mod server;
mod table;
mod verdict;
mod waste;

use table::Table;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let quick = std::env::var("HEADCOUNT_BENCH").is_ok_and(|value| value == "quick");
    let mut table = Table::new("guarded query");
    event::measure(&mut table);
    runtime.block_on(async {
        let server = server::start().await;
        overhead::measure(&server, &mut table, if quick { 3 } else { 24 }).await;
        verdict::measure(&server, &mut table, if quick { 10 } else { 50 }).await;
        waste::measure(&server, &mut table, if quick { 2 } else { 8 }).await;
        crowd::measure(&server, &mut table, if quick { 3 } else { 10 }).await;
        server.private.stop().await.unwrap();
    });
    table.print();
}
