//! Every example runs, against a private server, and says what it promises.

#![allow(missing_docs, clippy::pedantic, reason = "tests")]

use std::process::Command;

use headcount::server::Endpoint;
use testkit::server::PrivateServer;

/// The table that the examples speak of: wide enough in time for workers to be seen.
const MEASUREMENTS: &str = "\
SET max_parallel_workers_per_gather = 0;
CREATE TABLE measurements AS
    SELECT n, 'label ' || n % 7 AS label, md5(n::text) AS noise FROM generate_series(1, 300000) AS n;
ALTER TABLE measurements SET (parallel_workers = 4);
ANALYZE measurements;
ALTER DATABASE postgres SET parallel_setup_cost = 0;
ALTER DATABASE postgres SET parallel_tuple_cost = 0;
ALTER DATABASE postgres SET min_parallel_table_scan_size = 0;";

async fn server() -> PrivateServer {
    let server = PrivateServer::builder().setting("max_parallel_workers", "8").start().await.unwrap();
    let headcount =
        headcount::Headcount::builder(Endpoint::from_dsn(&server.dsn()).unwrap()).connect().await.unwrap();
    headcount
        .task("setup")
        .target(1)
        .minimum(0)
        .execute_script(MEASUREMENTS)
        .await
        .unwrap()
        .required()
        .unwrap();
    server
}

/// The command that builds and runs an example.
fn run(example: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--all-features", "--example", example]);
    // What cargo tells a test about its package. Build scripts of dependencies that look at it would find that it has
    // changed, and all that depends on them would be built again.
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars().filter(|(name, _)| told.iter().any(|start| name.starts_with(start))) {
        cargo.env_remove(name);
    }
    cargo
}

async fn check(example: &str, expected: &[&str]) -> PrivateServer {
    let server = server().await;
    let output = run(example).env("DATABASE_URL", server.dsn()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in expected {
        assert!(said.contains(words), "{said}");
    }
    server
}

#[tokio::test]
async fn minimal_builds_its_table() {
    check("minimal", &["Some(100) rows"]).await.stop().await.unwrap();
}

#[tokio::test]
async fn own_cleanup_builds_its_index() {
    let server = check("own_cleanup", &["on_target after 1 attempts, 2 workers"]).await;
    let endpoint = Endpoint::from_dsn(&server.dsn()).unwrap();
    let client = endpoint.client("test").await.unwrap();
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'measurements_label'::regclass";
    assert!(client.query_one(valid, &[]).await.unwrap().get::<_, bool>(0));
    drop(client);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn own_observer_hears_of_the_attempt_and_reads_the_rows() {
    check("own_observer", &["labels: attempt 1", "label 6: 42857"]).await.stop().await.unwrap();
}

#[tokio::test]
async fn in_a_service_gives_up_cleanly() {
    check("in_a_service", &["Some(7) labels", "given up: true", "all is cleared away: true"])
        .await
        .stop()
        .await
        .unwrap();
}

#[test]
fn fleet_compares_the_policies_and_draws_its_plot() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.svg");
    let output = run("fleet").arg("--").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("pool of 6 | reserve | 100.0 % | 0.0 % | 0.0 % | 1.00 | 0.0 % (0 s)"), "{said}");
    let plot = std::fs::read_to_string(&file).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("classic") && plot.contains("reserve"));
}
