//! Claims that fail, are tried again, and come back: every key is still counted once.

use std::sync::Arc;
use std::time::Duration;

use headcount::event::ChunkEnd;
use headcount::{ChunkSize, Event, Keys};

use crate::support::{Recorder, Shop, classes, connect, kill, paying, updater};

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
    assert!(error.contains("the query yields 1 again after this run has updated it"), "{error}");
    assert!(shop.count("version > 2").await == 0, "{report:?}");
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
