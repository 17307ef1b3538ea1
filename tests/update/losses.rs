//! Cut lines, killed backends, restarts; commits in doubt, in both directions.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::event::{ChunkEnd, Observer};
use headcount::{ChunkSize, Event, InDoubt, Keys, Update, Updated};
use testkit::server::{Builder, PrivateServer, Shutdown};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Carriage, Fate, MARK, Proxy, Recorder, Shop, classes, connect, eventually, ids, key_file, kill,
    on_oldest_and_latest, pay, paying, updater,
};
use crate::versions::{main_version, main_version_from, programs, skip};

on_oldest_and_latest!(
    a_line_cut_at_any_byte_loses_and_doubles_nothing,
    claims_over_a_line_cut_at_any_byte_lose_and_double_nothing,
    values_of_each_key_over_a_line_cut_at_any_byte_lose_and_double_nothing,
    a_commit_whose_answer_is_lost_counts,
    a_commit_that_is_lost_is_made_again,
    a_session_that_stays_behind_with_its_locks_is_ended_and_the_run_goes_on,
);

/// Books and table agree, and no key was changed twice.
pub(crate) async fn balances(shop: &Shop, report: &Updated, keys: u64, context: &str) {
    assert!(report.is_complete(), "{context}: {report:?}");
    assert_eq!(report.keys, keys, "{context}");
    assert_eq!(report.updated + report.already, keys, "{context}: {report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, keys, "{context}");
    assert_eq!(shop.count("version > 1").await, 0, "{context}");
    // A row that a forgotten commit has changed is found done; nothing else is.
    assert!(report.already == 0 || report.in_doubt.reread > 0, "{context}: {report:?}");
}

/// How many runs the random cuts get on each version: a few dozen, or what `HEADCOUNT_SOAK_RUNS` says.
pub(crate) fn runs() -> u64 {
    std::env::var("HEADCOUNT_SOAK_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(30)
}

async fn a_line_cut_at_any_byte_loses_and_doubles_nothing(major: u32) {
    check_cuts(major, 16_000, pay, || ids(200)).await;
}

async fn claims_over_a_line_cut_at_any_byte_lose_and_double_nothing(major: u32) {
    check_cuts(major, 40_000, pay, || Keys::claim("SELECT id FROM orders WHERE status = 'new'")).await;
}

async fn values_of_each_key_over_a_line_cut_at_any_byte_lose_and_double_nothing(major: u32) {
    let each = |dsn: &str| {
        let update = updater(dsn, Vec::new()).update("orders").key(["id"]).set_from("status", "to");
        update.expect("status", "new").version("version")
    };
    let query = "SELECT n AS id, 'paid' AS \"to\" FROM generate_series(1, 200) AS n";
    check_cuts(major, 16_000, each, || Keys::query(query)).await;
}

/// Seeded runs of an update of 200 orders, each over lines that are cut somewhere within so many bytes.
async fn check_cuts(major: u32, reach: i64, update: impl Fn(&str) -> Update, keys: impl Fn() -> Keys) {
    let shop = Shop::of_version(major, 200).await;
    let (mut cuts, mut committed, mut aborted, mut reconnects) = (0, 0, 0, 0);
    for seed in 0..runs() {
        shop.run("UPDATE orders SET status = 'new', version = 0").await;
        let mut random = fastrand::Rng::with_seed(seed);
        // The look-up and the opening of a session take some thousands of bytes. Every second run spares the
        // look-up, so that there is more to cut of the work.
        let mut budgets: Vec<i64> = (0..random.u32(1..6)).map(|_| random.i64(1..reach)).collect();
        budgets.extend((seed % 2 == 0).then_some(i64::MAX));
        let proxy = Proxy::start(&shop.server, Fate::CutAfter(Mutex::new(budgets))).await;
        let update = update(&shop.dsn_through(&proxy)).max_attempts(20).retry_delay(Duration::from_millis(8));
        let update = update.chunk(ChunkSize::Keys(random.u32(2..10))).connections(random.u32(1..4));
        let report = update.run(keys()).await.unwrap();
        balances(&shop, &report, 200, &format!("seed {seed}")).await;
        cuts += proxy.cuts();
        committed += report.in_doubt.committed;
        aborted += report.in_doubt.aborted;
        reconnects += report.reconnects;
    }
    assert!(u64::from(cuts) > runs() && reconnects > runs() / 4, "{cuts} cuts, {reconnects} new sessions");
    // A COMMIT is few of the bytes: a few dozen cuts may all miss it. Lost ones have a test of their own below.
    let both = aborted > 0 || runs() < 500;
    assert!(committed > 0 && both, "commits in doubt: {committed} took effect, {aborted} did not");
}

async fn a_commit_whose_answer_is_lost_counts(major: u32) {
    let shop = Shop::of_version(major, 50).await;
    let proxy =
        Proxy::start(&shop.server, Fate::CutAtCommit { left: AtomicU32::new(2), deliver: true }).await;
    let report = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap();
    balances(&shop, &report, 50, "delivered").await;
    assert_eq!((proxy.cuts(), report.in_doubt.committed, report.in_doubt.aborted), (2, 2, 0));
    assert_eq!((report.updated, report.reconnects), (50, 2));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_on_a_line_that_stays_open_counts() {
    let shop = Shop::with_orders(50).await;
    let proxy = Proxy::start(&shop.server, Fate::MuteAtCommit { left: AtomicU32::new(1) }).await;
    let report = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap();
    balances(&shop, &report, 50, "mute").await;
    assert_eq!((proxy.cuts(), report.in_doubt.committed, report.in_doubt.aborted), (1, 1, 0));
    assert_eq!((report.updated, report.reconnects), (50, 1));
}

async fn a_commit_that_is_lost_is_made_again(major: u32) {
    let shop = Shop::of_version(major, 50).await;
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

/// The line breaks in silence: the server keeps the old session, idle in its transaction, and with it the locks.
async fn a_session_that_stays_behind_with_its_locks_is_ended_and_the_run_goes_on(major: u32) {
    let blind = |dsn: &str| {
        let update = updater(dsn, Vec::new()).update("orders").key(["id"]);
        update.set("status", "paid").version("version").retry_delay(Duration::from_millis(80))
    };
    for update in [pay, blind] {
        let shop = Shop::of_version(major, 100).await;
        let holder = connect(&shop.dsn()).await;
        holder.batch_execute("BEGIN; SELECT FROM orders WHERE id = 35 FOR UPDATE").await.unwrap();
        let proxy = Proxy::watched(&shop.server).await;
        let update = update(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10));
        let run = tokio::spawn(async move { update.run(ids(100)).await.unwrap() });
        let of_this = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        eventually(&shop.client, &format!("SELECT count(*) = 1 {of_this} AND wait_event_type = 'Lock'"))
            .await;
        let old: i32 = shop
            .client
            .query_one(&format!("SELECT pid {of_this} AND wait_event_type = 'Lock'"), &[])
            .await
            .unwrap()
            .get(0);
        proxy.becomes(Carriage::Mute);
        holder.batch_execute("ROLLBACK").await.unwrap();
        let idle = format!("SELECT count(*) = 1 {of_this} AND pid = {old} AND state = 'idle in transaction'");
        eventually(&shop.client, &idle).await;
        proxy.becomes(Carriage::CutBehindTheServersBack);
        let report = tokio::time::timeout(Duration::from_mins(1), run).await;
        let report = report.expect("its own old session stops the run").unwrap();
        balances(&shop, &report, 100, "left behind").await;
        assert_eq!((report.updated, report.reconnects, report.in_doubt), (100, 1, InDoubt::default()));
        eventually(&shop.client, &format!("SELECT count(*) = 0 {of_this} AND pid = {old}")).await;
    }
}

#[tokio::test]
async fn keys_that_always_lose_their_line_are_reported_in_the_end() {
    let shop = Shop::with_orders(4).await;
    let proxy =
        Proxy::start(&shop.server, Fate::CutAtCommit { left: AtomicU32::new(u32::MAX), deliver: false })
            .await;
    let update = pay(&shop.dsn_through(&proxy)).max_attempts(3).chunk(ChunkSize::Keys(4));
    let report = update.run(ids(4)).await.unwrap();
    assert_eq!(classes(&report), [0, 0, 0, 0, 4]);
    assert_eq!(report.failures[0].sqlstate.as_deref(), Some("08006"));
    // Thrice together, once in halves, once alone.
    assert_eq!((report.failures[0].keys.len(), report.in_doubt.aborted), (1, 3 + 2 + 4));
    assert_eq!(shop.count("version > 0").await, 0);
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
    let shop = Shop::with_orders(60_000).await;
    let killer = connect(&shop.server.dsn()).await;
    let recorder = Arc::new(Recorder::default());
    let observers: Vec<Arc<dyn Observer>> = vec![recorder.clone()];
    let update = paying(updater(&shop.dsn(), observers).update("orders")).connections(3).max_attempts(50);
    let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(20)).run(ids(60_000)).await.unwrap() });
    for round in 1..=8 {
        // In whatever state they are: working, committing, idle in a transaction.
        let committed = |event: &Event| matches!(event, Event::ChunkEnded(facts) if facts.end == ChunkEnd::Committed && facts.chunk > round * 200);
        recorder.until(committed).await;
        killer.query_one(&kill(&shop), &[]).await.unwrap();
    }
    let report = run.await.unwrap();
    balances(&shop, &report, 60_000, "killed").await;
    assert!(report.reconnects >= 8, "{report:?}");
    let class = |event: &Event| matches!(event, Event::SessionLost { sqlstate } if sqlstate.class() == "57");
    assert!(recorder.count(class) > 0);
}

#[tokio::test]
async fn a_restarted_server_is_waited_for() {
    for mode in [Shutdown::Fast, Shutdown::Immediate] {
        let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
        let shop = Shop::on(Arc::clone(&server), 60_000).await;
        let recorder = Arc::new(Recorder::default());
        let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders")).connections(2);
        let run = tokio::spawn(async move {
            update.max_attempts(20).chunk(ChunkSize::Keys(20)).run(ids(60_000)).await.unwrap()
        });
        recorder.until(|event| matches!(event, Event::ChunkEnded(facts) if facts.chunk > 20)).await;
        server.restart(mode).await.unwrap();
        let report = run.await.unwrap();
        let client = connect(&shop.dsn()).await;
        let shop = Shop { client, ..shop };
        balances(&shop, &report, 60_000, "restarted").await;
        assert!(report.reconnects >= 1, "{mode:?}: {report:?}");
    }
}

/// Each row says under which setting it was changed.
async fn check_durability(asked: &str, used: &str) {
    let shop = Shop::with_orders(3).await;
    shop.run(
        "ALTER TABLE orders ADD sync text;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.sync = current_setting(''synchronous_commit''); RETURN NEW; END';
         CREATE TRIGGER note BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note()",
    )
    .await;
    let dsn = format!("{}?options=-c%20synchronous_commit%3D{asked}", shop.dsn());
    assert_eq!(pay(&dsn).run(ids(3)).await.unwrap().updated, 3);
    assert_eq!(shop.text("SELECT string_agg(DISTINCT sync, ',') FROM orders").await, used);
}

#[tokio::test]
async fn no_commit_is_answered_before_it_lasts_and_no_stronger_wish_is_overruled() {
    check_durability("off", "on").await;
    check_durability("local", "local").await;
    check_durability("remote_apply", "remote_apply").await;
}

/// A server that flushes nothing unless a commit asks for it. From 17 on it writes nothing either: before, each commit
/// wakes the WAL writer, and what was written outlives a crash of the server alone.
fn slow_to_flush() -> Builder {
    slow_to_flush_on(main_version())
}

pub(crate) fn slow_to_flush_on(major: u32) -> Builder {
    let server = PrivateServer::builder().binaries(programs(major));
    let server = server.durable(true).setting("wal_writer_delay", "10s");
    server.setting("wal_writer_flush_after", "1GB")
}

#[tokio::test]
async fn chunks_that_a_crash_took_back_before_the_flush_are_made_again() {
    let Some(major) = main_version_from(17) else { return };
    let server = Arc::new(slow_to_flush_on(major).start().await.unwrap());
    let shop = Shop::on(Arc::clone(&server), 500).await;
    let other = connect(&shop.dsn()).await;
    let recorder = Arc::new(Recorder::default());
    let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
    // A chunk in the middle waits for a lock; those before are committed, and nothing was flushed.
    let mut holder = connect(&shop.dsn()).await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM orders WHERE id = 401 FOR UPDATE", &[]).await.unwrap();
    let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(100)).run(ids(500)).await.unwrap() });
    eventually(&other, "SELECT count(*) = 400 FROM orders WHERE status = 'paid'").await;
    assert_eq!(recorder.count(|event| matches!(event, Event::ChunkEnded(_))), 0, "none counts yet");
    server.restart(Shutdown::Immediate).await.unwrap();
    let report = run.await.unwrap();
    drop(lock);
    let client = connect(&shop.dsn()).await;
    let shop = Shop { client, ..shop };
    balances(&shop, &report, 500, "crashed").await;
    assert_eq!((report.in_doubt.aborted, report.updated), (4, 500), "they were gone: {report:?}");
}

#[tokio::test]
async fn a_flush_that_fails_once_is_made_again() {
    let shop = Shop::with_orders(50).await;
    let proxy = Proxy::start(&shop.server, Fate::Spoil(MARK, AtomicU32::new(1))).await;
    let report = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(10)).run(ids(50)).await.unwrap();
    assert_eq!((classes(&report), report.in_doubt.reread), ([50, 0, 0, 0, 0], 0));
}

#[tokio::test]
async fn a_line_that_breaks_during_a_pause_costs_no_attempt() {
    let shop = Shop::with_orders(10).await;
    let holder = connect(&shop.dsn()).await;
    holder.batch_execute("BEGIN; SELECT FROM orders WHERE id = 5 FOR UPDATE").await.unwrap();
    let recorder = Arc::new(Recorder::default());
    let dsn = format!("{}?options=-c%20lock_timeout%3D20ms", shop.dsn());
    let update = paying(updater(&dsn, vec![recorder.clone()]).update("orders"));
    let update = update.max_attempts(2).retry_delay(Duration::from_secs(4));
    let run = tokio::spawn(async move { update.run(ids(10)).await.unwrap() });
    recorder.until(|event| matches!(event, Event::ChunkEnded(_))).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert!(shop.client.query_one(&kill(&shop), &[]).await.unwrap().get::<_, bool>(0));
    let report = run.await.unwrap();
    assert_eq!((classes(&report), report.reconnects), ([10, 0, 0, 0, 0], 1), "{report:?}");
}

#[tokio::test]
async fn a_lost_line_takes_nothing_back_that_is_not_flushed() {
    let server = Arc::new(slow_to_flush().start().await.unwrap());
    let shop = Shop::on(server, 500).await;
    let kill = kill(&shop);
    let other = connect(&shop.dsn()).await;
    let mut holder = connect(&shop.dsn()).await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM orders WHERE id = 401 FOR UPDATE", &[]).await.unwrap();
    let update = pay(&shop.dsn()).chunk(ChunkSize::Keys(100));
    let run = tokio::spawn(async move { update.run(ids(500)).await.unwrap() });
    eventually(&other, "SELECT count(*) = 400 FROM orders WHERE status = 'paid'").await;
    eventually(&other, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").await;
    other.query_one(&kill, &[]).await.unwrap();
    lock.rollback().await.unwrap();
    let report = run.await.unwrap();
    balances(&shop, &report, 500, "killed").await;
    assert_eq!((report.reconnects, report.updated, report.in_doubt.reread), (1, 500, 0));
}

/// What is left of a finished run after a crash of the server, on a server that flushes nothing by itself.
async fn after_a_crash(schema: &str, last: u32, role: &str) -> (Updated, u64) {
    let server = Arc::new(slow_to_flush().start().await.unwrap());
    let shop = Shop::on(Arc::clone(&server), 10).await;
    shop.run(&format!("CREATE ROLE app LOGIN; {schema}; GRANT ALL ON ALL TABLES IN SCHEMA public TO app"))
        .await;
    let dsn = shop.server.dsn_for(role, &shop.database);
    let report = pay(&dsn).chunk(ChunkSize::Keys(10)).run(ids(last)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    server.restart(Shutdown::Immediate).await.unwrap();
    let client = connect(&shop.dsn()).await;
    let done = Shop { client, ..shop }.count("status = 'paid' AND version = 1").await;
    (report, done)
}

#[tokio::test]
async fn what_the_report_counts_lasts_also_when_the_last_chunk_wrote_nothing() {
    let (report, done) = after_a_crash("SELECT", 15, "app").await;
    assert_eq!((classes(&report), done), ([10, 0, 0, 5, 0], 10));
}

#[tokio::test]
async fn what_the_report_counts_lasts_also_when_the_last_chunk_left_nothing_in_the_log() {
    let parts = "ALTER TABLE orders RENAME TO logged;
        CREATE TABLE orders (LIKE logged INCLUDING ALL) PARTITION BY RANGE (id);
        ALTER TABLE orders ATTACH PARTITION logged FOR VALUES FROM (1) TO (11);
        CREATE UNLOGGED TABLE unlogged PARTITION OF orders FOR VALUES FROM (11) TO (100);
        INSERT INTO orders SELECT id + 10, status, version FROM logged";
    let (report, done) = after_a_crash(parts, 20, "postgres").await;
    assert_eq!((classes(&report), done), ([20, 0, 0, 0, 0], 10), "an unlogged table is empty after a crash");
}

#[tokio::test]
async fn a_role_that_may_not_write_a_mark_waits_for_the_disk_with_each_chunk() {
    let revoke = "DO $$ DECLARE f regprocedure; BEGIN
           FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
             EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
           END LOOP; END $$";
    let (report, done) = after_a_crash(revoke, 15, "app").await;
    assert_eq!((classes(&report), report.in_doubt.reread, done), ([10, 0, 0, 5, 0], 0, 10));
}

/// A run of 500 keys that waits for a lock before its last hundred, and what to do before and meanwhile.
pub(crate) async fn while_it_waits(
    prepare: impl AsyncFnOnce(&Shop),
    update: impl FnOnce(&Shop) -> Update,
    meanwhile: impl AsyncFnOnce(&Shop),
) -> (Shop, Updated) {
    let server = Arc::new(slow_to_flush().start().await.unwrap());
    let shop = Shop::on(server, 500).await;
    prepare(&shop).await;
    let mut holder = connect(&shop.dsn()).await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM orders WHERE id = 401 FOR UPDATE", &[]).await.unwrap();
    let update = update(&shop).chunk(ChunkSize::Keys(100));
    let run = tokio::spawn(async move { update.run(ids(500)).await.unwrap() });
    eventually(&shop.client, "SELECT count(*) = 400 FROM orders WHERE version = 1").await;
    meanwhile(&shop).await;
    let _ = lock.rollback().await;
    let report = run.await.unwrap();
    let client = connect(&shop.dsn()).await;
    (Shop { client, ..shop }, report)
}

/// Of 500 keys 400 were changed, and not flushed, when the run is stopped and the server restarts.
#[tokio::test]
async fn what_a_restart_has_put_in_doubt_is_known_also_when_the_run_is_stopped() {
    if main_version() < 17 {
        return skip("before 17 the crash takes back less than it is to");
    }
    for (mode, expected) in [(Shutdown::Fast, (4, 0)), (Shutdown::Immediate, (0, 4))] {
        let halt = CancellationToken::new();
        let stopped = async |shop: &Shop| {
            halt.cancel();
            shop.server.restart(mode).await.unwrap();
        };
        let update = |shop: &Shop| pay(&shop.dsn()).stop(halt.clone());
        let (shop, report) = while_it_waits(async |_| {}, update, stopped).await;
        // What is there is read again: this server may have crashed before it was shut down.
        let (there, aborted) = expected;
        assert_eq!((report.updated, report.left), (100 * there, Some(500 - 100 * there)), "{report:?}");
        assert_eq!(shop.count("status = 'paid' AND version = 1").await, 100 * there, "{mode:?}");
        assert_eq!((report.in_doubt.reread, report.in_doubt.aborted), (there, aborted), "{mode:?}");
        assert_eq!((report.in_doubt.committed, report.in_doubt.unresolved), (0, 0), "{mode:?}");
    }
}

#[tokio::test]
async fn a_role_that_loses_the_right_to_write_a_mark_meanwhile_finishes_without() {
    const REVOKE: &str = "DO $$ DECLARE f regprocedure; BEGIN
           FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
             EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
           END LOOP; END $$";
    let role = async |shop: &Shop| shop.run("CREATE ROLE app LOGIN; GRANT ALL ON orders TO app").await;
    let update = |shop: &Shop| pay(&shop.server.dsn_for("app", &shop.database)).max_attempts(3);
    let (shop, report) = while_it_waits(role, update, async |shop| shop.run(REVOKE).await).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.updated + report.already, 500, "{report:?}");
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 500);
}

#[tokio::test]
async fn without_an_expected_value_each_chunk_lasts_when_it_is_committed() {
    let blind = |shop: &Shop| {
        let update = updater(&shop.dsn(), Vec::new()).update("orders").key(["id"]);
        update.set("status", "paid").version("version")
    };
    let crash = async |shop: &Shop| shop.server.restart(Shutdown::Immediate).await.unwrap();
    let (shop, report) = while_it_waits(async |_| {}, blind, crash).await;
    assert_eq!((classes(&report), report.in_doubt.reread), ([500, 0, 0, 0, 0], 0));
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 500);
}

#[tokio::test]
async fn a_server_that_is_told_not_to_wait_for_the_disk_meanwhile_still_flushes_what_counts() {
    let relax = async |shop: &Shop| {
        shop.run("ALTER SYSTEM SET synchronous_commit = off").await;
        shop.run("SELECT pg_reload_conf()").await;
        // The same process tells all backends: who is started later knows.
        eventually(&connect(&shop.dsn()).await, "SELECT current_setting('synchronous_commit') = 'off'").await;
    };
    let (shop, report) = while_it_waits(async |_| {}, Shop::pay, relax).await;
    assert_eq!(report.updated, 500);
    shop.server.restart(Shutdown::Immediate).await.unwrap();
    let client = connect(&shop.dsn()).await;
    assert_eq!(Shop { client, ..shop }.count("status = 'paid' AND version = 1").await, 500);
}

#[tokio::test]
async fn who_claims_and_finds_nothing_left_has_what_others_did_on_the_disk() {
    let server = Arc::new(slow_to_flush().start().await.unwrap());
    let shop = Shop::on(Arc::clone(&server), 10).await;
    shop.run("SET synchronous_commit = off").await;
    shop.run("UPDATE orders SET status = 'paid', version = 1").await;
    let report = shop.pay().run(Keys::claim("SELECT id FROM orders WHERE status = 'new'")).await.unwrap();
    assert!(report.is_complete() && report.keys == 0, "{report:?}");
    server.restart(Shutdown::Immediate).await.unwrap();
    let client = connect(&shop.dsn()).await;
    assert_eq!(Shop { client, ..shop }.count("status = 'paid'").await, 10);
}

/// The query for the keys is cut, and so is the session that is to ask again.
#[tokio::test]
async fn a_line_that_breaks_again_while_the_query_is_repeated_costs_one_more_try() {
    let shop = Shop::with_orders(20_000).await;
    let budgets = vec![10, 100_000];
    let proxy = Proxy::start(&shop.server, Fate::CutAfter(Mutex::new(budgets))).await;
    let keys = Keys::query("SELECT id FROM orders");
    let report = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(1000)).run(keys).await.unwrap();
    balances(&shop, &report, 20_000, "cut twice").await;
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test]
async fn what_is_expected_of_a_column_that_stays_is_no_reason_to_work_twice() {
    let elsewhere = |shop: &Shop| {
        let update = updater(&shop.dsn(), Vec::new()).update("orders").key(["id"]);
        update.set("status", "paid").expect("region", "eu").version("version")
    };
    let crash = async |shop: &Shop| shop.server.restart(Shutdown::Immediate).await.unwrap();
    let (shop, report) = while_it_waits(async |_| {}, elsewhere, crash).await;
    assert_eq!((classes(&report), report.in_doubt.reread), ([500, 0, 0, 0, 0], 0));
    assert_eq!(shop.count("status = 'paid' AND version = 1").await, 500);
}

#[tokio::test]
async fn of_keys_that_only_the_server_knows_to_be_one_the_later_wins_also_when_a_commit_fails_between_them() {
    let shop = Shop::with_orders(0).await;
    // The first commit that has order 7 fails, as a serialization failure does.
    shop.run(
        "ALTER TABLE orders ALTER id TYPE numeric; INSERT INTO orders SELECT g, 'new' FROM generate_series(1, 20) g;
         CREATE SEQUENCE tries;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.id = 7 AND nextval('tries') = 1 THEN RAISE 'not now' USING ERRCODE = '40001'; END IF;
           RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let first = (1..=10).map(|id| (id.to_string(), "first"));
    let second = [5, 6, 8].map(|id| (format!("{id}e0"), "second"));
    let update = updater(&shop.dsn(), Vec::new()).update("orders").key(["id"]).set_from("status", "status");
    let report = update.chunk(ChunkSize::Keys(10)).run(Keys::rows(first.chain(second))).await.unwrap();
    assert_eq!((report.updated, report.retried_chunks), (13, 1), "{report:?}");
    assert_eq!(
        shop.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM orders WHERE status = 'second'").await,
        "5,6,8"
    );
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
    let shop = Shop::on(Arc::clone(&server), 60_000).await;
    let recorder = Arc::new(Recorder::default());
    let file = key_file(60_000);
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
    assert_eq!(report.keys + report.left.unwrap(), 60_000, "{report:?}");
    assert!(
        report.error.as_deref().unwrap_or_default().starts_with("no session with the server"),
        "{report:?}"
    );

    server.resume().await.unwrap();
    let rest = pay(&shop.dsn()).run(Keys::file(keys)).await.unwrap();
    assert!(rest.is_complete() && rest.updated + rest.already == 60_000);
    let client = connect(&shop.dsn()).await;
    assert_eq!(Shop { client, ..shop }.count("status = 'paid' AND version = 1").await, 60_000);
}
