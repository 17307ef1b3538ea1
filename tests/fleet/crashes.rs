//! The slots of the dead, and their places in the queue, come back by themselves.

use rustix::process::Signal;

use crate::lab::{Deed, Lab, holders, queue, rows_of};
use crate::line::Proxy;
use crate::versions::{main_version, main_version_from, oldest_and_newest};

/// A server before 14 lets the statement of a dead client run to its end; its workers are outsiders then.
fn holding(version: u32) -> String {
    rows_of(if version < 14 { 100 } else { 10_000 })
}

/// How often the next one looked after all that the dead holder had on the server was gone, until it took its
/// slots. The server says that a session ended when its locks and its workers are gone: it may be slower to
/// say so than the next one is to take.
async fn looks_until_it_took(lab: &Lab) -> usize {
    let when = |task: &str, what: Deed| -> Vec<usize> {
        let deeds = lab.deeds();
        (0..deeds.len()).filter(|&n| deeds[n].0 == task && deeds[n].1 == what).collect()
    };
    // Its leader, and the session that held its slots.
    while when("holder", Deed::Leaves).len() < 2 {
        lab.client.batch_execute("SELECT pg_sleep(0.01)").await.unwrap();
    }
    let gone = when("holder", Deed::Leaves).pop().unwrap();
    let took = when("next", Deed::Takes)[0];
    when("next", Deed::Looks).into_iter().filter(|&at| gone < at && at < took).count()
}

/// A head looks every 20 ms (a hundred, after ten seconds), which the tests of the queue see in paused
/// time. Here it is seen that the first look that could take did: none was lost on what the dead left behind.
#[tokio::test]
async fn a_killed_holder_gives_way_to_the_next_at_its_first_look() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let holder = lab.job("holder", &holding(version), &["--reserve"]);
        lab.until_running("holder").await;
        let next = lab.queued("next", 1).await;
        holder.kill().await;
        lab.until("the slots of the dead are free", |fleet| !holders(fleet).contains(&"holder".to_owned()))
            .await;
        next.end_well().await;
        assert!(looks_until_it_took(&lab).await <= 1, "{:?}", lab.deeds());
        lab.server.stop().await.unwrap();
    }
}

/// A process that was stopped, or whose host sleeps, takes nothing. From 14 on the server ends its session after ten seconds.
#[tokio::test]
async fn a_head_of_the_queue_that_was_stopped_gives_way_and_stands_in_it_again_when_it_goes_on() {
    let Some(version) = main_version_from(14) else { return };
    let lab = Lab::start(version).await;
    let holder = lab.holder().await;
    let head = lab.queued("head", 1).await;
    let next = lab.job("next", &rows_of(5), &["--reserve", "--target", "2", "--min", "2"]);
    lab.until_queued(2).await;
    head.signal(Signal::STOP);
    let ended = next.end().await;
    assert_eq!((ended.code, &ended.json["outcome"]), (Some(0), &"on_target".into()), "{ended:#?}");
    head.signal(Signal::CONT);
    lab.until("it is back in the queue", |fleet| queue(fleet) == ["head"]).await;
    holder.kill().await;
    let ended = head.end().await;
    assert_eq!((ended.code, &ended.json["outcome"]), (Some(0), &"on_target".into()), "{ended:#?}");
    lab.server.stop().await.unwrap();
}

/// The next one has room, and is kept back by the head alone.
#[tokio::test]
async fn a_killed_head_of_the_queue_gives_way_to_the_next_which_takes_at_its_first_look() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let holder = lab.holder().await;
        let head = lab.queued("head", 1).await;
        let next = lab.job("next", &rows_of(5), &["--reserve", "--target", "2", "--min", "2"]);
        let fleet = lab.until_queued(2).await;
        assert_eq!((queue(&fleet), fleet.pool.held), (vec!["head", "next"], 4));
        head.kill().await;
        let ended = next.end().await;
        assert_eq!(ended.json["outcome"], "on_target", "{ended:#?}");
        assert_eq!(ended.json["reserved_slots"], 2, "{ended:#?}");
        let fleet = lab.until("nobody else had to leave", |fleet| holders(fleet) == ["holder"]).await;
        assert!(fleet.queue.is_empty());
        let deeds: Vec<_> =
            lab.deeds().into_iter().filter(|(task, _)| task == "next").map(|(_, deed)| deed).collect();
        // It waited in the server, which woke it; it never asked again.
        assert_eq!(deeds[..3], [Deed::Joins, Deed::Looks, Deed::Takes], "{deeds:?}");
        holder.kill().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn who_is_interrupted_in_the_queue_leaves_it_at_once() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let holder = lab.holder().await;
        let head = lab.queued("head", 1).await;
        let second = lab.queued("second", 2).await;
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
async fn slots_whose_connection_broke_on_this_side_alone_are_free_when_their_execution_ended() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let line = Proxy::start(lab.server.port()).await;
        let past = format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", line.port());
        let mut job = lab.job("job", &rows_of(10_000), &["--reserve", "--monitor-dsn", &past]);
        lab.until_running("job").await;
        // As by a middlebox that keeps the server's side open.
        line.cut_in_silence();
        let held = lab.until("its statement runs on", |fleet| fleet.pool.used == 4).await.pool.held;
        assert_eq!(held, 4, "the server knows of nothing");
        job.interrupt();
        job.hear("slots lost with their connection").await;
        assert_eq!(job.end().await.code, Some(130));
        lab.until("nobody holds a slot", |fleet| fleet.pool.held == 0).await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_deadline_in_the_queue_ends_a_wait_that_is_counted() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    let folder = tempfile::tempdir().unwrap();
    let metrics = folder.path().join("late.prom");
    let late = ["--reserve", "--deadline", "1s", "--textfile", metrics.to_str().unwrap()];
    let ended = lab.job("late", &rows_of(5), &late).end().await;
    assert_eq!((ended.code, &ended.json["reason"]), (Some(1), &"deadline".into()), "{ended:#?}");
    let text = std::fs::read_to_string(metrics).unwrap();
    assert!(text.contains("headcount_reservations_total{task=\"late\",end=\"interrupted\"} 1"), "{text}");
    assert!(text.contains("headcount_reserved_wait_seconds_count{task=\"late\"} 1"), "{text}");
    assert!(lab.until_queued(0).await.queue.is_empty());
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn who_loses_its_slots_finishes_and_says_so() {
    let lab = Lab::start(main_version()).await;
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
