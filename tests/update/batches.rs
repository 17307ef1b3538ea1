//! The caller's own closure, with the same retries and the same certainty.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::stream;
use headcount::{ChunkSize, InDoubt};
use testkit::server::{PrivateServer, Shutdown};

use crate::support::{Fate, Proxy, Shop, classes, connect, eventually, updater};

type Failed = tokio_postgres::Error;

#[tokio::test]
async fn a_closure_is_applied_once_to_each_item_through_lost_commits() {
    for deliver in [true, false] {
        let shop = Shop::with_orders(0).await;
        shop.run("CREATE TABLE ledger (item int)").await;
        let fate = Fate::CutAtCommit { left: AtomicU32::new(3), deliver };
        let proxy = Proxy::start(&shop.server, fate).await;
        let batch = updater(&shop.dsn_through(&proxy), vec![])
            .batch("ledger")
            .chunk(ChunkSize::Keys(10))
            .connections(2);
        let report = batch
            .run(stream::iter(1..=95), |client, items: &[i32]| {
                Box::pin(async move {
                    client.execute("INSERT INTO ledger SELECT unnest($1::int[])", &[&items]).await?;
                    Ok::<_, Failed>(())
                })
            })
            .await
            .unwrap();
        assert!(report.is_complete());
        assert_eq!((report.updated, report.chunks, proxy.cuts()), (95, 10, 3));
        let doubt = report.in_doubt;
        assert_eq!(if deliver { doubt.committed } else { doubt.aborted }, 3);
        let books = "SELECT count(*) || ' ' || count(DISTINCT item) FROM ledger";
        assert_eq!(shop.text(books).await, "95 95", "deliver: {deliver}");
    }
}

/// The server crashes while COMMIT waits for a standby: what it did is on the disk, and the server's word is no proof of
/// that any more.
#[tokio::test]
async fn a_closure_of_unknown_fate_is_repeated_only_if_it_may_be() {
    for replayable in [false, true] {
        let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
        let shop = Shop::on(server, 0).await;
        shop.run("CREATE TABLE ledger (item int PRIMARY KEY, times int NOT NULL)").await;
        shop.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
        shop.run("SELECT pg_reload_conf()").await;
        eventually(&connect(&shop.dsn()).await, "SELECT current_setting('synchronous_standby_names') <> ''")
            .await;
        let batch = updater(&shop.dsn(), vec![]).batch("ledger").chunk(ChunkSize::Keys(10));
        let batch = if replayable { batch.replayable() } else { batch };
        let run = tokio::spawn(async move {
            batch
                .run(stream::iter(1..=10), |client, items: &[i32]| {
                    Box::pin(async move {
                        let insert = "INSERT INTO ledger SELECT item, 1 FROM unnest($1::int[]) AS item
                                      ON CONFLICT (item) DO UPDATE SET times = ledger.times + 1";
                        client.execute(insert, &[&items]).await?;
                        Ok::<_, Failed>(())
                    })
                })
                .await
                .unwrap()
        });
        eventually(&shop.client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            .await;
        shop.run("ALTER SYSTEM RESET synchronous_standby_names").await;
        shop.server.restart(Shutdown::Immediate).await.unwrap();
        let report = run.await.unwrap();
        let client = connect(&shop.dsn()).await;
        let shop = Shop { client, ..shop };
        let expected = if replayable { ([10, 0, 0, 0, 0], 0, 2) } else { ([0, 0, 0, 0, 10], 1, 1) };
        let times = "SELECT max(times)::text FROM ledger HAVING min(times) = max(times) AND count(*) = 10";
        let times: i32 = shop.text(times).await.parse().unwrap();
        assert_eq!((classes(&report), report.in_doubt.unresolved, times), expected, "{report:?}");
    }
}

#[tokio::test]
async fn items_that_the_closure_refuses_stand_alone_in_the_end() {
    let shop = Shop::with_orders(0).await;
    shop.run("CREATE TABLE ledger (item int CHECK (item <> 13))").await;
    let calls = AtomicU32::new(0);
    let batch = updater(&shop.dsn(), vec![]).batch("ledger").chunk(ChunkSize::Keys(16));
    let report = batch
        .run(stream::iter(1..=32), |client, items: &[i32]| {
            calls.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if items.contains(&20) {
                    return Err("twenty is not for us".into());
                }
                client.execute("INSERT INTO ledger SELECT unnest($1::int[])", &[&items]).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
        })
        .await
        .unwrap();
    assert_eq!(classes(&report), [30, 0, 0, 0, 2]);
    assert_eq!(report.failures[1].reason, "twenty is not for us");
    // Two chunks, and four halvings of each.
    assert_eq!(calls.load(Ordering::Relaxed), 2 + 2 * 4 * 2);
    assert_eq!(shop.text("SELECT count(*)::text FROM ledger").await, "30");
}

/// The closure takes its time between two statements, and the server's patience is shorter.
#[tokio::test]
async fn a_session_that_was_idle_in_its_transaction_for_too_long_is_had_anew() {
    let shop = Shop::with_orders(0).await;
    shop.run("CREATE TABLE ledger (item int)").await;
    let dsn = format!("{}?options=-c%20idle_in_transaction_session_timeout%3D500ms", shop.dsn());
    let (calls, looker) = (AtomicU32::new(0), Arc::new(connect(&shop.dsn()).await));
    let batch = updater(&dsn, vec![]).batch("ledger").chunk(ChunkSize::Keys(10));
    let report = batch
        .run(stream::iter(1..=30), |client, items: &[i32]| {
            let (is_second, looker) = (calls.fetch_add(1, Ordering::Relaxed) == 1, Arc::clone(&looker));
            Box::pin(async move {
                client.execute("INSERT INTO ledger SELECT unnest($1::int[])", &[&items]).await?;
                if is_second {
                    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
                    let gone = format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}");
                    eventually(&looker, &gone).await;
                }
                Ok::<_, Failed>(())
            })
        })
        .await
        .unwrap();
    assert_eq!((classes(&report), report.in_doubt), ([30, 0, 0, 0, 0], InDoubt::default()), "{report:?}");
    // Tried again, and not in halves.
    assert_eq!((report.reconnects, report.retried_chunks, report.chunks), (1, 1, 3), "{report:?}");
    assert_eq!(shop.text("SELECT count(*) || ' ' || count(DISTINCT item) FROM ledger").await, "30 30");
}

#[tokio::test]
async fn an_error_that_the_closure_swallows_does_not_pass_for_a_commit() {
    let shop = Shop::with_orders(0).await;
    let batch = updater(&shop.dsn(), vec![]).batch("careless");
    let report = batch
        .run(stream::iter(1..=3), |client, _: &[i32]| {
            Box::pin(async move {
                let _ = client.execute("SELECT 1 / 0", &[]).await;
                Ok::<_, Failed>(())
            })
        })
        .await
        .unwrap();
    assert_eq!(report.updated, 0);
    assert!(!report.is_complete());
    let error = report.complete().unwrap_err();
    assert!(error.is_incomplete() && error.to_string().starts_with("careless: incomplete, of "), "{error}");
}

#[tokio::test]
async fn a_run_can_be_spawned() {
    let shop = Shop::with_orders(3).await;
    let batch = updater(&shop.dsn(), vec![]).batch("spawned");
    let run = tokio::spawn(async move {
        let work = batch.run(stream::iter(1..=3), |client, ids: &[i32]| {
            Box::pin(async move {
                let sql = "UPDATE orders SET version = 1 WHERE id = ANY ($1::int[])";
                client.execute(sql, &[&ids]).await?;
                Ok::<_, Failed>(())
            })
        });
        work.await.unwrap()
    });
    assert_eq!(run.await.unwrap().updated, 3);
    assert_eq!(shop.count("version = 1").await, 3);
}
