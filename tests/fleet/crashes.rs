//! The slots of the dead, and their places in the queue, come back by themselves.

use crate::lab::{Lab, VERSIONS, holders, queue, rows_of};

/// A server before 14 lets the statement of a dead client run to its end; its workers are outsiders then.
fn holding(version: u32) -> String {
    rows_of(if version < 14 { 100 } else { 10_000 })
}

#[tokio::test]
async fn a_killed_holder_gives_way_to_the_next() {
    for version in VERSIONS {
        let lab = Lab::start(version).await;
        let holder = lab.job("holder", &holding(version), &["--reserve"]);
        lab.until_running("holder").await;
        let next = lab.job("next", &rows_of(5), &["--reserve"]);
        lab.until_queued(1).await;
        holder.kill().await;
        lab.until("the slots of the dead are free", |fleet| !holders(fleet).contains(&"holder".to_owned()))
            .await;
        next.end_well().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_head_of_the_queue_gives_way_to_the_next() {
    for version in VERSIONS {
        let lab = Lab::start(version).await;
        let holder = lab.job("holder", &rows_of(10_000), &["--reserve"]);
        lab.until_running("holder").await;
        let head = lab.job("head", &rows_of(5), &["--reserve"]);
        lab.until_queued(1).await;
        let next = lab.job("next", &rows_of(5), &["--reserve"]);
        assert_eq!(queue(&lab.until_queued(2).await), ["head", "next"]);
        head.kill().await;
        let fleet = lab.until_queued(1).await;
        assert_eq!((queue(&fleet), fleet.queue[0].place), (vec!["next"], 1));
        holder.interrupt();
        assert_eq!(holder.end().await.code, Some(130));
        next.end_well().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn who_is_interrupted_in_the_queue_leaves_it_at_once() {
    for version in VERSIONS {
        let lab = Lab::start(version).await;
        let holder = lab.job("holder", &rows_of(10_000), &["--reserve"]);
        lab.until_running("holder").await;
        let head = lab.job("head", &rows_of(5), &["--reserve"]);
        lab.until_queued(1).await;
        let second = lab.job("second", &rows_of(5), &["--reserve"]);
        lab.until_queued(2).await;
        second.interrupt();
        let ended = second.end().await;
        assert_eq!(ended.code, Some(130), "{ended:#?}");
        assert_eq!(queue(&lab.until_queued(1).await), ["head"], "before the holder is done");
        assert_eq!(holders(&lab.until_queued(1).await), ["holder"]);
        head.kill().await;
        holder.kill().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn who_loses_its_slots_finishes_and_says_so() {
    let lab = Lab::start(18).await;
    let job = lab.job("job", &rows_of(50), &["--reserve"]);
    lab.until_running("job").await;
    let killed =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'want=%'";
    assert_eq!(lab.client.query_one(killed, &[]).await.unwrap().get::<_, i64>(0), 1);
    let fleet = lab.until("its workers are outsiders", |fleet| fleet.pool.outsiders == 4).await;
    assert_eq!(fleet.pool.held, 0);
    let ended = job.end_well().await;
    assert!(ended.said.contains("slots lost with their connection"), "{ended:#?}");
    lab.server.stop().await.unwrap();
}
