//! Each key ends in one class; keys, types, duplicates, what cannot be.

use std::fmt::Write as _;
use std::sync::Arc;

use headcount::event::FailReason;
use headcount::{ChunkSize, Event, Keys, Update};
use tokio_util::sync::CancellationToken;

use crate::support::{Recorder, Shop, classes, ids, on_each_version, paying, updater};

on_each_version!(each_key_ends_in_one_class_and_the_table_agrees, a_dry_run_classes_and_changes_nothing,);

async fn each_key_ends_in_one_class_and_the_table_agrees(major: u32) {
    let shop = Shop::of_version(major, 1000).await;
    shop.run("UPDATE orders SET status = 'paid' WHERE id % 10 = 0; UPDATE orders SET status = 'void' WHERE id % 10 = 1")
        .await;
    let report = shop.pay().run(ids(1050)).await.unwrap();
    assert_eq!(classes(&report), [800, 100, 100, 50, 0]);
    assert_eq!((report.keys, report.chunks), (1050, 11));
    assert!(report.is_complete() && report.left == Some(0));
    assert_eq!(shop.count("status = 'paid' AND version = 1 AND id % 10 > 1").await, 800);
    assert_eq!(shop.count("version > 0").await, 800);

    let again = shop.pay().run(ids(1050)).await.unwrap();
    assert_eq!(classes(&again), [0, 900, 100, 50, 0]);
    assert_eq!(shop.count("version > 0").await, 800);
}

/// What observers hear of an update that ends before its first chunk: why, once, and of no start.
#[tokio::test]
async fn an_update_that_cannot_begin_ends_with_the_reason() {
    let shop = Shop::with_orders(1).await;
    let nowhere = "postgres://nobody@127.0.0.1:1/none";
    let check = async |dsn: &str, change: fn(Update) -> Update, keys, expected| {
        let recorder = Arc::new(Recorder::default());
        let update = change(paying(updater(dsn, vec![recorder.clone()]).update("orders")));
        assert!(!update.run(keys).await.is_ok_and(|report| report.is_complete()));
        let ended = |event: &Event| match event {
            Event::UpdateEnded(facts) => facts.never_began == Some(expected) && !facts.complete,
            _ => false,
        };
        assert_eq!(recorder.count(ended), 1, "{expected:?}");
        assert_eq!(recorder.count(|_| true), 1, "{expected:?}");
    };
    check(nowhere, |update| update, ids(1), FailReason::Connection).await;
    check(&shop.dsn(), |update| update.set("nosuch", "x"), ids(1), FailReason::Configuration).await;
    check(&shop.dsn(), |update| update, Keys::file("/nosuch"), FailReason::Configuration).await;
    check(&shop.dsn(), |update| update, Keys::query("SELECT 1/0"), FailReason::Sql).await;
    let halted = |update: Update| {
        let stopped = CancellationToken::new();
        stopped.cancel();
        update.stop(stopped)
    };
    check(nowhere, halted, ids(1), FailReason::Interrupted).await;
}

/// Its future dropped while it looks the table up is a run that failed, too.
#[tokio::test]
async fn an_update_that_is_dropped_before_it_began_was_interrupted() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dsn = format!("postgres://me@{}/none?sslmode=disable", silent.local_addr().unwrap());
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&dsn, vec![recorder.clone()]).update("orders"));
    tokio::select! {
        ended = update.run(ids(1)) => panic!("{ended:?}"),
        line = silent.accept() => drop(line.unwrap()),
    }
    let interrupted = |event: &Event| match event {
        Event::UpdateEnded(facts) => facts.never_began == Some(FailReason::Interrupted),
        _ => false,
    };
    assert_eq!(recorder.count(interrupted), 1);
}

#[tokio::test]
async fn the_report_is_the_documented_object() {
    let shop = Shop::with_orders(3).await;
    let report = shop.pay().task("pay").run(ids(3)).await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    for (field, value) in [("task", "pay"), ("outcome", "complete")] {
        assert_eq!(json[field], value);
    }
    for (field, value) in
        [("keys", 3), ("updated", 3), ("chunks", 1), ("retried_chunks", 0), ("reconnects", 0)]
    {
        assert_eq!(json[field], value, "{field}");
    }
    assert_eq!(json["in_doubt"]["reread"], 0);
    assert!(json["seconds"].is_f64());
}

async fn a_dry_run_classes_and_changes_nothing(major: u32) {
    let shop = Shop::of_version(major, 100).await;
    shop.run("UPDATE orders SET status = 'void' WHERE id <= 7").await;
    let report = shop.pay().dry_run().run(ids(103)).await.unwrap();
    assert_eq!(classes(&report), [93, 0, 7, 3, 0]);
    assert!(report.dry_run);
    assert_eq!(shop.count("status = 'paid' OR version > 0").await, 0);
}

#[tokio::test]
async fn composite_keys_values_per_key_and_an_optimistic_lock_come_from_the_file() {
    let shop = Shop::with_orders(0).await;
    shop.run(
        "CREATE TABLE line (order_id int, pos smallint, price numeric(10,2), note varchar(5), version int DEFAULT 3,
                            PRIMARY KEY (order_id, pos));
         INSERT INTO line SELECT o, p, 1.00 FROM generate_series(1, 20) o, generate_series(1, 5) p",
    )
    .await;
    let mut csv = String::from("pos,version,order_id,price,note\n");
    for n in 0..100 {
        let version = if n < 10 { 2 } else { 3 };
        writeln!(csv, "{},{version},{},{}.50,\"a,{}\"", n % 5 + 1, n / 5 + 1, n, n % 10).unwrap();
    }
    let update = updater(&shop.dsn(), vec![]).update("line").key(["order_id", "pos"]);
    let update = update.set_from("price", "price").set_from("note", "note").version("version");
    let update = update.expect_from("version", "version").chunk(ChunkSize::Keys(30));
    let report = update.run(Keys::reader(std::io::Cursor::new(csv.clone()))).await.unwrap();
    assert_eq!(classes(&report), [90, 0, 10, 0, 0]);
    let right = "SELECT (count(*) FILTER (WHERE price = (order_id - 1) * 5 + pos - 0.5 AND version = 4
                        AND note = 'a,' || (pos - 1 + (order_id - 1) % 2 * 5)))::text FROM line";
    assert_eq!(shop.text(right).await, "90");
    let again = update.run(Keys::reader(std::io::Cursor::new(csv))).await.unwrap();
    assert_eq!(classes(&again), [0, 90, 10, 0, 0]);
}

/// A table with keys of one type, all updated once and then found done.
async fn check_type(shop: &Shop, column_type: &str, constraint: &str, values: &[&str]) {
    shop.run("DROP TABLE IF EXISTS typed").await;
    shop.run(&format!("CREATE TABLE typed (k {column_type} {constraint}, done bool DEFAULT false)")).await;
    for value in values {
        shop.run(&format!("INSERT INTO typed VALUES ($text${value}$text$)")).await;
    }
    let update = updater(&shop.dsn(), vec![]).update("typed").key(["k"]).set("done", "true");
    let keys = || Keys::rows(values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>());
    let report = update.run(keys()).await.unwrap();
    assert_eq!(report.updated, values.len() as u64, "{column_type}: {report:?}");
    assert_eq!(update.run(keys()).await.unwrap().already, values.len() as u64, "{column_type}");
}

#[tokio::test]
async fn keys_may_be_of_any_type_with_an_equality_operator() {
    let shop = Shop::with_orders(0).await;
    shop.run(
        "CREATE TYPE color AS ENUM ('red', 'green'); CREATE DOMAIN code AS varchar(3) CHECK (value <> 'bad');
         CREATE DOMAIN paint AS color",
    )
    .await;
    check_type(&shop, "uuid", "PRIMARY KEY", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]).await;
    check_type(&shop, "timestamptz", "PRIMARY KEY", &["2026-01-02 03:04:05.678+00", "infinity"]).await;
    check_type(&shop, "char(5)", "PRIMARY KEY", &["ab", "abcde"]).await;
    check_type(&shop, "bytea", "PRIMARY KEY", &["\\x00ff"]).await;
    check_type(&shop, "color", "PRIMARY KEY", &["red", "green"]).await;
    check_type(&shop, "code", "PRIMARY KEY", &["abc"]).await;
    check_type(&shop, "paint", "PRIMARY KEY", &["red", "green"]).await;
    check_type(&shop, "int[]", "PRIMARY KEY", &["{1,2}", "{3}"]).await;
    check_type(&shop, "int4range", "PRIMARY KEY", &["[1,5)"]).await;
    check_type(&shop, "text", "PRIMARY KEY", &["it's", "\"quoted\"", "a,b", "päivä"]).await;
    // Equality without an order: no unique index can be had, so the rows of each key are counted.
    check_type(&shop, "xid", "", &["7", "8"]).await;
    let json = updater(&shop.dsn(), vec![]).update("typed").key(["k"]).set("done", "true");
    shop.run("DROP TABLE typed; CREATE TABLE typed (k json, done bool)").await;
    let refused = json.run(Keys::rows(["{}"])).await.unwrap_err();
    assert_eq!(refused.to_string(), "key: column \"k\" is of type json, which has no equality operator");
}

#[tokio::test]
async fn a_key_with_two_rows_fails_and_neither_is_changed() {
    let shop = Shop::with_orders(0).await;
    shop.run(
        "CREATE TABLE loose (k int, done bool DEFAULT false); INSERT INTO loose VALUES (1), (2), (2), (3)",
    )
    .await;
    let update = updater(&shop.dsn(), vec![]).update("loose").key(["k"]).set("done", "true");
    let report = update.run(ids(3)).await.unwrap();
    assert_eq!(classes(&report), [2, 0, 0, 0, 1]);
    assert_eq!(report.failures[0].keys, ["2"]);
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("21000"));
    assert_eq!(shop.text("SELECT string_agg(k::text, ',' ORDER BY k) FROM loose WHERE done").await, "1,3");
}

#[tokio::test]
async fn a_key_with_many_rows_fails_in_a_time_that_grows_with_them_and_not_with_their_square() {
    let shop = Shop::with_orders(0).await;
    // A square of these would take an hour.
    shop.run("CREATE TABLE loose AS SELECT 1 AS k, false AS done FROM generate_series(1, 50000)").await;
    shop.run(&format!("ALTER DATABASE {} SET statement_timeout = '20s'", shop.database)).await;
    let update = updater(&shop.dsn(), vec![]).update("loose").key(["k"]).set("done", "true");
    let report = update.run(ids(1)).await.unwrap();
    assert_eq!(classes(&report), [0, 0, 0, 0, 1]);
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("21000"), "{report:?}");
    assert_eq!(shop.text("SELECT count(*)::text FROM loose WHERE done").await, "0");
}

#[tokio::test]
async fn a_value_that_does_not_parse_fails_alone_and_is_named_with_its_line() {
    let shop = Shop::with_orders(300).await;
    let mut lines: Vec<String> = (1..=300).map(|id| id.to_string()).collect();
    lines[41] = "4x2".into();
    lines[250] = "999999999999999999999".into();
    let folder = tempfile::tempdir().unwrap();
    let rejects = folder.path().join("rejects.csv");
    let report =
        shop.pay().rejects(&rejects).run(Keys::reader(std::io::Cursor::new(lines.join("\n")))).await.unwrap();
    assert_eq!(classes(&report), [298, 0, 0, 0, 2]);
    assert!(!report.is_complete());
    let named: Vec<_> =
        report.failures.iter().map(|failure| (failure.lines[0], failure.keys[0].clone())).collect();
    assert_eq!(named, [(42, "4x2".to_owned()), (251, "999999999999999999999".to_owned())]);
    let written = std::fs::read_to_string(&rejects).unwrap();
    assert!(written.starts_with("id,class,line,reason\n4x2,failed,42,"), "{written}");
    assert_eq!(shop.count("version = 1").await, 298);
}

#[tokio::test]
async fn rejects_can_be_the_input_of_the_next_run() {
    let shop = Shop::with_orders(10).await;
    shop.run("UPDATE orders SET status = 'void' WHERE id IN (3, 4)").await;
    let folder = tempfile::tempdir().unwrap();
    let rejects = folder.path().join("rejects.csv");
    let report = shop.pay().rejects(&rejects).run(ids(11)).await.unwrap();
    assert_eq!(classes(&report), [8, 0, 2, 1, 0]);
    assert_eq!(
        std::fs::read_to_string(&rejects).unwrap(),
        "id,class,line,reason\n11,missing,11,\n3,stale,3,\n4,stale,4,\n"
    );
    shop.run("UPDATE orders SET status = 'new' WHERE id = 3").await;
    let again = shop.pay().run(Keys::file(&rejects)).await.unwrap();
    assert_eq!(classes(&again), [1, 0, 1, 1, 0]);
}

#[tokio::test]
async fn duplicates_find_what_the_first_has_left_and_contradictions_fail() {
    let shop = Shop::with_orders(5).await;
    let report = shop.pay().run(Keys::rows([1, 2, 1, 9, 9])).await.unwrap();
    assert_eq!(classes(&report), [2, 1, 0, 2, 0]);
    // Across chunks, and written in another way within one.
    let report = shop.pay().chunk(ChunkSize::Keys(2)).run(Keys::rows(["3", "03", "4", "3"])).await.unwrap();
    assert_eq!(classes(&report), [2, 2, 0, 0, 0]);
    let update =
        updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set_from("status", "to").version("version");
    let report = update.run(Keys::rows([("5", "a"), ("5", "b")])).await.unwrap();
    assert_eq!(classes(&report), [1, 0, 0, 0, 1]);
    assert_eq!(report.failures[0].reason, "the same key occurs before with other values");
    assert_eq!(shop.count("version <= 1").await, 5);
}

#[tokio::test]
async fn a_table_name_with_quotes_and_spaces_is_found_and_nothing_is_injected() {
    let shop = Shop::with_orders(2).await;
    shop.run(
        "CREATE SCHEMA \"My Shop\";
         CREATE TABLE \"My Shop\".\"the \"\"Orders\"\"; --\" (\"the Key\" int PRIMARY KEY, \"a\"\"b\" text);
         INSERT INTO \"My Shop\".\"the \"\"Orders\"\"; --\" VALUES (1), (2)",
    )
    .await;
    let updater = updater(&shop.dsn(), vec![]);
    let value = "x'); DROP TABLE orders; --";
    let odd = |table| updater.update(table).key(["the Key"]).set("a\"b", value);
    let report = odd("\"My Shop\".\"the \"\"Orders\"\"; --\"").run(ids(2)).await.unwrap();
    assert_eq!(report.updated, 2);
    assert_eq!(shop.text("SELECT max(\"a\"\"b\") FROM \"My Shop\".\"the \"\"Orders\"\"; --\"").await, value);
    // Visible, a name may be written as it is.
    shop.run("CREATE TABLE \"Odd Name\" (\"the Key\" int PRIMARY KEY, \"a\"\"b\" text)").await;
    assert_eq!(odd("Odd Name").run(ids(2)).await.unwrap().missing, 2);

    for table in ["orders; DROP TABLE orders", "orders WHERE true", "no_such", "", "\"", "a.b.c.d"] {
        let error = odd(table).run(ids(1)).await.unwrap_err();
        assert!(error.is_configuration() && error.to_string().starts_with("table: "), "{table}: {error}");
    }
    let hostile = shop.pay().run(Keys::rows(["1'); DROP TABLE orders; --", "2"])).await.unwrap();
    assert_eq!(classes(&hostile), [1, 0, 0, 0, 1]);
    assert_eq!(shop.count("true").await, 2);
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_changed() {
    let shop = Shop::with_orders(5).await;
    shop.run(
        "CREATE DOMAIN note AS text;
         ALTER TABLE orders ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED, ADD tag note, ADD day date,
             ADD nr int GENERATED ALWAYS AS IDENTITY;
         CREATE VIEW v AS SELECT * FROM orders",
    )
    .await;
    let updater = updater(&shop.dsn(), vec![]);
    let check = async |update: Update, keys: Keys, expected: &str| {
        let error = update.run(keys).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.is_configuration());
    };
    let orders = || updater.update("orders").key(["id"]).set("status", "paid");
    check(orders().key(["no"]), ids(1), "key: \"public\".\"orders\" has no column \"no\"").await;
    check(orders().set("state", "x"), ids(1), "set: \"public\".\"orders\" has no column \"state\"").await;
    check(orders().expect("x", "x"), ids(1), "expect: \"public\".\"orders\" has no column \"x\"").await;
    check(orders().set("twice", "4"), ids(1), "set: column \"twice\" is generated").await;
    check(orders().set("nr", "4"), ids(1), "set: column \"nr\" is generated").await;
    check(orders().version("nr"), ids(1), "version: column \"nr\" is generated").await;
    for (column, column_type) in [("tag", "text"), ("day", "date")] {
        let expected = format!(
            "version: column \"{column}\" is of type {column_type}; a version is an integer or numeric"
        );
        check(orders().version(column), ids(1), &expected).await;
    }
    for again in ["status", "STATUS"] {
        check(orders().set(again, "x"), ids(1), "set: column \"status\" is set twice").await;
    }
    check(orders().version("Status"), ids(1), "version: column \"status\" is set twice").await;
    check(orders().key(["id", "ID"]), ids(1), "key: column \"id\" is named twice").await;
    check(updater.update("orders").key(["id"]), ids(1), "set: name at least one column and its new value")
        .await;
    check(updater.update("v").key(["id"]).set("status", "x"), ids(1), "table: public.v is not a table").await;
    check(orders().chunk(ChunkSize::Keys(0)), ids(1), "chunk: 0 is not within 1 to 10000").await;
    check(
        orders().set_from("version", "ver"),
        Keys::reader("id,v\n1,2".as_bytes()),
        "keys: line 1: the header has no column ver",
    )
    .await;
    check(orders(), Keys::query("SELECT 1 AS a, 2 AS b"), "keys: the query has no column id").await;
    assert_eq!(shop.count("status = 'new'").await, 5);
}

#[tokio::test]
async fn a_table_with_a_rule_in_force_is_refused_before_anything_is_changed() {
    let shop = Shop::with_orders(5).await;
    for rule in ["DO ALSO NOTIFY echo", "DO INSTEAD NOTHING", "WHERE NEW.id = 1 DO INSTEAD NOTHING"] {
        shop.run(&format!("CREATE OR REPLACE RULE echo AS ON UPDATE TO orders {rule}")).await;
        let error = shop.pay().run(ids(5)).await.unwrap_err();
        assert!(error.is_configuration(), "{rule}: {error}");
        let expected = "table: public.orders has a rule ON UPDATE (echo), with which the server refuses";
        assert!(error.to_string().starts_with(expected), "{rule}: {error}");
    }
    shop.run("ALTER TABLE orders ENABLE REPLICA RULE echo").await;
    assert_eq!(classes(&shop.pay().run(ids(5)).await.unwrap()), [5, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_version_that_is_null_counts_as_zero() {
    let shop = Shop::with_orders(1).await;
    shop.run("CREATE DOMAIN revision AS numeric(9)").await;
    for column_type in ["smallint", "bigint", "revision"] {
        shop.run(&format!(
            "ALTER TABLE orders DROP IF EXISTS ver, ADD ver {column_type}; UPDATE orders SET status = 'new'"
        ))
        .await;
        let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).version("ver");
        let first = update.clone().set("status", "paid").expect("ver", None);
        assert_eq!(classes(&first.run(ids(1)).await.unwrap()), [1, 0, 0, 0, 0], "{column_type}");
        assert_eq!(classes(&update.set("status", "sent").run(ids(1)).await.unwrap()), [1, 0, 0, 0, 0]);
        assert_eq!(shop.text("SELECT ver::text FROM orders").await, "2", "{column_type}");
    }
}

#[tokio::test]
async fn keys_come_from_a_query_under_any_name() {
    let shop = Shop::with_orders(500).await;
    let report = shop.pay().run(Keys::query("SELECT id AS nr FROM orders WHERE id % 2 = 0;")).await.unwrap();
    assert_eq!((report.updated, report.keys), (250, 250));
    assert_eq!(shop.count("version = 1 AND id % 2 = 0").await, 250);
}

#[tokio::test]
async fn null_is_a_value_to_set_and_to_expect() {
    let shop = Shop::with_orders(4).await;
    shop.run("UPDATE orders SET status = NULL WHERE id = 1").await;
    let updater = updater(&shop.dsn(), vec![]);
    let report = updater
        .update("orders")
        .key(["id"])
        .set("status", None)
        .expect("status", "new")
        .run(ids(4))
        .await
        .unwrap();
    assert_eq!(classes(&report), [3, 1, 0, 0, 0]);
    let report = updater
        .update("orders")
        .key(["id"])
        .set("status", "")
        .expect("status", None)
        .run(ids(4))
        .await
        .unwrap();
    assert_eq!(report.updated, 4);
    assert_eq!(shop.count("status = ''").await, 4);
}

#[tokio::test]
async fn a_null_from_the_input_is_set_is_expected_and_names_no_row() {
    let shop = Shop::with_orders(5).await;
    shop.run("UPDATE orders SET status = NULL WHERE id IN (1, 3)").await;
    let folder = tempfile::TempDir::new().unwrap();
    let rejects = folder.path().join("rejects.csv");
    let update = updater(&shop.dsn(), vec![])
        .update("orders")
        .key(["id"])
        .set_from("status", "new")
        .expect_from("status", "old")
        .rejects(&rejects);
    // Of a row that holds neither, of one without a key, and of one whose text only looks like NULL.
    let rows = "id,old,new\n1,,paid\n2,new,\n3,\"\",paid\n,new,paid\n4,\\N,paid\n5,new,\"\"\n";
    let report = update.run(Keys::reader(rows.as_bytes())).await.unwrap();
    assert_eq!(classes(&report), [3, 0, 2, 0, 1], "{report:?}");
    let now = "SELECT string_agg(id || '=' || coalesce(status, 'NULL'), ' ' ORDER BY id) FROM orders";
    assert_eq!(shop.text(now).await, "1=paid 2=NULL 3=NULL 4=new 5=");
    let failure = &report.failures[0];
    assert_eq!((&*failure.keys, &*failure.lines), (&["NULL".to_owned()][..], &[5][..]));
    assert_eq!(failure.sqlstate.as_deref(), Some("22004"));
    assert!(failure.reason.starts_with("a column of the key is NULL, which no row equals"), "{failure:?}");
    let written = std::fs::read_to_string(&rejects).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines[0], "id,new,old,class,line,reason");
    assert!(lines[1..].iter().any(|line| line.starts_with(",paid,new,failed,5,\"a column of")), "{written}");
    assert!(lines.contains(&"3,paid,\"\",stale,4,") && lines.contains(&r"4,paid,\N,stale,6,"), "{written}");
}

#[tokio::test]
async fn a_key_that_is_null_in_part_fails_beside_one_that_is_given_up_each_with_its_reason() {
    let shop = Shop::with_orders(3).await;
    let query =
        "SELECT * FROM (VALUES ('1', 'eu'), ('2', NULL), ('x', 'eu'), (NULL, 'eu')) AS k (id, region)";
    let update = updater(&shop.dsn(), vec![]).update("orders").key(["id", "region"]).set("status", "paid");
    let report = update.run(Keys::query(query)).await.unwrap();
    assert_eq!(classes(&report), [1, 0, 0, 0, 3], "{report:?}");
    let mut told: Vec<_> =
        report.failures.iter().map(|f| (f.keys.join(" "), f.sqlstate.clone().unwrap())).collect();
    told.sort();
    assert_eq!(
        told,
        [("2,NULL", "22004"), ("NULL,eu", "22004"), ("x,eu", "22P02")].map(|(k, s)| (k.into(), s.into()))
    );
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_and_not_cut() {
    let shop = Shop::with_orders(0).await;
    shop.run("CREATE TABLE short (k int PRIMARY KEY, v varchar(3)); INSERT INTO short VALUES (1), (2)").await;
    let update = updater(&shop.dsn(), vec![]).update("short").key(["k"]).set_from("v", "v");
    let report = update.run(Keys::rows([("1", "abc"), ("2", "abcd")])).await.unwrap();
    assert_eq!(classes(&report), [1, 0, 0, 0, 1]);
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("22001"));
}

#[tokio::test]
async fn auto_grows_chunks_that_are_quick() {
    let shop = Shop::with_orders(20_000).await;
    let report = shop.pay().chunk(ChunkSize::Auto).connections(2).run(ids(20_000)).await.unwrap();
    assert_eq!(report.updated, 20_000);
    assert!(report.chunks < 200, "{} chunks", report.chunks);
}
