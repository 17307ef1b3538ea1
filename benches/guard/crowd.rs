//! What watching costs the server: 100 guarded queries at once in one process, after their verdicts.

use std::time::Duration;

use headcount::PlanShortfall;

use crate::server::{Server, connect};
use crate::table::Table;

const QUERIES: usize = 100;

/// User and system time of a process so far (proc(5), fields 14 and 15, in ticks of 10 ms).
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

pub async fn measure(server: &Server, table: &mut Table, seconds: u64) {
    let sql = format!("SELECT pg_sleep({})", seconds + 6);
    let runs: Vec<_> = (0..QUERIES)
        .map(|_| {
            let (headcount, sql) = (server.headcount.clone(), sql.clone());
            tokio::spawn(async move {
                let job = headcount.task("crowd").target(1).minimum(0).attempts(1);
                job.plan_shortfall(PlanShortfall::Ignore).execute(&sql, &[]).await
            })
        })
        .collect();
    let looker = connect(&server.private).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'headcount:crowd %' AND wait_event = 'PgSleep'";
    while looker.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0) < QUERIES as i64 {}
    let monitors = "SELECT pid FROM pg_stat_activity WHERE application_name = 'headcount:monitor'";
    // The benchmark before this one left a monitor of its own, which watches nothing.
    let monitors: Vec<i32> =
        looker.query(monitors, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before: Duration = monitors.iter().map(|&pid| cpu(pid)).sum();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let spent = monitors.iter().map(|&pid| cpu(pid)).sum::<Duration>() - before;
    for run in runs {
        run.await.unwrap().unwrap().required().unwrap();
    }
    table.row(
        "monitor backend, 100 guarded queries",
        format!("{:.2} % of a core", 100.0 * spent.as_secs_f64() / seconds as f64),
        "<= 2 %",
        format!("{} monitor connection(s), {seconds} s in steady state", monitors.len()),
    );
}
