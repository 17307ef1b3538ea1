//! The fate of a transaction whose COMMIT was sent and whose answer was lost.
//!
//! The server remembers it: `pg_xact_status(xid8)` (13+; manual, "Transaction ID and Snapshot
//! Information Functions"). The id must be known before COMMIT is sent. It forgets with time (NULL),
//! and a standby promoted meanwhile may never have known: then the caller must look at its data.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::Failure;
use super::connect::Endpoint;
use super::session::Session;
use crate::decide::backoff::Backoff;
use crate::event::Resolution;

/// Between two questions about a transaction that is still in progress, or a server that is away.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(1) };

/// The current transaction's id, `None` if it wrote nothing. Fails if the transaction is aborted,
/// where COMMIT itself would roll back and not say so.
pub(crate) async fn current_id(client: &Client) -> Result<Option<String>, Failure> {
    let rows = client.query_typed("SELECT pg_catalog.pg_current_xact_id_if_assigned()::text", &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// Asks for that transaction's fate on new sessions until it is known, at most `patience`.
///
/// [`Resolution::Unresolved`] when the server does not know, or does not answer in time.
pub(crate) async fn resolve(endpoint: &Endpoint, xid: &str, patience: Duration) -> Resolution {
    let deadline = Instant::now() + patience;
    let mut tries = 0;
    loop {
        match ask(endpoint, xid).await {
            Ok(Some(status)) if status == "committed" => return Resolution::Committed,
            Ok(Some(status)) if status == "aborted" => return Resolution::Aborted,
            // Its backend has not noticed yet that the client is gone, or is just committing.
            Ok(Some(_)) => {}
            Ok(None) => return Resolution::Unresolved,
            Err(failure) if !failure.is_retryable() => return Resolution::Unresolved,
            Err(_) => {}
        }
        tries += 1;
        let delay = BACKOFF.delay(tries, fastrand::f64());
        if Instant::now() + delay >= deadline {
            return Resolution::Unresolved;
        }
        sleep(delay).await;
    }
}

async fn ask(endpoint: &Endpoint, xid: &str) -> Result<Option<String>, Failure> {
    let session = Session::open(endpoint, "headcount:in-doubt").await?;
    let row = session.client().query_one("SELECT pg_catalog.pg_xact_status($1::text::xid8)", &[&xid]).await?;
    Ok(row.get(0))
}
