//! Fleets that share a pool and nothing else, and databases that no fleet can use.

use crate::lab::{Lab, queue, rows_of};
use crate::versions::main_version;
use crate::watch::look;

/// A fleet of its own beside one that holds four of six slots and has a queue.
async fn check_apart(own: &[&str], database: &str, space: &str) {
    let lab = Lab::start(main_version()).await;
    lab.client.batch_execute("CREATE DATABASE other").await.unwrap();
    let holder = lab.holder().await;
    let blocked = lab.queued("blocked", 1).await;
    let apart: Vec<_> = ["--reserve", "--target", "2"].iter().chain(own).copied().collect();
    let job = lab.job("apart", &rows_of(10_000), &apart);
    let fleet = lab.until("it runs beside them", |fleet| fleet.pool.used == 6).await;
    assert_eq!((fleet.pool.held, fleet.pool.outsiders), (4, 2), "its workers are an outsider's: {fleet:?}");
    assert_eq!(queue(&fleet), ["blocked"]);
    let fleet = lab.look_at(database, space).await;
    assert_eq!((fleet.pool.held, fleet.pool.outsiders), (2, 4), "and theirs to it: {fleet:?}");
    assert!(fleet.queue.is_empty());
    let shown = look(&lab, &[own, &["--json"]].concat()).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["pool"]["held"], &shown["pool"]["outsiders"]), (&2.into(), &4.into()));
    for job in [job, blocked, holder] {
        job.kill().await;
    }
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn two_spaces_of_one_database_do_not_see_each_other() {
    check_apart(&["--reserve-space", "nights"], "postgres", "nights").await;
}

#[tokio::test]
async fn slots_in_two_databases_do_not_see_each_other() {
    check_apart(&["--reserve-database", "other"], "other", "headcount").await;
}

#[tokio::test]
async fn what_hinders_a_reservation_is_said_and_the_wait_goes_on() {
    let lab = Lab::start(main_version()).await;
    let roles = "CREATE ROLE batch LOGIN CONNECTION LIMIT 1; GRANT SELECT ON slow TO batch;
         CREATE ROLE monitor LOGIN; GRANT pg_read_all_stats, pg_signal_backend TO monitor;
         ALTER ROLE monitor CONNECTION LIMIT 1";
    lab.client.batch_execute(roles).await.unwrap();
    let (batch, monitor) =
        (lab.server.dsn_for("batch", "postgres"), lab.server.dsn_for("monitor", "postgres"));
    let past = ["--reserve", "--monitor-dsn", &monitor];
    let mut job = lab.job_at(&batch, "hindered", &rows_of(5), &past);
    job.hear("too many connections for role").await;
    lab.client.batch_execute("ALTER ROLE monitor CONNECTION LIMIT -1").await.unwrap();
    let ended = job.end_well().await;
    assert_eq!(ended.said.matches("slots cannot be asked for").count(), 1, "once: {ended:#?}");
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_database_where_no_slots_can_be_held_is_named_with_the_field() {
    let lab = Lab::start(main_version()).await;
    lab.client.batch_execute("CREATE DATABASE closed").await.unwrap();
    let roles = "REVOKE CONNECT ON DATABASE closed FROM PUBLIC; CREATE ROLE batch LOGIN; GRANT SELECT ON slow TO batch";
    lab.client.batch_execute(roles).await.unwrap();
    let batch = lab.server.dsn_for("batch", "postgres");
    for (database, cause) in [("closed", "permission denied"), ("nowhere", "does not exist")] {
        let reserve = ["--reserve", "--reserve-database", database];
        let ended = lab.job_at(&batch, "lost", &rows_of(1), &reserve).end().await;
        assert_eq!(ended.code, Some(2), "{ended:#?}");
        let error = ended.json["error"].as_str().unwrap();
        assert!(error.contains("--reserve-database") && error.contains(database), "{error}");
        assert!(error.contains(cause), "{error}");
    }
    lab.server.stop().await.unwrap();
}
