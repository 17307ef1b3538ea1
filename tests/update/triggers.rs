//! Triggers and policies: what they refuse is their key's, and what they make unrepeatable is not done twice.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use headcount::{ChunkSize, Event, InDoubt, Keys, Update};
use testkit::server::{PrivateServer, Shutdown};

use crate::losses::{slow_to_flush_on, while_it_waits};
use crate::support::{
    BEGIN, Fate, Proxy, Recorder, Shop, classes, connect, eventually, ids, on_each_version, pay, paying,
    updater,
};
use crate::versions::main_version_from;

on_each_version!(
    a_key_that_a_trigger_refuses_fails_alone_whatever_code_it_raises,
    work_whose_begin_failed_changes_nothing_also_where_no_commit_goes_ahead,
);

/// All of 60 keys are done but 33, which fails with this code.
async fn fails_alone(shop: &Shop, update: Update, keys: Keys, code: &str) {
    let report = update.chunk(ChunkSize::Keys(20)).max_attempts(2).run(keys).await.unwrap();
    assert_eq!(classes(&report), [59, 0, 0, 0, 1], "{code}: {report:?}");
    assert_eq!((report.left, &report.error), (Some(0), &None), "{code}");
    let failure = &report.failures[0];
    assert_eq!((failure.keys.join(" "), failure.sqlstate.as_deref()), ("33".to_owned(), Some(code)));
    assert_eq!(shop.count("version = 1 AND id <> 33").await, 59, "{code}");
    assert_eq!(shop.count("status = 'new' AND version = 0 AND id = 33").await, 1, "{code}");
}

async fn a_key_that_a_trigger_refuses_fails_alone_whatever_code_it_raises(major: u32) {
    let shop = Shop::of_version(major, 60).await;
    shop.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.id = 33 THEN RAISE 'no' USING ERRCODE = TG_ARGV[0]; END IF; RETURN NEW; END $$",
    )
    .await;
    // Of a standard's own kind, of nobody's, of a CASE without ELSE, of limits, of rights, of serialization.
    for code in ["45000", "U0001", "20000", "54000", "42501", "40001", "26000"] {
        shop.run(&format!(
            "DROP TRIGGER IF EXISTS refuse ON orders; UPDATE orders SET status = 'new', version = 0;
             CREATE TRIGGER refuse BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION refuse('{code}')"
        ))
        .await;
        fails_alone(&shop, shop.pay(), ids(60), code).await;
    }
}

#[tokio::test]
async fn a_key_whose_row_a_policy_does_not_let_be_written_fails_alone() {
    let shop = Shop::with_orders(60).await;
    shop.run(
        "CREATE ROLE teller LOGIN; GRANT SELECT, UPDATE ON orders TO teller;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE POLICY most ON orders TO teller USING (true) WITH CHECK (id <> 33)",
    )
    .await;
    let dsn = shop.server.dsn_for("teller", &shop.database);
    fails_alone(&shop, pay(&dsn), ids(60), "42501").await;
    shop.run("DROP OWNED BY teller; DROP ROLE teller").await;
}

#[tokio::test]
async fn a_value_too_long_for_its_index_costs_its_key_and_no_other() {
    let shop = Shop::with_orders(60).await;
    shop.run("CREATE INDEX ON orders (status)").await;
    // No repetition that could be compressed away.
    let mut random = fastrand::Rng::with_seed(33);
    let long: String = (0..6000).map(|_| random.alphanumeric()).collect();
    let rows =
        (1..=60).map(move |id| (id.to_string(), if id == 33 { long.clone() } else { "paid".to_owned() }));
    let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]);
    let update = update.set_from("status", "status").version("version");
    fails_alone(&shop, update, Keys::rows(rows), "54000").await;
}

/// Work that each time changes the row, and leaves it as it was expected.
const KEEPS: &str = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                         'BEGIN NEW.status = OLD.status; RETURN NEW; END'";

/// The trigger is on a table below the one that is updated.
const ON_A_CHILD: &str = "ALTER TABLE orders RENAME TO young;
    CREATE TABLE orders (id bigint, status text, version int NOT NULL, region text);
    ALTER TABLE young INHERIT orders;
    CREATE TRIGGER keep BEFORE UPDATE ON young FOR EACH ROW EXECUTE FUNCTION keep()";
/// The same on one of two partitions; that of all but the first two hundred keys.
const ON_A_PARTITION: &str = "ALTER TABLE orders RENAME TO everything;
    CREATE TABLE orders (LIKE everything INCLUDING ALL) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF orders FOR VALUES FROM (0) TO (201);
    CREATE TABLE high PARTITION OF orders FOR VALUES FROM (201) TO (1000);
    INSERT INTO orders SELECT * FROM everything;
    CREATE TRIGGER keep BEFORE UPDATE ON high FOR EACH ROW EXECUTE FUNCTION keep()";

#[tokio::test]
async fn what_a_trigger_below_the_table_makes_unrepeatable_is_not_done_twice_after_a_crash() {
    for below in [ON_A_CHILD, ON_A_PARTITION] {
        let prepare = async |shop: &Shop| shop.run(&format!("{KEEPS}; {below}")).await;
        let crash = async |shop: &Shop| {
            // All that was committed is on the disk, whether or not anybody has waited for it.
            shop.run("SELECT pg_logical_emit_message(true, 'test', '')").await;
            shop.server.restart(Shutdown::Immediate).await.unwrap();
        };
        let (shop, report) = while_it_waits(prepare, Shop::pay, crash).await;
        assert_eq!(shop.count("version > 1").await, 0, "{below}: {report:?}");
        assert_eq!((report.updated, shop.count("version = 1").await), (500, 500), "{below}: {report:?}");
    }
}

/// The server crashes while COMMIT waits for a standby that never comes: it is on the disk, and was not answered. The
/// server may have crashed before that, too, and have given its id to another transaction: its word is no proof.
#[tokio::test]
async fn what_a_trigger_below_the_table_makes_unrepeatable_is_unresolved_after_a_lost_answer_and_a_crash() {
    for below in [ON_A_CHILD, ON_A_PARTITION] {
        let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
        let shop = Shop::on(server, 300).await;
        shop.run(&format!("{KEEPS}; {below}")).await;
        shop.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
        shop.run("SELECT pg_reload_conf()").await;
        // The same process tells all backends: who is started later knows.
        eventually(&connect(&shop.dsn()).await, "SELECT current_setting('synchronous_standby_names') <> ''")
            .await;
        let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set("status", "paid");
        let update = update.version("version").chunk(ChunkSize::Keys(10));
        let run = tokio::spawn(async move { update.run(Keys::rows(201..=300)).await.unwrap() });
        eventually(&shop.client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            .await;
        shop.run("ALTER SYSTEM RESET synchronous_standby_names").await;
        shop.server.restart(Shutdown::Immediate).await.unwrap();
        let report = run.await.unwrap();
        let client = connect(&shop.dsn()).await;
        let shop = Shop { client, ..shop };
        assert_eq!(shop.count("version > 1").await, 0, "{below}: {report:?}");
        assert_eq!(
            (classes(&report), shop.count("version = 1").await),
            ([90, 0, 0, 0, 10], 100),
            "{report:?}"
        );
        assert_eq!((report.in_doubt.unresolved, report.in_doubt.committed), (1, 0), "{report:?}");
        assert_eq!(report.failures[0].sqlstate.as_deref(), Some("40003"), "{report:?}");
    }
}

/// Whoever follows the command's advice does nothing twice.
#[tokio::test]
async fn who_has_unresolved_keys_is_told_to_look_before_the_same_command_is_run_again() {
    let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
    let shop = Shop::on(server, 10).await;
    shop.run(&format!("{KEEPS}; {ON_A_CHILD}")).await;
    shop.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    shop.run("SELECT pg_reload_conf()").await;
    eventually(&connect(&shop.dsn()).await, "SELECT current_setting('synchronous_standby_names') <> ''")
        .await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args([
        "update",
        "--dsn",
        &shop.dsn(),
        "--table",
        "orders",
        "--key",
        "id",
        "--set",
        "status=paid",
    ]);
    command.args(["--version-column", "version", "--keys-query", "SELECT id FROM orders"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let running = command.spawn().unwrap();
    eventually(&shop.client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await;
    shop.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    shop.server.restart(Shutdown::Immediate).await.unwrap();
    let ended = running.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(5), "{ended:?}");
    let now = said.lines().last().unwrap();
    assert!(now.starts_with("Before you run it again, look at the rows of the unresolved keys"), "{said}");
    assert!(!said.contains("Run the same command again"), "{said}");
}

/// The trigger comes between two chunks, whose rows others have locked.
#[tokio::test]
async fn what_a_trigger_that_came_meanwhile_makes_unrepeatable_is_not_done_twice_after_a_crash() {
    let server = Arc::new(PrivateServer::builder().durable(true).start().await.unwrap());
    let shop = Shop::on(server, 100).await;
    shop.run(KEEPS).await;
    let lock = async |id: u32| {
        let holder = connect(&shop.dsn()).await;
        holder.batch_execute(&format!("BEGIN; SELECT FROM orders WHERE id = {id} FOR UPDATE")).await.unwrap();
        holder
    };
    let (first, second) = (lock(35).await, lock(55).await);
    let update = updater(&shop.dsn(), vec![]).update("orders").key(["id"]).set("status", "paid");
    let update = update.version("version").chunk(ChunkSize::Keys(10));
    let run = tokio::spawn(async move { update.run(ids(100)).await.unwrap() });
    let waiting = |mode| format!("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = '{mode}'");
    eventually(&shop.client, &waiting("ShareLock")).await;
    let owner = connect(&shop.dsn()).await;
    let create = async move {
        let create = "CREATE TRIGGER keep BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep()";
        owner.batch_execute(create).await.unwrap();
    };
    let created = tokio::spawn(create);
    eventually(&shop.client, &waiting("ShareRowExclusiveLock")).await;
    first.batch_execute("ROLLBACK").await.unwrap();
    created.await.unwrap();
    eventually(&shop.client, "SELECT count(*) = 50 FROM orders WHERE version = 1").await;
    // The COMMIT of the next one is on the disk and not answered for.
    shop.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    shop.run("SELECT pg_reload_conf()").await;
    eventually(&connect(&shop.dsn()).await, "SELECT current_setting('synchronous_standby_names') <> ''")
        .await;
    second.batch_execute("ROLLBACK").await.unwrap();
    eventually(&shop.client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await;
    shop.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    shop.server.restart(Shutdown::Immediate).await.unwrap();
    let report = run.await.unwrap();
    let client = connect(&shop.dsn()).await;
    let shop = Shop { client, ..shop };
    assert_eq!(shop.count("version > 1").await, 0, "{report:?}");
    assert_eq!((classes(&report), shop.count("version = 1").await), ([90, 0, 0, 0, 10], 100), "{report:?}");
    assert_eq!((report.in_doubt.unresolved, report.in_doubt.reread), (1, 0), "{report:?}");
}

/// What was reported is on the disk, also where a trigger would not have it wait for that.
#[tokio::test]
async fn a_trigger_that_has_its_transaction_not_wait_for_the_disk_is_overruled() {
    let Some(major) = main_version_from(17) else { return };
    // The last has another one run in COMMIT, whatever is asked for before.
    for trigger in [
        "TRIGGER hasty BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION hasty()",
        "CONSTRAINT TRIGGER hasty AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
           EXECUTE FUNCTION hasty()",
        "CONSTRAINT TRIGGER chain AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
           EXECUTE FUNCTION chain();
         CREATE CONSTRAINT TRIGGER hasty AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
           EXECUTE FUNCTION hasty()",
    ] {
        let server = Arc::new(slow_to_flush_on(major).start().await.unwrap());
        let shop = Shop::on(server, 20).await;
        shop.run(&format!(
            "CREATE FUNCTION hasty() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN PERFORM set_config(''synchronous_commit'', ''off'', true); RETURN NEW; END';
             CREATE TABLE later (id int);
             CREATE FUNCTION chain() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO later VALUES (NEW.id); RETURN NULL; END';
             CREATE {trigger}"
        ))
        .await;
        let holder = connect(&shop.dsn()).await;
        holder.batch_execute("BEGIN; SELECT FROM orders WHERE id = 15 FOR UPDATE").await.unwrap();
        let recorder = Arc::new(Recorder::default());
        let update = paying(updater(&shop.dsn(), vec![recorder.clone()]).update("orders"));
        let run = tokio::spawn(async move { update.chunk(ChunkSize::Keys(10)).run(ids(20)).await });
        recorder.until(|event| matches!(event, Event::ChunkEnded(_))).await;
        run.abort();
        shop.server.restart(Shutdown::Immediate).await.unwrap();
        let client = connect(&shop.dsn()).await;
        let shop = Shop { client, ..shop };
        assert_eq!(shop.count("version = 1").await, 10, "{trigger}");
    }
}

/// What is put off until COMMIT is checked there, and not before.
#[tokio::test]
async fn a_deferred_trigger_may_write_what_is_only_right_at_commit() {
    let shop = Shop::with_orders(20).await;
    shop.run(
        "CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
         CREATE FUNCTION child_first() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO child VALUES (NEW.id); INSERT INTO parent VALUES (NEW.id); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER child_first AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION child_first()",
    )
    .await;
    let report = pay(&shop.dsn()).chunk(ChunkSize::Keys(10)).run(ids(20)).await.unwrap();
    assert_eq!(classes(&report), [20, 0, 0, 0, 0], "{report:?}");
}

/// Without its transaction a chunk would be committed by itself, and its COMMIT be for nothing.
async fn work_whose_begin_failed_changes_nothing_also_where_no_commit_goes_ahead(major: u32) {
    let shop = Shop::of_version(major, 200).await;
    // What is done once more is seen: in the version, and by the trigger, which leaves what is expected.
    shop.run(&format!(
        "{KEEPS}; CREATE TRIGGER keep BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep()"
    ))
    .await;
    let fate = |what| Fate::Spoil(what, AtomicU32::new(5));
    let proxy = Proxy::start(&shop.server, fate(BEGIN)).await;
    let update = pay(&shop.dsn_through(&proxy)).chunk(ChunkSize::Keys(20));
    let report = update.run(ids(200)).await.unwrap();
    // xEGIN is a syntax error. The halves of the chunk have no such trouble.
    assert_eq!((classes(&report), report.chunks), ([200, 0, 0, 0, 0], 11), "{report:?}");
    assert_eq!((shop.count("version = 1").await, report.in_doubt), (200, InDoubt::default()));
}
