//! From the last worker being visible to the verdict "enough".
//!
//! The last worker's `backend_start` is when its process began, which is just before it can be seen,
//! on the same clock: the delay measured is a little too long, never too short.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use headcount::event::Scope;
use headcount::server::Endpoint;
use headcount::{Event, Headcount, Observer};

use crate::server::{SHORT, Server, connect};
use crate::table::{Table, percentile};

const LOOK: &str =
    "SELECT count(*), max(backend_start) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";

#[derive(Default)]
struct Stopwatch(Mutex<Option<SystemTime>>);

impl Observer for Stopwatch {
    fn observe(&self, _scope: &Scope, event: &Event) {
        if matches!(event, Event::VerdictReached { .. }) {
            *self.0.lock().unwrap() = Some(SystemTime::now());
        }
    }
}

pub async fn measure(server: &Server, table: &mut Table, rounds: usize) {
    let stopwatch = Arc::new(Stopwatch::default());
    let endpoint = Endpoint::from_dsn(&server.private.dsn()).unwrap();
    let headcount = Headcount::builder(endpoint).observer(stopwatch.clone()).connect().await.unwrap();
    let looker = connect(&server.private).await;
    let look = looker.prepare(LOOK).await.unwrap();
    let mut delays = Vec::new();
    for _ in 0..rounds {
        let job = headcount.task("verdict").target(4);
        let run = tokio::spawn(async move { job.execute(SHORT, &[]).await });
        let visible: Option<SystemTime> = loop {
            let row = looker.query_one(&look, &[]).await.unwrap();
            if row.get::<_, i64>(0) >= 4 || run.is_finished() {
                break row.get(1);
            }
            tokio::task::yield_now().await;
        };
        let run = run.await.unwrap().unwrap();
        let decided = stopwatch.0.lock().unwrap().take().expect("a verdict");
        if let (true, Some(visible)) = (run.target_met, visible) {
            delays.push(decided.duration_since(visible).unwrap_or_default());
        }
    }
    let (p50, p95) = (percentile(&delays, 50), percentile(&delays, 95));
    table.row(
        "last worker started to verdict",
        format!("{p50:.1?}"),
        "p50 <= 15 ms",
        format!(
            "p95 {p95:.1?}, max {:.1?}, {} runs",
            delays.iter().max().unwrap_or(&Duration::ZERO),
            delays.len()
        ),
    );
}
