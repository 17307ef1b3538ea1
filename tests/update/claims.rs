//! Claims that fail, are tried again, and come back: every key is still counted once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use headcount::event::ChunkEnd;
use headcount::{ChunkSize, Event, Keys};
use testkit::server::{PrivateServer, Shutdown};

use crate::support::{Recorder, Shop, classes, connect, eventually, ids, kill, pay, paying, updater};

fn new_orders() -> Keys {
    Keys::claim("SELECT id FROM orders WHERE status = 'new'")
}

#[tokio::test]
async fn a_key_that_cannot_succeed_fails_once_among_many_workers() {
    let shop = Shop::with_orders(1_000).await;
    shop.run("ALTER TABLE orders ADD CHECK (id <> 500 OR status = 'new')").await;
    let report = shop.pay().connections(4).chunk(ChunkSize::Keys(50)).run(new_orders()).await.unwrap();
    assert_eq!(classes(&report), [999, 0, 0, 0, 1], "{report:?}");
    assert_eq!((report.failures.len(), &report.failures[0].keys[..]), (1, &["500".to_owned()][..]));
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 999);
}

#[tokio::test]
async fn what_was_claimed_by_a_backend_that_died_is_whosever_takes_it_next() {
    let shop = Shop::with_orders(10_000).await;
    let killer = connect(&shop.server.dsn()).await;
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
    let update = update.connections(4).max_attempts(50).chunk(ChunkSize::Keys(20));
    let run = tokio::spawn(async move { update.run(new_orders()).await.unwrap() });
    for round in 1..=6 {
        let committed = |event: &Event| matches!(event, Event::ChunkEnded(facts) if facts.end == ChunkEnd::Committed && facts.chunk > round * 40);
        recorder.until(committed).await;
        killer.query_one(&kill(&shop), &[]).await.unwrap();
    }
    let report = run.await.unwrap();
    assert!(report.reconnects > 0, "{report:?}");
    assert_eq!(classes(&report), [10_000, 0, 0, 0, 0], "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 10_000);
}

/// A claim that would go on for ever, and what it says instead.
async fn check_never_ends(shop: &Shop, update: headcount::Update, query: &str) {
    let run = tokio::time::timeout(Duration::from_mins(1), update.run(Keys::claim(query)));
    let report = run.await.expect("it ends").unwrap();
    assert!(!report.is_complete(), "{report:?}");
    let error = report.error.as_deref().unwrap_or_default();
    assert!(error.contains("1 would be claimed again after its update"), "{error}");
    assert_eq!(shop.count("version > 0").await, 0, "{report:?}");
}

#[tokio::test]
async fn a_row_that_is_still_to_be_updated_after_it_was_ends_the_run() {
    let shop = Shop::with_orders(1).await;
    let each = updater(&shop.dsn(), Vec::new()).update("orders").key(["id"]).set_from("status", "to");
    let both = "SELECT * FROM (VALUES (1, 'A'), (1, 'B')) AS wishes (id, \"to\")";
    check_never_ends(&shop, each.version("version"), both).await;
    shop.run(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.status = upper(NEW.status); RETURN NEW; END';
         CREATE TRIGGER shout BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION shout();
         UPDATE orders SET version = 0",
    )
    .await;
    let blind = updater(&shop.dsn(), Vec::new()).update("orders").key(["id"]).set("status", "paid");
    check_never_ends(&shop, blind.version("version"), "SELECT id FROM orders").await;
}

/// Each update fails as one that lost a race, after a while.
const ALWAYS_BUSY: &str = "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.2); RAISE ''busy'' USING ERRCODE = ''55P03''; END';
     CREATE TRIGGER busy BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION busy()";

#[tokio::test]
async fn a_budget_of_attempts_is_the_keys_own_whoever_else_claims() {
    let shop = Shop::with_orders(1).await;
    shop.run(ALWAYS_BUSY).await;
    let update = shop.pay().connections(2).max_attempts(3);
    let run = tokio::time::timeout(Duration::from_mins(1), update.run(new_orders()));
    let report = run.await.expect("three attempts are soon over").unwrap();
    assert_eq!(classes(&report), [0, 0, 0, 0, 1], "{report:?}");
    assert_eq!((report.failures.len(), report.failures[0].sqlstate.as_deref()), (1, Some("55P03")));
}

#[tokio::test]
async fn a_key_is_not_given_up_by_one_and_updated_by_another() {
    for _ in 0..10 {
        let shop = Shop::with_orders(1).await;
        shop.run(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM pg_sleep(0.02);
               IF nextval('tries') = 1 THEN RAISE 'not now' USING ERRCODE = '40001'; END IF;
               RETURN NEW; END $$;
             CREATE TRIGGER once BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION once()",
        )
        .await;
        let report = shop.pay().connections(2).max_attempts(1).run(new_orders()).await.unwrap();
        assert_eq!((report.keys, report.updated), (1, shop.count("status = 'paid'").await), "{report:?}");
    }
}

#[tokio::test]
async fn a_worker_without_a_session_leaves_its_rows_to_the_others() {
    let shop = Shop::with_orders(400).await;
    shop.run(
        "CREATE ROLE clerk LOGIN; GRANT ALL ON orders TO clerk;
         CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END';
         CREATE TRIGGER dawdle BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .await;
    let update = pay(&shop.server.dsn_for("clerk", &shop.database)).connections(2);
    let update = update.reconnect_wait(Duration::from_millis(200)).chunk(ChunkSize::Keys(50));
    let run = tokio::spawn(async move { update.run(new_orders()).await.unwrap() });
    let killer = connect(&shop.server.dsn()).await;
    let busy = "SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'clerk' AND state <> 'idle'";
    eventually(&killer, busy).await;
    let one = "SELECT pg_terminate_backend(min(pid)) FROM pg_stat_activity WHERE usename = 'clerk'";
    killer.batch_execute(&format!("ALTER ROLE clerk CONNECTION LIMIT 1; {one}")).await.unwrap();
    let report = run.await.unwrap();
    assert_eq!(classes(&report), [400, 0, 0, 0, 0], "{report:?}");
    shop.run("DROP OWNED BY clerk; DROP ROLE clerk").await;
}

#[tokio::test]
async fn a_crash_of_the_server_costs_no_key_its_class() {
    let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
    let shop = Shop::on(Arc::clone(&server), 5_000).await;
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders")).max_attempts(20);
    let update = update.connections(4).chunk(ChunkSize::Keys(20));
    let run = tokio::spawn(async move { update.run(new_orders()).await.unwrap() });
    recorder.until(|event| matches!(event, Event::ChunkEnded(facts) if facts.chunk > 40)).await;
    server.restart(Shutdown::Immediate).await.unwrap();
    let report = run.await.unwrap();
    let client = connect(&shop.dsn()).await;
    let shop = Shop { client, ..shop };
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 5_000);
    // Of a commit that the crash caught, what is found done may be another's.
    let doubtful = 20 * report.in_doubt.reread;
    assert!(report.is_complete() && report.updated <= 5_000 && report.already <= doubtful, "{report:?}");
    assert!(report.updated + report.already >= 5_000, "{report:?}");
}

#[tokio::test]
async fn a_limit_in_the_query_ends_no_run_before_the_last_row() {
    let shop = Shop::with_orders(3_000).await;
    let query = "SELECT id FROM orders WHERE status = 'new' ORDER BY id LIMIT 100";
    let report = shop.pay().connections(3).run(Keys::claim(query)).await.unwrap();
    assert_eq!((report.is_complete(), classes(&report)), (true, [3_000, 0, 0, 0, 0]), "{report:?}");
}

#[tokio::test]
async fn an_update_may_make_more_work() {
    let shop = Shop::with_orders(5).await;
    shop.run(
        "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.id < 500 THEN INSERT INTO orders VALUES (NEW.id + 100, 'new'); END IF; RETURN NULL; END $$;
         CREATE TRIGGER follow AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION follow()",
    )
    .await;
    let report = shop.pay().connections(2).run(new_orders()).await.unwrap();
    assert_eq!((report.is_complete(), classes(&report)), (true, [30, 0, 0, 0, 0]), "{report:?}");
}

#[tokio::test]
async fn rights_on_the_columns_that_are_used_suffice_and_the_query_names_its_columns_as_it_likes() {
    let shop = Shop::with_orders(50).await;
    shop.run("ALTER TABLE orders RENAME id TO c1; GRANT SELECT (c1, status, version), UPDATE (status, version) ON orders TO PUBLIC")
        .await;
    shop.run("CREATE ROLE typist LOGIN").await;
    let update = pay(&shop.server.dsn_for("typist", &shop.database)).key(["c1"]);
    let query = "SELECT c1, 'x' AS k1 FROM orders WHERE status = 'new'";
    assert_eq!(classes(&update.run(Keys::claim(query)).await.unwrap()), [50, 0, 0, 0, 0]);
    assert_eq!(classes(&update.run(ids(50)).await.unwrap()), [0, 50, 0, 0, 0]);
    shop.run("DROP ROLE typist").await;
}

#[tokio::test]
async fn a_slow_query_with_a_limit_ends_no_run_before_the_last_row() {
    let shop = Shop::with_orders(300).await;
    // Each look sees what others are just doing, and nothing else.
    let query =
        "SELECT id FROM orders, (SELECT pg_sleep(0.02)) AS z WHERE status = 'new' ORDER BY id LIMIT 10";
    let update = shop.pay().connections(4).chunk(ChunkSize::Keys(10));
    let report = update.run(Keys::claim(query)).await.unwrap();
    assert_eq!((report.is_complete(), classes(&report)), (true, [300, 0, 0, 0, 0]), "{report:?}");
}

#[tokio::test]
async fn rows_that_a_worker_will_try_again_hide_no_others() {
    let shop = Shop::with_orders(300).await;
    shop.run(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.id = 5 AND nextval('tries') = 1 THEN RAISE 'not now' USING ERRCODE = '40001'; END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER once BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION once()",
    )
    .await;
    let query = "SELECT id FROM orders WHERE status = 'new' ORDER BY id LIMIT 10";
    let update = shop.pay().connections(2).chunk(ChunkSize::Keys(10)).retry_delay(Duration::from_secs(1));
    let report = update.run(Keys::claim(query)).await.unwrap();
    assert_eq!((report.is_complete(), classes(&report)), (true, [300, 0, 0, 0, 0]), "{report:?}");
}

#[tokio::test]
async fn a_table_that_is_partitioned_by_what_changes_is_done_to_the_last_row() {
    let shop = Shop::with_orders(0).await;
    shop.run(
        "DROP TABLE orders; CREATE TABLE orders (id int, status text, version int DEFAULT 0) PARTITION BY LIST (status);
         CREATE TABLE fresh PARTITION OF orders FOR VALUES IN ('new');
         CREATE TABLE done PARTITION OF orders FOR VALUES IN ('paid'); CREATE INDEX ON orders (id);
         INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 2000) AS n",
    )
    .await;
    let update = shop.pay().connections(8).chunk(ChunkSize::Keys(10)).max_attempts(50);
    let report = update.run(new_orders()).await.unwrap();
    assert_eq!((report.is_complete(), report.updated), (true, 2_000), "{report:?}");
}

#[tokio::test]
async fn rows_that_may_be_seen_and_not_be_changed_end_the_run_and_are_named() {
    let shop = Shop::with_orders(20).await;
    shop.run(
        "CREATE ROLE reader LOGIN; GRANT SELECT, UPDATE ON orders TO reader;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY see ON orders FOR SELECT USING (true);
         CREATE POLICY change ON orders FOR UPDATE USING (id <> 7)",
    )
    .await;
    let update = pay(&shop.server.dsn_for("reader", &shop.database));
    let report = update.run(new_orders()).await.unwrap();
    assert_eq!((report.is_complete(), report.updated), (false, 19), "{report:?}");
    assert!(
        report.error.as_deref().unwrap_or_default().starts_with("7 can be seen and not be claimed"),
        "{report:?}"
    );
    shop.run("DROP OWNED BY reader; DROP ROLE reader").await;
}

#[tokio::test]
async fn a_claimed_key_may_be_of_a_domain_over_an_enum_and_be_given_as_text() {
    let shop = Shop::with_orders(10).await;
    shop.run(
        "CREATE TYPE color AS ENUM ('red', 'green'); CREATE DOMAIN paint AS color;
         CREATE TABLE cans (id paint PRIMARY KEY, status text); INSERT INTO cans VALUES ('red', 'new'), ('green', 'new')",
    )
    .await;
    let cans = updater(&shop.dsn(), Vec::new()).update("cans").key(["id"]).set("status", "paid");
    let report = cans.run(Keys::claim("SELECT id FROM cans WHERE status = 'new'")).await.unwrap();
    assert_eq!(classes(&report), [2, 0, 0, 0, 0]);
    let text = "SELECT id::text AS id FROM orders WHERE status = 'new'";
    assert_eq!(classes(&shop.pay().run(Keys::claim(text)).await.unwrap()), [10, 0, 0, 0, 0]);
}

#[tokio::test]
async fn many_keys_that_can_never_succeed_cost_as_many_steps_as_in_a_stream_and_read_few_rows() {
    // No index finds a text, nor is one worth it in so small a table: each attempt may read it to claim
    // and to update, not once a key.
    let most_rows = 7 * 400 * 2 * 2_000;
    for query in
        ["SELECT id FROM orders WHERE status = 'new'", "SELECT id::text FROM orders WHERE status = 'new'"]
    {
        let shop = Shop::with_orders(2_000).await;
        shop.run("ALTER TABLE orders ADD CHECK (id % 5 <> 0 OR status = 'new'); ANALYZE orders").await;
        let update = shop.pay().connections(2);
        let run = tokio::time::timeout(Duration::from_mins(2), update.run(Keys::claim(query)));
        let report = run.await.expect("it ends").unwrap();
        assert_eq!(classes(&report), [1_600, 0, 0, 0, 400], "{report:?}");
        assert_eq!((report.failed_chunks, report.error.as_deref()), (400, None), "{report:?}");
        // A key that stands alone was found by seven cuts of a hundred at most, and each cut is one more attempt.
        assert!(report.chunks + report.retried_chunks <= 7 * 400, "{report:?}");
        let failed: HashSet<&String> = report.failures.iter().flat_map(|failure| &failure.keys).collect();
        assert_eq!(failed.len(), 100, "those that are kept are told once each");
        assert_eq!(shop.count("status = 'paid' AND version = 1 AND id % 5 <> 0").await, 1_600);
        // A session tells what it has read when it ends.
        let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'headcount:update'
                    AND datname = current_database()";
        eventually(&shop.client, gone).await;
        let read =
            "SELECT (seq_tup_read + idx_tup_fetch)::text FROM pg_stat_user_tables WHERE relname = 'orders'";
        let read: u64 = shop.text(read).await.parse().unwrap();
        assert!(read < most_rows, "{read} rows were read for {query}");
    }
}

#[tokio::test]
async fn claims_are_read_committed_whatever_the_sessions_default() {
    for level in ["serializable", "repeatable read"] {
        let shop = Shop::with_orders(2_000).await;
        let default =
            format!("ALTER DATABASE {} SET default_transaction_isolation TO '{level}'", shop.database);
        shop.run(&default).await;
        let update = shop.pay().connections(2).chunk(ChunkSize::Keys(20));
        let (one, other) = tokio::join!(update.run(new_orders()), update.run(new_orders()));
        let reports = [one.unwrap(), other.unwrap()];
        for report in &reports {
            assert!(report.is_complete() && report.retried_chunks == 0, "{level}: {report:?}");
        }
        assert_eq!(reports.iter().map(|report| report.updated).sum::<u64>(), 2_000, "{level}");
        assert_eq!(shop.count("status = 'paid' AND version = 1").await, 2_000);
    }
}

#[tokio::test]
async fn a_query_that_locks_rows_itself_is_refused_before_anything_runs() {
    let shop = Shop::with_orders(3).await;
    let check = async |query: &str| {
        let error = shop.pay().run(Keys::claim(query)).await.unwrap_err();
        assert!(error.is_configuration(), "{error}");
        let words = ["keys: the query of the keys locks rows", "leave the locking clause out"];
        assert!(words.iter().all(|words| error.to_string().contains(words)), "{error}");
    };
    check("SELECT id FROM orders WHERE status = 'new' FOR UPDATE SKIP LOCKED").await;
    check("SELECT id FROM (SELECT id FROM orders FOR SHARE) AS locked").await;
    check("WITH locked AS MATERIALIZED (SELECT id FROM orders FOR UPDATE NOWAIT) SELECT id FROM locked")
        .await;
    assert_eq!(shop.count("status = 'new'").await, 3);
    let words = "SELECT id FROM orders WHERE status = 'new' AND status <> '\"Node Type\": \"LockRows\"'";
    assert_eq!(classes(&shop.pay().run(Keys::claim(words)).await.unwrap()), [3, 0, 0, 0, 0]);
}
