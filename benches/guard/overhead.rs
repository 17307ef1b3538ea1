//! A guarded statement that gets its workers at once, against the same by bare tokio-postgres.

use std::time::Instant;

use crate::server::{LONG, Server, connect};
use crate::table::{Table, median, ratio};

pub async fn measure(server: &Server, table: &mut Table, rounds: usize) {
    let bare = connect(&server.private).await;
    bare.batch_execute("SET max_parallel_workers_per_gather = 4").await.unwrap();
    let (mut guarded, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..=rounds {
        let began = Instant::now();
        let run = server.headcount.task("overhead").target(4).execute(LONG, &[]).await.unwrap();
        assert!(run.target_met, "{run:?}");
        guarded.push(began.elapsed());
        let began = Instant::now();
        bare.execute(LONG, &[]).await.unwrap();
        alone.push(began.elapsed());
    }
    // The first round warms the caches.
    let (guarded, alone) = (median(&guarded[1..]), median(&alone[1..]));
    table.row(
        "guarded / bare statement",
        format!("{:.3} x", ratio(guarded, alone)),
        "<= 1.01 x",
        format!("medians of {rounds}: {guarded:.2?} / {alone:.2?}"),
    );
}
