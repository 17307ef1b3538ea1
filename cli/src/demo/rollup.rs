//! The story of the rollup: without a guard, and with one.
//!
//! Nothing is staged but the timing. The reports are real sessions that hold real slots, the lock is a
//! real lock, and what is printed is what the library's events say. The timing uses what happens on each
//! real server at night: between the moment that a job looks at the pool and the moment that its Gather
//! starts workers, somebody else may take them. Here the gap is widened by a lock: an earlier run of the
//! same job, which died, still holds the name of the table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headcount::event::LeaderState;
use headcount::event::Scope;
use headcount::telemetry::exporters::Telemetry;
use headcount::{Event, Execution, Headcount, Observer, Settings};
use tokio::sync::Notify;

use super::server::{POOL, Report, Stage};
use super::{Trouble, tell};
use crate::output::time_text;
use crate::progress::Progress;
use crate::signals::Signals;

/// TPC-H query 1 by month, with more to compute: what a nightly pricing summary does.
const ROLLUP: &str = "\
SELECT date_trunc('month', l_shipdate) AS month, l_returnflag, l_linestatus, l_shipmode,
       count(*) AS lines, sum(l_quantity) AS quantity, sum(l_extendedprice) AS base_price,
       sum(l_extendedprice * (1 - l_discount)) AS discounted,
       sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS charged,
       avg(l_quantity) AS average_quantity, avg(l_extendedprice) AS average_price, avg(l_discount) AS average_discount,
       stddev_samp(l_extendedprice * (1 - l_discount)) AS spread,
       count(*) FILTER (WHERE l_comment ~* '(special|express|pending).*(requests|accounts|deposits)') AS remarks
FROM lineitem GROUP BY 1, 2, 3, 4";

const TABLE: &str = "monthly_pricing";
const TARGET: u32 = 4;
const MINIMUM: u32 = 2;

/// The reports of others, and how many workers each takes.
const REPORTS: [(&str, u32); 3] =
    [("report: open orders", 2), ("report: revenue", 2), ("report: late orders", 2)];

/// Starts so many of the reports, and waits until they hold their slots.
async fn start_reports(stage: &Stage, count: usize) -> Result<Vec<Report>, Trouble> {
    let started = &REPORTS[..count];
    let reports =
        started.iter().map(|(name, workers)| Report::start(&stage.endpoint, name, *workers)).collect();
    stage.wait_for_use(started.iter().map(|(_, workers)| workers).sum()).await?;
    Ok(reports)
}

async fn end_reports(reports: Vec<Report>) -> Result<(), Trouble> {
    for report in reports {
        report.end().await?;
    }
    Ok(())
}

/// Act one: the statement as everybody runs it.
pub(super) async fn unguarded(stage: &Stage) -> Result<(), Trouble> {
    tell(&format!(
        "1. Without a guard: three reports hold the {POOL} slots of the pool, and the rollup starts."
    ));
    let reports = start_reports(stage, 3).await?;
    let client = stage.endpoint.client("demo").await?;
    client.batch_execute(&format!("SET max_parallel_workers_per_gather = {TARGET}")).await?;
    let began = Instant::now();
    let rows = client.simple_query(&format!("EXPLAIN (ANALYZE, COSTS off, TIMING off) {ROLLUP}")).await?;
    let took = began.elapsed();
    for row in &rows {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = row
            && let Some(line) = row.get(0).map(str::trim).filter(|line| line.starts_with("Workers "))
        {
            tell(&format!("   {line}"));
        }
    }
    tell(&format!("   It took {}, and PostgreSQL said nothing.", time_text(took)));
    end_reports(reports).await
}

/// Act two: the same statement, guarded, with the same rivals.
pub(super) async fn guarded(
    stage: &Stage,
    telemetry: &Telemetry,
    signals: &mut Signals,
) -> Result<Execution<u64>, Trouble> {
    stage.wait_for_use(0).await?;
    tell(&format!(
        "2. With a guard: {TARGET} workers demanded, {MINIMUM} at the least, in at most 5 attempts. The pool is empty."
    ));
    let waits = Arc::new(WaitsForLock::default());
    let headcount = Headcount::builder(stage.endpoint.clone())
        .without_default_observers()
        .observers(telemetry.observers())
        .observer(Arc::new(Progress::new("   ")))
        .observer(waits.clone())
        .build();

    // An earlier run that died: its table is not committed, and never will be.
    let died = stage.endpoint.client("rollup of last night").await?;
    died.batch_execute(&format!("BEGIN; CREATE TABLE {TABLE} (month date)")).await?;
    let rivalry = async {
        waits.0.notified().await;
        tell("   (meanwhile two of the reports start again, and then the lock is released)");
        let reports = start_reports(stage, 2).await?;
        died.batch_execute("ROLLBACK").await?;
        end_reports(reports).await
    };
    let mut settings = Settings::new("rollup");
    settings.target_workers = TARGET;
    settings.min_workers = headcount::Minimum::Workers(MINIMUM);
    settings.cleanup = Some(format!("DROP TABLE IF EXISTS {TABLE}"));
    let statement = format!("CREATE TABLE {TABLE} AS {ROLLUP}");
    let job = headcount.job(settings);
    let run = async { Ok::<_, Trouble>(job.execute(&statement, &[]).await?) };
    // Whichever fails first ends both.
    let both = async { Ok::<_, Trouble>(tokio::try_join!(run, rivalry)?.0) };
    let ended = signals.unless(Box::pin(both)).await;
    signals.or_leave(headcount.shutdown(Duration::from_secs(10))).await;
    ended.map_err(Trouble::Interrupted)?
}

/// Act two's proof: what the table holds.
pub(super) async fn proof(stage: &Stage) -> Result<String, Trouble> {
    let client = stage.endpoint.client("demo").await?;
    let sums = format!(
        "SELECT count(*), sum(lines)::bigint, min(month)::date::text, max(month)::date::text FROM {TABLE}"
    );
    let row = client.query_one(&sums, &[]).await?;
    let (groups, lines): (i64, i64) = (row.get(0), row.get(1));
    let (first, last): (&str, &str) = (row.get(2), row.get(3));
    Ok(format!("{TABLE} holds {groups} groups of {lines} lines, {first} to {last}"))
}

/// Hears when the guarded statement waits for the lock.
#[derive(Default)]
struct WaitsForLock(Notify);

impl Observer for WaitsForLock {
    fn observe(&self, _: &Scope, event: &Event) {
        if let Event::TickTaken { tick, .. } = event
            && tick.leader == LeaderState::WaitingForLock
        {
            self.0.notify_one();
        }
    }
}
