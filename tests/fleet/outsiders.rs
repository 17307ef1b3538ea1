//! Workers without a slot.

use headcount::server::Endpoint;
use headcount::server::fleet::Fleet;

use crate::lab::{Lab, rows_of};
use crate::shares::resize;
use crate::versions::{main_version, main_version_from, oldest_and_newest};

pub(crate) const CANCEL_OUTSIDER: &str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'psql' AND leader_pid IS NULL";

/// A session that takes four workers and asks nobody. It ends with the value.
pub(crate) async fn outsider(lab: &Lab) -> tokio::task::JoinHandle<()> {
    let client = Endpoint::from_dsn(&lab.server.dsn()).unwrap().client("psql").await.unwrap();
    let sql = format!("SET max_parallel_workers_per_gather = 4; {}", rows_of(10_000));
    let task = tokio::spawn(async move {
        // It is cancelled when the server stops, or by name.
        let _ = client.batch_execute(&sql).await;
    });
    lab.until("the outsider has four workers", |fleet| fleet.pool.outsiders == 4).await;
    task
}

#[tokio::test]
async fn outsiders_shrink_a_reservation_that_says_why() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let task = outsider(&lab).await;
        let shrunk = ["--reserve", "--degrade-after", "200ms", "--min", "50%"];
        let ended = lab.job("shrunk", &rows_of(5), &shrunk).end().await;
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert_eq!(ended.json["outcome"], "above_minimum", "{ended:#?}");
        assert_eq!(ended.json["reserved_slots"], 2, "{ended:#?}");
        assert_eq!(ended.json["achieved_workers"], 2, "{ended:#?}");
        assert_eq!(ended.json["attempt_count"], 1, "{ended:#?}");
        assert!(ended.said.contains("fewer slots reserved than demanded"), "{ended:#?}");
        assert!(ended.said.contains("outsiders=4"), "{ended:#?}");
        task.abort();
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_reservation_waits_for_outsiders_to_leave() {
    let lab = Lab::start(main_version()).await;
    let task = outsider(&lab).await;
    let mut patient = lab.job("patient", &rows_of(5), &["--reserve"]);
    lab.until_queued(1).await;
    patient.hear("at the head of the queue, waiting for free slots").await;
    lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
    task.await.unwrap();
    patient.end_well().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn outsiders_in_the_rest_of_the_pool_are_in_nobodys_way() {
    let lab = Lab::start(main_version()).await;
    resize(&lab, 8).await;
    let task = outsider(&lab).await;
    let part = lab.job("part", &rows_of(5), &["--reserve", "--pool-size", "4"]);
    let ended = part.end_well().await;
    assert!(!ended.said.contains("waiting for free slots"), "{ended:#?}");
    // Two fleets, half of the pool for each.
    lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
    task.await.unwrap();
    let half = |space| ["--reserve", "--pool-size", "4", "--reserve-space", space];
    let first = lab.job("first", &rows_of(10_000), &half("first"));
    lab.until_running("first").await;
    lab.job("second", &rows_of(5), &half("second")).end_well().await;
    first.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn when_outsiders_take_what_was_reserved_the_guard_retries_within_its_slots_and_says_why() {
    let lab = Lab::start(main_version()).await;
    // The job has its slots, and waits for a lock before it may start its workers.
    let locker = Endpoint::from_dsn(&lab.server.dsn()).unwrap().client("locker").await.unwrap();
    locker.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    // One that EXPLAIN does not wait for.
    let sql = format!("SELECT pg_advisory_xact_lock(42); {}", rows_of(10));
    let mut job = lab.job("robbed", &sql, &["--reserve", "--admission-wait", "60s"]);
    let is = |fleet: &Fleet, state: &str| {
        let robbed = fleet.leaders.iter().find(|leader| leader.task.as_deref() == Some("robbed"));
        robbed.is_some_and(|leader| leader.slots == 4 && leader.state.as_deref() == Some(state))
    };
    lab.until("it has its slots and its attempt began", |fleet| is(fleet, "active")).await;
    let task = outsider(&lab).await;
    locker.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    // It waits with its slots.
    job.hear("too few workers").await;
    lab.until("it holds its slots", |fleet| is(fleet, "idle in transaction")).await;
    lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
    task.await.unwrap();
    let ended = job.end().await;
    assert_eq!(ended.json["outcome"], "on_target", "{ended:#?}");
    assert_eq!(ended.json["attempts"][0]["reason"], "pool_exhausted", "{ended:#?}");
    assert_eq!(ended.json["reserved_slots"], 4, "{ended:#?}");
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_job_asks_the_server_takes_no_worker_of_the_pool() {
    // Before 18 no server counts the workers that were launched.
    let Some(version) = main_version_from(18) else { return };
    let lab = Lab::start(version).await;
    let look = "SELECT sum(parallel_workers_to_launch)::int8 FROM pg_stat_database";
    let before: i64 = lab.client.query_one(look, &[]).await.unwrap().get(0);
    let ignored = ["--reserve", "--plan-shortfall", "ignore"];
    let ended = lab.job("alone", "SELECT count(*) FROM pg_sleep(0)", &ignored).end().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    // What it sends outside of statements that are guarded: looks at the catalog, at rights, rows and sessions.
    lab.client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY, status text)").await.unwrap();
    let keys = std::env::temp_dir().join(format!("headcount-asks-{}", std::process::id()));
    std::fs::write(&keys, "1\n").unwrap();
    let update =
        ["update", "--table", "orders", "--key", "id", "--set", "status=done", "--fail-on", "none", "--keys"];
    let update = [&update[..], &[keys.to_str().unwrap()]].concat();
    let explain = ["explain", "--sql", "SELECT count(*) FROM pg_sleep(0)"];
    for args in [&update[..], &explain, &["doctor"], &["watch", "--once"]] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_headcount"));
        let said = command.args(args).args(["--dsn", &lab.server.dsn()]).output().await.unwrap();
        assert!(matches!(said.status.code(), Some(0 | 4)), "{args:?}: {said:?}");
    }
    std::fs::remove_file(keys).unwrap();
    let after: i64 = lab.client.query_one(look, &[]).await.unwrap().get(0);
    assert_eq!(after, before);
    // The count counts: a statement that does take workers is seen in it.
    lab.job("leader", &rows_of(1), &["--reserve"]).end_well().await;
    let after: i64 = lab.client.query_one(look, &[]).await.unwrap().get(0);
    assert_eq!(after, before + 4);
    lab.server.stop().await.unwrap();
}
