//! Chunks whose COMMIT is sent before their work is answered for.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use headcount::{ChunkSize, InDoubt, Keys, Updated};
use tokio::time::{Instant, interval};
use tokio_postgres::Client;

use crate::losses::{balances, runs};
use crate::support::{
    BEGIN, Carriage, Fate, Proxy, Shop, classes, connect, eventually, ids, kill, on_oldest_and_latest, pay,
};
use crate::versions::main_version_from;

on_oldest_and_latest!(rows_of_all_kinds_over_a_line_cut_at_any_byte_end_in_their_classes,);

/// Before 14 nothing is sent ahead, since the server would not notice a cut line.
fn nothing_goes_ahead() -> bool {
    main_version_from(14).is_none()
}

/// Waits until so many COMMITs were sent.
async fn sent(proxy: &Proxy, commits: u32) {
    let patience = Instant::now() + Duration::from_mins(1);
    let mut pace = interval(Duration::from_millis(5));
    while proxy.commits() < commits {
        assert!(Instant::now() < patience, "only {} COMMITs were sent", proxy.commits());
        pace.tick().await;
    }
}

/// A run of 300 orders, 10 a chunk, over a watched line. The 20th chunk waits for a lock of the holder's, and its
/// COMMIT was sent. What happens then, and what comes of it.
async fn with_a_commit_under_way(meanwhile: impl AsyncFnOnce(&Shop, &Proxy, Client)) -> (Shop, Updated) {
    let shop = Shop::with_orders(300).await;
    let holder = connect(&shop.dsn()).await;
    holder.batch_execute("BEGIN; SELECT FROM orders WHERE id = 195 FOR UPDATE").await.unwrap();
    let proxy = Proxy::watched(&shop.server).await;
    let update = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10));
    let run = tokio::spawn(async move { update.run(ids(300)).await.unwrap() });
    sent(&proxy, 20).await;
    eventually(&shop.client, "SELECT count(*) = 190 FROM orders WHERE status = 'paid'").await;
    meanwhile(&shop, &proxy, holder).await;
    (shop, run.await.unwrap())
}

#[tokio::test]
async fn a_chunk_is_committed_without_a_word_from_us_after_its_work() {
    if nothing_goes_ahead() {
        return;
    }
    let release = async |_: &Shop, _: &Proxy, holder: Client| drop(holder);
    let (shop, report) = with_a_commit_under_way(release).await;
    balances(&shop, &report, 300, "released").await;
    assert_eq!((report.chunks, report.retried_chunks, report.in_doubt), (30, 0, InDoubt::default()));
}

#[tokio::test]
async fn a_backend_killed_before_it_turns_to_the_commit_has_the_chunk_made_again() {
    if nothing_goes_ahead() {
        return;
    }
    let killed = async |shop: &Shop, _: &Proxy, holder: Client| {
        assert!(shop.client.query_one(&kill(shop), &[]).await.unwrap().get::<_, bool>(0));
        drop(holder);
    };
    let (shop, report) = with_a_commit_under_way(killed).await;
    balances(&shop, &report, 300, "killed").await;
    assert_eq!((report.updated, report.reconnects), (300, 1));
    assert_eq!((report.in_doubt.aborted, report.in_doubt.committed), (1, 0));
}

#[tokio::test]
async fn work_and_commit_whose_answers_are_both_lost_count_as_they_took_effect() {
    if nothing_goes_ahead() {
        return;
    }
    for cut in [Carriage::Cut, Carriage::CutWithAnExcuse] {
        let lost = async |shop: &Shop, proxy: &Proxy, holder: Client| {
            proxy.becomes(Carriage::Mute);
            drop(holder);
            eventually(&shop.client, "SELECT count(*) = 200 FROM orders WHERE status = 'paid'").await;
            proxy.becomes(cut);
        };
        let (shop, report) = with_a_commit_under_way(lost).await;
        balances(&shop, &report, 300, "lost").await;
        assert_eq!((report.updated, report.reconnects), (300, 1), "{cut:?}");
        assert_eq!((report.in_doubt.committed, report.in_doubt.aborted), (1, 0), "{cut:?}");
    }
}

#[tokio::test]
async fn a_line_cut_while_the_work_waits_leaves_no_doubt_behind() {
    if nothing_goes_ahead() {
        return;
    }
    let cut = async |shop: &Shop, proxy: &Proxy, holder: Client| {
        let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                       AND wait_event_type = 'Lock'";
        let pid: i32 = shop.client.query_one(waiting, &[]).await.unwrap().get(0);
        proxy.becomes(Carriage::Cut);
        // The server notices by itself, long before the lock is released.
        let gone = format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}");
        eventually(&shop.client, &gone).await;
        drop(holder);
    };
    let (shop, report) = with_a_commit_under_way(cut).await;
    balances(&shop, &report, 300, "cut").await;
    assert_eq!((report.updated, report.in_doubt.aborted, report.in_doubt.unresolved), (300, 1, 0));
}

#[tokio::test]
async fn a_row_that_is_not_as_expected_costs_no_attempt_and_is_told_apart() {
    if nothing_goes_ahead() {
        return;
    }
    let voided = async |_: &Shop, _: &Proxy, holder: Client| {
        holder.batch_execute("UPDATE orders SET status = 'void' WHERE id = 195; COMMIT").await.unwrap();
    };
    let (shop, report) = with_a_commit_under_way(voided).await;
    assert_eq!(classes(&report), [299, 0, 1, 0, 0]);
    assert_eq!((report.chunks, report.retried_chunks, report.reconnects), (30, 0, 0));
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 299);
    assert_eq!(report.in_doubt, InDoubt::default());
}

#[tokio::test]
async fn work_that_fails_before_its_commit_is_tried_again() {
    if nothing_goes_ahead() {
        return;
    }
    let cancelled = async |shop: &Shop, _: &Proxy, holder: Client| {
        let cancel = kill(shop).replace("terminate", "cancel");
        assert!(shop.client.query_one(&cancel, &[]).await.unwrap().get::<_, bool>(0));
        drop(holder);
    };
    let (shop, report) = with_a_commit_under_way(cancelled).await;
    balances(&shop, &report, 300, "cancelled").await;
    assert_eq!((report.updated, report.retried_chunks, report.reconnects), (300, 1, 0));
    assert_eq!(report.in_doubt, InDoubt::default());
}

/// Without its transaction a chunk would be committed by itself, and nobody would know.
#[tokio::test]
async fn work_whose_begin_failed_changes_nothing() {
    let shop = Shop::with_orders(300).await;
    let proxy = Proxy::start(&shop.server, Fate::Spoil(BEGIN, AtomicU32::new(20))).await;
    let report = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10)).run(ids(300)).await.unwrap();
    // xEGIN is a syntax error. The halves of the chunk have no such trouble.
    assert_eq!((report.updated, report.failed, report.chunks), (300, 0, 31), "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 300);
}

/// What can never be changed is found among the chunks that went ahead, and they go on.
#[tokio::test]
async fn keys_that_fail_are_found_and_the_others_are_done() {
    let shop = Shop::with_orders(300).await;
    shop.run("ALTER TABLE orders ADD CHECK (id NOT IN (155, 232) OR status = 'new')").await;
    let mut keys: Vec<String> = (1..=300).map(|id: u32| id.to_string()).collect();
    keys[199] = "two hundred".to_owned();
    let report = shop.pay().chunk(ChunkSize::Keys(10)).run(Keys::rows(keys)).await.unwrap();
    assert_eq!(classes(&report), [297, 0, 0, 0, 3]);
    let failures = report.failures.iter().map(|failure| (failure.keys.join(" "), failure.sqlstate.clone()));
    let mut failures: Vec<(String, String)> = failures.map(|(keys, code)| (keys, code.unwrap())).collect();
    failures.sort();
    let expected = [("155", "23514"), ("232", "23514"), ("two hundred", "22P02")];
    assert_eq!(failures, expected.map(|(key, code)| (key.to_owned(), code.to_owned())));
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 297);
}

/// Seeded runs over rows of all kinds, most of them as expected.
async fn rows_of_all_kinds_over_a_line_cut_at_any_byte_end_in_their_classes(major: u32) {
    let shop = Shop::of_version(major, 400).await;
    let (mut cuts, mut rolled_back) = (0, 0);
    for seed in 0..runs() {
        let context = format!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        shop.run("UPDATE orders SET status = 'new', version = 0").await;
        let odd = random.u64(0..8);
        let (mut done, mut void) = (HashSet::new(), HashSet::new());
        for n in 0..odd {
            let id = random.u32(1..=400);
            if n % 2 == 0 && !void.contains(&id) {
                done.insert(id);
                shop.run(&format!("UPDATE orders SET status = 'paid' WHERE id = {id}")).await;
            } else if !done.contains(&id) {
                void.insert(id);
                shop.run(&format!("UPDATE orders SET status = 'void' WHERE id = {id}")).await;
            }
        }
        let missing = random.u32(0..3);
        let mut budgets: Vec<i64> = (0..random.u32(1..6)).map(|_| random.i64(1..20_000)).collect();
        budgets.extend((seed % 2 == 0).then_some(i64::MAX));
        let proxy = Proxy::start(&shop.server, Fate::CutAfter(Mutex::new(budgets))).await;
        let update = pay(&shop.dsn_through(&proxy)).max_attempts(20).retry_delay(Duration::from_millis(8));
        let update = update.chunk(ChunkSize::Keys(random.u32(3..9))).connections(random.u32(1..3));
        let report = update.run(ids(400 + missing)).await.unwrap();
        assert!(report.is_complete(), "{context}: {report:?}");
        let (done, void) = (done.len() as u64, void.len() as u64);
        let expected = [400 - done - void, done, void, u64::from(missing), 0];
        assert_eq!(classes(&report), expected, "{context}: {report:?}");
        assert_eq!(shop.count("status = 'paid' AND version = 1").await, expected[0], "{context}");
        assert_eq!(shop.count("version > 1").await, 0, "{context}");
        cuts += proxy.cuts();
        rolled_back += report.in_doubt.aborted;
    }
    assert!(u64::from(cuts) > runs(), "{cuts} cuts");
    // A few dozen cuts may all miss a COMMIT. Those that meet one have tests of their own above.
    assert!(runs() < 500 || rolled_back > 0, "no COMMIT was lost behind its work");
}
