//! `headcount watch`: what it shows is known, or said to be unknown.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use headcount::server::fleet::{Fleet, Leader};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use testkit::server::Shutdown;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::lab::{Lab, rows_of};
use crate::outsiders::{CANCEL_OUTSIDER, outsider};
use crate::versions::{main_version, main_version_from, oldest_and_newest};

fn watch(lab: &Lab, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["watch", "--dsn", &lab.server.dsn()]).args(more).kill_on_drop(true);
    command
}

pub(crate) async fn look(lab: &Lab, more: &[&str]) -> String {
    let output = watch(lab, &["--once"]).args(more).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn leader<'a>(fleet: &'a Fleet, task: &str) -> Option<&'a Leader> {
    fleet.leaders.iter().find(|leader| leader.task.as_deref() == Some(task))
}

#[tokio::test]
async fn it_shows_leaders_and_the_queue() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let holder = lab.holder().await;
        let waiting = lab.job("waiting", &rows_of(5), &["--reserve", "--priority"]);
        lab.until_queued(1).await;
        let fleet: Value = serde_json::from_str(&look(&lab, &["--json"]).await).unwrap();
        assert_eq!(
            fleet["pool"],
            json!({"size": 6, "used": 4, "held": 4, "outsiders": 0, "gathered": 0, "visible": true})
        );
        let first = &fleet["leaders"][0];
        assert_eq!(
            (&first["task"], &first["workers"], &first["demand"]),
            (&"holder".into(), &4.into(), &4.into())
        );
        let queued = &fleet["leaders"][1];
        assert_eq!((&queued["task"], &queued["demand"]), (&"waiting".into(), &4.into()));
        assert_eq!(queued["attempt"], Value::Null, "none is under way");
        let next = &fleet["queue"][0];
        assert_eq!(
            (&next["task"], &next["place"], &next["priority"]),
            (&"waiting".into(), &1.into(), &true.into())
        );
        assert!(next["waited_seconds"].as_f64().unwrap() > 0.0);
        let lines = look(&lab, &[]).await;
        assert!(lines.contains("pool 4/6 used, 4 held by the fleet"), "{lines}");
        assert!(lines.contains("workers 4 of 4, slots 4, attempt 1"), "{lines}");
        assert!(lines.contains("priority queue 1, wants 4 slots"), "{lines}");
        assert_eq!(lines.matches("waiting ").count(), 1, "who only waits is shown once: {lines}");
        waiting.kill().await;
        holder.kill().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn slots_that_are_held_until_there_are_enough_are_shown_and_end_with_a_job_that_is_killed() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let task = outsider(&lab).await;
        let gathers = ["--gather", "--gather-after", "0s", "--gather-at-most", "10m", "--leave", "0"];
        let job = lab.job("gathers", &rows_of(5), &gathers);
        let held = |fleet: &Fleet| leader(fleet, "gathers").is_some_and(|leader| leader.gathered == 2);
        let fleet = lab.until("two slots are held", held).await;
        assert_eq!((fleet.pool.used, fleet.pool.outsiders, fleet.pool.gathered), (6, 4, 2), "{fleet:?}");
        assert_eq!(fleet.leaders.len(), 2, "{fleet:?}");
        let lines = look(&lab, &[]).await;
        assert!(lines.contains("4 used without a slot, 2 held idle until there are enough"), "{lines}");
        assert!(lines.contains("gathering: 2 held"), "{lines}");
        job.kill().await;
        lab.until("nothing is held", |fleet| fleet.pool.gathered == 0 && fleet.pool.used == 4).await;
        lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
        task.await.unwrap();
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_job_without_a_reservation_says_its_demand_and_its_attempt_itself() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        let task = outsider(&lab).await;
        let job = lab.job("alone", &rows_of(10_000), &["--retry-delay", "10ms"]);
        let demands = |fleet: &Fleet| leader(fleet, "alone").is_some_and(|alone| alone.demand == Some(4));
        let fleet = lab.until("it waits for room, and says for how much", demands).await;
        assert_eq!(leader(&fleet, "alone").unwrap().attempt, None, "none is under way");
        let lines = look(&lab, &[]).await;
        assert!(lines.contains("workers 0 of 4, attempt -"), "{lines}");
        assert!(lines.contains("(outsider postgres)") && !lines.contains("workers 4 of"), "{lines}");
        lab.client.batch_execute(CANCEL_OUTSIDER).await.unwrap();
        task.await.unwrap();
        let tries = |n| move |fleet: &Fleet| leader(fleet, "alone").is_some_and(|l| l.attempt == Some(n));
        let fleet = lab.until("its first attempt", tries(1)).await;
        // A watcher that comes late knows it, too.
        let lost = format!("SELECT pg_terminate_backend({})", leader(&fleet, "alone").unwrap().pid);
        lab.client.batch_execute(&lost).await.unwrap();
        let fleet = lab.until("its second attempt", tries(2)).await;
        assert_eq!(leader(&fleet, "alone").unwrap().demand, Some(4));
        let fleet: Value = serde_json::from_str(&look(&lab, &["--json"]).await).unwrap();
        assert_eq!((&fleet["leaders"][0]["demand"], &fleet["leaders"][0]["attempt"]), (&4.into(), &2.into()));
        job.kill().await;
        lab.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_role_that_may_not_see_workers_is_shown_no_worker_as_a_job() {
    for version in oldest_and_newest() {
        let lab = Lab::start(version).await;
        lab.client.batch_execute("CREATE ROLE guest LOGIN").await.unwrap();
        let reserved = lab.job("reserved", &rows_of(10_000), &["--reserve"]);
        lab.until_running("reserved").await;
        let guest = lab.server.dsn_for("guest", "postgres");
        let seen = async |more: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
            let output =
                command.args(["watch", "--once", "--dsn", &guest]).args(more).output().await.unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let lines = seen(&[]).await;
        let seen: Value = serde_json::from_str(&seen(&["--json"]).await).unwrap();
        let unseen = json!({"size": 6, "used": null, "held": 4, "outsiders": null, "gathered": null, "visible": false});
        assert_eq!(seen["pool"], unseen, "{seen}");
        let leaders = seen["leaders"].as_array().unwrap();
        assert_eq!(leaders.len(), 1, "{seen}");
        assert_eq!((&leaders[0]["slots"], &leaders[0]["workers"]), (&4.into(), &Value::Null), "{seen}");
        assert!(lines.contains("pool of 6, its use is not visible, 4 held by the fleet"), "{lines}");
        assert!(lines.contains("GRANT pg_read_all_stats") && !lines.contains("0/6"), "{lines}");
        reserved.kill().await;
        lab.server.stop().await.unwrap();
    }
}

/// Waits until somebody who looks has looked again, so many times.
async fn looks(lab: &Lab, times: u32) {
    let last = "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'headcount:watch'";
    let look =
        async || lab.client.query_one(last, &[]).await.unwrap().get::<_, Option<std::time::SystemTime>>(0);
    for _ in 0..times {
        let before = look().await;
        while look().await == before {
            lab.client.batch_execute("SELECT pg_sleep(0.01)").await.unwrap();
        }
    }
}

#[tokio::test]
async fn off_a_terminal_it_prints_lines_when_something_happened_and_none_when_only_time_passed() {
    let lab = Lab::start(main_version()).await;
    let mut child: Child = watch(&lab, &["--interval", "100ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.contains("pool 0/6 used, 0 held by the fleet, 0 used without a slot"), "{first}");
    looks(&lab, 5).await;
    let task = outsider(&lab).await;
    looks(&lab, 5).await;
    child.start_kill().unwrap();
    let mut later = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        assert!(!line.contains('\x1b'), "{line:?}");
        later.push(line);
    }
    let idle = later.iter().filter(|line| line.contains("pool 0/6")).count();
    let busy: Vec<_> = later.iter().filter(|line| line.contains("pool 4/6 used")).collect();
    assert_eq!((idle, busy.len()), (0, 1), "{later:#?}");
    assert!(later.last().unwrap().contains("(outsider postgres)"), "{later:#?}");
    task.abort();
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn it_goes_on_when_the_server_was_restarted_and_says_so() {
    let lab = Lab::start(main_version()).await;
    let mut child =
        watch(&lab, &["--interval", "100ms"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().contains("pool 0/6 used"));
    lab.server.restart(Shutdown::Fast).await.unwrap();
    for words in ["looking at the pool", "connecting again", "connected again"] {
        let line = said.next_line().await.unwrap().unwrap_or_default();
        assert!(line.contains(words), "{line}");
    }
    assert!(lines.next_line().await.unwrap().unwrap().contains("pool 0/6 used"));
    child.kill().await.unwrap();
    lab.server.stop().await.unwrap();
}

#[tokio::test]
async fn it_leaves_when_nobody_reads_any_more() {
    let lab = Lab::start(main_version()).await;
    for format in [&["--interval", "100ms"][..], &["--interval", "100ms", "--json"]] {
        let mut child = watch(&lab, format).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next_line().await.unwrap().unwrap();
        drop(lines);
        let left = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
        assert_eq!(left.expect("it looks for ever").unwrap().code(), Some(0));
    }
    lab.server.stop().await.unwrap();
}

/// Reads what a terminal shows until all of this stands in one picture.
fn read_until(terminal: &mut File, words: &[&str]) -> String {
    let mut shown = String::new();
    let mut bytes = [0; 4096];
    loop {
        let read = terminal.read(&mut bytes).unwrap();
        shown.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        let mut pictures: Vec<_> = shown.split("\x1b[H").collect();
        // The last one may not be complete.
        pictures.pop();
        if let Some(picture) = pictures.iter().find(|picture| words.iter().all(|word| picture.contains(word)))
        {
            return (*picture).to_owned();
        }
    }
}

#[tokio::test]
async fn on_a_terminal_one_picture_is_drawn_over_itself_and_kept_within_the_screen() {
    let lab = Lab::start(main_version()).await;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 4, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let screen = File::options()
        .read(true)
        .write(true)
        .open(ptsname(&terminal, Vec::new()).unwrap().to_str().unwrap());
    let mut child = watch(&lab, &["--interval", "100ms"]).stdout(screen.unwrap()).spawn().unwrap();
    let holder = lab.job("holder", &rows_of(10_000), &["--reserve"]);
    let mut jobs = vec![];
    lab.until_running("holder").await;
    for n in 1..=3 {
        jobs.push(lab.job(&format!("next{n}"), &rows_of(5), &["--reserve"]));
    }
    let words = ["pool 4/6 used", "holder ", "... 3 more"];
    let reading = tokio::task::spawn_blocking(move || read_until(&mut File::from(terminal), &words));
    let picture = tokio::time::timeout(Duration::from_mins(1), reading).await.unwrap().unwrap();
    assert!(picture.ends_with("\x1b[K\x1b[J\r\n"), "the rest of the screen is wiped: {picture:?}");
    let lines: Vec<_> = picture.lines().collect();
    assert_eq!(lines.len(), 3, "one row is the cursor's: {picture:?}");
    assert!(
        lines.iter().all(|line| line.replace("\x1b[K", "").replace("\x1b[J", "").len() <= 60),
        "{picture:?}"
    );
    child.kill().await.unwrap();
    for job in jobs {
        job.kill().await;
    }
    holder.kill().await;
    lab.server.stop().await.unwrap();
}

/// Vacuumed slowly, by as many workers as it has indexes to share.
const DUSTY: [&str; 6] = [
    "CREATE TABLE dusty WITH (autovacuum_parallel_workers = 3, autovacuum_vacuum_cost_delay = 100,
       autovacuum_vacuum_cost_limit = 30, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)
     AS SELECT g AS a, g AS b, g AS c, g AS d FROM generate_series(1, 20000) AS g",
    "CREATE INDEX ON dusty (a); CREATE INDEX ON dusty (b); CREATE INDEX ON dusty (c); CREATE INDEX ON dusty (d)",
    "ALTER SYSTEM SET min_parallel_index_scan_size = 0",
    "ALTER SYSTEM SET autovacuum_max_parallel_workers = 3",
    "ALTER SYSTEM SET autovacuum_naptime = '1s'",
    "SELECT pg_reload_conf(); DELETE FROM dusty WHERE a % 10 = 0",
];

#[tokio::test]
async fn autovacuum_that_takes_workers_of_the_pool_is_named_by_watch_and_doctor() {
    let Some(version) = main_version_from(19) else { return };
    let lab = Lab::start(version).await;
    let doctor = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        let output = command.args(["doctor", "--dsn", &lab.server.dsn()]).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(doctor().await.contains("ok    autovacuum: it takes no workers of the pool"));
    for sql in DUSTY {
        lab.client.batch_execute(sql).await.unwrap();
    }
    let shares = |leader: &Leader| leader.autovacuum && leader.workers == Some(3);
    let fleet = lab.until("autovacuum has three workers", |fleet| fleet.leaders.iter().any(shares)).await;
    assert_eq!((fleet.pool.used, fleet.pool.outsiders, fleet.pool.visible), (3, 3, true), "{fleet:?}");
    lab.told("late", &rows_of(5), &[]).hear("(3 by autovacuum), 4 are needed").await;
    assert!(look(&lab, &[]).await.contains("\n  (autovacuum)             pid "));
    let said = doctor().await;
    assert!(said.contains("warn  autovacuum: it may take 3 workers of the pool for each table"), "{said}");
    assert!(said.contains("fix: ALTER SYSTEM SET autovacuum_max_parallel_workers = 0"), "{said}");
    lab.server.stop().await.unwrap();
}
