//! Stopping a leader: that one, and none after it.
//!
//! The protocol's own cancel request names a pid and a key, arrives at some later time, and hits
//! whatever runs then. `pg_cancel_backend` in a statement that checks `backend_start` and `state`
//! hits the backend that was meant, while it runs something. A later statement of the same session
//! could still be hit, if it were sent before the signal is delivered; so the driver sends nothing on
//! the leader's connection until the answer to this statement is there. A signal that finds the
//! backend idle is dropped by it (postgres.c, `DoingCommandRead`).

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Failure;
use super::session::Identity;
use crate::event::{CancelMethod, CancelResult};

const CANCEL: &str = "\
SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid = $1 AND round(extract(epoch FROM backend_start) * 1000000)::bigint = $2 AND state = 'active'";

const TERMINATE: &str = "\
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid = $1 AND round(extract(epoch FROM backend_start) * 1000000)::bigint = $2";

/// Asks the server to stop that backend's statement, or the backend.
pub(crate) async fn stop(
    client: &Client,
    leader: Identity,
    method: CancelMethod,
) -> Result<CancelResult, Failure> {
    let statement = match method {
        CancelMethod::Cancel => CANCEL,
        CancelMethod::Terminate => TERMINATE,
    };
    // One round trip instead of two: the statement that is to be stopped runs on meanwhile.
    let leader: [(&(dyn ToSql + Sync), Type); 2] = [(&leader.pid, Type::INT4), (&leader.started, Type::INT8)];
    let rows = client.query_typed(statement, &leader).await?;
    Ok(match rows.first() {
        Some(row) if row.get(0) => CancelResult::Sent,
        Some(_) | None => CancelResult::Missed,
    })
}
