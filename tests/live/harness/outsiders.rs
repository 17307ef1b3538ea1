//! Others who are never done, and ask nobody.

use tokio::task::JoinSet;

use super::{Bench, client, eventually};

/// Sessions that take four workers again and again, each time for some tens of milliseconds, and ask nobody.
pub(crate) struct Outsiders(#[expect(dead_code, reason = "they end with it")] JoinSet<()>);

impl Outsiders {
    pub(crate) async fn start(bench: &Bench, role: &str, count: usize) -> Self {
        let mut sessions = JoinSet::new();
        for _ in 0..count {
            let client = client(&bench.dsn_of(role, bench.server().port())).await;
            client.batch_execute("SET max_parallel_workers_per_gather = 4").await.unwrap();
            sessions.spawn(async move {
                // It is stopped with its session.
                while client.batch_execute("SELECT count(*) FROM sleepers WHERE nap(id, 2)").await.is_ok() {}
            });
        }
        Self(sessions)
    }

    /// They took all that their ceiling allows, at some moment.
    pub(crate) async fn hold(&self, bench: &Bench, workers: u32) {
        let used = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
        eventually("the outsiders hold the pool", async || bench.number(used).await >= i64::from(workers))
            .await;
    }
}
