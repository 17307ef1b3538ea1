//! Rows per second of a chunked update, one connection, 100 keys a chunk, on a durable private server;
//! beside it a transaction per row, and one giant UPDATE. Run with `--release`.

use std::time::{Duration, Instant};

use headcount::pg::connect::Endpoint;
use headcount::pg::embedded::PrivateServer;
use headcount::{Keys, Updater};
use tokio_postgres::{Client, NoTls};

const ROWS: u32 = 100_000;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "it is what this program is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = PrivateServer::builder().durable(true).setting("max_wal_size", "4GB").start().await?;
    let (client, connection) = tokio_postgres::connect(&server.dsn(), NoTls).await?;
    tokio::spawn(connection);
    let updater = Updater::without_default_observers(Endpoint::from_dsn(&server.dsn())?, Vec::new());
    let update =
        updater.update("orders").key(["id"]).set("status", "P").expect("status", "O").version("version");
    for round in 1..=3 {
        fill(&client).await?;
        let began = Instant::now();
        client
            .batch_execute("UPDATE orders SET status = 'P', version = version + 1 WHERE status = 'O'")
            .await?;
        let giant = began.elapsed();

        fill(&client).await?;
        let report = update.run(Keys::rows(1..=ROWS)).await?;
        assert_eq!(report.updated, u64::from(ROWS));
        let chunked = report.took;

        fill(&client).await?;
        let singles = 2_000;
        let began = Instant::now();
        per_row(&client, singles).await?;
        let single = began.elapsed() * (ROWS / singles);
        let rate = |took: Duration| f64::from(ROWS) / took.as_secs_f64();
        println!(
            "round {round}: chunked {:.0} rows/s; a transaction per row {:.0} ({:.1} x); one UPDATE {:.0} ({:.2} x)",
            rate(chunked),
            rate(single),
            rate(chunked) / rate(single),
            rate(giant),
            rate(chunked) / rate(giant),
        );
    }
    server.stop().await?;
    Ok(())
}

async fn fill(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "DROP TABLE IF EXISTS orders;
         CREATE TABLE orders (id bigint PRIMARY KEY, status char(1) NOT NULL, version int NOT NULL, note text);
         INSERT INTO orders SELECT g, 'O', 0, repeat('x', 80) FROM generate_series(1, {ROWS}) g"
    );
    client.batch_execute(&sql).await?;
    client.batch_execute("VACUUM ANALYZE orders").await?;
    client.batch_execute("CHECKPOINT").await
}

/// As the batch that Headcount replaces does it, but with statements prepared.
async fn per_row(client: &Client, rows: u32) -> Result<(), tokio_postgres::Error> {
    let read = client.prepare("SELECT status, version FROM orders WHERE id = $1 FOR UPDATE").await?;
    let write = client.prepare("UPDATE orders SET status = 'P', version = version + 1 WHERE id = $1").await?;
    for id in 1..=i64::from(rows) {
        client.batch_execute("BEGIN").await?;
        client.query_one(&read, &[&id]).await?;
        client.execute(&write, &[&id]).await?;
        client.batch_execute("COMMIT").await?;
    }
    Ok(())
}
