//! What the monitor sees: the leaders it watches, their workers, and the pool.
//!
//! One statement a tick answers for all watched leaders, however many. It is sent in autocommit: the
//! view stands still inside a transaction (manual, "The Cumulative Statistics System"). Workers (counted by the macro
//! `workers!` of [`pg`](super)) are
//! processes that really run (`backend_type = 'parallel worker'` with our `leader_pid`), which is
//! stricter than "Workers Launched", the number that were registered.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Failure;
use super::session::{Identity, Session};
use crate::decide::verdict::{LeaderState, Pool};

/// Kinds of processes that take no slot of `max_worker_processes`. All others do: parallel workers, logical
/// replication's launcher and workers, those of extensions.
const NO_SLOT: &str = "'{client backend,autovacuum launcher,autovacuum worker,background writer,checkpointer,\
startup,walreceiver,walsender,walwriter,archiver,logger,stats collector,slotsync worker,walsummarizer,io worker,\
standalone backend,dead-end client backend}'";

static LOOK: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH {serial}, activity AS MATERIALIZED (
  SELECT pid, leader_pid, backend_type, state, wait_event_type, backend_start, query_start
  FROM pg_catalog.pg_stat_activity
), workers AS MATERIALIZED {workers}
SELECT coalesce((SELECT pg_catalog.sum(workers) FROM workers), 0)::int, {pool},
       (SELECT pg_catalog.count(*) FROM activity WHERE backend_type <> ALL ({NO_SLOT}))::int,
       pg_catalog.current_setting('max_worker_processes')::int,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
       leader.pid, pg_catalog.round(extract(epoch FROM leader.backend_start) * 1000000)::bigint,
       leader.state, leader.wait_event_type,
       pg_catalog.round(extract(epoch FROM leader.query_start) * 1000000)::bigint,
       (SELECT pids FROM workers WHERE workers.leader_pid = leader.pid),
       coalesce((SELECT pg_catalog.sum(workers) FROM workers JOIN activity AS vacuum ON vacuum.pid = workers.leader_pid
                 WHERE vacuum.backend_type = 'autovacuum worker'), 0)::int
FROM (VALUES (0)) AS always LEFT JOIN activity AS leader ON leader.pid = ANY ($1)",
        serial = serial!(),
        pool = pool!(),
        workers = workers!("activity"),
    )
});

/// One look at the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The pool, where the monitor's role may see it.
    pub(crate) pool: Option<Pool>,
    /// The server's processes for workers of any kind, as far as they are seen; with the pool.
    pub(crate) processes: Option<Pool>,
    /// Workers of the pool that autovacuum has, which may be a rival from 19 on; as far as they are seen.
    pub(crate) autovacuum: u32,
    leaders: HashMap<i32, LeaderRow>,
}

#[derive(Debug, Clone)]
struct LeaderRow {
    /// `None` when the row is hidden from the monitor's role, or does not say what the backend does.
    started: Option<i64>,
    seen: SeenLeader,
}

/// A leader as one look saw it.
#[derive(Debug, Clone)]
pub(crate) struct SeenLeader {
    pub(crate) state: LeaderState,
    /// When its statement began, in microseconds since the Unix epoch.
    pub(crate) statement: Option<i64>,
    /// The pids of its workers.
    pub(crate) workers: Arc<[i32]>,
}

impl SeenLeader {
    /// No backend.
    pub(crate) fn gone() -> Self {
        Self { state: LeaderState::Gone, statement: None, workers: Arc::default() }
    }
}

impl View {
    /// The leader's state and workers; `None` when its row is hidden from the monitor's role.
    pub(crate) fn of(&self, leader: Identity) -> Option<SeenLeader> {
        match self.leaders.get(&leader.pid) {
            None => Some(SeenLeader::gone()),
            Some(LeaderRow { started: None, .. }) => None,
            Some(row) if row.started != Some(leader.started) => Some(SeenLeader::gone()),
            Some(row) => Some(row.seen.clone()),
        }
    }
}

/// Looks once.
pub(crate) async fn look(session: &Session, leaders: &[i32]) -> Result<View, Failure> {
    let rows = session.ask(&LOOK, &[(&leaders, Type::INT4_ARRAY)]).await?;
    let mut view = View::default();
    for row in rows {
        if row.get(4) {
            view.pool = Some(Pool { used: count(row.get(0)), size: count(row.get(1)) });
            view.processes = Some(Pool { used: count(row.get(2)), size: count(row.get(3)) });
            view.autovacuum = count(row.get(11));
        }
        if let Some(pid) = row.get(5) {
            let workers: Option<Vec<i32>> = row.get(10);
            let seen = SeenLeader {
                state: leader_state(row.get(7), row.get(8)),
                statement: row.get(9),
                workers: workers.unwrap_or_default().into(),
            };
            let started = row.get::<_, Option<i64>>(6).filter(|_| says_what_it_does(row.get(7)));
            view.leaders.insert(pid, LeaderRow { started, seen });
        }
    }
    Ok(view)
}

fn count(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Not without `track_activities`, which a session may switch off for itself.
fn says_what_it_does(state: Option<&str>) -> bool {
    state.is_some_and(|state| state != "disabled")
}

fn leader_state(state: Option<&str>, wait_event_type: Option<&str>) -> LeaderState {
    match (state, wait_event_type) {
        (Some("active" | "fastpath function call"), Some("Lock")) => LeaderState::WaitingForLock,
        (Some("active" | "fastpath function call"), _) => LeaderState::Active,
        _ => LeaderState::Idle,
    }
}

/// How many workers of that leader are left, and whether the leader's backend is.
pub(crate) async fn left(session: &Session, leader: Identity) -> Result<(u32, bool), Failure> {
    const LEFT: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT pg_catalog.count(*) FILTER (WHERE leader_pid = $1)::int,
       pg_catalog.count(*) FILTER (WHERE pid = $1 AND pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint = $2)::int
FROM pg_catalog.pg_stat_activity WHERE leader_pid = $1 OR pid = $1",
);
    let leader: [(&(dyn ToSql + Sync), Type); 2] = [(&leader.pid, Type::INT4), (&leader.started, Type::INT8)];
    let rows = session.ask(LEFT, &leader).await?;
    Ok(rows.first().map_or((0, false), |row| (count(row.get(0)), row.get::<_, i32>(1) > 0)))
}

/// What a backend does for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nobody may know.
    Unknown,
    /// It runs a statement.
    Working,
    /// It waits for a lock that this backend holds, or waits for before it.
    WaitingFor(i32),
    /// It waits for its client, or is gone.
    Nothing,
}

/// What that backend does now; `started` is 0 where nobody knows yet when it has.
pub(crate) async fn doing(session: &Session, backend: Identity) -> Result<Doing, Failure> {
    const DOING: &str = concat!(
        "\
WITH ",
        serial!(),
        " SELECT state, CASE WHEN wait_event_type = 'Lock' THEN (pg_catalog.pg_blocking_pids(pid))[1] END
FROM pg_catalog.pg_stat_activity
WHERE pid = $1
  AND ($2::bigint = 0 OR backend_start IS NULL OR pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint = $2)",
    );
    let rows = session.ask(DOING, &[(&backend.pid, Type::INT4), (&backend.started, Type::INT8)]).await?;
    let Some(row) = rows.first() else {
        return Ok(if backend.started == 0 { Doing::Unknown } else { Doing::Nothing });
    };
    let state: Option<&str> = row.get(0);
    Ok(match (says_what_it_does(state), leader_state(state, None), row.get(1)) {
        (false, ..) => Doing::Unknown,
        (true, _, Some(by)) => Doing::WaitingFor(by),
        (true, LeaderState::Active, None) => Doing::Working,
        (true, ..) => Doing::Nothing,
    })
}

/// Who blocks this backend. Costly on a server with many locks (manual, `pg_blocking_pids`): not for each
/// tick.
pub(crate) async fn blockers(client: &Client, pid: i32) -> Result<Vec<i32>, Failure> {
    let rows = client.query_typed("SELECT pg_catalog.pg_blocking_pids($1)", &[(&pid, Type::INT4)]).await?;
    Ok(rows.first().map_or_else(Vec::new, |row| row.get(0)))
}

/// The backend that has that pid now.
pub(crate) async fn identify(client: &Client, pid: i32) -> Result<Identity, Failure> {
    const WHO: &str = concat!(
        "\
WITH ",
        serial!(),
        " SELECT pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint
FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start IS NOT NULL",
    );
    match client.query_typed(WHO, &[(&pid, Type::INT4)]).await?.first() {
        Some(row) => Ok(Identity { pid, started: row.get(0) }),
        None => Err(Failure::lost(format!("no backend has the pid {pid}"))),
    }
}
