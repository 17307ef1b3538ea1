//! The story of the orders: thousands change their status while the line is cut under them.
//!
//! Nothing is staged but where the line breaks. The list of orders was drawn up a while ago: since then
//! others have shipped some of them, recalled some and deleted some. So each class has its keys, and what
//! the report says of them is held against what the table says.

use std::sync::Arc;
use std::time::Duration;

use headcount::event::{Resolution, Scope};
use headcount::telemetry::exporters::Telemetry;
use headcount::{Event, Headcount, Keys, Observer, Updated};

use super::line::{BadLine, cuts};
use super::server::Stage;
use super::{Trouble, tell};
use crate::output::time_text;
use crate::signals::Signals;

/// The same cuts in each demo.
const SEED: u64 = 5_000;

/// A key and a version, as a table has that takes part in such updates; and the list.
const PREPARE: &str = "
    ALTER TABLE orders ADD PRIMARY KEY (o_orderkey), ADD version int NOT NULL DEFAULT 0;
    CREATE TABLE list AS
        SELECT o_orderkey FROM orders WHERE o_orderstatus = 'O' ORDER BY o_orderdate, o_orderkey LIMIT 5000";

/// What others have done to the list since: 3 in a hundred.
const MEANWHILE: &str = "
    UPDATE orders SET o_orderstatus = 'P' WHERE o_orderkey IN (SELECT o_orderkey FROM list ORDER BY md5(o_orderkey::text) LIMIT 100);
    UPDATE orders SET o_orderstatus = 'F' WHERE o_orderkey IN (SELECT o_orderkey FROM list ORDER BY md5(o_orderkey::text) OFFSET 100 LIMIT 40);
    DELETE FROM orders WHERE o_orderkey IN (SELECT o_orderkey FROM list ORDER BY md5(o_orderkey::text) OFFSET 140 LIMIT 10)";

/// The table's own account of the list: changed by us, holding the new value without us, holding another,
/// gone; and the highest version.
const ACCOUNT: &str = "
    SELECT count(*) FILTER (WHERE o_orderstatus = 'P' AND version > 0),
           count(*) FILTER (WHERE o_orderstatus = 'P' AND version = 0),
           count(*) FILTER (WHERE o_orderstatus <> 'P'),
           count(*) FILTER (WHERE o_orderstatus IS NULL),
           max(version)::bigint
    FROM list LEFT JOIN orders USING (o_orderkey)";

/// Act three: the orders are shipped, whatever the line does.
pub(super) async fn shipped(
    stage: &Stage,
    telemetry: &Telemetry,
    signals: &mut Signals,
) -> Result<Updated, Trouble> {
    let client = stage.endpoint.client("demo").await?;
    client.batch_execute(PREPARE).await?;
    let rows = client.query("SELECT o_orderkey FROM list", &[]).await?;
    let list: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    client.batch_execute(MEANWHILE).await?;
    tell(&format!(
        "3. {} orders go from status O to P, 100 a transaction, over a line that breaks again and again.",
        list.len()
    ));

    let line = BadLine::start(stage.port(), cuts(SEED)).await?;
    let mut observers = telemetry.observers();
    observers.push(Arc::new(Doubts));
    let update = Headcount::builder(stage.through(line.port)?)
        .without_default_observers()
        .observers(observers)
        .build()
        .update("orders")
        .task("ship_orders")
        .key(["o_orderkey"])
        .set("o_orderstatus", "P")
        .expect("o_orderstatus", "O")
        .version("version")
        .retry_delay(Duration::from_millis(200));
    let run = signals.unless(Box::pin(update.run(Keys::rows(list)))).await;
    let report = run.map_err(Trouble::Interrupted)??;

    let Updated { chunks, retried_chunks, reconnects, in_doubt, .. } = report;
    tell(&format!(
        "   {chunks} chunks in {}; the line was cut {} times: {reconnects} new sessions, {retried_chunks} chunks tried again,",
        time_text(report.took),
        line.cut(),
    ));
    tell(&format!(
        "   {} commits in doubt: {} had taken effect, {} had not, and what it was to do is done again.",
        in_doubt.committed + in_doubt.aborted + in_doubt.reread + in_doubt.unresolved,
        in_doubt.committed,
        in_doubt.aborted,
    ));
    balance(stage, &report).await?;
    Ok(report)
}

/// Holds the report against the table.
async fn balance(stage: &Stage, report: &Updated) -> Result<(), Trouble> {
    let row = stage.endpoint.client("demo").await?.query_one(ACCOUNT, &[]).await?;
    let count = |index| row.get::<_, i64>(index).unsigned_abs();
    let table = [count(0), count(1), count(2), count(3)];
    let books = [report.updated, report.already, report.stale, report.missing];
    let text = |[updated, already, stale, missing]: [u64; 4]| {
        format!("{updated} updated, {already} already, {stale} stale, {missing} missing")
    };
    tell(&format!("   The report: {}", text(books)));
    tell(&format!("   The table:  {}; highest version {}", text(table), count(4)));
    if books != table || count(4) != 1 || !report.is_complete() {
        return Err(Trouble::story("the books do not balance"));
    }
    tell("   The books balance: no order is lost, and none was changed twice.");
    Ok(())
}

/// Says what becomes of a commit whose answer is lost.
struct Doubts;

impl Observer for Doubts {
    fn observe(&self, _: &Scope, event: &Event) {
        let Event::CommitResolved { resolution } = event else { return };
        let fate = match resolution {
            Resolution::Committed => "it was committed, and counts",
            Resolution::Aborted => "it was not committed, and is made again",
            _ => "the server does not know; the rows are compared",
        };
        tell(&format!("   COMMIT was sent, and the line broke before its answer. Asked again: {fate}."));
    }
}
