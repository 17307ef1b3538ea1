//! Keys from a stream: millions in bounded memory, and few as they come.

use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use headcount::{Event, Keys};

use crate::support::{Recorder, Shop, classes, connect, eventually, key_file, paying, updater};

/// Keys on standard input: a million, or ten in the soak.
fn count() -> u64 {
    if std::env::var_os("HEADCOUNT_SOAK_RUNS").is_some() { 10_000_000 } else { 1_000_000 }
}

/// The most memory that a process has had so far, in KiB (`proc(5)`).
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_number_of_keys() {
    let shop = Shop::with_orders(100).await;
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
    command.args(["--keys", "-", "--chunk", "5000", "--connections", "2", "--json", "--quiet"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (pid, total) = (child.id(), count());
    let mut keys = BufWriter::new(child.stdin.take().unwrap());
    // The pipe holds little: when a key was written, nearly all before it were worked on.
    let mut early = 0;
    for id in 1..=total {
        writeln!(keys, "{id}").unwrap();
        if id == total / 10 {
            early = peak(pid);
        }
    }
    let late = peak(pid);
    drop(keys);
    let output = child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["keys"], &report["updated"], &report["missing"]),
        (&total.into(), &100.into(), &(total - 100).into())
    );
    assert!(early > 1000 && late < early + 8 * 1024, "{early} KiB after a tenth, {late} KiB at the end");
}

#[tokio::test]
async fn keys_are_worked_on_as_they_come() {
    for header in ["", "id\n"] {
        let shop = Shop::with_orders(300).await;
        let recorder = Arc::new(Recorder::default());
        let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
        let (keys, mut writer) = std::io::pipe().unwrap();
        writeln!(writer, "{header}{}", (1..=250).map(|id| id.to_string()).collect::<Vec<_>>().join("\n"))
            .unwrap();
        let run = tokio::spawn(async move { update.run(Keys::reader(keys)).await.unwrap() });
        // The pipe is open and empty: what has come is committed, flushed and told of all the same, half a chunk too.
        eventually(&shop.client, "SELECT count(*) = 250 FROM orders WHERE status = 'paid'").await;
        recorder.until(|event| matches!(event, Event::ChunkEnded(facts) if facts.chunk == 3)).await;
        (251..=300).for_each(|id| writeln!(writer, "{id}").unwrap());
        drop(writer);
        assert_eq!(classes(&run.await.unwrap()), [300, 0, 0, 0, 0]);
    }
}

#[tokio::test]
async fn a_pipe_that_is_named_like_a_file_gives_all_its_keys() {
    let shop = Shop::with_orders(20_000).await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("keys");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let writer = pipe.clone();
    let writing = std::thread::spawn(move || {
        let mut keys = BufWriter::new(std::fs::File::options().write(true).open(writer).unwrap());
        (1..=20_000).for_each(|id| writeln!(keys, "{id}").unwrap());
    });
    let report = shop.pay().run(Keys::file(pipe)).await.unwrap();
    writing.join().unwrap();
    assert_eq!(classes(&report), [20_000, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_file_that_loses_keys_while_it_is_read_does_not_end_as_complete() {
    let mut shop = Shop::with_orders(1).await;
    let other = connect(&shop.dsn()).await;
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET region = region", &[]).await.unwrap();
    let file = key_file(100_000);
    let update = crate::support::pay(&shop.server.dsn_for("postgres", &shop.database));
    let keys = Keys::file(file.path());
    let run = tokio::spawn(async move { update.run(keys).await.unwrap() });
    eventually(&other, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").await;
    file.as_file().set_len(0).unwrap();
    lock.rollback().await.unwrap();
    let report = run.await.unwrap();
    assert!(!report.is_complete() && report.keys < 100_000, "{report:?}");
    let error = report.error.unwrap_or_default();
    assert!(error.contains("bytes of the file are gone since it was opened"), "{error}");
}

#[tokio::test]
async fn a_file_of_rejects_never_takes_the_place_of_the_keys() {
    let shop = Shop::with_orders(3).await;
    let file = key_file(3);
    let path = file.path().to_str().unwrap();
    let args = ["update", "--dsn", &shop.dsn(), "--table", "orders", "--key", "id", "--set", "status=paid"];
    for keys in [path, "-"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(args).args(["--keys", keys, "--rejects", path]);
        let output = command.stdin(std::fs::File::open(path).unwrap()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("rejects: the keys are read from"), "{stderr}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "1\n2\n3\n");
    }
    assert_eq!(shop.count("status = 'new'").await, 3);
}
