//! A standby takes the primary's place, and lacks what it had not received: books and table agree there.

use std::sync::Arc;
use std::time::Duration;

use headcount::{ChunkSize, InDoubt, Update, Updated};
use testkit::server::{PrivateServer, Shutdown};
use tokio_postgres::Client;

use crate::support::{Shop, classes, connect, eventually, ids, pay, paying, updater};

/// A primary with `orders`, its standby that has them, too, and a connection string that names both.
struct Pair {
    shop: Shop,
    standby: PrivateServer,
    both: String,
}

impl Pair {
    async fn start() -> Self {
        let primary = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
        let standby = PrivateServer::builder().durable(true).standby_of(&primary).start().await.unwrap();
        let shop = Shop::on(primary, 50).await;
        let end: String = shop.text("SELECT pg_current_wal_lsn()::text").await;
        let follower = connect(&standby.dsn()).await;
        eventually(&follower, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await;
        let (one, two) = (shop.server.port(), standby.port());
        let both =
            format!("host=127.0.0.1,127.0.0.1 port={one},{two} user=postgres dbname={}", shop.database);
        Self { shop, standby, both }
    }

    /// The primary has to wait for the standby, and the standby follows nobody.
    async fn part(&self) -> Client {
        let Self { shop, standby, .. } = self;
        shop.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        shop.run("SELECT pg_reload_conf()").await;
        eventually(&shop.client, "SELECT sync_state = 'sync' FROM pg_stat_replication").await;
        let follower = connect(&standby.dsn()).await;
        follower.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        follower.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually(&shop.client, "SELECT count(*) = 0 FROM pg_stat_replication").await;
        follower
    }

    /// Runs the update. Its COMMIT waits for the standby, which will never have it; then the primary is gone,
    /// and the standby is promoted.
    async fn run_through_failover(self, update: Update) -> (Shop, Updated) {
        let follower = self.part().await;
        let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap() });
        eventually(&self.shop.client, WAITS).await;
        let shop = self.fail_over(&follower).await;
        (shop, run.await.unwrap())
    }

    /// The primary is gone, and what the standby has is what there is.
    async fn fail_over(self, follower: &Client) -> Shop {
        let Self { shop, standby, .. } = self;
        shop.server.halt(Shutdown::Immediate).await.unwrap();
        let promoted: bool = follower.query_one("SELECT pg_promote()", &[]).await.unwrap().get(0);
        assert!(promoted);
        let database = shop.database;
        let client = connect(&standby.dsn_for("postgres", &database)).await;
        Shop { server: Arc::new(standby), database, client }
    }
}

const WAITS: &str = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
/// Somebody loses patience with what waits for the standby.
const CANCEL: &str =
    "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Nothing is expected of a row: each chunk waits for its own COMMIT.
fn blind(dsn: &str) -> Update {
    let update = updater(dsn, Vec::new()).update("orders").key(["id"]);
    update.set("status", "paid").version("version")
}

#[tokio::test]
async fn chunks_whose_wait_for_the_standby_is_always_cancelled_are_not_told_as_updated() {
    // Also where the client is to hear no warnings, by its own wish or by a trigger's.
    let hushed = "CREATE FUNCTION hush() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN SET client_min_messages = error; RETURN NULL; END';
         CREATE TRIGGER hush AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION hush()";
    let quiet = "?options=-c%20client_min_messages%3Derror";
    for (is_blind, options, trigger) in
        [(false, "", ""), (true, "", ""), (false, quiet, ""), (true, "", hushed)]
    {
        let pair = Pair::start().await;
        pair.shop.run(trigger).await;
        let dsn = format!("{}{options}", pair.shop.dsn());
        let update = if is_blind { blind(&dsn) } else { pay(&dsn) }.chunk(ChunkSize::Keys(10));
        let follower = pair.part().await;
        let run = tokio::spawn(async move { update.run(ids(50)).await.unwrap() });
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while !run.is_finished() {
            pair.shop.client.query_one(CANCEL, &[]).await.unwrap();
            pace.tick().await;
        }
        let report = run.await.unwrap();
        assert_eq!((classes(&report), report.is_complete()), ([0, 0, 0, 0, 50], false), "{report:?}");
        assert_eq!(report.in_doubt.unresolved, 5, "{report:?}");
        let failure = &report.failures[0];
        assert_eq!(failure.sqlstate.as_deref(), Some("40003"));
        assert!(failure.reason.starts_with("it is committed on this server only"), "{failure:?}");
        assert_eq!(pair.shop.count("version = 1").await, 50);
        let shop = pair.fail_over(&follower).await;
        assert_eq!(shop.count("version = 1").await, 0);
    }
}

#[tokio::test]
async fn chunks_whose_wait_for_the_standby_was_cancelled_count_once_a_later_flush_has_reached_it() {
    for update in [pay, blind] {
        let pair = Pair::start().await;
        let update = update(&pair.shop.dsn()).chunk(ChunkSize::Keys(50));
        let follower = pair.part().await;
        let run = tokio::spawn(async move { update.run(ids(50)).await.unwrap() });
        eventually(&pair.shop.client, WAITS).await;
        assert_eq!(pair.shop.client.query_one(CANCEL, &[]).await.unwrap().get::<_, i64>(0), 1);
        // It waits once more, with the same session.
        eventually(&pair.shop.client, WAITS).await;
        follower.batch_execute("ALTER SYSTEM RESET primary_conninfo").await.unwrap();
        follower.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let report = run.await.unwrap();
        assert_eq!((classes(&report), report.in_doubt), ([50, 0, 0, 0, 0], InDoubt::default()), "{report:?}");
        let shop = pair.fail_over(&follower).await;
        assert_eq!(shop.count("version = 1").await, 50);
    }
}

#[tokio::test]
async fn chunks_that_the_new_primary_never_received_are_made_again() {
    let pair = Pair::start().await;
    let update = paying(updater(&pair.both, Vec::new()).update("orders"));
    let (shop, report) = pair.run_through_failover(update).await;
    assert_eq!(classes(&report), [50, 0, 0, 0, 0], "{report:?}");
    // As many as had been sent when the primary was gone.
    assert!(report.in_doubt.aborted > 0 && report.in_doubt.committed == 0, "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 50);
}

#[tokio::test]
async fn a_commit_in_doubt_that_the_new_primary_does_not_have_is_made_again() {
    let pair = Pair::start().await;
    let update = blind(&pair.both);
    let (shop, report) = pair.run_through_failover(update).await;
    assert_eq!(classes(&report), [50, 0, 0, 0, 0], "{report:?}");
    assert_eq!((report.in_doubt.aborted, report.in_doubt.reread), (1, 0), "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 50);
}
