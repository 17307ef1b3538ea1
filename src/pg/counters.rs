//! The server's own counters of parallel workers, for each database (18 and later).

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::Failure;
use super::session::Identity;
use crate::decide::counters::LaunchCounters;

/// The first version that counts.
pub(crate) const SINCE: i32 = 180_000;

/// Rows of the view say which database they belong to, also to a role that sees nothing else of them.
const COUNTERS: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT d.parallel_workers_to_launch, d.parallel_workers_launched, d.sessions,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
        WHERE a.datid = d.datid AND a.pid NOT IN ($1, pg_catalog.pg_backend_pid())
          AND a.leader_pid IS DISTINCT FROM $1 AND a.backend_type IS DISTINCT FROM 'autovacuum worker')::int
FROM pg_catalog.pg_stat_database d
WHERE d.datid = (SELECT a.datid FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1)
  AND coalesce(pg_catalog.current_setting('debug_parallel_query', true), 'off') = 'off'",
);

/// Reads the counters of the leader's database; `None` when the leader is gone, or where a test setting gives each
/// statement a worker, and those that workers run another one that is never launched.
pub(crate) async fn read(client: &Client, leader: Identity) -> Result<Option<LaunchCounters>, Failure> {
    let rows = client.query_typed(COUNTERS, &[(&leader.pid, Type::INT4)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let others = u32::try_from(row.try_get::<_, i32>(3)?).unwrap_or(u32::MAX);
    let (to_launch, launched, sessions) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Some(LaunchCounters { to_launch, launched, others, sessions }))
}

/// Has the leader's session tell what it counted, which it does by itself only from time to time. Outside of a
/// transaction.
pub(crate) async fn flush(client: &Client) -> Result<(), Failure> {
    Ok(client.batch_execute("SELECT pg_catalog.pg_stat_force_next_flush()").await?)
}
