//! The server that is measured on: a pool of eight, and a table that four workers scan.

use headcount::Headcount;
use headcount::server::Endpoint;
use testkit::server::PrivateServer;
use tokio_postgres::{Client, NoTls};

pub struct Server {
    pub private: PrivateServer,
    pub headcount: Headcount,
}

/// About 2.5 s of four workers' work on two cores.
pub const LONG: &str = "SELECT count(*) FROM big WHERE md5(md5(md5(md5(label)))) LIKE 'f%'";
/// Some 0.3 s.
pub const SHORT: &str = "SELECT count(*) FROM small WHERE md5(md5(label)) LIKE 'f%'";

/// Minutes, without work for a core: what is short is stopped long before.
pub const SLOW: &str = "SELECT count(*) FROM slow WHERE doze(0.01)";

pub const POOL: u32 = 8;

const SCHEMA: &str = "
CREATE TABLE big AS SELECT n, md5(n::text) AS label FROM generate_series(1, 4000000) AS n;
CREATE TABLE small AS SELECT * FROM big WHERE n <= 400000;
CREATE TABLE slow AS SELECT n FROM generate_series(1, 100000) AS n;
CREATE FUNCTION doze(double precision) RETURNS boolean PARALLEL SAFE LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep($1); RETURN true; END';
ALTER TABLE big SET (parallel_workers = 4);
ALTER TABLE small SET (parallel_workers = 4);
ALTER TABLE slow SET (parallel_workers = 8);
ANALYZE;";

pub async fn start() -> Server {
    let private = PrivateServer::builder()
        .setting("max_parallel_workers", POOL.to_string())
        .setting("max_worker_processes", "24")
        .setting("max_connections", "300")
        .setting("max_parallel_workers_per_gather", "0")
        .setting("parallel_setup_cost", "0")
        .setting("parallel_tuple_cost", "0")
        .setting("min_parallel_table_scan_size", "0")
        .setting("shared_buffers", "512MB")
        .setting("jit", "off")
        .start()
        .await
        .unwrap();
    connect(&private).await.batch_execute(SCHEMA).await.unwrap();
    let headcount = Headcount::builder(Endpoint::from_dsn(&private.dsn()).unwrap()).connect().await.unwrap();
    Server { private, headcount }
}

pub async fn connect(private: &PrivateServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&private.dsn(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
