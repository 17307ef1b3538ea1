//! The command's start-up, memory and size.
//!
//! `cargo bench --bench command`

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::print_stdout,
    reason = "a benchmark prints its table"
)]

#[path = "../guard/table.rs"]
mod table;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use table::{Table, median, percentile};
use testkit::server::PrivateServer;

const COMMAND: &str = env!("CARGO_BIN_EXE_headcount");

fn main() {
    let mut table = Table::new("command");
    start_up(&mut table);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(PrivateServer::builder().start()).unwrap();
    memory(&mut table, &server.dsn());
    runtime.block_on(server.stop()).unwrap();
    let size = std::fs::metadata(COMMAND).unwrap().len();
    table.row(
        "size",
        format!("{:.1} MB", size as f64 / 1e6),
        "<= 15 MB",
        COMMAND.rsplit('/').next().unwrap().to_owned(),
    );
    table.print();
}

/// From the start of the process to its first connect.
fn start_up(table: &mut Table) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!("postgres://nobody@{}/none?sslmode=disable", listener.local_addr().unwrap());
    let mut times = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        let mut command = Command::new(COMMAND)
            .args(["run", "--quiet", "--dsn", &dsn, "--sql", "SELECT 1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (socket, _) = listener.accept().unwrap();
        times.push(began.elapsed());
        drop(socket);
        command.kill().unwrap();
        command.wait().unwrap();
    }
    let (p50, p95) = (median(&times), percentile(&times, 95));
    table.row(
        "start-up to the first connect",
        format!("{p50:.1?}"),
        "<= 10 ms",
        format!("p95 {p95:.1?}, {} starts", times.len()),
    );
}

/// The most resident memory of a guarded query, with its metrics served and its rows thrown away.
fn memory(table: &mut Table, dsn: &str) {
    let sql = "SELECT n, repeat('x', 100) FROM generate_series(1, 1000000) AS n";
    let mut command = Command::new(COMMAND)
        .args(["run", "--quiet", "--target", "1", "--min", "0", "--plan-shortfall", "ignore"])
        .args(["--listen", "127.0.0.1:0", "--dsn", dsn, "--sql", sql])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", command.id());
    let mut peak_kib = 0;
    while command.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib =
            line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(1));
    }
    table.row(
        "memory (VmHWM)",
        format!("{:.1} MiB", peak_kib as f64 / 1024.0),
        "<= 25 MiB",
        "a million rows streamed and counted".to_owned(),
    );
}
