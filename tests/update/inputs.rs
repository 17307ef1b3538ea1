//! Files, pipes and standard input: each row is worked on, or the input is refused with its line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use headcount::{Event, Keys};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Recorder, Shop, classes, eventually, paying, updater};

/// `headcount update` of `orders`, keyed by `id`, with further arguments.
fn command(shop: &Shop, set: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["update", "--dsn", &shop.dsn(), "--table", "orders", "--key", "id", "--set", set]);
    command.args(["--json", "--quiet"]).args(more);
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Writes it down, and gives the path.
fn file(folder: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("orders.csv");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Runs it with these bytes on standard input.
fn piped(mut command: Command, bytes: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // Whoever refuses the first line does not read the rest.
    let _ = input.write_all(bytes);
    drop(input);
    child.wait_with_output().unwrap()
}

/// A named pipe.
fn fifo(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path
}

#[tokio::test]
async fn what_is_no_csv_is_refused_with_file_and_line_before_anything_is_changed() {
    let shop = Shop::with_orders(9).await;
    let folder = TempDir::new().unwrap();
    let check = async |set: &str, bytes: &[u8], expected: &str| {
        let path = file(&folder, bytes);
        let path = path.to_str().unwrap();
        let rejects = folder.path().join("rejects.csv");
        std::fs::write(&rejects, "of the run before").unwrap();
        let more = ["--keys", path, "--rejects", rejects.to_str().unwrap()];
        let from_file = command(&shop, set, &more).output().unwrap();
        let redirected =
            command(&shop, set, &["--keys", "-"]).stdin(std::fs::File::open(path).unwrap()).output().unwrap();
        let from_pipe = piped(command(&shop, set, &["--keys", "-"]), bytes);
        for (source, output) in
            [(path, from_file), ("standard input", redirected), ("standard input", from_pipe)]
        {
            let report = json(&output);
            let told = report["error"].as_str().unwrap_or_default();
            assert_eq!(output.status.code(), Some(2), "{expected}: {report}");
            assert!(told.starts_with(&format!("keys: {source}, {expected}")), "{expected}: {told}");
            assert_eq!(report["reason"], "configuration", "{expected}");
        }
        assert_eq!(shop.count("status = 'new'").await, 9, "{expected}");
        assert_eq!(std::fs::read_to_string(&rejects).unwrap(), "of the run before", "{expected}");
    };
    let paid = "status=paid";
    check(paid, b"id,note\n1,\"5 inch\n2,b\n3,c\n", "line 2, column note: the quote that opens").await;
    check(paid, b"id,note\n1,a\n\n2,b,c\n", "line 4: 3 fields, and the header has 2").await;
    check("status=@note", b"id,note\r\n1,a\r\n2\r\n", "line 3: 1 field, and the header has 2").await;
    check(paid, b"id\r1\r2\r3\r", "line 1, field 1: a carriage return without a line feed").await;
    check(paid, b"id,note,id\n1,a,2\n", "line 1: column id is named twice").await;
    check(paid, b"id;note\n1;a\n", "line 1: the columns are separated by semicolons").await;
    check("status=@note", b"id\tnote\n1\ta\n", "line 1: the columns are separated by tabs").await;
    check(paid, b"sep=;\nid;note\n1;a\n", "line 1: `sep=;` is no header").await;
    check(paid, b"1,a\n2,b\n", "line 1: the first line has no column id, so it is no header").await;
    check(
        paid,
        b"order_id\n1\n2\n",
        "line 1: `order_id` is neither a key nor the name of the key's column, id",
    )
    .await;
    check(paid, b"id,note\n1,a\n2,M\xfcller\n", "line 3, column note: byte 0xfc is not UTF-8").await;
    check(paid, b"\xff\xfei\0d\0\n\x001\0", "line 1: this is UTF-16").await;
    check(paid, b"\x1f\x8b\x08\0\n", "line 1: this is compressed (gzip)").await;
    check(paid, b"id,note\n1,a\n2,b\0c\n", "line 3, column note: a zero byte").await;
    check(paid, b"1\n2\n3,50\n", "line 3: 2 fields in place of one key").await;
    check(paid, b"1\n\"2\n3\n", "line 2, field 1: the quote that opens").await;
    check(paid, b"1\n2\n5\" pipe\n", "line 3, field 1: a quote in a field").await;
    let long = [&b"id,note\n1,"[..], &vec![b'x'; 17 << 20], b"\n3,c\n"].concat();
    check(paid, &long, "line 2: more than 16 MiB in one row").await;
}

#[tokio::test]
async fn what_is_csv_is_read_as_it_was_written() {
    let shop = Shop::with_orders(9).await;
    let check = async |bytes: &'static [u8], expected: &str| {
        shop.run("UPDATE orders SET status = 'new'").await;
        let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set_from("status", "status");
        let report = update.run(Keys::reader(bytes)).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        let now = "SELECT string_agg(id || '=' || coalesce(status, 'NULL'), ' ' ORDER BY id)
                   FROM orders WHERE status IS DISTINCT FROM 'new'";
        assert_eq!(shop.text(now).await, expected);
    };
    check(b"\xef\xbb\xbfstatus,id\r\na,1\r\n\r\n\"b,\"\"\r\nc\"\"\",2\r\n", "1=a 2=b,\"\r\nc\"").await;
    check(b"\"amount\n(EUR)\",ID,Status\n5,3,\n6,4,\\N\n7,5,\"\"\n8,6,NULL\n", r"3=NULL 4=\N 5= 6=NULL")
        .await;
    check("id,status\n1,\u{feff}ä 💶\n2, b \n".as_bytes(), "1=\u{feff}ä 💶 2= b ").await;
}

#[tokio::test]
async fn null_is_written_with_a_backslash_and_its_name_is_a_text_that_is_asked_about() {
    let shop = Shop::with_orders(3).await;
    let folder = TempDir::new().unwrap();
    let keys = file(&folder, b"1\n");
    let check = async |set: &str, status: &str, warning: &str| {
        let output = command(&shop, set, &["--keys", keys.to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(shop.text("SELECT coalesce(status, '<null>') FROM orders WHERE id = 1").await, status);
        assert_eq!(String::from_utf8_lossy(&output.stderr), warning);
    };
    let warning =
        "headcount: warning: status=NULL is a text of four letters; NULL is written \\N: 'status=\\N'\n";
    check("status=NULL", "NULL", warning).await;
    check(r"status=\N", "<null>", "").await;
    check(r"status=\\N", r"\N", "").await;
    check("status=", "", "").await;
}

#[tokio::test]
async fn failed_keys_have_their_lines_whatever_ends_the_lines() {
    let shop = Shop::with_orders(9).await;
    let folder = TempDir::new().unwrap();
    for end in ["\n", "\r\n"] {
        let rows = ["id,status", "1,a", "x2,b", "", "\"4\",\"c\nd\"", "x5,e", "6,f"].join(end);
        let rejects = folder.path().join("rejects.csv");
        let path = file(&folder, rows.as_bytes());
        let more = ["--keys", path.to_str().unwrap(), "--rejects", rejects.to_str().unwrap()];
        let output = command(&shop, "status=@status", &more).output().unwrap();
        let report = json(&output);
        assert_eq!(output.status.code(), Some(5), "{report}");
        let lines: Vec<_> =
            report["failures"].as_array().unwrap().iter().map(|f| f["lines"][0].clone()).collect();
        assert_eq!(lines, [3, 7], "{report}");
        let rejected = std::fs::read_to_string(&rejects).unwrap();
        assert!(rejected.contains("\nx2,b,failed,3,") && rejected.contains("\nx5,e,failed,7,"), "{rejected}");
        assert!(rejected.starts_with("id,status,class,line,reason\n"), "{rejected}");
    }
}

#[tokio::test]
async fn an_error_far_into_a_pipe_stops_the_run_and_nobody_claims_to_know_what_is_left() {
    let shop = Shop::with_orders(30_000).await;
    let rows = (1..=30_000).map(|id| id.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    let output = piped(command(&shop, "status=paid", &["--keys", "-"]), format!("{rows}\"7\n8\n").as_bytes());
    let report = json(&output);
    assert_eq!(output.status.code(), Some(5), "{report}");
    let expected =
        "keys: standard input, line 30001, field 1: the quote that opens the field is never closed";
    assert_eq!(report["error"], expected);
    assert_eq!((&report["outcome"], &report["left"]), (&"incomplete".into(), &Value::Null), "{report}");
    assert_eq!(report["updated"], shop.count("status = 'paid'").await);
}

#[tokio::test]
async fn rejects_spell_what_they_quote_so_that_it_is_read_again() {
    let shop = Shop::with_orders(0).await;
    shop.run(
        "CREATE TABLE odd (line text PRIMARY KEY, v text); INSERT INTO odd VALUES ('x', 'old'), ('a,\"b', 'old')",
    )
    .await;
    let folder = TempDir::new().unwrap();
    let rejects = folder.path().join("rejects.csv");
    let update =
        updater(&shop.dsn(), vec![]).update("odd").key(["line"]).set_from("v", "v").expect("v", "new");
    let given = b"line,v\n\"a,\"\"b\",\\N\nx,\n";
    let report = update.clone().rejects(&rejects).run(Keys::reader(&given[..])).await.unwrap();
    assert_eq!(classes(&report), [0, 0, 2, 0, 0], "{report:?}");
    let written = std::fs::read_to_string(&rejects).unwrap();
    assert_eq!(written, "line,v,class,reject_line,reason\n\"a,\"\"b\",\\N,stale,2,\nx,,stale,3,\n");
    shop.run("UPDATE odd SET v = 'new'").await;
    assert_eq!(classes(&update.run(Keys::file(&rejects)).await.unwrap()), [2, 0, 0, 0, 0]);
    assert_eq!(
        shop.text("SELECT string_agg(coalesce(v, 'NULL'), ' ' ORDER BY line) FROM odd").await,
        r"\N NULL"
    );
}

#[tokio::test]
async fn keys_that_others_hold_back_are_waited_for_as_long_as_nobody_sends_a_signal() {
    let shop = Shop::with_orders(3).await;
    let folder = TempDir::new().unwrap();
    let keys = file(&folder, b"1\n2\n9\n");
    let keys = keys.to_str().unwrap();
    let (unwritten, unread) = (fifo(&folder, "unwritten"), fifo(&folder, "unread"));
    let cases = [
        ["--keys", unwritten.to_str().unwrap(), "--task", "unwritten"].to_vec(),
        ["--keys", keys, "--rejects", unread.to_str().unwrap(), "--task", "unread"].to_vec(),
        ["--keys", "-", "--task", "silent"].to_vec(),
    ];
    for more in cases {
        let task = *more.last().unwrap();
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
            let mut command = command(&shop, "status=paid", &more);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            waits_for_a_pipe(&child).await;
            let sessions = "SELECT count(*) = 0 FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name ~ '^headcount:'";
            eventually(&shop.client, sessions).await;
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
            // Its standard input stays open.
            let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
            let status = tokio::time::timeout(std::time::Duration::from_secs(20), ended).await;
            let status = status.unwrap_or_else(|_| panic!("{task}: still there after {signal:?}")).unwrap();
            let code = if signal == rustix::process::Signal::TERM { 143 } else { 130 };
            assert_eq!(status.code(), Some(code), "{task}");
        }
        assert_eq!(shop.count("status = 'new'").await, 3, "{task}");
    }
}

/// Waits until a thread of the process waits for a pipe; the kernel says in what.
async fn waits_for_a_pipe(child: &Child) {
    let is_asleep = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().map(Result::unwrap);
        let pipes = ["wait_for_partner", "pipe_read", "pipe_write"];
        threads
            .map(|thread| std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default())
            .any(|place| pipes.iter().any(|pipe| place.contains(pipe)))
    };
    let patience = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while !is_asleep() {
        assert!(std::time::Instant::now() < patience, "it never waited for its pipe");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reader_of_rejects_who_stops_reading_stops_the_run_and_not_the_signals() {
    let shop = Shop::with_orders(1).await;
    let folder = TempDir::new().unwrap();
    let rows = (2..=200_000).map(|id| id.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    let keys = file(&folder, rows.as_bytes());
    let unread = fifo(&folder, "unread");
    let mut command = command(
        &shop,
        "status=paid",
        &["--keys", keys.to_str().unwrap(), "--rejects", unread.to_str().unwrap()],
    );
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let reader = std::fs::File::open(&unread).unwrap();
    waits_for_a_pipe(&child).await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(143), "{report}");
    assert_eq!(report["error"], "the file of rejects is incomplete: its reader has stopped reading");
    let (missing, left) = (report["missing"].as_u64().unwrap(), report["left"].as_u64().unwrap());
    assert!(left > 0 && missing + left == 199_999, "{report}");
    drop(reader);
}

#[tokio::test]
async fn the_reader_of_a_pipe_gets_all_rejects() {
    let shop = Shop::with_orders(1).await;
    let folder = TempDir::new().unwrap();
    let path = fifo(&folder, "rejects");
    let from = path.clone();
    let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(from).unwrap());
    let report = shop.pay().rejects(&path).run(Keys::rows(1..=100_000)).await.unwrap();
    assert_eq!(classes(&report), [1, 0, 0, 99_999, 0]);
    assert_eq!(reading.await.unwrap().lines().count(), 100_000);
}

#[tokio::test]
async fn a_long_line_takes_no_more_memory_than_the_bound_says() {
    let shop = Shop::with_orders(3).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("long.csv");
    let mut long = std::fs::File::create(&path).unwrap();
    long.write_all(b"id,note\n1,a\n2,\"").unwrap();
    // It is sparse: zeros, which are found only when the line ends.
    long.set_len(300 << 20).unwrap();
    let update = command(&shop, "status=paid", &["--keys", path.to_str().unwrap()]);
    // The whole line would not fit into the memory that it may have.
    let mut bounded = Command::new("sh");
    bounded
        .args(["-c", "ulimit -v 700000; exec \"$0\" \"$@\""])
        .arg(update.get_program())
        .args(update.get_args());
    let report = json(&bounded.output().unwrap());
    let told = report["error"].as_str().unwrap();
    assert!(told.contains("line 3: more than 16 MiB in one row; a quote may never be closed"), "{told}");
}

#[tokio::test]
async fn a_few_keys_of_a_query_need_no_file_and_many_name_the_folder_for_one() {
    let shop = Shop::with_orders(3).await;
    let run = |query: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args([
            "update",
            "--dsn",
            &shop.dsn(),
            "--table",
            "orders",
            "--key",
            "id",
            "--json",
            "--quiet",
        ]);
        command.args(["--set", "status=paid", "--keys-query", query]).env("TMPDIR", "/nonexistent");
        command.output().unwrap()
    };
    let few = run("SELECT generate_series(1, 100000) AS id");
    assert_eq!((few.status.code(), json(&few)["updated"].clone()), (Some(0), 3.into()), "{few:?}");
    let many = run("SELECT generate_series(1, 2000000) AS id");
    assert_eq!(many.status.code(), Some(2), "{many:?}");
    let expected = "keys: cannot keep the keys in a temporary file in /nonexistent: ";
    let told = json(&many)["error"].as_str().unwrap().to_owned();
    assert!(
        told.starts_with(expected) && told.ends_with("let TMPDIR name a folder with room for them"),
        "{told}"
    );
}

#[tokio::test]
async fn a_part_of_a_chunk_that_a_pipe_has_is_worked_on_soon() {
    let shop = Shop::with_orders(10).await;
    let recorder = std::sync::Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
    let (keys, mut writer) = std::io::pipe().unwrap();
    writeln!(writer, "1\n2").unwrap();
    let run = tokio::spawn(async move { update.run(Keys::reader(keys)).await.unwrap() });
    recorder.until(|event| matches!(event, Event::ChunkEnded(facts) if facts.size == 2)).await;
    assert_eq!(shop.count("status = 'paid'").await, 2);
    writeln!(writer, "3").unwrap();
    recorder.until(|event| matches!(event, Event::ChunkEnded(facts) if facts.size == 1)).await;
    drop(writer);
    assert_eq!(classes(&run.await.unwrap()), [3, 0, 0, 0, 0]);
}
