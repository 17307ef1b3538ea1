//! The smallest guarded query: a table built by four parallel workers, or not at all.
//!
//! `DATABASE_URL=postgres://... cargo run --example minimal`
#![allow(clippy::print_stdout, reason = "an example speaks")]

use headcount::server::Endpoint;
use headcount::{Error, Headcount};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let headcount = Headcount::builder(Endpoint::from_environment()?).connect().await?;
    let sql = "CREATE TABLE rollup AS SELECT n % 100 AS bucket, count(*) FROM measurements GROUP BY 1";
    let run = headcount.task("rollup").target(4).minimum(2).execute(sql, &[]).await?;
    println!("{}: {:?} rows by {} workers", run.outcome.as_str(), run.value, run.achieved_workers);
    Ok(())
}
