//! How an update ends, and what counts as done: empty inputs, keys without rows, deadlines, rights that are missing.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use headcount::event::{ChunkEnd, UpdateOutcome};
use headcount::{Event, FailOn, Keys, Refusal};
use serde_json::Value;

use crate::support::{Recorder, Shop, classes, connect, eventually, ids, paying, updater};

/// `headcount update` of `orders` from `new` to `paid`.
fn command(shop: &Shop, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["update", "--dsn", &shop.dsn(), "--table", "orders", "--key", "id"]);
    command.args(["--set", "status=paid", "--expect", "status=new"]).args(more);
    command.stdin(Stdio::null());
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn an_input_with_nothing_to_do_is_told_from_one_that_is_done() {
    let shop = Shop::with_orders(3).await;
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.csv");
    let check = async |content: &str, rows: &str, fail_on: Option<&str>, code: i32, outcome: &str| {
        shop.run(rows).await;
        std::fs::write(&keys, content).unwrap();
        let file = ["--keys", keys.to_str().unwrap()];
        let fail_on: Vec<&str> = fail_on.iter().flat_map(|words| ["--fail-on", words]).collect();
        let case = format!("{content:?} {fail_on:?}");
        let output =
            command(&shop, &file).args(&fail_on).args(["--json", "--log-format", "json"]).output().unwrap();
        let report = json(&output);
        assert_eq!(output.status.code(), Some(code), "{case}: {report}");
        assert_eq!(
            (&report["outcome"], &report["complete"]),
            (&outcome.into(), &(code == 0).into()),
            "{case}"
        );
        assert_eq!((&report["left"], &report["failed"]), (&0.into(), &0.into()), "{case}");
        let log = text(&output.stderr);
        assert!(log.contains(&format!("\"outcome\":\"{outcome}\"")), "{case}: {log}");
        assert_eq!(log.contains("\"level\":\"ERROR\""), code != 0, "{case}: {log}");
        let output = command(&shop, &file).args(&fail_on).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{case}");
        let told = text(&output.stdout);
        assert!(told.contains(&format!("update: {}: ", outcome.replace('_', " "))), "{case}: {told}");
        assert_eq!(told.contains("--fail-on"), code != 0, "{case}: {told}");
    };
    let (new, done) = ("UPDATE orders SET status = 'new'", "UPDATE orders SET status = 'paid'");
    let void = "UPDATE orders SET status = 'void'";
    for empty in ["", "\n\n", "\u{feff}", "id\n", "id,note\r\n\r\n"] {
        check(empty, new, None, 5, "empty").await;
    }
    check("", new, Some("none"), 0, "empty").await;
    check("", new, Some("missing,stale"), 0, "empty").await;
    check("7\n8\n", new, None, 5, "all_missing").await;
    check("7\n8\n", new, Some("none"), 0, "all_missing").await;
    check("7\n8\n", new, Some("missing,stale,empty"), 5, "all_missing").await;
    check("1\n2\n", void, None, 0, "all_stale").await;
    check("1\n2\n", void, Some("all-stale"), 5, "all_stale").await;
    check("1\n2\n", void, Some("missing,stale,empty"), 5, "all_stale").await;
    check("1\n7\n", done, None, 0, "complete").await;
    check("1\n7\n", done, Some("missing"), 5, "some_missing").await;
    check(
        "1\n2\n",
        "UPDATE orders SET status = CASE id WHEN 1 THEN 'void' ELSE 'paid' END",
        Some("stale"),
        5,
        "some_stale",
    )
    .await;
    check("1\n2\n", done, Some("missing,stale,empty"), 0, "complete").await;
    let output =
        command(&shop, &["--keys", keys.to_str().unwrap(), "--fail-on", "nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--fail-on: `nothing` is none of empty, all-missing, all-stale"));
}

#[tokio::test]
async fn the_last_line_says_how_many_keys_were_left_alone_and_where_to_see_them() {
    let shop = Shop::with_orders(4).await;
    shop.run("UPDATE orders SET status = 'void' WHERE id IN (3, 4)").await;
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.csv");
    let check = async |content: &str, more: &[&str], expected: &str| {
        std::fs::write(&keys, content).unwrap();
        let output = command(&shop, &["--keys", keys.to_str().unwrap()]).args(more).output().unwrap();
        let told = text(&output.stdout);
        assert_eq!(told.lines().last(), Some(expected), "{told}{}", text(&output.stderr));
    };
    let look = "check the keys and the expected values";
    let list = format!("run it with --rejects FILE to list them, and {look}");
    check("1\n2\n", &[], "Every key is accounted for; nothing to do").await;
    check("1\n3\n8\n9\n", &[], &format!("Every key is accounted for; 1 is stale and 2 missing: {list}"))
        .await;
    check("1\n9\n", &[], &format!("Every key is accounted for; 1 is missing: {list}")).await;
    check("3\n4\n", &[], &format!("No row has the expected values; 2 are stale: {list}")).await;
    let rejects = folder.path().join("left.csv");
    let rejects = rejects.to_str().unwrap();
    let expected = format!("Every key is accounted for; 2 are stale: {rejects} lists them; {look}");
    check("1\n3\n4\n", &["--rejects", rejects], &expected).await;
    let again = "Run the same command again once the cause is gone; what is done stays done";
    check("1\nx\ny\n", &[], again).await;
    check("1\na\nb\nc\nd\n", &[], &format!("{again} (with --rejects FILE it lists all that fail)")).await;
    check("1\na\nb\nc\nd\n", &["--rejects", rejects], again).await;
}

#[tokio::test]
async fn a_query_may_well_have_no_keys() {
    let shop = Shop::with_orders(3).await;
    let query = "SELECT id FROM orders WHERE status = 'new'";
    for keys in [|query| Keys::query(query), |query| Keys::claim(query)] {
        shop.run("UPDATE orders SET status = 'new'").await;
        for (outcome, updated) in [(UpdateOutcome::Complete, 3), (UpdateOutcome::Empty, 0)] {
            let report = shop.pay().run(keys(query)).await.unwrap();
            assert_eq!((report.outcome, report.is_complete(), report.updated), (outcome, true, updated));
        }
        let report = shop.pay().fail_on([FailOn::Empty]).run(keys(query)).await.unwrap();
        assert_eq!((report.outcome, report.is_complete()), (UpdateOutcome::Empty, false));
    }
    let report = shop.pay().run(Keys::rows(Vec::<i64>::new())).await.unwrap();
    assert_eq!((report.outcome, report.is_complete()), (UpdateOutcome::Empty, false));
}

#[tokio::test]
async fn a_second_run_is_done_and_rejects_nothing_but_what_needs_attention() {
    let shop = Shop::with_orders(4).await;
    shop.run("UPDATE orders SET status = 'void' WHERE id = 4").await;
    let folder = tempfile::tempdir().unwrap();
    let rejects = folder.path().join("rejects.csv");
    for expected in [[3, 0, 1, 1, 0], [0, 3, 1, 1, 0]] {
        let report = shop.pay().rejects(&rejects).run(Keys::rows([1, 2, 3, 4, 9])).await.unwrap();
        assert_eq!((report.is_complete(), classes(&report)), (true, expected));
        assert_eq!(
            std::fs::read_to_string(&rejects).unwrap(),
            "id,class,line,reason\n4,stale,4,\n9,missing,5,\n"
        );
    }
}

#[tokio::test]
async fn a_key_with_two_values_fails_once_wherever_the_second_one_stands() {
    let shop = Shop::with_orders(500).await;
    let rows: Vec<(String, String)> = (1..=450)
        .map(|n| match n {
            // Within the first chunk, a chunk apart, and in other digits; 3 asks for the same again.
            40 => ("7".to_owned(), "other".to_owned()),
            250 => ("8".to_owned(), "other".to_owned()),
            350 => ("009".to_owned(), "other".to_owned()),
            351 => ("3".to_owned(), "v3".to_owned()),
            n => (n.to_string(), format!("v{n}")),
        })
        .collect();
    for connections in [1, 3] {
        shop.run("UPDATE orders SET status = 'new', version = 0").await;
        let recorder = Arc::new(Recorder::default());
        let update = updater(&shop.dsn(), vec![recorder.clone()]).update("orders").key(["id"]);
        let update = update.set_from("status", "to").version("version").connections(connections);
        let report = update.run(Keys::rows(rows.clone())).await.unwrap();
        assert_eq!(classes(&report), [446, 1, 0, 0, 3], "{report:?}");
        let reasons = report.failures.iter().map(|failure| (&*failure.reason, failure.sqlstate.as_deref()));
        let contradicts = ("the same key occurs before with other values", Some("21000"));
        assert!(reasons.clone().all(|reason| reason == contradicts) && reasons.count() == 3, "{report:?}");
        let counted = std::cell::Cell::new(0);
        recorder.count(|event| {
            if let Event::ChunkEnded(facts) = event {
                assert_eq!(facts.end, ChunkEnd::Committed);
                counted.set(counted.get() + facts.rows.failed);
            }
            false
        });
        assert_eq!(counted.get(), 3);
        assert_eq!(shop.count("version = 1 AND status = 'v' || id").await, 446);
        assert_eq!(shop.count("version > 1").await, 0);
    }
}

#[tokio::test]
async fn the_deadline_ends_a_run_in_good_order_and_says_what_is_left() {
    let shop = Shop::with_orders(30).await;
    shop.run(
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END';
         CREATE TRIGGER nap BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION nap()",
    )
    .await;
    let file = crate::support::key_file(30);
    let keys = ["--keys", file.path().to_str().unwrap(), "--chunk", "2", "--deadline", "1s"];
    let output = command(&shop, &keys).args(["--json", "--quiet"]).output().unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(5), "{report}");
    assert_eq!(report["error"], "the deadline of 1s passed");
    assert_eq!(report["outcome"], "incomplete");
    let updated = report["updated"].as_u64().unwrap();
    assert_eq!(report["left"], 30 - updated, "{report}");
    assert!(updated > 0 && updated.is_multiple_of(2), "{report}");
    assert_eq!(shop.count("status = 'paid'").await, updated);

    // Before the first chunk, too.
    let lock = connect(&shop.dsn()).await;
    lock.batch_execute("BEGIN; LOCK orders").await.unwrap();
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
    let report =
        update.deadline(Duration::from_millis(300)).run(Keys::query("SELECT id FROM orders")).await.unwrap();
    assert_eq!((report.error.as_deref(), report.left), (Some("the deadline of 300ms passed"), None));
    let never = |event: &Event| match event {
        Event::UpdateEnded(facts) => facts.never_began == Some(headcount::event::FailReason::Deadline),
        _ => false,
    };
    assert_eq!(recorder.count(never), 1);
}

#[tokio::test]
async fn what_a_role_may_not_do_is_said_before_with_the_grant() {
    let shop = Shop::with_orders(3).await;
    shop.run(
        "CREATE ROLE reader LOGIN; GRANT SELECT ON orders TO reader;
         CREATE ROLE half LOGIN; GRANT SELECT (id), UPDATE (status) ON orders TO half;
         CREATE ROLE careful LOGIN; GRANT ALL ON orders TO careful;
         ALTER ROLE careful SET default_transaction_read_only = on;
         CREATE ROLE enough LOGIN; GRANT SELECT (id, status, version), UPDATE (status, version) ON orders TO enough",
    )
    .await;
    let pay = |role: &str| crate::support::pay(&shop.server.dsn_for(role, &shop.database));
    let check = async |role: &str, refusal: Refusal, told: &str, fix: &str| {
        let error = pay(role).run(ids(3)).await.unwrap_err();
        assert_eq!(error.refusal(), Some(refusal), "{error}");
        assert_eq!(
            (error.to_string(), error.fixes()[0].to_string()),
            (format!("refused before running: {told}"), fix.to_owned())
        );
    };
    check(
        "reader",
        Refusal::MayNotUpdate,
        "role \"reader\" lacks a right on \"public\".\"orders\": UPDATE (\"status\", \"version\")",
        "GRANT UPDATE (\"status\", \"version\") ON \"public\".\"orders\" TO \"reader\"",
    )
    .await;
    let grant = "SELECT (\"status\", \"version\"), UPDATE (\"version\")";
    check(
        "half",
        Refusal::MayNotUpdate,
        &format!("role \"half\" lacks a right on \"public\".\"orders\": {grant}"),
        &format!("GRANT {grant} ON \"public\".\"orders\" TO \"half\""),
    )
    .await;
    // Which the server will not even look into: it is not said that there is no such table.
    shop.run("CREATE SCHEMA \"Vault\"; CREATE TABLE \"Vault\".orders (LIKE orders INCLUDING ALL)").await;
    let error = updater(&shop.server.dsn_for("reader", &shop.database), vec![])
        .update("\"Vault\".orders")
        .key(["id"])
        .set("status", "paid")
        .run(ids(3))
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::MayNotUpdate), "{error}");
    let told = "refused before running: role \"reader\" lacks a right on schema \"Vault\": USAGE";
    let fix = "GRANT USAGE ON SCHEMA \"Vault\" TO \"reader\"";
    assert_eq!((error.to_string(), error.fixes()[0].to_string()), (told.to_owned(), fix.to_owned()));
    // Also where it is said that such a server will do.
    let careful = shop.server.dsn_for("careful", &shop.database);
    for dsn in [&careful, &format!("{careful}?target_session_attrs=primary")] {
        let error = crate::support::pay(dsn).run(ids(3)).await.unwrap_err();
        assert_eq!(error.refusal(), Some(Refusal::ReadOnly), "{error}");
        assert!(error.to_string().contains("default_transaction_read_only is on"), "{error}");
        assert_eq!(
            error.fixes()[0].to_string(),
            "ALTER ROLE \"careful\" SET default_transaction_read_only = off"
        );
    }
    for role in ["reader", "careful"] {
        let report = pay(role).dry_run().run(ids(4)).await.unwrap();
        assert_eq!(classes(&report), [3, 0, 0, 1, 0], "{role}");
    }
    shop.run(&format!("GRANT {grant} ON orders TO half")).await;
    assert_eq!(classes(&pay("half").run(ids(3)).await.unwrap()), [3, 0, 0, 0, 0]);
    shop.run("UPDATE orders SET status = 'new'").await;
    assert_eq!(classes(&pay("enough").run(ids(3)).await.unwrap()), [3, 0, 0, 0, 0]);
}

#[tokio::test]
async fn keys_without_rows_have_a_hint() {
    let shop = Shop::with_orders(3).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "id,note\n7,a\n8,b\n").unwrap();
    let report = shop.pay().run(Keys::file(file.path())).await.unwrap();
    let expected = "no row of \"public\".\"orders\" has any of the keys, such as id = 7 (line 2)";
    assert_eq!(report.hint.as_deref(), Some(expected));
    assert_eq!(shop.pay().run(ids(4)).await.unwrap().hint, None);
    shop.run("CREATE TABLE codes (code text PRIMARY KEY, done bool); INSERT INTO codes VALUES ('A1')").await;
    let update = updater(&shop.dsn(), vec![]).update("codes").key(["code"]).set("done", "true");
    let report = update.run(Keys::reader(&b"number\nA1\n"[..])).await.unwrap();
    let expected = "`number` was taken for a key; if it is a header, it has to be code";
    assert_eq!((classes(&report), report.hint.as_deref()), ([1, 0, 0, 1, 0], Some(expected)));
    shop.run(
        "CREATE ROLE blind LOGIN; GRANT ALL ON orders TO blind; ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE POLICY none ON orders TO blind USING (false)",
    )
    .await;
    let blind = crate::support::pay(&shop.server.dsn_for("blind", &shop.database));
    let report = blind.run(ids(3)).await.unwrap();
    assert_eq!((report.outcome, classes(&report)), (UpdateOutcome::AllMissing, [0, 0, 0, 3, 0]));
    assert!(report.hint.unwrap().starts_with("row-level security is in force for this role on"));
}

#[tokio::test]
async fn rows_of_another_server_are_refused() {
    let shop = Shop::with_orders(0).await;
    shop.run(
        "CREATE TABLE parts (id int, status text) PARTITION BY RANGE (id);
         CREATE TABLE near PARTITION OF parts FOR VALUES FROM (0) TO (10);
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER afar FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE far PARTITION OF parts FOR VALUES FROM (10) TO (20) SERVER afar;
         INSERT INTO parts VALUES (1, 'new')",
    )
    .await;
    let update = |table| updater(&shop.dsn(), vec![]).update(table).key(["id"]).set("status", "paid");
    let error = update("parts").run(ids(1)).await.unwrap_err();
    assert!(error.is_configuration());
    let expected =
        "table: \"public\".\"parts\" has a foreign table in it, far: its rows are another server's";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(classes(&update("near").run(ids(1)).await.unwrap()), [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn an_update_that_cannot_begin_says_the_same_to_programs_and_in_the_log() {
    let shop = Shop::with_orders(3).await;
    let check = async |more: &[&str], code: i32, reason: &str, sqlstate: Value, words: &str| {
        let mut command = command(&shop, more);
        let output = command.args(["--json", "--log-format", "json", "--task", "pay"]).output().unwrap();
        let report = json(&output);
        assert_eq!(output.status.code(), Some(code), "{report}");
        assert_eq!((&report["reason"], &report["sqlstate"]), (&reason.into(), &sqlstate), "{report}");
        assert!(report["error"].as_str().unwrap().contains(words), "{report}");
        for count in ["keys", "updated", "already", "stale", "missing", "failed", "chunks"] {
            assert_eq!(report[count], 0, "{count}: {report}");
        }
        let (task, outcome) = (&report["task"], &report["outcome"]);
        assert_eq!((task, outcome, &report["left"]), (&"pay".into(), &"failed".into(), &Value::Null));
        let log = text(&output.stderr);
        let line = log.lines().find(|line| line.contains("update could not begin"));
        let line: Value = serde_json::from_str(line.unwrap_or_else(|| panic!("{log}"))).unwrap();
        let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
        assert_eq!(fields["reason"], reason, "{line}");
        assert!(fields["error"].as_str().unwrap().contains(words), "{line}");
        assert_eq!(fields.get("sqlstate").cloned().unwrap_or(Value::Null), sqlstate, "{line}");
    };
    check(&["--keys", "/none"], 2, "configuration", Value::Null, "cannot read /none").await;
    let query = ["--keys-query", "SELECT 1/0 AS id"];
    check(&query, 1, "sql", "22012".into(), "division by zero").await;
    let nowhere = ["--keys-query", "SELECT id FROM nowhere"];
    check(&nowhere, 1, "sql", "42P01".into(), "relation \"nowhere\" does not exist").await;
    shop.run("CREATE ROLE lookout LOGIN; GRANT SELECT ON orders TO lookout").await;
    let dsn = shop.server.dsn_for("lookout", &shop.database);
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    let set = ["--table", "orders", "--key", "id", "--set", "status=paid", "--keys-query", "SELECT 1 AS id"];
    let output = command.args(["update", "--dsn", &dsn, "--json", "--quiet"]).args(set).output().unwrap();
    let report = json(&output);
    assert_eq!((output.status.code(), &report["reason"]), (Some(4), &"refused".into()), "{report}");
    assert_eq!(report["fixes"][0], "GRANT UPDATE (\"status\") ON \"public\".\"orders\" TO \"lookout\"");
}

#[tokio::test]
async fn one_connection_is_enough_for_an_update() {
    let shop = Shop::with_orders(300).await;
    shop.run("CREATE ROLE lonely LOGIN CONNECTION LIMIT 1; GRANT ALL ON orders TO lonely").await;
    let lonely = || crate::support::pay(&shop.server.dsn_for("lonely", &shop.database));
    let query = "SELECT id FROM orders WHERE status = 'new' AND id <= 100";
    assert_eq!(classes(&lonely().run(Keys::query(query)).await.unwrap()), [100, 0, 0, 0, 0]);
    let claim = "SELECT id FROM orders WHERE status = 'new' AND id <= 200";
    assert_eq!(classes(&lonely().run(Keys::claim(claim)).await.unwrap()), [100, 0, 0, 0, 0]);
    assert_eq!(classes(&lonely().connections(2).run(ids(300)).await.unwrap()), [100, 200, 0, 0, 0]);
    eventually(&shop.client, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'lonely'").await;
}
