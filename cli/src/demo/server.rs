//! The private server of the demo, and who else is on it.

use std::time::{Duration, Instant};

use crate::server::{Binaries, PrivateServer};
use headcount::server::Endpoint;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Trouble;

/// Slots of the pool. Small, as on a busy server.
pub(super) const POOL: u32 = 6;
/// Bounds each wait of the story for something that the server does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the pool.
const LOOK: Duration = Duration::from_millis(5);

/// A server, and a session that looks at it.
pub(super) struct Stage {
    server: PrivateServer,
    pub(super) endpoint: Endpoint,
    looker: Client,
}

impl Stage {
    /// Starts the server.
    pub(super) async fn start(binaries: Binaries) -> Result<Self, Trouble> {
        let server = PrivateServer::builder()
            .binaries(binaries)
            .setting("max_parallel_workers", POOL.to_string())
            .setting("max_worker_processes", "16")
            .setting("shared_buffers", "256MB")
            .setting("work_mem", "32MB")
            .setting("max_wal_size", "4GB")
            .setting("jit", "off")
            // At this scale the planner is in two minds about workers; the story is about getting them.
            .setting("parallel_setup_cost", "0")
            .setting("parallel_tuple_cost", "0")
            .start()
            .await?;
        // The demo's server, whatever libpq's variables say about others.
        let endpoint = Endpoint::resolve(Some(&server.dsn()), |_| None)?;
        let looker = endpoint.client("demo").await?;
        Ok(Self { server, endpoint, looker })
    }

    pub(super) fn port(&self) -> u16 {
        self.server.port()
    }

    /// How to connect to it.
    pub(super) fn dsn(&self) -> String {
        self.server.dsn()
    }

    pub(super) fn major(&self) -> u32 {
        self.server.major()
    }

    /// The same server by way of another port of this machine.
    pub(super) fn through(&self, port: u16) -> Result<Endpoint, Trouble> {
        let dsn = self.server.dsn().replace(&format!(":{}", self.port()), &format!(":{port}"));
        Ok(Endpoint::resolve(Some(&dsn), |_| None)?)
    }

    /// Stops the server and removes its folder.
    pub(super) async fn stop(self) -> Result<(), Trouble> {
        let Self { server, looker, .. } = self;
        drop(looker);
        Ok(server.stop().await?)
    }

    /// Parallel workers running now, of everybody.
    pub(super) async fn used(&self) -> Result<u32, Trouble> {
        const USED: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
        let count: i64 = self.looker.query_one(USED, &[]).await?.get(0);
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Waits until so many slots are in use.
    pub(super) async fn wait_for_use(&self, slots: u32) -> Result<(), Trouble> {
        let began = Instant::now();
        while self.used().await? != slots {
            if began.elapsed() > PATIENCE {
                return Err(Trouble::story(format!("the pool did not come to {slots} slots in use")));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// A report of somebody else: it holds its workers for about three seconds, and is not ours to stop.
/// It mostly sleeps, as a report does that waits for a slow disk.
pub(super) struct Report(JoinHandle<Result<(), Trouble>>);

impl Report {
    /// Starts a report with so many workers.
    pub(super) fn start(server: &Endpoint, name: &'static str, workers: u32) -> Self {
        let server = server.clone();
        Self(tokio::spawn(async move {
            let client = server.client(name).await?;
            // About 300 orders a worker, ten milliseconds each.
            let customers = 30 * workers;
            let report = format!(
                "SET max_parallel_workers_per_gather = {workers}; SET parallel_leader_participation = off;
                 SET min_parallel_table_scan_size = 0;
                 SELECT sum(o_totalprice) FROM orders WHERE o_custkey <= {customers} AND pg_sleep(0.01) IS NOT NULL"
            );
            Ok(client.batch_execute(&report).await?)
        }))
    }

    /// Waits for its end.
    pub(super) async fn end(self) -> Result<(), Trouble> {
        self.0.await.map_err(|error| Trouble::story(error.to_string()))?
    }
}
