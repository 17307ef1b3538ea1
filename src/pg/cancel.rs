//! Stopping a leader: that one, and none after it.
//!
//! The protocol's own cancel request names a pid and a key, arrives at some later time, and hits
//! whatever runs then. `pg_cancel_backend` in a statement that checks `backend_start` and `state`
//! hits the backend that was meant, while it runs something. A later statement of the same session
//! could still be hit, if it were sent before the signal is delivered; so the driver sends nothing on
//! the leader's connection until the statement that signals is answered. Another client's backend may be
//! sent its next statement at any moment: there the request names the statement, too, by the `query_start`
//! that the monitor saw. A signal that finds the backend idle is dropped by it (postgres.c,
//! `DoingCommandRead`).

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Failure;
use super::session::Identity;
use crate::event::{CancelMethod, CancelResult};

const CANCEL: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid = $1 AND pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint = $2 AND state = 'active'
  AND ($3::bigint IS NULL OR pg_catalog.round(extract(epoch FROM query_start) * 1000000)::bigint = $3)",
);

const TERMINATE: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid = $1 AND pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint = $2
  AND ($3::bigint IS NULL
       OR (state = 'active' AND pg_catalog.round(extract(epoch FROM query_start) * 1000000)::bigint = $3))",
);

/// Asks the server to stop that backend's statement, or the backend; only while it runs the statement that
/// began at `statement` (microseconds since the Unix epoch), where that is given.
pub(crate) async fn stop(
    client: &Client,
    leader: Identity,
    method: CancelMethod,
    statement: Option<i64>,
) -> Result<CancelResult, Failure> {
    let request = match method {
        CancelMethod::Cancel => CANCEL,
        CancelMethod::Terminate => TERMINATE,
    };
    // One round trip instead of two: the statement that is to be stopped runs on meanwhile.
    let named: [(&(dyn ToSql + Sync), Type); 3] =
        [(&leader.pid, Type::INT4), (&leader.started, Type::INT8), (&statement, Type::INT8)];
    let rows = client.query_typed(request, &named).await?;
    Ok(match rows.first() {
        Some(row) if row.get(0) => CancelResult::Sent,
        Some(_) | None => CancelResult::Missed,
    })
}
