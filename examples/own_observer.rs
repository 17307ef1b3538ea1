//! An observer of one's own: every event, on the job's own task.
//!
//! `DATABASE_URL=postgres://... cargo run --example own_observer`
#![allow(clippy::print_stdout, reason = "an example speaks")]

use std::sync::Arc;

use headcount::event::Scope;
use headcount::server::Endpoint;
use headcount::{Error, Event, Headcount, Observer};

/// Says when an attempt is over; everything else it lets pass.
struct Pager;

impl Observer for Pager {
    fn observe(&self, scope: &Scope, event: &Event) {
        if let Event::AttemptEnded(attempt) = event {
            let verdict = attempt.end.verdict().as_str();
            println!("{}: attempt {} {verdict}, {} workers", scope.task, attempt.attempt, attempt.workers);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoint = Endpoint::from_environment()?;
    let headcount = Headcount::builder(endpoint).observer(Arc::new(Pager)).connect().await?;
    let sql = "SELECT label, count(*) FROM measurements GROUP BY label";
    let run = headcount.task("labels").query(sql, &[]).await?;
    let Some(mut rows) = run.value else {
        println!("only {} workers in {} attempts", run.achieved_workers, run.attempt_count);
        return Ok(());
    };
    while let Some(row) = rows.next().await? {
        println!("{}: {}", row.get::<_, &str>(0), row.get::<_, i64>(1));
    }
    rows.finish().await?.required()?;
    Ok(())
}
