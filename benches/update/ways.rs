//! The ways to set the status of many rows, and how long each takes.

use std::process::Command;
use std::time::{Duration, Instant};

use headcount::server::Endpoint;
use headcount::{ChunkSize, Headcount, Keys};
use testkit::server::PrivateServer;
use tokio_postgres::{Client, NoTls};

use crate::CHUNK;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Headcount,
    Auto,
    Connections(u32),
    RowByRow,
    Psycopg,
    Jdbc,
    OneKeyed,
    OneStatement,
}

impl Way {
    pub const ALL: [Self; 8] = [
        Self::Headcount,
        Self::Auto,
        Self::Connections(4),
        Self::RowByRow,
        Self::Psycopg,
        Self::Jdbc,
        Self::OneKeyed,
        Self::OneStatement,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Headcount => "headcount, chunk 100",
            Self::Auto => "headcount, chunk auto",
            Self::Connections(_) => "headcount, 4 connections",
            Self::RowByRow => "transaction per row (tokio-postgres)",
            Self::Psycopg => "psycopg 3, pipelined executemany of 100",
            Self::Jdbc => "pgjdbc batches of 100 behind HikariCP, warmed up",
            Self::OneKeyed => "one giant UPDATE, given the keys",
            Self::OneStatement => "one giant UPDATE of all rows, without keys",
        }
    }

    pub const fn figure(self) -> &'static str {
        match self {
            Self::Headcount => "",
            Self::Auto | Self::Connections(_) => "no figure",
            Self::RowByRow => ">= 15 x",
            Self::Psycopg => ">= 2.5 x",
            Self::Jdbc => ">= 1.3 x",
            Self::OneKeyed | Self::OneStatement => ">= 0.8 x",
        }
    }

    /// On a fresh table of so many rows.
    pub async fn time(self, server: &PrivateServer, keys: u32) -> Duration {
        self.time_through(server, server.port(), keys).await
    }

    /// The same, reached by another port.
    pub async fn time_through(self, server: &PrivateServer, port: u16, keys: u32) -> Duration {
        prepare(server, keys).await;
        let dsn = server.dsn().replace(&format!(":{}", server.port()), &format!(":{port}"));
        let took = match self {
            Self::Headcount => headcount(&dsn, keys, ChunkSize::Keys(CHUNK), 1).await,
            Self::Auto => headcount(&dsn, keys, ChunkSize::Auto, 1).await,
            Self::Connections(n) => headcount(&dsn, keys, ChunkSize::Keys(CHUNK), n).await,
            Self::RowByRow => row_by_row(&dsn, keys).await,
            Self::OneKeyed => one_keyed(&dsn, keys).await,
            Self::OneStatement => one_statement(&dsn).await,
            Self::Psycopg => peer(
                Command::new("python3")
                    .env("PYTHONPATH", "target/peers/psycopg")
                    .args(["benches/update/peer.py", &dsn])
                    .args([keys.to_string(), CHUNK.to_string()]),
            ),
            Self::Jdbc => {
                let url = format!("jdbc:postgresql://127.0.0.1:{port}/postgres?user=postgres");
                let jars = ["postgresql", "HikariCP", "slf4j-api", "slf4j-nop"]
                    .map(|jar| format!("/usr/share/java/{jar}.jar"))
                    .join(":");
                peer(
                    Command::new("java")
                        .args(["-cp", &jars, "benches/update/Peer.java", &url])
                        .args([keys.to_string(), CHUNK.to_string()]),
                )
            }
        };
        check(server, keys).await;
        took
    }
}

async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn prepare(server: &PrivateServer, keys: u32) {
    let client = connect(&server.dsn()).await;
    for table in ["orders", "warm"] {
        let sql = format!(
            "DROP TABLE IF EXISTS {table};
             CREATE TABLE {table} (id bigint PRIMARY KEY, status text NOT NULL, customer bigint, amount numeric, placed timestamptz);
             INSERT INTO {table} SELECT n, 'new', n % 1000, n * 0.01, now() FROM generate_series(1, {keys}) AS n;"
        );
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute(&format!("VACUUM ANALYZE {table}")).await.unwrap();
    }
    client.batch_execute("CHECKPOINT").await.unwrap();
}

/// Every way must have done the work.
async fn check(server: &PrivateServer, keys: u32) {
    let client = connect(&server.dsn()).await;
    let done = client.query_one("SELECT count(*) FROM orders WHERE status = 'submitted'", &[]).await.unwrap();
    assert_eq!(done.get::<_, i64>(0), i64::from(keys));
}

async fn headcount(dsn: &str, keys: u32, chunk: ChunkSize, connections: u32) -> Duration {
    let updater = Headcount::builder(Endpoint::from_dsn(dsn).unwrap()).build();
    let update = updater.update("orders").key(["id"]).set("status", "submitted").expect("status", "new");
    let began = Instant::now();
    let report = update
        .chunk(chunk)
        .connections(connections)
        .run(Keys::rows((1..=keys).map(|key| key.to_string())))
        .await;
    let took = began.elapsed();
    let report = report.unwrap();
    assert!(report.is_complete() && report.updated == u64::from(keys), "{report:?}");
    took
}

async fn row_by_row(dsn: &str, keys: u32) -> Duration {
    let mut client = connect(dsn).await;
    let lock = client.prepare("SELECT status FROM orders WHERE id = $1 FOR UPDATE").await.unwrap();
    let update = client.prepare("UPDATE orders SET status = 'submitted' WHERE id = $1").await.unwrap();
    let began = Instant::now();
    for key in 1..=i64::from(keys) {
        let transaction = client.transaction().await.unwrap();
        let row = transaction.query_one(&lock, &[&key]).await.unwrap();
        if row.get::<_, &str>(0) == "new" {
            transaction.execute(&update, &[&key]).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }
    began.elapsed()
}

async fn one_keyed(dsn: &str, keys: u32) -> Duration {
    let client = connect(dsn).await;
    let keys: Vec<String> = (1..=keys).map(|key| key.to_string()).collect();
    let update = "UPDATE orders SET status = 'submitted' FROM unnest($1::text[]) AS key \
                  WHERE id = key::bigint AND status = 'new'";
    let began = Instant::now();
    client.execute(update, &[&keys]).await.unwrap();
    began.elapsed()
}

async fn one_statement(dsn: &str) -> Duration {
    let client = connect(dsn).await;
    let began = Instant::now();
    client.execute("UPDATE orders SET status = 'submitted' WHERE status = 'new'", &[]).await.unwrap();
    began.elapsed()
}

/// Runs a peer, which prints its seconds.
fn peer(command: &mut Command) -> Duration {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let seconds = said.trim().lines().last().and_then(|line| line.parse().ok());
    Duration::from_secs_f64(
        seconds.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr))),
    )
}
