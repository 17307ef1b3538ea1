//! Somebody else's query that holds workers for as long as a test wants.

use tokio_postgres::Client;

use super::{Bench, eventually};

/// A leader with exactly `n` workers, all asleep: it costs the pool, and no processor time.
#[derive(Debug)]
pub(crate) struct Hog {
    admin: Client,
    pid: i32,
}

impl Hog {
    /// Returns when `pg_stat_activity` shows exactly `workers` of them.
    pub(super) async fn start(bench: &Bench, workers: u32, ceiling: &str) -> Self {
        let admin = bench.client().await;
        let client = bench.client().await;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let script = format!(
            "SET max_parallel_workers = {ceiling}; SET max_parallel_workers_per_gather = {workers}; SELECT count(*) FROM sleepers WHERE nap(id, 3600000)"
        );
        tokio::spawn(async move { client.batch_execute(&script).await });
        let hog = Self { admin, pid };
        eventually("the hog has its workers", async || hog.workers().await == i64::from(workers)).await;
        hog
    }

    /// Lets go; returns when its slots are free.
    pub(crate) async fn release(self) {
        self.admin.query_one("SELECT pg_terminate_backend($1)", &[&self.pid]).await.unwrap();
        eventually("the hog's workers are gone", async || self.workers().await == 0).await;
    }

    async fn workers(&self) -> i64 {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE leader_pid = $1 AND backend_type = 'parallel worker'";
        self.admin.query_one(count, &[&self.pid]).await.unwrap().get(0)
    }
}
