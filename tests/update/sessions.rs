//! What happens to a session: it is never had, it says nothing any more, or a trigger makes another of it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use headcount::{ChunkSize, Keys};
use testkit::server::PrivateServer;

use crate::support::{Fate, Proxy, Shop, classes, connect, ids, on_oldest_and_latest, pay, updater};

on_oldest_and_latest!(
    a_trigger_that_changes_what_texts_mean_costs_sessions_and_no_value,
    a_trigger_that_takes_the_prepared_statements_costs_a_session_and_no_key,
);

/// A trigger of the table that does this to its session.
async fn spoils(shop: &Shop, how: &str) {
    shop.run(&format!(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {how}; RETURN NULL; END $$;
         CREATE TRIGGER spoil AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION spoil()"
    ))
    .await;
}

async fn a_trigger_that_changes_what_texts_mean_costs_sessions_and_no_value(major: u32) {
    for (setting, value) in [("client_encoding", "LATIN1"), ("TimeZone", "Asia/Tokyo")] {
        let shop = Shop::of_version(major, 40).await;
        shop.run("ALTER TABLE orders ADD placed timestamptz").await;
        spoils(&shop, &format!("PERFORM set_config('{setting}', '{value}', false)")).await;
        let rows: Vec<_> = (1..=40).map(|id| format!("{id},ä{id},2026-01-01 12:00")).collect();
        let lines = format!("id,status,placed\n{}\n", rows.join("\n"));
        let update = updater(&shop.dsn(), Vec::new()).update("orders").key(["id"]).version("version");
        let update = update.set_from("status", "status").set_from("placed", "placed");
        let update = update.chunk(ChunkSize::Keys(5));
        let run = async || update.run(Keys::reader(std::io::Cursor::new(lines.clone()))).await.unwrap();
        assert_eq!(classes(&run().await), [40, 0, 0, 0, 0], "{setting}");
        let right = "status = 'ä' || id AND placed = '2026-01-01 12:00' AND version = 1";
        assert_eq!(shop.count(right).await, 40, "{setting}");
        assert_eq!(classes(&run().await), [0, 40, 0, 0, 0], "{setting}");
    }
}

async fn a_trigger_that_takes_the_prepared_statements_costs_a_session_and_no_key(major: u32) {
    let shop = Shop::of_version(major, 40).await;
    spoils(&shop, "IF NEW.id = 3 THEN DEALLOCATE ALL; END IF").await;
    let report = shop.pay().chunk(ChunkSize::Keys(5)).run(ids(40)).await.unwrap();
    assert_eq!(classes(&report), [40, 0, 0, 0, 0], "{report:?}");
    assert_eq!(shop.count("version = 1").await, 40);
}

/// Audit triggers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_sets_something_for_its_transaction_costs_no_key() {
    let shop = Shop::with_orders(60).await;
    shop.run("UPDATE orders SET status = 'gone' WHERE id % 10 = 0").await;
    spoils(&shop, "PERFORM set_config('TimeZone', 'Asia/Tokyo', true)").await;
    let report = shop.pay().chunk(ChunkSize::Keys(5)).run(ids(60)).await.unwrap();
    assert_eq!(classes(&report), [54, 0, 6, 0, 0], "{report:?}");
    assert_eq!(shop.count("version = 1").await, 54);
}

#[tokio::test]
async fn operators_of_a_schema_before_the_servers_own_have_no_say() {
    let shop = Shop::with_orders(5).await;
    shop.run(
        "CREATE ROLE shadowed SUPERUSER LOGIN; CREATE SCHEMA own;
         CREATE FUNCTION own.yes(bigint, bigint) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
         CREATE FUNCTION own.many(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 99';
         CREATE OPERATOR own.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = own.yes);
         CREATE OPERATOR own.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = own.many);
         ALTER ROLE shadowed SET search_path = own, pg_catalog, public",
    )
    .await;
    let report = pay(&shop.server.dsn_for("shadowed", &shop.database)).run(Keys::rows([3])).await.unwrap();
    assert_eq!(classes(&report), [1, 0, 0, 0, 0], "{report:?}");
    assert_eq!((shop.count("status = 'paid'").await, shop.count("version = 1 AND id = 3").await), (1, 1));
}

#[tokio::test]
async fn a_dry_run_compares_on_a_standby() {
    let shop = Shop::on(PrivateServer::builder().start().await.unwrap().into(), 10).await;
    shop.run("UPDATE orders SET status = 'paid' WHERE id <= 4").await;
    let standby = PrivateServer::builder().standby_of(&shop.server).start().await.unwrap();
    let report = pay(&standby.dsn_for("postgres", &shop.database)).dry_run().run(ids(11)).await.unwrap();
    assert_eq!(classes(&report), [6, 4, 0, 1, 0], "{report:?}");
    drop(connect(&standby.dsn()).await);
}

/// The server answers, and nothing arrives from these bytes on: while a session introduces itself, during the look-ups, and
/// while the session that is to work is readied.
#[tokio::test]
async fn a_line_that_carries_nothing_any_more_at_the_start_costs_a_session() {
    for mute_after in [vec![600], vec![1_500], vec![700, u64::MAX]] {
        let shop = Shop::with_orders(20).await;
        let proxy = Proxy::start(&shop.server, Fate::MuteAfter(Mutex::new(mute_after.clone()))).await;
        let began = Instant::now();
        let report = pay(&shop.dsn_through(&proxy)).run(ids(20)).await.unwrap();
        assert_eq!(classes(&report), [20, 0, 0, 0, 0], "{mute_after:?}: {report:?}");
        assert!(began.elapsed() < Duration::from_mins(1), "{mute_after:?}");
    }
}

/// Whoever sits between breaks each session over its first COMMIT: that of a chunk, and that of each flush.
#[tokio::test]
async fn sessions_that_are_all_lost_over_a_flush_end_the_run_in_good_order() {
    let shop = Shop::with_orders(50).await;
    let proxy = Proxy::start(&shop.server, Fate::CutAtAnyCommit).await;
    let update = pay(&shop.dsn_through(&proxy)).max_attempts(3).chunk(ChunkSize::Keys(10));
    let report = tokio::time::timeout(Duration::from_mins(1), update.run(ids(50))).await.unwrap().unwrap();
    assert!(!report.is_complete(), "nobody knows whether it lasts: {report:?}");
    assert_eq!(report.updated + report.already + report.failed, 50, "{report:?}");
    assert_eq!(shop.count("version = 1").await, 50, "nothing is done twice");
}
