//! An update whose way to the server leads through a pool of transactions that is busy: it is refused all the same.

use std::time::Duration;

use headcount::server::Endpoint;
use tokio::time::{Instant, interval};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::lab::{Ended, Job, Lab};
use crate::proxy::Bouncer;
use crate::versions::main_version;

/// A server with a table of five orders, behind a pool of transactions.
struct Busy {
    lab: Lab,
    bouncer: Bouncer,
    console: Client,
    folder: tempfile::TempDir,
}

impl Busy {
    async fn start(size: u32) -> Self {
        let lab = Lab::start(main_version()).await;
        lab.client
            .batch_execute(
                "CREATE TABLE orders (id int PRIMARY KEY, status text);
                 INSERT INTO orders SELECT g, 'new' FROM generate_series(1, 5) g",
            )
            .await
            .unwrap();
        let bouncer = Bouncer::of(&lab, "transaction", size).await;
        let (console, connection) = tokio_postgres::connect(&bouncer.console(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys"), "1\n2\n3\n4\n5\n").unwrap();
        Self { lab, bouncer, console, folder }
    }

    fn update(&self, reconnect_wait: &str) -> Job {
        let keys = self.folder.path().join("keys");
        let what = ["--table", "orders", "--key", "id", "--set", "status=paid", "--expect", "status=new"];
        let how = ["--keys", keys.to_str().unwrap(), "--reconnect-wait", reconnect_wait];
        Lab::update_at(&self.bouncer.dsn(), &[&what[..], &how].concat())
    }

    /// Somebody who has a backend of the pool, as soon as there is one.
    async fn holder(&self) -> Holder {
        hold(self.bouncer.dsn()).await
    }

    /// Waits until so many wait for a backend.
    async fn until_waiting(&self, sessions: usize) {
        let patience = Instant::now() + Duration::from_mins(1);
        let mut pace = interval(Duration::from_millis(5));
        loop {
            let clients = rows(&self.console, "SHOW CLIENTS", "state").await;
            if clients.iter().filter(|state| *state == "waiting").count() == sessions {
                return;
            }
            assert!(Instant::now() < patience, "never {sessions}: {clients:?}");
            pace.tick().await;
        }
    }

    /// It was refused for this, and has changed nothing: no row, and no backend that others get next.
    async fn was_refused(self, ended: Ended, why: &str, before: &[String]) {
        assert_eq!((ended.code, &ended.json["reason"]), (Some(4), &"refused".into()), "{ended:#?}");
        assert!(ended.json["error"].as_str().unwrap().contains(why), "{ended:#?}");
        assert!(ended.json["fixes"][0].as_str().unwrap().contains("pool_mode = session"), "{ended:#?}");
        let new = "SELECT count(*) FROM orders WHERE status = 'new'";
        assert_eq!(self.lab.client.query_one(new, &[]).await.unwrap().get::<_, i64>(0), 5, "{ended:#?}");
        let mut held = Vec::new();
        for before in before {
            let holder = self.holder().await;
            assert_eq!(&holder.settings().await, before);
            held.push(holder);
        }
        drop((held, self.bouncer));
        self.lab.server.stop().await.unwrap();
    }
}

/// A client in a transaction.
struct Holder(Client);

async fn hold(dsn: String) -> Holder {
    let client = Endpoint::from_dsn(&dsn).unwrap().client("holder").await.unwrap();
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    Holder(client)
}

impl Holder {
    /// What its backend keeps from those who had it: settings, statements and locks.
    async fn settings(&self) -> String {
        let kept = "SELECT coalesce(string_agg(name || '=' || setting, ', ' ORDER BY name), '')
                      || (SELECT count(*) FROM pg_prepared_statements)
                      || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS kept
                    FROM pg_settings WHERE source = 'session' AND name <> 'application_name'";
        rows(&self.0, kept, "kept").await.remove(0)
    }

    async fn lets_go(self) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}

async fn rows(client: &Client, sql: &str, column: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(column).map(str::to_owned),
        _ => None,
    });
    rows.collect()
}

#[tokio::test]
async fn an_update_that_meets_a_busy_pool_of_transactions_is_refused_once_it_is_asked() {
    let busy = Busy::start(2).await;
    let holders = [busy.holder().await, busy.holder().await];
    let before = [holders[0].settings().await, holders[1].settings().await];
    let update = busy.update("1m");
    busy.until_waiting(1).await;
    for holder in holders {
        holder.lets_go().await;
    }
    busy.was_refused(update.end().await, "pools transactions", &before).await;
}

/// An update that got through to its question, and no further: the one backend is another's again.
async fn saturated(reconnect_wait: &str) -> (Busy, Job, Holder, String) {
    let busy = Busy::start(1).await;
    let mut holder = busy.holder().await;
    let before = holder.settings().await;
    let update = busy.update(reconnect_wait);
    // What it says first is said as often as it takes: those who wait are served in their order.
    while !busy.lab.log().contains("virtualxid") {
        busy.until_waiting(1).await;
        let next = tokio::spawn(hold(busy.bouncer.dsn()));
        busy.until_waiting(2).await;
        holder.lets_go().await;
        holder = next.await.unwrap();
    }
    (busy, update, holder, before)
}

#[tokio::test]
async fn a_saturated_pool_of_transactions_is_asked_again_until_it_is_known_for_one() {
    let (busy, mut update, holder, before) = saturated("1m").await;
    update.hear("whether a proxy pools is asked again").await;
    holder.lets_go().await;
    busy.was_refused(update.end().await, "pools transactions", &[before]).await;
}

#[tokio::test]
async fn a_pool_of_transactions_that_stays_saturated_is_refused_in_the_end() {
    let (busy, update, holder, before) = saturated("8s").await;
    let ended = update.end().await;
    holder.lets_go().await;
    busy.was_refused(ended, "has no backend to spare", &[before]).await;
}
