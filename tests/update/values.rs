//! What a value is: what the server makes of it, when it is the same, and who else has a say.

use std::time::Duration;

use headcount::{ChunkSize, Keys, Update};
use testkit::server::Shutdown;

use crate::support::{Shop, classes, connect, ids, on_each_version, updater};
use crate::versions::{Part, version_with};

on_each_version!(
    a_value_survives_its_way_through_text_whatever_the_role_prefers,
    a_key_whose_value_is_another_time_at_each_attempt_fails_alone,
    blanks_that_an_assignment_cuts_are_cut_before_a_row_is_compared,
);

#[tokio::test]
async fn a_value_that_the_server_cannot_read_is_one_mistake_and_not_a_failure_of_each_key() {
    let shop = Shop::with_orders(5).await;
    shop.run("ALTER TABLE orders ADD paid_at timestamptz").await;
    let orders = || updater(&shop.dsn(), vec![]).update("orders").key(["id"]);
    let check = async |update: Update, expected: &str| {
        let error = update.run(ids(5)).await.unwrap_err();
        assert!(error.is_configuration());
        assert_eq!(error.to_string(), expected);
    };
    check(
        orders().set("version", "one"),
        "set: column \"version\": invalid input syntax for type integer: \"one\"",
    )
    .await;
    check(
        orders().set("status", "paid").expect("paid_at", "yesteryear"),
        "expect: column \"paid_at\": invalid input syntax for type timestamp with time zone: \"yesteryear\"",
    )
    .await;
    check(
        updater(&shop.dsn(), vec![]).update("orders").key(["id", "status"]).set("status", "paid"),
        "set: column \"status\" is part of the key; what it holds now belongs to expect",
    )
    .await;
}

/// Types that hold times, each with a value for such a time.
const TIMES: [(&str, &str); 6] = [
    ("timestamptz", "now"),
    ("moment", "NOW"),
    ("timestamptz[]", "{now}"),
    ("tstzrange", "[today,now]"),
    ("event", "(1,now)"),
    ("event[]", "{\"(1,now)\"}"),
];
const OF_TIMES: &str = "CREATE DOMAIN moment AS timestamptz; CREATE TYPE event AS (n int, at moment)";

#[tokio::test]
async fn now_is_one_moment_for_all_rows_wherever_in_the_value_it_stands() {
    let shop = Shop::with_orders(50).await;
    shop.run(OF_TIMES).await;
    for (column_type, now) in TIMES {
        shop.run(&format!("ALTER TABLE orders DROP IF EXISTS paid_at, ADD paid_at {column_type}")).await;
        let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set("paid_at", now);
        let report = update.chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap();
        assert_eq!(report.updated, 50, "{column_type}");
        assert_eq!(shop.text("SELECT count(DISTINCT paid_at)::text FROM orders").await, "1", "{column_type}");
    }
}

/// An attempt that may have taken effect could not be told from another session's work.
async fn a_key_whose_value_is_another_time_at_each_attempt_fails_alone(major: u32) {
    let shop = Shop::of_version(major, 5).await;
    shop.run(OF_TIMES).await;
    let ranges = if major < 14 { &[][..] } else { &[("tstzmultirange", "{[now,)}")] };
    for (column_type, now) in TIMES.iter().chain(ranges) {
        shop.run(&format!(
            "ALTER TABLE orders DROP IF EXISTS at, ADD at {column_type}; UPDATE orders SET status = 'new'"
        ))
        .await;
        let time = now.to_lowercase().replace("today", "2023-01-01").replace("now", "2024-01-01");
        let by_key = || Keys::rows([("1", time.clone()), ("2", (*now).to_owned())]);
        let orders = || updater(&shop.dsn(), vec![]).update("orders").key(["id"]);
        let setting = orders().set_from("at", "at").version("version");
        let expecting = orders().set("status", "paid").expect_from("at", "at");
        for update in [setting, expecting] {
            let report = update.run(by_key()).await.unwrap();
            assert_eq!(classes(&report), [1, 0, 0, 0, 1], "{column_type}: {report:?}");
            let failure = &report.failures[0];
            assert_eq!((failure.keys.join(","), failure.sqlstate.as_deref()), ("2".into(), Some("22007")));
            assert!(failure.reason.ends_with("another time at each attempt: write the time itself"));
        }
        assert_eq!(shop.count("id = 2 AND (at IS NOT NULL OR status = 'paid' OR version > 0)").await, 0);
        // Nor is it taken from a query that is claimed from.
        let query = format!("SELECT 2 AS id, '{now}' AS at");
        let report = orders().set_from("at", "at").run(Keys::claim(&query)).await.unwrap();
        assert_eq!((classes(&report), report.is_complete()), ([0; 5], false), "{column_type}: {report:?}");
        assert!(report.error.is_some_and(|error| error.contains("another time at each attempt")));
    }
    let text = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set_from("status", "status");
    assert_eq!(classes(&text.run(Keys::rows([("2", "now")])).await.unwrap()), [1, 0, 0, 0, 0]);
}

async fn blanks_that_an_assignment_cuts_are_cut_before_a_row_is_compared(major: u32) {
    let shop = Shop::of_version(major, 0).await;
    shop.run("CREATE DOMAIN code AS varchar(3); CREATE DOMAIN codes AS varchar(3)[]").await;
    for (column_type, value, stored, long) in [
        ("varchar(3)", "a\"c  ", "a\"c", "a\"c\""),
        ("varchar(3)", "a     ", "a  ", "abcd"),
        ("char(3)", "abc   ", "abc", "ab   c"),
        ("code", "abc   ", "abc", "abcd "),
        ("varchar(3)[]", "{\"abc   \",d}", "{abc,d}", "{abcd}"),
        ("codes", "{\"abc   \",NULL}", "{abc,NULL}", "{abc,\"abc\\\"\"}"),
        ("char(3)[]", "{\"abc   \"}", "{abc}", "{abcd}"),
        ("code[]", "{\"abc   \"}", "{abc}", "{abcd}"),
        ("bit(3)", "101", "101", "1010"),
        ("varbit(3)", "10", "10", "1010"),
    ] {
        let typed = || updater(&shop.dsn(), vec![]).update("typed").key(["k"]).version("n");
        let shared = |value: &str| (typed().set("v", value), ids(1));
        let own = |value: &str| (typed().set_from("v", "v"), Keys::rows([("1", value.to_owned())]));
        for with in [&shared as &dyn Fn(&str) -> (Update, Keys), &own] {
            shop.run(&format!(
                "DROP TABLE IF EXISTS typed; CREATE TABLE typed (k int PRIMARY KEY, v {column_type}, n int DEFAULT 0);
                 INSERT INTO typed VALUES (1)"
            ))
            .await;
            for expected in [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]] {
                let (update, keys) = with(value);
                assert_eq!(classes(&update.run(keys).await.unwrap()), expected, "{column_type}: {value}");
            }
            assert_eq!(shop.text("SELECT v::text FROM typed").await, stored, "{column_type}");
            let (update, keys) = with(long);
            match update.run(keys).await {
                Ok(report) => assert_eq!(classes(&report), [0, 0, 0, 0, 1], "{column_type}: {report:?}"),
                Err(error) => assert!(error.is_configuration(), "{error}"),
            }
            assert_eq!(
                shop.text("SELECT v::text || n FROM typed").await,
                format!("{stored}1"),
                "{column_type}"
            );
        }
    }
}

#[tokio::test]
async fn a_value_for_all_keys_is_stored_as_an_assignment_stores_it() {
    let shop = Shop::with_orders(0).await;
    for style in ["postgres", "postgres_verbose", "sql_standard", "iso_8601"] {
        shop.run(&format!(
            "ALTER DATABASE {0} SET intervalstyle TO '{style}'; ALTER DATABASE {0} SET extra_float_digits TO -3;
             ALTER DATABASE {0} SET datestyle TO 'SQL, DMY'; ALTER DATABASE {0} SET bytea_output TO 'escape';
             ALTER DATABASE {0} SET timezone TO 'Asia/Kolkata'",
            shop.database
        ))
        .await;
        for (column_type, value) in [
            ("float8", "0.30000000000000004"),
            ("float4", "1.17549435e-38"),
            ("float8[]", "{0.1,-0,NaN,Infinity}"),
            ("point", "(0.30000000000000004,-0)"),
            ("timestamptz", "02/01/2024 00:00:00.000001 IST"),
            ("timestamptz", "0044-03-15 12:00 BC"),
            ("timestamptz", "infinity"),
            ("timetz", "10:00:00.7-03:30"),
            ("date", "epoch"),
            ("tstzrange", "[02/01/2024 IST,infinity)"),
            ("interval", "-1 year 2 mons -3 days +04:05:06.789"),
            ("interval", "-1 2:03:04"),
            ("interval[]", "{\"1 mon -1 day\",\"-00:00:00.000001\"}"),
            ("money", "-1234567.89"),
            ("json", "{\"b\": 1,  \"a\":1, \"b\":\"é\\u0041\"}"),
            ("jsonb", "{\"b\": 1.00, \"a\": null}"),
            ("bytea", "\\x00ff5c27"),
            ("char(5)", "ab"),
            ("char(5)[]", "{\" a \",\"\"}"),
            ("\"char\"", "xyz"),
            ("name", "a b"),
            ("bool", " YES "),
            ("inet", "10.0.0.1/8"),
            ("numeric", "1.2300"),
            ("numeric[]", "{1.20,NaN}"),
            ("tsvector", "'b':2A a"),
            ("regclass", "pg_class"),
        ] {
            shop.run(&format!(
                "DROP TABLE IF EXISTS typed; CREATE TABLE typed (k int PRIMARY KEY, v {column_type}, w {column_type})"
            ))
            .await;
            // A session of its own has the settings.
            let session = connect(&shop.dsn()).await;
            let insert = format!("INSERT INTO typed VALUES (1, NULL, '{}')", value.replace('\'', "''"));
            session.batch_execute(&insert).await.unwrap();
            let update = updater(&shop.dsn(), vec![]).update("typed").key(["k"]).set("v", value);
            assert_eq!(classes(&update.run(ids(1)).await.unwrap()), [1, 0, 0, 0, 0], "{column_type} {value}");
            assert_eq!(classes(&update.run(ids(1)).await.unwrap()), [0, 1, 0, 0, 0], "{column_type} {value}");
            let same = shop.text("SELECT record_image_eq(ROW(v), ROW(w))::text FROM typed").await;
            assert_eq!(same, "true", "{style}: {column_type} {value}");
        }
    }
}

#[tokio::test]
async fn equal_is_not_always_the_same() {
    let shop = Shop::of_version(version_with(Part::Icu), 0).await;
    let check = async |column_type: &str, old: &str, new: &str| {
        shop.run("DROP TABLE IF EXISTS typed").await;
        shop.run(&format!("CREATE TABLE typed (k int PRIMARY KEY, v {column_type})")).await;
        shop.run(&format!("INSERT INTO typed VALUES (1, '{old}')")).await;
        let update = updater(&shop.dsn(), vec![]).update("typed").key(["k"]).set("v", new);
        assert_eq!(classes(&update.run(ids(1)).await.unwrap()), [1, 0, 0, 0, 0], "{column_type}");
        assert_eq!(shop.text("SELECT v::text FROM typed").await, new, "{column_type}");
        assert_eq!(classes(&update.run(ids(1)).await.unwrap()), [0, 1, 0, 0, 0], "{column_type}");
    };
    shop.run(
        "CREATE COLLATION shoutless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )
    .await;
    // As many points; the same area; the same number; the same length of time; but for the case.
    check("path", "[(0,0),(1,1)]", "[(5,5),(9,9)]").await;
    check("box", "(1,1),(0,0)", "(3,3),(2,2)").await;
    check("numeric", "1.0", "1.00").await;
    check("interval", "24:00:00", "1 day").await;
    check("text COLLATE shoutless", "Paid", "PAID").await;
    check("jsonb[]", "{}", "{1}").await;
    check("json[]", "{}", "{1}").await;
}

#[tokio::test]
async fn an_index_that_tells_more_apart_than_the_column_proves_nothing() {
    let shop = Shop::of_version(version_with(Part::Icu), 0).await;
    shop.run(
        "CREATE COLLATION shoutless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE typed (k text COLLATE shoutless, v int); CREATE UNIQUE INDEX ON typed (k COLLATE \"C\");
         INSERT INTO typed VALUES ('a', 0), ('A', 0), ('b', 0)",
    )
    .await;
    let update = updater(&shop.dsn(), vec![]).update("typed").key(["k"]).set("v", "1");
    let report = update.run(Keys::rows(["a", "b", "zz"])).await.unwrap();
    assert_eq!(classes(&report), [1, 0, 0, 1, 1], "{report:?}");
    assert_eq!(report.failures[0].keys, ["a"]);
    assert_eq!(shop.text("SELECT string_agg(k, ',') FROM typed WHERE v = 1").await, "b");
}

#[tokio::test]
async fn a_row_that_a_trigger_or_a_policy_withholds_fails_alone_and_says_why() {
    let shop = Shop::with_orders(250).await;
    shop.run(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF NEW.id = 50 THEN RETURN NULL; END IF; RETURN NEW; END';
         CREATE TRIGGER skip BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION skip();
         CREATE ROLE clerk LOGIN; GRANT SELECT, UPDATE ON orders TO clerk;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY see ON orders FOR SELECT USING (true);
         CREATE POLICY change ON orders FOR UPDATE USING (id <> 7)",
    )
    .await;
    let update = crate::support::pay(&shop.server.dsn_for("clerk", &shop.database));
    let report = update.run(ids(250)).await.unwrap();
    assert_eq!(classes(&report), [248, 0, 0, 0, 2], "{report:?}");
    let mut failed: Vec<&str> =
        report.failures.iter().flat_map(|failure| &failure.keys).map(|key| &**key).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["50", "7"]);
    for failure in &report.failures {
        assert_eq!(failure.sqlstate.as_deref(), Some("09000"));
        assert!(failure.reason.contains("row-level security policy"), "{}", failure.reason);
    }
}

/// Rows changed twice when the server crashes before anything but the commits has flushed them.
async fn changed_twice(schema: &str, update: impl FnOnce(&Shop) -> Update) -> u64 {
    let crash = async |shop: &Shop| shop.server.restart(Shutdown::Immediate).await.unwrap();
    let prepare = async |shop: &Shop| shop.run(schema).await;
    // What was written is in the log, and nobody has said so to us.
    let (shop, report) = crate::losses::while_it_waits(prepare, update, async |shop: &Shop| {
        shop.run("SELECT pg_logical_emit_message(true, 'other', '')").await;
        crash(shop).await;
    })
    .await;
    assert!(report.is_complete(), "{report:?}");
    shop.count("version > 1").await
}

#[tokio::test]
async fn a_row_that_a_trigger_keeps_as_it_is_is_not_worked_on_twice() {
    let guard = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.status = OLD.status; RETURN NEW; END';
         CREATE TRIGGER keep BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep()";
    assert_eq!(changed_twice(guard, Shop::pay).await, 0);
}

#[tokio::test]
async fn the_expected_value_in_other_words_is_no_other_value() {
    let update = |shop: &Shop| {
        let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]);
        update.set("active", "t").set("region", "us").expect("active", "true").version("version")
    };
    assert_eq!(changed_twice("ALTER TABLE orders ADD active bool DEFAULT true", update).await, 0);
}

#[tokio::test]
async fn a_key_and_an_expected_value_are_not_rounded_before_they_are_compared() {
    let shop = Shop::with_orders(0).await;
    let check = async |column_type: &str, stored: &str, near: &str, same: &str| {
        shop.run("DROP TABLE IF EXISTS typed").await;
        shop.run(&format!("CREATE TABLE typed (k {column_type} PRIMARY KEY, e {column_type}, v int)")).await;
        shop.run(&format!("INSERT INTO typed VALUES ('{stored}', '{stored}', 0)")).await;
        let typed = || updater(&shop.dsn(), vec![]).update("typed").key(["k"]);
        let keys = |key: &str| Keys::rows([key.to_owned()]);
        let by_key = typed().set("v", "1").run(keys(near)).await.unwrap();
        assert_eq!(classes(&by_key), [0, 0, 0, 1, 0], "{column_type}: {by_key:?}");
        let by_value = typed().set("v", "1").expect("e", near).run(keys(stored)).await.unwrap();
        assert_eq!(classes(&by_value), [0, 0, 1, 0, 0], "{column_type}: {by_value:?}");
        let exact = typed().set("v", "1").expect("e", same).run(keys(same)).await.unwrap();
        assert_eq!(classes(&exact), [1, 0, 0, 0, 0], "{column_type}: {exact:?}");
    };
    check("numeric(10,2)", "1.24", "1.239", "1.240").await;
    check("timestamp(0)", "2024-05-06 07:08:10", "2024-05-06 07:08:09.7", "2024-05-06 07:08:10.0").await;
    check("timestamptz(0)", "2024-05-06 07:08:10Z", "2024-05-06 07:08:09.7Z", "2024-05-06 09:08:10+02").await;
    check("time(0)", "07:08:10", "07:08:09.7", "07:08:10.0").await;
    check("timetz(0)", "07:08:10+00", "07:08:09.7+00", "07:08:10.0+00").await;
    check("interval(0)", "00:00:02", "00:00:01.7", "00:00:02.0").await;
    shop.run("CREATE DOMAIN price AS numeric(10,2)").await;
    check("price", "1.24", "1.239", "1.240").await;
}

#[tokio::test]
async fn a_new_value_is_rounded_as_the_column_rounds_it_and_found_again() {
    let shop = Shop::with_orders(1).await;
    shop.run("ALTER TABLE orders ADD price numeric(10,2)").await;
    let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set("price", "1.239");
    assert_eq!(classes(&update.run(ids(1)).await.unwrap()), [1, 0, 0, 0, 0]);
    assert_eq!(shop.text("SELECT price::text FROM orders").await, "1.24");
    assert_eq!(classes(&update.run(ids(1)).await.unwrap()), [0, 1, 0, 0, 0]);
}

async fn a_value_survives_its_way_through_text_whatever_the_role_prefers(major: u32) {
    let shop = Shop::of_version(major, 0).await;
    shop.run(&format!(
        "ALTER DATABASE {0} SET extra_float_digits TO 0; ALTER DATABASE {0} SET datestyle TO 'SQL, DMY';
         ALTER DATABASE {0} SET timezone TO 'Asia/Kolkata'; CREATE TABLE typed (k float8, at timestamptz, v int);
         CREATE UNIQUE INDEX ON typed (k, at)",
        shop.database
    ))
    .await;
    let query = "SELECT k, at FROM typed WHERE v = 0";
    for keys in [Keys::claim(query), Keys::query(query)] {
        shop.run(
            "TRUNCATE typed; INSERT INTO typed VALUES (0.1::float8 + 0.2, '2024-01-02 03:04:05.6+00', 0)",
        )
        .await;
        let update = updater(&shop.dsn(), vec![]).update("typed").key(["k", "at"]).set("v", "1");
        let run = tokio::time::timeout(Duration::from_mins(1), update.run(keys));
        let report = run.await.expect("a row that is found is done").unwrap();
        assert_eq!((report.is_complete(), classes(&report)), (true, [1, 0, 0, 0, 0]), "{report:?}");
    }
    // A text from elsewhere is read as the role has it: the second of January.
    let update = updater(&shop.dsn(), vec![]).update("typed").key(["v"]).set("at", "02/01/2024 00:00+00");
    update.run(Keys::rows(["1"])).await.unwrap().complete().unwrap();
    assert_eq!(shop.text("SELECT (at AT TIME ZONE 'UTC')::date::text FROM typed").await, "2024-01-02");
    // Also where commits wait for a common flush.
    shop.run("CREATE TABLE e (id int PRIMARY KEY, status text); INSERT INTO e SELECT n, 'new' FROM generate_series(1, 500) n").await;
    let update =
        updater(&shop.dsn(), vec![]).update("e").key(["id"]).set("status", "paid").expect("status", "new");
    let run = tokio::time::timeout(Duration::from_mins(1), update.run(ids(500)));
    assert_eq!(classes(&run.await.expect("one server is one server").unwrap()), [500, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_query_for_keys_is_planned_as_the_session_has_it_and_not_as_the_update() {
    let shop = Shop::with_orders(100).await;
    let settings = "(SELECT bool_and(setting = reset_val) FROM pg_settings WHERE name ~ '^enable_|^jit$|^plan_cache_mode$')";
    let query = format!("SELECT id FROM orders WHERE status = 'new' AND {settings}");
    for keys in [Keys::query(&query), Keys::claim(&query)] {
        shop.run("UPDATE orders SET status = 'new'").await;
        assert_eq!(classes(&shop.pay().run(keys).await.unwrap()), [100, 0, 0, 0, 0]);
    }
}
