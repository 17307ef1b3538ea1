//! A standby takes the primary's place, and lacks what it had not received: books and table agree there.

use std::sync::Arc;

use headcount::pg::embedded::{PrivateServer, Shutdown};
use headcount::{ChunkSize, Update, Updated};

use crate::support::{Shop, classes, connect, eventually, ids, paying, updater};

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

    /// Runs the update. Its COMMIT waits for the standby, which will never have it; then the primary is gone,
    /// and the standby is promoted.
    async fn run_through_failover(self, update: Update) -> (Shop, Updated) {
        let Self { shop, standby, .. } = self;
        shop.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        shop.run("SELECT pg_reload_conf()").await;
        eventually(&shop.client, "SELECT sync_state = 'sync' FROM pg_stat_replication").await;
        let follower = connect(&standby.dsn()).await;
        follower.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        follower.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually(&shop.client, "SELECT count(*) = 0 FROM pg_stat_replication").await;
        let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap() });
        eventually(&shop.client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            .await;
        shop.server.halt(Shutdown::Immediate).await.unwrap();
        let promoted: bool = follower.query_one("SELECT pg_promote()", &[]).await.unwrap().get(0);
        assert!(promoted);
        let report = run.await.unwrap();
        let database = shop.database;
        let client = connect(&standby.dsn_for("postgres", &database)).await;
        (Shop { server: Arc::new(standby), database, client }, report)
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
    // Nothing is expected of a row: each chunk waits for its own COMMIT.
    let update = updater(&pair.both, Vec::new()).update("orders").key(["id"]);
    let update = update.set("status", "paid").version("version");
    let (shop, report) = pair.run_through_failover(update).await;
    assert_eq!(classes(&report), [50, 0, 0, 0, 0], "{report:?}");
    assert_eq!((report.in_doubt.aborted, report.in_doubt.reread), (1, 0), "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 50);
}
