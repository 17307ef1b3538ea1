//! The queue: who goes when.

use headcount::server::fleet::Fleet;

use crate::lab::{Lab, holders, queue, rows_of};
use crate::versions::{main_version, main_version_from, oldest_and_newest};

#[tokio::test]
async fn six_jobs_of_four_workers_share_a_pool_of_six_and_waste_nothing() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let sql = rows_of(20);
        let jobs: Vec<_> = (1..=6).map(|n| lab.job(&format!("job{n}"), &sql, &["--reserve"])).collect();
        let mut waits = Vec::new();
        for job in jobs {
            waits.push(job.end_well().await.json["reserved_wait_seconds"].as_f64().unwrap());
        }
        waits.sort_by(f64::total_cmp);
        assert!(waits[5] > waits[0] + 1.0, "one after the other: {waits:?}");
        let fleet = lab.until("all slots are given back", |fleet| fleet.pool.held == 0).await;
        assert!(fleet.queue.is_empty());
        lab.server.stop().await.unwrap();
    }
}

/// What reserving costs, beyond a connection for each of these names.
#[tokio::test]
async fn who_is_alone_asks_four_times_and_the_first_of_a_process_once_more() {
    let lab = Lab::start(main_version()).await;
    lab.job("alone", &rows_of(5), &["--reserve"]).end_well().await;
    assert_eq!([lab.asked("want=4 for="), lab.asked("headcount:probe]")], [4, 1]);
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn first_come_first_served_and_those_with_priority_before() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let sql = rows_of(5);
        let holder = lab.holder().await;
        let mut jobs = Vec::new();
        for (task, priority) in [("first", false), ("second", false), ("third", false), ("urgent", true)] {
            jobs.push(lab.job(
                task,
                &sql,
                if priority { &["--reserve", "--priority"] } else { &["--reserve"] },
            ));
            lab.until_queued(jobs.len()).await;
        }
        let order = ["urgent", "first", "second", "third"];
        assert_eq!(queue(&lab.until_queued(4).await), order);
        holder.interrupt();
        assert_eq!(holder.end().await.code, Some(130));
        for job in order {
            lab.until(&format!("it is {job}'s turn"), |fleet| {
                assert!(holders(fleet).len() <= 1, "{fleet:?}");
                holders(fleet) == [job]
            })
            .await;
        }
        for job in jobs {
            job.end_well().await;
        }
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_job_in_the_queue_says_its_place_and_gives_up_in_time() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    let head = lab.queued("head", 1).await;
    let late = lab.job("late", &rows_of(1), &["--reserve", "--reserve-wait", "3s"]).end().await;
    assert_eq!(late.code, Some(3), "{late:#?}");
    assert_eq!(late.json["outcome"], "below_minimum");
    assert_eq!(late.json["attempt_count"], 0);
    assert!(late.json["reserved_wait_seconds"].as_f64().unwrap() > 2.9, "{late:#?}");
    assert!(
        late.said.contains("waiting in the queue for slots") && late.said.contains("ahead=1"),
        "{late:#?}"
    );
    assert!(late.said.contains("no slots within the longest wait"), "{late:#?}");
    assert_eq!(queue(&lab.until_queued(1).await), ["head"]);
    head.kill().await;
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn people_read_their_place_in_the_queue_and_what_is_missing_at_its_head() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    let head = lab.queued("head", 1).await;
    let second = lab.queued("second", 2).await;
    let mut told = lab.told("told", &rows_of(1), &["--reserve"]);
    told.hear("in the queue for 4 slots: 2 others are before this one\n").await;
    second.kill().await;
    told.hear("in the queue for 4 slots: 1 other is before this one\n").await;
    head.kill().await;
    told.hear("next in the queue: 4 slots are needed, 2 of 6 are free (4 held)\n").await;
    holder.interrupt();
    told.hear("4 slots reserved after ").await;
    told.hear("on target").await;
    told.kill().await;
    assert_eq!(holder.end().await.code, Some(130));
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn two_clusters_do_not_disturb_each_other() {
    let (here, there) = (Lab::start(main_version()).await, Lab::start(main_version()).await);
    let holder = here.holder().await;
    let waiting = here.queued("waiting", 1).await;
    there.job("elsewhere", &rows_of(5), &["--reserve"]).end_well().await;
    assert_eq!(queue(&here.until_queued(1).await), ["waiting"]);
    waiting.kill().await;
    holder.kill().await;
    here.server.stop().await.unwrap();
    there.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_timeout_for_idle_sessions_ends_no_wait_and_blinds_no_monitor() {
    let Some(major) = main_version_from(14) else { return };
    let lab = Lab::start(major).await;
    lab.client.batch_execute("ALTER ROLE postgres SET idle_session_timeout = '200ms'").await.unwrap();
    let holder = lab.holder().await;
    let next = lab.queued("next", 1).await;
    let long = |fleet: &Fleet| fleet.queue[0].waited_seconds.is_some_and(|waited| waited > 1.0);
    lab.until("the next one waited for long", long).await;
    holder.kill().await;
    let ended = next.end_well().await;
    assert!(!ended.said.contains("monitor lost"), "{ended:#?}");
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_fleet_may_have_a_part_of_the_pool() {
    let lab = Lab::start(main_version()).await;
    let part = ["--reserve", "--pool-size", "4", "--target", "2", "--min", "1"];
    let holders: Vec<_> = (1..=2).map(|n| lab.job(&format!("holder{n}"), &rows_of(10_000), &part)).collect();
    lab.until("both hold two slots", |fleet| fleet.pool.held == 4).await;
    let waiting = lab.job("waiting", &rows_of(1), &part);
    let fleet = lab.until_queued(1).await;
    assert_eq!((fleet.pool.size, fleet.pool.held), (6, 4));
    waiting.kill().await;
    for holder in holders {
        holder.kill().await;
    }
    lab.server.stop().await.unwrap();
}

/// Its plan has none: there is nothing to wait for, and nothing to refuse.
#[tokio::test]
async fn a_statement_without_workers_does_not_stand_in_the_queue() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    for more in [&["--reserve", "--min", "0"][..], &["--reserve"]] {
        let ended = lab.job("serial", "SELECT 1", more).end().await;
        assert_eq!((ended.code, &ended.json["outcome"]), (Some(0), &"lowered".into()), "{ended:#?}");
        assert_eq!(ended.json["reserved_wait_seconds"], 0.0, "{ended:#?}");
    }
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn fifty_processes_at_once_all_get_their_turn_and_their_workers() {
    let lab = Lab::start(main_version()).await;
    // Three at a time, each long enough to be seen with its workers while forty others start.
    let (sql, two) = (rows_of(15), ["--reserve", "--target", "2", "--min", "1"]);
    let jobs: Vec<_> = (1..=50).map(|n| lab.job(&format!("job{n}"), &sql, &two)).collect();
    for job in jobs {
        job.end_with(2).await;
    }
    lab.until("all slots are given back", |fleet| fleet.pool.held == 0 && fleet.queue.is_empty()).await;
    // Servers from 18 count them: no worker was started in vain, and none was wanted that did not start.
    if lab.server.major() >= 18 {
        let launched = "SELECT sum(parallel_workers_launched)::int8, sum(parallel_workers_to_launch)::int8 FROM pg_stat_database";
        let launched = lab.client.query_one(launched, &[]).await.unwrap();
        assert_eq!((launched.get::<_, i64>(0), launched.get::<_, i64>(1)), (100, 100));
    }
    lab.server.stop().await.unwrap();
}
