//! Several processes claim from one query; stopped and killed runs are finished by the next.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Shop, connect, eventually, key_file, on_oldest_and_latest};

on_oldest_and_latest!(
    four_processes_share_one_query_and_none_is_done_twice_or_left,
    what_a_killed_process_had_claimed_is_done_by_the_others,
);

/// `headcount update` from `new` to `paid`, with a version.
fn command(shop: &Shop, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args([
        "update",
        "--dsn",
        &shop.dsn(),
        "--table",
        "orders",
        "--key",
        "id",
        "--set",
        "status=paid",
    ]);
    command.args(["--expect", "status=new", "--version-column", "version", "--json", "--quiet"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const CLAIM: [&str; 3] = ["--claim", "--keys-query", "SELECT id FROM orders WHERE status = 'new'"];

async fn ended(child: Child) -> (Option<i32>, Value) {
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    let report = serde_json::from_slice(&stdout);
    (status.code(), report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&stderr))))
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A run that can be met in the middle: each update takes a moment.
async fn slow_down(shop: &Shop) {
    shop.run(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END';
         CREATE TRIGGER dawdle BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .await;
}

async fn four_processes_share_one_query_and_none_is_done_twice_or_left(major: u32) {
    let shop = Shop::of_version(major, 4000).await;
    slow_down(&shop).await;
    let children: Vec<Child> =
        (0..4).map(|_| command(&shop, &CLAIM).args(["--chunk", "20"]).spawn().unwrap()).collect();
    let mut updated = Vec::new();
    for child in children {
        let (code, report) = ended(child).await;
        assert_eq!((code, &report["outcome"]), (Some(0), &Value::from("complete")), "{report}");
        assert_eq!(report["keys"], report["updated"], "{report}");
        updated.push(report["updated"].as_u64().unwrap());
    }
    assert_eq!(updated.iter().sum::<u64>(), 4000, "{updated:?}");
    assert!(updated.iter().filter(|&&share| share > 0).count() > 1, "{updated:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 4000);
}

async fn what_a_killed_process_had_claimed_is_done_by_the_others(major: u32) {
    let shop = Shop::of_version(major, 2000).await;
    slow_down(&shop).await;
    let mut victim = command(&shop, &CLAIM).spawn().unwrap();
    eventually(&shop.client, "SELECT count(*) >= 200 FROM orders WHERE version = 1").await;
    signal(&victim, Signal::KILL);
    victim.wait().unwrap();
    let (code, report) = ended(command(&shop, &CLAIM).args(["--connections", "2"]).spawn().unwrap()).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 2000);
    assert!(report["updated"].as_u64().unwrap() < 2000);
}

#[tokio::test]
async fn a_key_that_cannot_be_claimed_successfully_is_left_out_and_the_rest_is_done() {
    let shop = Shop::with_orders(300).await;
    shop.run("ALTER TABLE orders ADD CHECK (id <> 77 OR status = 'new')").await;
    let (code, report) = ended(command(&shop, &CLAIM).spawn().unwrap()).await;
    assert_eq!((code, &report["updated"], &report["failed"]), (Some(5), &299.into(), &1.into()), "{report}");
    assert_eq!(report["failures"][0]["keys"][0], "77");
    assert_eq!(shop.count("version = 1").await, 299);
}

#[tokio::test]
async fn an_interrupted_run_says_what_is_left_and_the_next_finishes_it() {
    for (ask, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let shop = Shop::with_orders(2000).await;
        slow_down(&shop).await;
        let file = key_file(2000);
        let keys = ["--keys", file.path().to_str().unwrap(), "--chunk", "50"];
        let child = command(&shop, &keys).spawn().unwrap();
        eventually(&shop.client, "SELECT count(*) >= 200 FROM orders WHERE version = 1").await;
        signal(&child, ask);
        let (ended_with, first) = ended(child).await;
        assert_eq!(ended_with, Some(code), "{first}");
        let done = first["updated"].as_u64().unwrap();
        assert_eq!(done + first["left"].as_u64().unwrap(), 2000, "{first}");
        assert_eq!(shop.count("version = 1").await, done);
        let (ended_with, second) = ended(command(&shop, &keys).spawn().unwrap()).await;
        assert_eq!(ended_with, Some(0), "{second}");
        assert_eq!((&second["already"], &second["updated"]), (&done.into(), &(2000 - done).into()));
        assert_eq!(shop.count("version = 1").await, 2000);
    }
}

#[tokio::test]
async fn a_killed_run_is_finished_by_the_next() {
    let shop = Shop::with_orders(2000).await;
    slow_down(&shop).await;
    let file = key_file(2000);
    let keys = ["--keys", file.path().to_str().unwrap(), "--connections", "3"];
    let mut child = command(&shop, &keys).spawn().unwrap();
    eventually(&shop.client, "SELECT count(*) >= 300 FROM orders WHERE version = 1").await;
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    let (code, report) = ended(command(&shop, &keys).spawn().unwrap()).await;
    assert_eq!(code, Some(0), "{report}");
    assert!(report["already"].as_u64().unwrap() >= 300, "{report}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 2000);
}

#[tokio::test]
async fn exit_codes_and_one_clear_line_for_what_cannot_be() {
    let shop = Shop::with_orders(3).await;
    let check = async |args: &[&str], code: i32, words: &str| {
        let mut command = command(&shop, args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let keys = file.path().to_str().unwrap();
    std::fs::write(&file, "1\n2\nthree\n").unwrap();
    check(&["--keys", keys], 5, "").await;
    check(&["--keys", "/nonexistent"], 2, "keys: cannot read /nonexistent").await;
    check(&["--keys", keys, "--expect", "version=@seen"], 2, "line 1: the first line has no column id, seen")
        .await;
    check(&["--keys", keys, "--chunk", "many"], 2, "`many` is neither a number of keys nor `auto`").await;
    check(&["--keys", keys, "--claim"], 2, "cannot be used with").await;
    check(&["--keys", keys, "--connections", "0"], 2, "connections: 0 is not within 1 to 256").await;
    check(&["--keys-query", "SELECT nothing FROM nowhere"], 1, "relation \"nowhere\" does not exist").await;
    check(&[], 2, "--keys").await;
    assert_eq!(shop.count("version = 1").await, 2);
}

/// Interrupts a run that has not done a chunk yet; the report says that nothing was done, at once.
async fn check_interrupted(child: Child, updated: u64) {
    signal(&child, Signal::INT);
    let ended = tokio::time::timeout(Duration::from_secs(20), ended(child));
    let (code, report) = ended.await.expect("the first signal is enough");
    assert_eq!((code, &report["outcome"]), (Some(130), &Value::from("incomplete")), "{report}");
    assert_eq!((&report["keys"], &report["updated"]), (&updated.into(), &updated.into()), "{report}");
    assert_eq!((&report["left"], &report["error"]), (&Value::Null, &Value::Null), "{report}");
}

/// Sessions of runs that wait for `event`.
fn waiting(event: &str) -> String {
    format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'headcount:update'
         AND datname = current_database() AND wait_event_type || '.' || wait_event = '{event}'"
    )
}

#[tokio::test]
async fn a_query_for_keys_that_takes_long_is_broken_off_here_and_on_the_server() {
    let shop = Shop::with_orders(5).await;
    let query = ["--keys-query", "SELECT id FROM orders, pg_sleep(3600)"];
    let child = command(&shop, &query).spawn().unwrap();
    eventually(&shop.client, &waiting("Timeout.PgSleep")).await;
    check_interrupted(child, 0).await;
    eventually(&shop.client, &format!("SELECT NOT ({})", waiting("Timeout.PgSleep"))).await;
}

#[tokio::test]
async fn a_run_that_waits_for_its_first_line_or_for_the_table_stops_at_once() {
    let shop = Shop::with_orders(5).await;
    let other = connect(&shop.dsn()).await;
    for release_first in [false, true] {
        shop.run("BEGIN; LOCK TABLE orders").await;
        let mut child = command(&shop, &["--keys", "-"]);
        let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
        let silent = child.stdin.take();
        eventually(&other, &waiting("Lock.relation")).await;
        if release_first {
            shop.run("ROLLBACK").await;
            // It gives up its first session before it reads.
            eventually(&other, GONE).await;
        }
        check_interrupted(child, 0).await;
        drop(silent);
        shop.run("ROLLBACK").await;
        eventually(&other, GONE).await;
    }
}

#[tokio::test]
async fn a_claim_that_waits_for_the_table_is_broken_off_and_what_was_done_counts() {
    let shop = Shop::with_orders(5).await;
    shop.run(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
         CREATE TRIGGER gate BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION gate();
         SELECT pg_advisory_lock(1)",
    )
    .await;
    let child = command(&shop, &CLAIM).args(["--chunk", "1"]).spawn().unwrap();
    eventually(&shop.client, &waiting("Lock.advisory")).await;
    // Next in the line for the table: had as soon as the first chunk is committed.
    let outsider = connect(&shop.dsn()).await;
    let locked = tokio::spawn(async move {
        outsider.batch_execute("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE").await.unwrap();
        outsider
    });
    let queued = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND mode = 'ExclusiveLock'
                  AND relation = 'orders'::regclass";
    eventually(&shop.client, queued).await;
    shop.run("SELECT pg_advisory_unlock(1)").await;
    let outsider = locked.await.unwrap();
    eventually(&shop.client, &waiting("Lock.relation")).await;
    check_interrupted(child, 1).await;
    eventually(&shop.client, GONE).await;
    outsider.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(shop.count("version = 1").await, 1);
}

const GONE: &str = "SELECT count(*) = 0 FROM pg_stat_activity
    WHERE application_name = 'headcount:update' AND datname = current_database()";
