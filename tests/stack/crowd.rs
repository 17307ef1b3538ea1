//! A server whose pool of parallel workers can be filled and emptied.

use testkit::server::PrivateServer;
use tokio_postgres::{Client, NoTls};

use super::line::Proxy;

/// Slots of the pool: what one job demands.
const POOL: u32 = 4;

/// Long enough for a verdict, with four workers and with none; each row takes 2 ms.
pub(crate) const STATEMENT: &str = "SELECT count(*) FROM pages WHERE pg_sleep(0.002) IS NOT NULL";

/// One that is not judged; one with a launch of four, a wait for a lock, and another launch of four.
pub(crate) const SCRIPT: &str = "SELECT 1;
    WITH first AS MATERIALIZED (SELECT count(*) AS n FROM pages WHERE pg_sleep(0.002) IS NOT NULL),
    pause AS MATERIALIZED (SELECT n, pg_advisory_xact_lock(42) FROM first)
    SELECT count(*) FROM pages WHERE pg_sleep(0.002) IS NOT NULL AND length(filler) > (SELECT n FROM pause) - 100000";

/// A server with a pool of four, and a table that is planned with four workers.
pub(crate) struct Crowded {
    pub(crate) server: PrivateServer,
    client: Client,
}

/// A statement that holds three of the four slots until it is dropped.
pub(crate) struct Neighbour(tokio_postgres::CancelToken, tokio::task::JoinHandle<()>);

impl Crowded {
    pub(crate) async fn start() -> Self {
        let server = PrivateServer::builder()
            .setting("max_worker_processes", "16")
            .setting("max_parallel_workers", POOL.to_string())
            // A thousand rows would not be worth a worker.
            .setting("parallel_setup_cost", "0")
            .setting("parallel_tuple_cost", "0")
            .start()
            .await
            .unwrap();
        let client = connect(&server).await;
        // A page for each row, so that the scan is shared evenly.
        client
            .batch_execute(
                "CREATE TABLE pages (filler char(5000) NOT NULL) WITH (parallel_workers = 4);
                 ALTER TABLE pages ALTER COLUMN filler SET STORAGE PLAIN;
                 INSERT INTO pages SELECT '' FROM generate_series(1, 1000);
                 ANALYZE pages",
            )
            .await
            .unwrap();
        Self { server, client }
    }

    /// The same with so many orders to update.
    pub(crate) async fn with_orders(rows: u32) -> Self {
        let crowded = Self::start().await;
        let orders = format!(
            "CREATE TABLE orders (id bigint PRIMARY KEY, status text NOT NULL);
             INSERT INTO orders SELECT g, 'paid' FROM generate_series(1, {rows}) g"
        );
        crowded.client.batch_execute(&orders).await.unwrap();
        crowded
    }

    pub(crate) fn dsn(&self) -> String {
        self.server.dsn()
    }

    /// The same server by way of a line that can be cut.
    pub(crate) fn dsn_by(&self, line: &Proxy) -> String {
        self.dsn().replace(&format!(":{}/", self.server.port()), &format!(":{}/", line.port()))
    }

    /// Takes three slots while [`SCRIPT`] waits between its launches, which `judged` tells of.
    pub(crate) async fn neighbour_between(&self, judged: impl Future<Output = ()>) -> Neighbour {
        self.client.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
        judged.await;
        self.until_workers(0).await;
        let neighbour = self.neighbour().await;
        self.client.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
        neighbour
    }

    /// Takes three slots, and returns when they are taken.
    pub(crate) async fn neighbour(&self) -> Neighbour {
        let client = connect(&self.server).await;
        client.batch_execute("SET max_parallel_workers_per_gather = 3").await.unwrap();
        let token = client.cancel_token();
        let statement = tokio::spawn(async move {
            // A minute and more: cancelled long before.
            let _ = client.simple_query("SELECT count(*) FROM pages WHERE pg_sleep(1) IS NOT NULL").await;
        });
        self.until_workers(3).await;
        Neighbour(token, statement)
    }

    async fn until_workers(&self, wanted: i64) {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
        let waiting = async {
            while self.client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::programs::PATIENCE, waiting)
            .await
            .expect("the workers of a plain statement");
    }

    /// Gives the slots back, and returns when they are free.
    pub(crate) async fn leave(&self, neighbour: Neighbour) {
        let Neighbour(token, statement) = neighbour;
        token.cancel_query(NoTls).await.unwrap();
        statement.await.unwrap();
        self.until_workers(0).await;
    }
}

async fn connect(server: &PrivateServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.dsn(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
