//! The server's own counters of parallel workers, for each database (18 and later).

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::Failure;
use super::session::{Identity, Session};
use crate::decide::counters::LaunchCounters;

/// The first version that counts.
pub(crate) const SINCE: i32 = 180_000;

/// Rows of the view say which database they belong to, also to a role that sees nothing else of them.
const COUNTERS: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT d.parallel_workers_to_launch, d.parallel_workers_launched, d.sessions,
       others.number, others.busy, others.changed,
       pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
FROM pg_catalog.pg_stat_database d, LATERAL (
    SELECT pg_catalog.count(*)::int AS number,
           pg_catalog.count(*) FILTER (WHERE a.state IS DISTINCT FROM 'idle')::int AS busy,
           coalesce(pg_catalog.round(extract(epoch FROM pg_catalog.max(a.state_change)) * 1000000), 0)::bigint AS changed
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datid = d.datid AND a.pid NOT IN ($1, pg_catalog.pg_backend_pid())
      AND a.leader_pid IS DISTINCT FROM $1 AND a.backend_type IS DISTINCT FROM 'autovacuum worker') AS others
WHERE d.datid = (SELECT a.datid FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1)
  AND coalesce(pg_catalog.current_setting('debug_parallel_query', true), 'off') = 'off'",
);

/// Reads the counters of the leader's database; `None` when the leader is gone, or where a test setting gives each
/// statement a worker, and those that workers run another one that is never launched.
pub(crate) async fn read(session: &Session, leader: Identity) -> Result<Option<LaunchCounters>, Failure> {
    let rows = session.ask(COUNTERS, &[(&leader.pid, Type::INT4)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(LaunchCounters {
        to_launch: row.try_get(0)?,
        launched: row.try_get(1)?,
        sessions: row.try_get(2)?,
        others: row.try_get(3)?,
        busy: row.try_get(4)?,
        changed: row.try_get(5)?,
        at: row.try_get(6)?,
    }))
}

/// Has the leader's session tell what it counted, which it does by itself only from time to time. Outside of a
/// transaction.
pub(crate) async fn flush(client: &Client) -> Result<(), Failure> {
    Ok(client.batch_execute("SELECT pg_catalog.pg_stat_force_next_flush()").await?)
}
