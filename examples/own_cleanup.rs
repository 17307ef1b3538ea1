//! A statement that leaves something outside its transaction, and the cleanup that undoes it.
//!
//! `CREATE INDEX CONCURRENTLY` refuses a transaction block, and one that was cancelled leaves an
//! invalid index behind. The cleanup runs after each attempt that is not accepted.
//!
//! `DATABASE_URL=postgres://... cargo run --example own_cleanup`
#![allow(clippy::print_stdout, reason = "an example speaks")]

use headcount::server::Endpoint;
use headcount::{Error, Headcount};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let headcount = Headcount::builder(Endpoint::from_environment()?).connect().await?;
    let run = headcount
        .task("index_measurements")
        .target(2)
        .minimum(1)
        .no_transaction()
        .set("max_parallel_maintenance_workers", "2")
        .cleanup_with(|client| {
            Box::pin(async move { client.batch_execute("DROP INDEX IF EXISTS measurements_label").await })
        })
        .execute("CREATE INDEX CONCURRENTLY measurements_label ON measurements (label)", &[])
        .await?;
    println!(
        "{} after {} attempts, {} workers",
        run.outcome.as_str(),
        run.attempt_count,
        run.achieved_workers
    );
    Ok(())
}
