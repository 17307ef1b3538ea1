//! Somebody else's query that holds workers for as long as a test wants.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Bench, eventually};

/// A leader with exactly `n` workers, all asleep: it costs the pool, and no processor time.
#[derive(Debug)]
pub(crate) struct Hog {
    admin: Client,
    pid: i32,
}

impl Hog {
    /// Returns when `pg_stat_activity` shows exactly `workers` of them. The slot of a worker that has ended is free a
    /// moment after `pg_stat_activity` has forgotten it, so whoever did not get all of them starts again.
    pub(super) async fn start(bench: &Bench, workers: u32, ceiling: &str) -> Self {
        let mut hog = Self { admin: bench.client().await, pid: 0 };
        eventually("the hog has its workers", async || {
            hog.pid = hog.holds(bench.client().await, workers, ceiling).await;
            hog.comes_to(workers).await || {
                hog.admin.query_one("SELECT pg_terminate_backend($1)", &[&hog.pid]).await.unwrap();
                false
            }
        })
        .await;
        hog
    }

    /// A session that asks for workers, by its process id.
    async fn holds(&self, client: Client, workers: u32, ceiling: &str) -> i32 {
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let script = format!(
            "SET max_parallel_workers = {ceiling}; SET max_parallel_workers_per_gather = {workers}; SELECT count(*) FROM sleepers WHERE nap(id, 3600000)"
        );
        tokio::spawn(async move { client.batch_execute(&script).await });
        pid
    }

    /// Whether it has exactly so many within a few seconds.
    async fn comes_to(&self, workers: u32) -> bool {
        let counting = async { while self.workers().await != i64::from(workers) {} };
        tokio::time::timeout(Duration::from_secs(3), counting).await.is_ok()
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
