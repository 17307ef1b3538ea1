//! Slots outlast their execution for as long as its workers do.

use crate::lab::{Lab, holders, queue, rows_of};
use crate::stopped::Stopped;
use crate::versions::oldest_and_newest;

/// What a job says when its slots outlast it.
const KEPT: &str = "slots are kept until the workers are gone";

#[tokio::test]
async fn a_worker_that_cannot_leave_keeps_the_slots_until_it_does() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let mut holder = lab.job("holder", &rows_of(10_000), &["--reserve", "--cancel-grace", "50ms"]);
        lab.until_running("holder").await;
        let next = lab.queued("next", 1).await;
        let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'parallel worker' LIMIT 1";
        let stopped = Stopped::new(lab.client.query_one(worker, &[]).await.unwrap().get(0));
        holder.interrupt();
        holder.hear(KEPT).await;
        let fleet = lab.until("the others have left", |fleet| fleet.pool.used == 1).await;
        // One worker and five free: without the slots the next one would go.
        assert_eq!((fleet.pool.held, fleet.pool.outsiders), (4, 0), "{fleet:?}");
        assert_eq!((holders(&fleet), queue(&fleet)), (vec!["holder".to_owned()], vec!["next"]));
        drop(stopped);
        assert_eq!(holder.end().await.code, Some(130));
        next.end_well().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_monitor_that_cannot_look_is_no_proof_that_the_workers_are_gone() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let roles = "CREATE ROLE batch LOGIN; CREATE ROLE monitor LOGIN; GRANT SELECT ON slow TO batch;
             GRANT pg_read_all_stats, pg_signal_backend TO monitor";
        lab.client.batch_execute(roles).await.unwrap();
        let (batch, monitor) =
            (lab.server.dsn_for("batch", "postgres"), lab.server.dsn_for("monitor", "postgres"));
        let past = ["--reserve", "--monitor-dsn", &monitor, "--cancel-grace", "50ms"];
        let mut holder = lab.job_at(&batch, "holder", &rows_of(10_000), &past);
        lab.until_running("holder").await;
        let away = "ALTER ROLE monitor NOLOGIN;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headcount:monitor'";
        lab.client.batch_execute(away).await.unwrap();
        holder.interrupt();
        holder.hear(KEPT).await;
        assert_eq!(lab.until("it holds its slots", |fleet| fleet.pool.held == 4).await.pool.outsiders, 0);
        lab.client.batch_execute("ALTER ROLE monitor LOGIN").await.unwrap();
        assert_eq!(holder.end().await.code, Some(130));
        let fleet = lab.until("all is given back", |fleet| fleet.pool.held == 0).await;
        assert_eq!(fleet.pool.used, 0, "its workers went first");
        lab.server.stop().await.unwrap();
    }
}
