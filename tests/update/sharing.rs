//! Several processes claim from one query; stopped and killed runs are finished by the next.

use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Shop, eventually, key_file};

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
    command.args(["--expect", "status=new", "--version", "version", "--json", "--quiet"]).args(more);
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

#[tokio::test]
async fn four_processes_share_one_query_and_none_is_done_twice_or_left() {
    let shop = Shop::with_orders(4000).await;
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

#[tokio::test]
async fn what_a_killed_process_had_claimed_is_done_by_the_others() {
    let shop = Shop::with_orders(2000).await;
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
    check(&["--keys", keys, "--expect", "version=@seen"], 2, "keys: the first line has no column id, seen")
        .await;
    check(&["--keys", keys, "--chunk", "many"], 2, "`many` is neither a number of keys nor `auto`").await;
    check(&["--keys", keys, "--claim"], 2, "cannot be used with").await;
    check(&["--keys", keys, "--connections", "0"], 2, "connections: 0 is not within 1 to 256").await;
    check(&["--keys-query", "SELECT nothing FROM nowhere"], 1, "relation \"nowhere\" does not exist").await;
    check(&[], 2, "--keys").await;
    assert_eq!(shop.count("version = 1").await, 2);
}
