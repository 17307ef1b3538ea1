//! Inside a tokio service: two jobs share one handle, a third is given up half-way.
//!
//! The handle is cheap to clone and has one monitor connection. Whatever is dropped is cancelled on
//! the server; `shutdown` waits until that is done.
//!
//! `DATABASE_URL=postgres://... cargo run --example in_a_service`
#![allow(clippy::print_stdout, reason = "an example speaks")]

use std::time::Duration;

use headcount::server::Endpoint;
use headcount::{Error, Headcount, PlanShortfall};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let headcount = Headcount::builder(Endpoint::from_environment()?).connect().await?;

    let counting = tokio::spawn({
        let job = headcount.task("count").target(2).minimum(0);
        async move { job.execute("SELECT count(*) FROM measurements", &[]).await }
    });
    // A caller's own code on the session; several statements, one verdict.
    let closing = tokio::spawn({
        let job = headcount.task("close_day").target(2).minimum(0);
        async move {
            job.guard(|client| {
                Box::pin(async move {
                    client.batch_execute("CREATE TEMPORARY TABLE closed (label text)").await?;
                    client.query_one("SELECT count(DISTINCT label) FROM measurements", &[]).await
                })
            })
            .await
        }
    });
    let counted = counting.await.expect("the task does not panic")?;
    println!("counted with {} workers", counted.achieved_workers);
    let closed = closing.await.expect("the task does not panic")?;
    println!("{:?} labels", closed.value.map(|row| row.get::<_, i64>(0)));

    // No plan reaches a worker here, which would be refused.
    let endless = headcount.task("endless").target(1).minimum(0).plan_shortfall(PlanShortfall::Ignore);
    let given_up =
        tokio::time::timeout(Duration::from_millis(200), endless.execute("SELECT pg_sleep(3600)", &[]));
    println!("given up: {}", given_up.await.is_err());
    println!("all is cleared away: {}", headcount.shutdown(Duration::from_secs(10)).await);
    Ok(())
}
