//! A signal that meets a chunk at work: it is over at once, here and on the server.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::support::{Shop, connect, eventually, key_file, on_each_version};

on_each_version!(a_chunk_that_waits_for_a_row_is_rolled_back_at_once_when_a_signal_comes);

/// `headcount update` of `orders`. Who waits for the end of its grace waits for longer than a test.
fn start(shop: &Shop, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    let dsn = shop.dsn();
    command.args(["update", "--dsn", &dsn, "--table", "orders", "--key", "id", "--set", "status=paid"]);
    command.args(["--expect", "status=new", "--version-column", "version", "--json", "--quiet"]);
    command.args(["--cancel-grace", "1h"]).args(more).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn a_chunk_that_waits_for_a_row_is_rolled_back_at_once_when_a_signal_comes(major: u32) {
    let shop = Shop::of_version(major, 300).await;
    let file = key_file(300);
    let folder = tempfile::tempdir().unwrap();
    let keys = ["--keys", file.path().to_str().unwrap(), "--chunk", "100"];
    // Some of these are sent ahead, with their COMMIT behind them.
    let small = ["--keys", file.path().to_str().unwrap(), "--chunk", "10"];
    let claim = ["--claim", "--keys-query", "SELECT id FROM orders WHERE status = 'new'", "--chunk", "100"];
    for (input, ask, code, before) in [
        (&keys[..], Signal::TERM, 143, 100),
        (&keys, Signal::INT, 130, 100),
        (&small, Signal::TERM, 143, 140),
        // Who claims passes a locked row by, and waits for it in the end.
        (&claim, Signal::TERM, 143, 299),
    ] {
        let case = format!("{input:?} {ask:?}");
        shop.run("UPDATE orders SET status = 'new', version = 0").await;
        let holder = connect(&shop.dsn()).await;
        holder.batch_execute("BEGIN; SELECT FROM orders WHERE id = 150 FOR UPDATE").await.unwrap();
        let metrics = folder.path().join(format!("{code}-{before}.prom"));
        let child = start(&shop, &[input, &["--textfile", metrics.to_str().unwrap()]].concat());
        let waits = "SELECT count(*) = 1 FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(&shop.client, waits).await;
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, ask).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{case}: it still waits")).unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{case}: {report}");
        let written = std::fs::read_to_string(&metrics).unwrap();
        let counts = written.contains("headcount_chunk_rows_total{task=\"update\",class=\"updated\"} ");
        assert!(
            counts && written.contains("headcount_last_run_success{task=\"update\"} 0"),
            "{case}: {written}"
        );
        // The row is locked to this moment, and nobody waits for it any more.
        let sessions = "SELECT count(*) = 0 FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'headcount:update'";
        eventually(&shop.client, sessions).await;
        holder.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!((&report["updated"], &report["failed"]), (&before.into(), &0.into()), "{case}: {report}");
        assert_eq!(shop.count("status = 'paid' AND version = 1 AND id <> 150").await, before, "{case}");
        assert_eq!(shop.count("status = 'new' AND version = 0").await, 300 - before, "{case}");
    }
}
