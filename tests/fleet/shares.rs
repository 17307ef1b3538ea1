//! Slots that are fewer than the workers that a plan may start.

use std::cell::Cell;

use headcount::server::Endpoint;
use headcount::server::fleet::Fleet;

use crate::lab::{Lab, rows_of};
use crate::outsiders::{CANCEL_OUTSIDER, outsider};
use crate::versions::main_version;

/// So many workers have Gathers of this server asked for. Before 18 no server counts them.
async fn check_asked_for(lab: &Lab, expected: i64, otherwise: &str) {
    if lab.server.major() >= 18 {
        let asked = "SELECT sum(parallel_workers_to_launch)::int8 FROM pg_stat_database";
        let asked: i64 = lab.client.query_one(asked, &[]).await.unwrap().get(0);
        assert_eq!(asked, expected, "{otherwise}");
    }
}

/// The pool of a server that runs.
pub(crate) async fn resize(lab: &Lab, size: u32) {
    let alter = format!("ALTER SYSTEM SET max_parallel_workers = {size}");
    for sql in [&alter, "SELECT pg_reload_conf()"] {
        lab.client.batch_execute(sql).await.unwrap();
    }
    lab.until("the pool has its new size", |fleet| fleet.pool.size == size).await;
}

#[tokio::test]
async fn the_gathers_of_a_shrunk_job_share_its_slots_when_the_pool_is_free_again() {
    let lab = Lab::start(main_version()).await;
    let locker = Endpoint::from_dsn(&lab.server.dsn()).unwrap().client("locker").await.unwrap();
    locker.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let task = outsider(&lab).await;
    // One side waits with its workers, its queues full of wide rows, until the other one was sorted.
    let side = rows_of(5).replace("count(*)", "n, pad") + " ORDER BY n OFFSET 0";
    let sql = format!(
        "SELECT pg_advisory_xact_lock(42);
         SELECT max(a.pad || b.pad) FROM ({side}) AS a JOIN ({side}) AS b USING (n)"
    );
    let mut shrunk = vec!["--reserve", "--degrade-after", "200ms", "--min", "1"];
    shrunk.extend(["--set", "enable_hashjoin=off", "--set", "enable_nestloop=off"]);
    let job = lab.job("shrunk", &sql, &shrunk);
    let held = |slots| {
        move |fleet: &Fleet| {
            fleet.leaders.iter().any(|leader| leader.slots == slots && leader.attempt == Some(1))
        }
    };
    lab.until("it has two slots, and waits for the lock", held(2)).await;
    lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
    task.await.unwrap();
    lab.until("the pool is free", |fleet| fleet.pool.used == 0).await;
    locker.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    let most = Cell::new(0);
    let over = |fleet: &Fleet| {
        most.set(most.get().max(fleet.pool.used));
        fleet.pool.held == 0
    };
    lab.until("it is over", over).await;
    assert_eq!(most.get(), 2, "each Gather has one");
    let ended = job.end().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.json["reserved_slots"], 2, "{ended:#?}");
    assert_eq!(ended.json["outcome"], "above_minimum", "{ended:#?}");
    assert_eq!(ended.json["attempts"][0]["required_workers"], 1, "one Gather may be alone: {ended:#?}");
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_part_of_the_pool_is_kept_by_a_statement_that_may_have_more() {
    let lab = Lab::start(main_version()).await;
    let part = ["--reserve", "--pool-size", "2", "--target", "2", "--min", "1"];
    let more = ["--set", "max_parallel_workers_per_gather=4"];
    lab.job("part", &rows_of(5), &[&part[..], &more].concat()).end_with(2).await;
    check_asked_for(&lab, 2, "by the settings of the session: four").await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_pool_that_grows_is_seen_by_who_waits_for_it() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    let waiting = lab.job("waiting", &rows_of(5), &["--reserve", "--admission-wait", "5s"]);
    lab.until_queued(1).await;
    resize(&lab, 12).await;
    let ended = waiting.end_well().await;
    assert!(!ended.said.contains("still has too little room"), "admission sees it, too: {ended:#?}");
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_pool_that_shrinks_below_the_minimum_is_waited_for_with_the_cause_said() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    let mut told = lab.told("told", &rows_of(50), &["--reserve"]);
    told.hear("next in the queue: 4 slots are needed, 2 of 6 are free (4 held)\n").await;
    resize(&lab, 1).await;
    told.hear("next in the queue: the pool has 1 slot, the minimum is 2\n").await;
    holder.kill().await;
    lab.until("nobody holds the one slot", |fleet| fleet.pool.held == 0 && fleet.queue.len() == 1).await;
    resize(&lab, 6).await;
    told.hear("4 slots reserved after ").await;
    told.hear("on target").await;
    told.kill().await;
    resize(&lab, 1).await;
    // Known from the start; whoever asks for that is refused.
    let known = ["--reserve", "--plan-shortfall", "ignore", "--reserve-wait", "200ms"];
    let ended = lab.job("known", &rows_of(5), &known).end().await;
    assert_eq!((ended.code, ended.json["attempt_count"].as_u64()), (Some(3), Some(0)), "{ended:#?}");
    assert!(
        ended.said.contains("the pool is smaller than the minimum task=\"known\" minimum=2 size=1"),
        "{ended:#?}"
    );
    let refused = lab.job("refused", &rows_of(5), &["--reserve", "--plan-shortfall", "refuse"]).end().await;
    assert_eq!(refused.code, Some(4), "{refused:#?}");
    assert!(refused.json["error"].as_str().unwrap().contains("the pool has 1 slots"), "{refused:#?}");
    lab.server.stop().await.unwrap();
}

/// Two Gathers that run one after the other, and may be thought to run together.
fn two_gathers() -> String {
    let one = rows_of(20);
    format!("SELECT ({one}) + ({one})")
}

#[tokio::test]
async fn who_has_the_whole_pool_shares_it_with_nobody() {
    let lab = Lab::start(main_version()).await;
    resize(&lab, 8).await;
    let holder = lab.holder().await;
    let job = lab.job("whole", &two_gathers(), &["--reserve"]);
    lab.until_queued(1).await;
    resize(&lab, 6).await;
    holder.kill().await;
    let ended = job.end().await;
    // The second may find the slots of the first not free yet, and have fewer.
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let first = &ended.json["attempts"][0]["workers"];
    assert_eq!((&ended.json["reserved_slots"], first), (&6.into(), &4.into()), "{ended:#?}");
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn slots_are_taken_for_all_that_a_plan_may_start_in_a_pool_that_has_grown() {
    let lab = Lab::start(main_version()).await;
    let holder = lab.holder().await;
    let job = lab.job("both", &two_gathers(), &["--reserve"]);
    lab.until_queued(1).await;
    resize(&lab, 12).await;
    let ended = job.end().await;
    assert_eq!(ended.json["outcome"], "on_target", "{ended:#?}");
    assert_eq!(ended.json["reserved_slots"], 8, "{ended:#?}");
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_plan_that_is_another_within_its_slots_is_inspected_again() {
    let lab = Lab::start(main_version()).await;
    let task = outsider(&lab).await;
    // Four workers are worth this, two are not.
    let dear = ["--reserve", "--set", "parallel_setup_cost=35", "--reserve-wait", "500ms"];
    let serial = lab.job("serial", &rows_of(5), &dear).end().await;
    assert_eq!((serial.code, &serial.json["attempt_count"]), (Some(4), &0.into()), "{serial:#?}");
    let error = serial.json["error"].as_str().unwrap();
    assert!(error.contains("0 of the 2 workers demanded; its slots leave each Gather 2 workers"), "{error}");
    let fix = serial.json["fixes"][0].as_str().unwrap();
    assert!(
        fix.contains("--reserve-wait"),
        "what it can change, and not an option that was not given: {fix}"
    );
    let narrower = lab.job("narrower", &rows_of(20), &["--reserve", "--degrade-after", "100ms"]).end().await;
    assert_eq!(narrower.json["outcome"], "above_minimum", "{narrower:#?}");
    assert_eq!(narrower.json["planned_workers"], 2, "what ran: {narrower:#?}");
    let dear = ["--reserve", "--set", "parallel_setup_cost=35", "--degrade-after", "100ms"];
    let mut patient = lab.job("patient", &rows_of(5), &dear);
    patient.hear("fewer slots reserved than demanded").await;
    patient.hear("at the head of the queue, waiting for free slots").await;
    task.abort();
    lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
    patient.end_well().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn queries_that_a_plan_does_not_show_keep_to_the_slots() {
    let lab = Lab::start(main_version()).await;
    resize(&lab, 12).await;
    let holder = lab.holder().await;
    let query = rows_of(20).replace("SELECT", "PERFORM");
    let batch = format!("CREATE FUNCTION batch() RETURNS void LANGUAGE plpgsql AS 'BEGIN {query}; END'");
    lab.client.batch_execute(&batch).await.unwrap();
    let six = ["--reserve", "--pool-size", "6", "--degrade-after", "100ms", "--attempts", "1"];
    let ended = lab.job("batch", "SELECT batch()", &six).end().await;
    assert_eq!((ended.code, &ended.json["reserved_slots"]), (Some(0), &2.into()), "{ended:#?}");
    assert_eq!(ended.json["achieved_workers"], 2, "the pool has room for four: {ended:#?}");
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_with_a_larger_pool_of_its_own_keeps_to_its_slots() {
    let lab = Lab::start(main_version()).await;
    let own = ["--reserve", "--set", "max_parallel_workers=12"];
    let ended = lab.job("larger", &two_gathers(), &own).end().await;
    assert_eq!(ended.json["reserved_slots"], 6, "{ended:#?}");
    assert_eq!(ended.json["achieved_workers"], 3, "a half of them for each Gather: {ended:#?}");
    check_asked_for(&lab, 6, "by the settings of the session: eight").await;
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn slots_that_the_server_does_not_have_are_not_waited_for_and_the_fix_is_the_servers() {
    let lab = Lab::start(main_version()).await;
    let eight = ["--reserve", "--target", "8", "--plan-shortfall", "refuse"];
    let own = [&eight[..], &["--set", "max_parallel_workers=8"]].concat();
    let fix = "ALTER SYSTEM SET max_parallel_workers = 8; SELECT pg_reload_conf();";
    for (options, cause) in [(&eight[..], "the pool has 6 slots"), (&own, "the server's pool has 6 slots")] {
        let ended = lab.job("narrow", &two_gathers(), options).end().await;
        assert_eq!((ended.code, &ended.json["attempt_count"]), (Some(4), &0.into()), "{ended:#?}");
        assert!(ended.json["error"].as_str().unwrap().contains(cause), "{ended:#?}");
        let fixes = ended.json["fixes"].as_array().unwrap();
        assert!(fixes.contains(&fix.into()), "{ended:#?}");
    }
    for statement in fix.split_terminator(';') {
        lab.client.batch_execute(statement).await.unwrap();
    }
    lab.until("the fix helps", |fleet| fleet.pool.size == 8).await;
    let ended = lab.job("wide", &two_gathers(), &[&eight[..], &["--min", "4"]].concat()).end().await;
    assert_eq!((ended.code, &ended.json["reserved_slots"]), (Some(0), &8.into()), "{ended:#?}");
    lab.server.stop().await.unwrap();
}
