//! Cut lines, killed backends, restarts; commits in doubt, in both directions.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::event::{ChunkEnd, Observer};
use headcount::pg::embedded::{PrivateServer, Shutdown};
use headcount::{ChunkSize, Event, Keys, Updated};

use crate::support::{
    Fate, Proxy, Recorder, Shop, classes, connect, eventually, ids, key_file, pay, paying, updater,
};

/// Books and table agree, and no key was changed twice.
async fn balances(shop: &Shop, report: &Updated, keys: u64, context: &str) {
    assert!(report.is_complete(), "{context}: {report:?}");
    assert_eq!(report.keys, keys, "{context}");
    assert_eq!(report.updated + report.already, keys, "{context}: {report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, keys, "{context}");
    assert_eq!(shop.count("version > 1").await, 0, "{context}");
    // A row that a forgotten commit has changed is found done; nothing else is.
    assert!(report.already == 0 || report.in_doubt.reread > 0, "{context}: {report:?}");
}

/// How many runs the random cuts get: a few dozen, or what `HEADCOUNT_SOAK_RUNS` says.
fn runs() -> u64 {
    std::env::var("HEADCOUNT_SOAK_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(60)
}

#[tokio::test]
async fn a_line_cut_at_any_byte_loses_and_doubles_nothing() {
    let shop = Shop::with_orders(200).await;
    let (mut cuts, mut committed, mut aborted, mut reconnects) = (0, 0, 0, 0);
    for seed in 0..runs() {
        shop.run("UPDATE orders SET status = 'new', version = 0").await;
        let mut random = fastrand::Rng::with_seed(seed);
        // The look-up and the opening of a session take some two thousand bytes: spare the very first one,
        // since an update that cannot even begin is refused.
        let mut budgets: Vec<i64> = (0..random.u32(1..6)).map(|_| random.i64(1..8_000)).collect();
        budgets.push(i64::MAX);
        let proxy = Proxy::start(&shop.server, Fate::CutAfter(Mutex::new(budgets))).await;
        let update = pay(&shop.dsn_through(&proxy)).max_attempts(20).retry_delay(Duration::from_millis(8));
        let update = update.chunk(ChunkSize::Keys(random.u32(2..10))).connections(random.u32(1..4));
        let report = update.run(ids(200)).await.unwrap();
        balances(&shop, &report, 200, &format!("seed {seed}")).await;
        cuts += proxy.cuts();
        committed += report.in_doubt.committed;
        aborted += report.in_doubt.aborted;
        reconnects += report.reconnects;
    }
    assert!(u64::from(cuts) > runs() && reconnects > runs() / 2, "{cuts} cuts, {reconnects} new sessions");
    assert!(committed > 0 && aborted > 0, "commits in doubt: {committed} took effect, {aborted} did not");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts() {
    let shop = Shop::with_orders(50).await;
    let proxy =
        Proxy::start(&shop.server, Fate::CutAtCommit { left: AtomicU32::new(2), deliver: true }).await;
    let report = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap();
    balances(&shop, &report, 50, "delivered").await;
    assert_eq!((proxy.cuts(), report.in_doubt.committed, report.in_doubt.aborted), (2, 2, 0));
    assert_eq!((report.updated, report.reconnects), (50, 2));
}

#[tokio::test]
async fn a_commit_that_is_lost_is_made_again() {
    let shop = Shop::with_orders(50).await;
    let proxy =
        Proxy::start(&shop.server, Fate::CutAtCommit { left: AtomicU32::new(2), deliver: false }).await;
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn_through(&proxy), vec![recorder.clone()]).update("orders"));
    let report = update.chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap();
    balances(&shop, &report, 50, "swallowed").await;
    assert_eq!((proxy.cuts(), report.in_doubt.committed, report.in_doubt.aborted), (2, 0, 2));
    assert_eq!(recorder.count(|event| *event == Event::CommitInDoubt), 2);
    let lost =
        |event: &Event| matches!(event, Event::SessionLost { sqlstate } if sqlstate.as_str() == "08006");
    assert_eq!(recorder.count(lost), 2);
}

#[tokio::test]
async fn a_chunk_that_always_loses_its_line_is_reported_in_the_end() {
    let shop = Shop::with_orders(30).await;
    let proxy =
        Proxy::start(&shop.server, Fate::CutAtCommit { left: AtomicU32::new(3), deliver: false }).await;
    let update = pay(&shop.dsn_through(&proxy)).max_attempts(3).chunk(ChunkSize::Keys(30));
    let report = update.run(ids(30)).await.unwrap();
    assert_eq!(classes(&report), [0, 0, 0, 0, 30]);
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("08006"));
    assert_eq!((report.failures[0].keys.len(), report.in_doubt.aborted), (30, 3));
    assert_eq!(shop.count("version > 0").await, 0);
}

/// Stops the update's own backends of one database.
fn kill(shop: &Shop) -> String {
    format!(
        "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
         WHERE datname = '{}' AND application_name = 'headcount:update'",
        shop.database
    )
}

#[tokio::test]
async fn a_backend_killed_while_it_waits_for_a_lock_costs_one_attempt() {
    let mut shop = Shop::with_orders(30).await;
    let kill = kill(&shop);
    let other = connect(&shop.dsn()).await;
    let lock = shop.client.transaction().await.unwrap();
    lock.execute("UPDATE orders SET status = status WHERE id = 15", &[]).await.unwrap();
    let run = tokio::spawn({
        let update = pay(&shop.server.dsn_for("postgres", &shop.database)).chunk(ChunkSize::Keys(10));
        async move { update.run(ids(30)).await.unwrap() }
    });
    let waits = format!(
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        shop.database
    );
    eventually(&other, &waits).await;
    let killed: bool = other.query_one(&kill, &[]).await.unwrap().get(0);
    assert!(killed);
    lock.rollback().await.unwrap();
    let report = run.await.unwrap();
    balances(&shop, &report, 30, "killed").await;
    assert_eq!((report.reconnects, report.retried_chunks), (1, 1));
}

#[tokio::test]
async fn backends_killed_again_and_again_lose_and_double_nothing() {
    let shop = Shop::with_orders(20_000).await;
    let killer = connect(&shop.server.dsn()).await;
    let recorder = Arc::new(Recorder::default());
    let observers: Vec<Arc<dyn Observer>> = vec![recorder.clone()];
    let update = paying(updater(&shop.dsn(), observers).update("orders")).connections(3).max_attempts(50);
    let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(20)).run(ids(20_000)).await.unwrap() });
    for round in 1..=8 {
        // In whatever state they are: working, committing, idle in a transaction.
        let committed = |event: &Event| matches!(event, Event::ChunkEnded(facts) if facts.end == ChunkEnd::Committed && facts.chunk > round * 50);
        recorder.until(committed).await;
        killer.query_one(&kill(&shop), &[]).await.unwrap();
    }
    let report = run.await.unwrap();
    balances(&shop, &report, 20_000, "killed").await;
    assert!(report.reconnects >= 8, "{report:?}");
    let class = |event: &Event| matches!(event, Event::SessionLost { sqlstate } if sqlstate.class() == "57");
    assert!(recorder.count(class) > 0);
}

#[tokio::test]
async fn a_restarted_server_is_waited_for() {
    for mode in [Shutdown::Fast, Shutdown::Immediate] {
        let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
        let shop = Shop::on(Arc::clone(&server), 5_000).await;
        let recorder = Arc::new(Recorder::default());
        let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders")).connections(2);
        let run = tokio::spawn(async move {
            update.max_attempts(20).chunk(ChunkSize::Keys(20)).run(ids(5_000)).await.unwrap()
        });
        recorder.until(|event| matches!(event, Event::ChunkEnded(facts) if facts.chunk > 20)).await;
        server.restart(mode).await.unwrap();
        let report = run.await.unwrap();
        let client = connect(&shop.dsn()).await;
        let shop = Shop { client, ..shop };
        balances(&shop, &report, 5_000, "restarted").await;
        assert!(report.reconnects >= 1, "{mode:?}: {report:?}");
    }
}

#[tokio::test]
async fn a_server_full_of_connections_is_waited_for() {
    let server = PrivateServer::builder()
        .setting("max_connections", "8")
        .setting("superuser_reserved_connections", "1");
    let shop = Shop::on(Arc::new(server.start().await.unwrap()), 400).await;
    shop.run("CREATE ROLE app LOGIN; GRANT ALL ON orders TO app").await;
    let app = shop.server.dsn_for("app", &shop.database);
    let mut crowd = Vec::new();
    while let Ok((client, connection)) = tokio_postgres::connect(&app, tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        crowd.push(client);
    }
    assert!(crowd.len() > 2);
    let run = tokio::spawn({
        let update = pay(&app).connections(3);
        async move { update.run(ids(400)).await.unwrap() }
    });
    // One place for three workers: whoever gets it does the work.
    crowd.pop();
    let report = run.await.unwrap();
    balances(&shop, &report, 400, "full").await;
}

#[tokio::test]
async fn a_server_that_stays_away_ends_the_run_and_what_is_left_is_said() {
    let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
    let shop = Shop::on(Arc::clone(&server), 5_000).await;
    let recorder = Arc::new(Recorder::default());
    let file = key_file(5_000);
    let keys = file.path().to_owned();
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
    let update = update.reconnect_wait(Duration::from_millis(300)).chunk(ChunkSize::Keys(10));
    let run = tokio::spawn({
        let keys = keys.clone();
        async move { update.run(Keys::file(keys)).await.unwrap() }
    });
    recorder.until(|event| matches!(event, Event::ChunkEnded(_))).await;
    server.halt(Shutdown::Immediate).await.unwrap();
    let report = run.await.unwrap();
    assert!(!report.is_complete());
    assert_eq!(report.keys + report.left.unwrap(), 5_000, "{report:?}");
    assert!(
        report.error.as_deref().unwrap_or_default().starts_with("no session with the server"),
        "{report:?}"
    );

    server.resume().await.unwrap();
    let rest = pay(&shop.dsn()).run(Keys::file(keys)).await.unwrap();
    assert!(rest.is_complete() && rest.updated + rest.already == 5_000);
    let client = connect(&shop.dsn()).await;
    assert_eq!(Shop { client, ..shop }.count("status = 'paid' AND version = 1").await, 5_000);
}
