//! A guarded statement that gets its workers at once, against the same by bare tokio-postgres.
//!
//! Twice: on a session that stays open, as in a service, and on a new one each time, as in a batch process.
//! The four take turns, and change places in each round.

use std::time::{Duration, Instant};

use headcount::Headcount;
use headcount::server::Endpoint;
use tokio_postgres::Client;

use crate::server::{LONG, Server, connect};
use crate::table::{Table, median, ratio};

pub async fn measure(server: &Server, table: &mut Table, rounds: usize) {
    let endpoint = Endpoint::from_dsn(&server.private.dsn()).unwrap();
    let service = Headcount::builder(endpoint).keep_sessions(1).connect().await.unwrap();
    let kept = bare(server).await;
    let mut times: [Vec<Duration>; 4] = Default::default();
    // The first round warms the caches.
    for round in 0..=rounds {
        for turn in 0..times.len() {
            let way = (turn + round) % times.len();
            let began = Instant::now();
            match way {
                0 => guarded(&service).await,
                1 => run(&kept).await,
                2 => guarded(&server.headcount).await,
                _ => run(&bare(server).await).await,
            }
            if round > 0 {
                times[way].push(began.elapsed());
            }
        }
    }
    let [service, kept, process, new] = times;
    for (what, guarded, bare) in [
        ("guarded / bare statement, sessions that stay", service, kept),
        ("guarded / bare statement, a new session each time", process, new),
    ] {
        let mut rounds: Vec<f64> = guarded.iter().zip(&bare).map(|(a, b)| ratio(*a, *b)).collect();
        rounds.sort_by(f64::total_cmp);
        let [low, high] = [1, 3].map(|quarter| rounds[rounds.len() * quarter / 4]);
        let (guarded, bare) = (median(&guarded), median(&bare));
        let detail = format!(
            "medians of {}: {guarded:.2?} / {bare:.2?}; half of the rounds {low:.2} to {high:.2} x",
            rounds.len()
        );
        table.row(what, format!("{:.3} x", ratio(guarded, bare)), "<= 1.01 x", detail);
    }
}

async fn guarded(headcount: &Headcount) {
    let run = headcount.task("overhead").target(4).execute(LONG, &[]).await.unwrap();
    assert!(run.target_met, "{run:?}");
}

async fn bare(server: &Server) -> Client {
    let client = connect(&server.private).await;
    client.batch_execute("SET max_parallel_workers_per_gather = 4").await.unwrap();
    client
}

async fn run(client: &Client) {
    client.execute(LONG, &[]).await.unwrap();
}
