//! Locks, deadlocks, serialization, constraints, races with other writers.

use std::sync::Arc;

use headcount::server::Endpoint;
use headcount::{ChunkSize, Event, Headcount, Keys};

use crate::support::{Recorder, Shop, classes, connect, eventually, ids, pay, paying, updater};
use crate::versions::main_version_from;

/// A connection string with a setting for its sessions.
fn with(shop: &Shop, setting: &str) -> String {
    format!("{}?options=-c%20{}", shop.dsn(), setting.replace('=', "%3D"))
}

fn waits_for_lock(shop: &Shop, sessions: u32) -> String {
    format!(
        "SELECT count(*) = {sessions} FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        shop.database
    )
}

#[tokio::test]
async fn a_chunk_that_meets_a_lock_timeout_is_tried_again() {
    let mut shop = Shop::with_orders(30).await;
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&with(&shop, "lock_timeout=30ms"), vec![recorder.clone()]).update("orders"));
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET status = status WHERE id = 15", &[]).await.unwrap();
    let run = tokio::spawn(async move {
        update.chunk(ChunkSize::Keys(10)).max_attempts(100).run(ids(30)).await.unwrap()
    });
    let timed_out = |event: &Event| {
        matches!(event, Event::ChunkEnded(facts) if facts.end.sqlstate().is_some_and(|code| code.as_str() == "55P03")
        && facts.keys.as_deref() == Some("11 (line 11) and 9 more"))
    };
    recorder.until(timed_out).await;
    lock.rollback().await.unwrap();
    let report = run.await.unwrap();
    assert_eq!(classes(&report), [30, 0, 0, 0, 0]);
    assert_eq!((report.retried_chunks, report.reconnects), (1, 0));
    let told = |event: &Event| matches!(event, Event::ChunkEnded(facts) if facts.keys.is_some() != facts.end.sqlstate().is_some());
    assert_eq!(recorder.count(told), 0, "only what did not take effect is named");
}

/// What a foreign key's check locks is no obstacle to a change of other columns.
#[tokio::test]
async fn rows_that_others_refer_to_are_not_waited_for_unless_a_column_changes_that_may_be_referred_to() {
    let shop = Shop::with_orders(3).await;
    let other = connect(&shop.dsn()).await;
    other.batch_execute("BEGIN; SELECT FROM orders FOR KEY SHARE").await.unwrap();
    let report = pay(&with(&shop, "lock_timeout=200ms")).run(ids(3)).await.unwrap();
    assert_eq!(classes(&report), [3, 0, 0, 0, 0]);
    // One that a foreign key may refer to.
    other.batch_execute("ROLLBACK").await.unwrap();
    shop.run("ALTER TABLE orders ADD number int UNIQUE").await;
    other.batch_execute("BEGIN; SELECT FROM orders FOR KEY SHARE").await.unwrap();
    let update = updater(&with(&shop, "lock_timeout=200ms"), vec![]).update("orders").key(["id"]);
    let report = update.set("number", "9").max_attempts(1).run(ids(1)).await.unwrap();
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("55P03"), "{report:?}");
}

/// An update looks at nothing that takes a monitor.
#[tokio::test]
async fn an_update_needs_no_monitor() {
    let shop = Shop::with_orders(3).await;
    let endpoint = |dsn: &str| Endpoint::resolve(Some(dsn), |_| None).unwrap();
    // A port that nobody may listen on.
    let nobody = "postgresql://nobody@127.0.0.1:1/none";
    let headcount = Headcount::builder(endpoint(&shop.dsn())).monitor(endpoint(nobody)).build();
    let report = paying(headcount.update("orders")).run(ids(3)).await.unwrap();
    assert_eq!(classes(&report), [3, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_run_that_waits_for_a_lock_says_who_holds_it() {
    let mut shop = Shop::with_orders(30).await;
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
    let holder: i32 = shop.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET status = status WHERE id = 15", &[]).await.unwrap();
    let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(10)).run(ids(30)).await.unwrap() });
    recorder.until(|event| matches!(event, Event::UpdateBlocked { by, .. } if *by == holder)).await;
    lock.rollback().await.unwrap();
    assert_eq!(classes(&run.await.unwrap()), [30, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_row_locked_for_good_costs_its_key_and_no_other() {
    let mut shop = Shop::with_orders(30).await;
    let update = pay(&with(&shop, "lock_timeout=20ms")).chunk(ChunkSize::Keys(10)).max_attempts(2);
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET status = status WHERE id = 15", &[]).await.unwrap();
    let report = update.run(ids(30)).await.unwrap();
    lock.rollback().await.unwrap();
    assert_eq!(classes(&report), [29, 0, 0, 0, 1]);
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("55P03"));
    assert_eq!(report.failures[0].lines, [15]);
    assert_eq!(shop.count("version = 1").await, 29);
}

#[tokio::test]
async fn a_transaction_timeout_is_a_lost_session_and_a_locked_row_costs_its_key_and_no_other() {
    let Some(major) = main_version_from(17) else { return };
    let mut shop = Shop::of_version(major, 30).await;
    let recorder = Arc::new(Recorder::default());
    let dsn = with(&shop, "transaction_timeout=800ms");
    let update = paying(updater(&dsn, vec![recorder.clone()]).update("orders")).chunk(ChunkSize::Keys(8));
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET status = status WHERE id = 15", &[]).await.unwrap();
    let report = update.max_attempts(2).run(ids(30)).await.unwrap();
    lock.rollback().await.unwrap();
    assert_eq!(classes(&report), [29, 0, 0, 0, 1], "{report:?}");
    assert_eq!((report.failures[0].lines.as_slice(), report.left), (&[15][..], Some(0)));
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("25P04"), "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 29);
    let lost =
        |event: &Event| matches!(event, Event::SessionLost { sqlstate } if sqlstate.as_str() == "25P04");
    // Twice together, once in each of the halves that have it, down to itself.
    assert_eq!((recorder.count(lost), report.reconnects), (2 + 3, 2 + 3), "{report:?}");
}

#[tokio::test]
async fn a_deadlock_with_an_outside_transaction_is_survived() {
    let mut shop = Shop::with_orders(40).await;
    let recorder = Arc::new(Recorder::default());
    let (other, mut gate) = (connect(&shop.dsn()).await, connect(&shop.dsn()).await);
    // Whoever waits last finds the deadlock: that shall be the update.
    let update =
        paying(updater(&with(&shop, "deadlock_timeout=10ms"), vec![recorder.clone()]).update("orders"));
    let (one, two) = (waits_for_lock(&shop, 1), waits_for_lock(&shop, 2));
    shop.run("SET deadlock_timeout = '1min'").await;
    let outside = shop.client.transaction().await.unwrap();
    outside.execute("UPDATE orders SET version = version WHERE id = 39", &[]).await.unwrap();
    let gate = gate.transaction().await.unwrap();
    gate.execute("UPDATE orders SET version = version WHERE id = 2", &[]).await.unwrap();
    let run = tokio::spawn(async move { update.run(ids(40)).await.unwrap() });
    // Keys are locked in the order of their texts: the update holds 1 and waits for 2,
    eventually(&other, &one).await;
    let cross = async {
        // the outside transaction holds 39 and waits for 1,
        outside.execute("UPDATE orders SET version = version WHERE id = 1", &[]).await.unwrap();
        outside.commit().await.unwrap();
    };
    let open = async {
        eventually(&other, &two).await;
        // and now the update comes to 39.
        gate.commit().await.unwrap();
    };
    tokio::join!(cross, open);
    let report = run.await.unwrap();
    assert_eq!(classes(&report), [40, 0, 0, 0, 0]);
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 40);
    let victim = |event: &Event| matches!(event, Event::ChunkEnded(facts) if facts.end.sqlstate().is_some_and(|code| code.as_str() == "40P01"));
    assert_eq!(recorder.count(victim), 1);
}

#[tokio::test]
async fn a_serialization_failure_is_tried_again() {
    let mut shop = Shop::with_orders(20).await;
    let recorder = Arc::new(Recorder::default());
    let dsn = with(&shop, "default_transaction_isolation=serializable");
    let update = paying(updater(&dsn, vec![recorder.clone()]).update("orders"));
    let other = connect(&shop.dsn()).await;
    let waits = waits_for_lock(&shop, 1);
    let writer = shop.client.transaction().await.unwrap();
    writer.execute("UPDATE orders SET status = 'void' WHERE id = 7", &[]).await.unwrap();
    let run = tokio::spawn(async move { update.run(ids(20)).await.unwrap() });
    eventually(&other, &waits).await;
    writer.commit().await.unwrap();
    let report = run.await.unwrap();
    assert_eq!(classes(&report), [19, 0, 1, 0, 0]);
    let failed = |event: &Event| matches!(event, Event::ChunkEnded(facts) if facts.end.sqlstate().is_some_and(|code| code.as_str() == "40001"));
    assert_eq!(recorder.count(failed), 1);
}

/// While the update waits for row 7, a writer does `change` to it and commits.
async fn check_race(change: &str, expected: [u64; 5]) {
    let mut shop = Shop::with_orders(20).await;
    let other = connect(&shop.dsn()).await;
    let (update, waits) = (shop.pay(), waits_for_lock(&shop, 1));
    let writer = shop.client.transaction().await.unwrap();
    writer.batch_execute(change).await.unwrap();
    let run = tokio::spawn(async move { update.run(ids(20)).await.unwrap() });
    eventually(&other, &waits).await;
    writer.commit().await.unwrap();
    assert_eq!(classes(&run.await.unwrap()), expected, "{change}");
}

#[tokio::test]
async fn a_row_changed_under_the_update_is_classed_by_what_it_holds_now() {
    check_race("UPDATE orders SET status = 'void' WHERE id = 7", [19, 0, 1, 0, 0]).await;
    check_race("UPDATE orders SET status = 'paid' WHERE id = 7", [19, 1, 0, 0, 0]).await;
    check_race("UPDATE orders SET version = 5 WHERE id = 7", [20, 0, 0, 0, 0]).await;
    check_race("DELETE FROM orders WHERE id = 7", [19, 0, 0, 1, 0]).await;
    check_race("UPDATE orders SET id = 700 WHERE id = 7", [19, 0, 0, 1, 0]).await;
    // Gone and back again: the new row is another one, and holds what is expected.
    check_race("DELETE FROM orders WHERE id = 7; INSERT INTO orders VALUES (7, 'new')", [20, 0, 0, 0, 0])
        .await;
}

#[tokio::test]
async fn two_updates_of_the_same_keys_in_opposite_order_do_not_deadlock() {
    let shop = Shop::with_orders(400).await;
    let recorder = Arc::new(Recorder::default());
    for round in 0..10 {
        shop.run("UPDATE orders SET status = 'new', version = 0").await;
        let update = || {
            paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders")).chunk(ChunkSize::Keys(400))
        };
        let (up, down) = (update(), update());
        let (up, down) =
            tokio::join!(up.run(Keys::rows(1..=400u32)), down.run(Keys::rows((1..=400u32).rev())));
        let (up, down) = (up.unwrap(), down.unwrap());
        assert_eq!((up.updated + down.updated, up.already + down.already), (400, 400), "round {round}");
    }
    assert_eq!(shop.count("version = 1").await, 400);
    assert_eq!(recorder.count(|event| matches!(event, Event::ChunkEnded(facts) if facts.attempt > 1)), 0);
}

#[tokio::test]
async fn a_constraint_that_can_never_hold_costs_the_key_and_not_its_chunk() {
    let shop = Shop::with_orders(1000).await;
    shop.run("ALTER TABLE orders ADD CHECK (id NOT IN (77, 500, 501) OR status = 'new')").await;
    let report = shop.pay().connections(2).run(ids(1000)).await.unwrap();
    assert_eq!(classes(&report), [997, 0, 0, 0, 3]);
    let mut failed: Vec<_> = report.failures.iter().map(|failure| failure.keys.join(" ")).collect();
    failed.sort();
    assert_eq!(failed, ["500", "501", "77"]);
    assert!(report.failures.iter().all(|failure| failure.sqlstate.as_deref() == Some("23514")));
    assert_eq!(shop.count("version = 1").await, 997);
}

#[tokio::test]
async fn a_constraint_that_is_checked_at_commit_is_no_doubt() {
    let shop = Shop::with_orders(20).await;
    shop.run(
        "CREATE TABLE states (name text PRIMARY KEY); INSERT INTO states VALUES ('new');
         ALTER TABLE orders ADD FOREIGN KEY (status) REFERENCES states DEFERRABLE INITIALLY DEFERRED",
    )
    .await;
    let report = shop.pay().chunk(ChunkSize::Keys(5)).run(ids(20)).await.unwrap();
    assert_eq!(classes(&report), [0, 0, 0, 0, 20]);
    assert_eq!(report.in_doubt, headcount::InDoubt::default());
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("23503"));
    assert_eq!(shop.count("version > 0").await, 0);
}

#[tokio::test]
async fn a_right_that_is_taken_away_meanwhile_stops_the_run_at_once() {
    let mut shop = Shop::with_orders(1000).await;
    shop.run("CREATE ROLE writer LOGIN; GRANT SELECT, UPDATE ON orders TO writer").await;
    let other = connect(&shop.dsn()).await;
    let update = pay(&shop.server.dsn_for("writer", &shop.database));
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET region = region WHERE id = 1", &[]).await.unwrap();
    let run = tokio::spawn(async move { update.run(ids(1000)).await.unwrap() });
    eventually(&other, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").await;
    other.batch_execute("REVOKE UPDATE ON orders FROM writer").await.unwrap();
    lock.rollback().await.unwrap();
    let report = run.await.unwrap();
    assert!(!report.is_complete());
    assert_eq!((report.updated, report.failed, report.left), (100, 100, Some(800)));
    assert!(report.error.as_deref().unwrap_or_default().contains("permission denied"), "{report:?}");
    assert_eq!(report.sqlstate.as_deref(), Some("42501"));
    shop.run("DROP OWNED BY writer; DROP ROLE writer").await;
}

#[tokio::test]
async fn a_right_that_a_trigger_lacks_stops_the_run_after_a_hundred_keys() {
    let shop = Shop::with_orders(1000).await;
    shop.run(
        "CREATE ROLE clerk LOGIN; GRANT SELECT, UPDATE ON orders TO clerk; CREATE TABLE audit (id bigint);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END';
         CREATE TRIGGER note BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    let report = pay(&shop.server.dsn_for("clerk", &shop.database)).run(ids(1000)).await.unwrap();
    assert!(!report.is_complete());
    assert_eq!((report.updated, report.failed, report.left), (0, 100, Some(900)));
    assert!(report.error.as_deref().unwrap_or_default().contains("permission denied"), "{report:?}");
    shop.run("DROP OWNED BY clerk; DROP ROLE clerk").await;
}
