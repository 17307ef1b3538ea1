//! The pool and its fleet as one look sees them: leaders and their workers, who holds slots and who waits.
//!
//! It answers what people ask while a night of jobs runs: who has the workers, who is next, and who is it
//! that has no slot. All of it stands in `pg_stat_activity` and `pg_locks`, for every role; only the workers of
//! other roles, and since when something runs, need `pg_read_all_stats`.

use std::collections::HashMap;

use serde::Serialize;
use tokio_postgres::Client;

use super::connect::Endpoint;
use super::session::Session;
use super::slots::{MOST, PRIORITY_TURNSTILE, TURNSTILE, class};
use super::{Failure, label};
use crate::decide::reservation::{Use, outsiders};
use crate::error::Error;

/// One look.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Fleet {
    /// The pool.
    pub pool: PoolUse,
    /// Backends that have parallel workers, or run a guarded execution; those with most workers first. Who waits behind
    /// a proxy that pools, and holds no slots, leads nothing on the server yet and is not among them.
    pub leaders: Vec<Leader>,
    /// Executions that wait for slots, the next one first.
    pub queue: Vec<Waiting>,
}

/// The pool in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "Shown")]
#[non_exhaustive]
pub struct PoolUse {
    /// Slots in all: `least(max_parallel_workers, max_worker_processes)`.
    pub size: u32,
    /// Parallel workers that run now.
    pub used: u32,
    /// Slots held by the fleet, whether their workers run or not.
    pub held: u32,
    /// Workers that no slot stands for.
    pub outsiders: u32,
    /// Slots among those in use that a gathering execution holds idle.
    pub gathered: u32,
    /// Whether this role sees the workers of all others; else `used` and `outsiders` are too low, and `null` in JSON.
    pub visible: bool,
}

/// The same for programs, to which a number that is too low is a number.
#[derive(Serialize)]
struct Shown {
    size: u32,
    used: Option<u32>,
    held: u32,
    outsiders: Option<u32>,
    gathered: Option<u32>,
    visible: bool,
}

impl From<PoolUse> for Shown {
    fn from(pool: PoolUse) -> Self {
        let PoolUse { size, used, held, outsiders, gathered, visible } = pool;
        let seen = |number| visible.then_some(number);
        Self { size, used: seen(used), held, outsiders: seen(outsiders), gathered: seen(gathered), visible }
    }
}

/// A leader of parallel workers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Leader {
    /// Its process id.
    pub pid: i32,
    /// The task of a guarded execution; `None` for others.
    pub task: Option<String>,
    /// Whether it is autovacuum, which may have workers of the pool from PostgreSQL 19 on.
    pub autovacuum: bool,
    /// Its role.
    pub role: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Parallel workers now; `None` where this role may not see them.
    pub workers: Option<u32>,
    /// Workers that it demands; `None` where it does not say: outsiders, updates, sessions that are kept
    /// for a later job, and tasks whose name leaves no room for it (more than 35 characters).
    pub demand: Option<u32>,
    /// Slots held for it.
    pub slots: u32,
    /// Slots of the pool that its placeholders hold idle until there are enough.
    pub gathered: u32,
    /// Its attempt; `None` when none is under way (it waits before the first one, or between two without
    /// slots), and where it does not say, as with the demand.
    pub attempt: Option<u32>,
    /// `active`, `idle in transaction`...; `None` where this role may not see it.
    pub state: Option<String>,
    /// Since its transaction began.
    pub running_seconds: Option<f64>,
}

/// An execution that waits for slots.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Waiting {
    /// Its place, from 1: the head. Those with priority have a queue of their own, which goes first.
    pub place: u32,
    /// Whether it has priority.
    pub priority: bool,
    /// Its task; `None` for a lock that is not ours.
    pub task: Option<String>,
    /// Slots that it wants.
    pub demand: Option<u32>,
    /// The session that waits.
    pub pid: i32,
    /// The leader that it waits for.
    pub leader: Option<i32>,
    /// Since that session began, which is when the wait did.
    pub waited_seconds: Option<f64>,
}

/// A session that looks.
pub struct Watcher {
    session: Session,
    space: String,
}

impl Watcher {
    /// Connects to the fleet's `database`, where its slots are held; `space` is the name of its keys.
    ///
    /// # Errors
    /// When no session can be had.
    pub async fn connect(endpoint: &Endpoint, database: &str, space: &str) -> Result<Self, Error> {
        let endpoint = endpoint.with_database(database);
        let session = Session::stand_by(&endpoint, "headcount:watch").await;
        let session = session.map_err(|failure| Error::connect(endpoint.describe(), failure))?;
        Ok(Self { session, space: space.to_owned() })
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn look(&self) -> Result<Fleet, Error> {
        let failed = |failure| Error::sql("looking at the pool", failure);
        let client = self.session.client();
        let members = members(client, &self.space).await.map_err(failed)?;
        let found = leaders(client).await.map_err(failed)?;
        Ok(assemble(members, found))
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("space", &self.space).finish_non_exhaustive()
    }
}

/// A session that holds slots or waits for them.
#[derive(Debug, Default)]
struct Member {
    pid: i32,
    label: String,
    slots: u32,
    /// In the queue.
    queued: bool,
    priority: bool,
    /// Sessions before it in the queue.
    ahead: u32,
    age: Option<f64>,
}

async fn members(client: &Client, space: &str) -> Result<Vec<Member>, Failure> {
    let class = class(space);
    let sql = format!(
        "WITH {}
         SELECT a.pid, a.application_name,
                pg_catalog.count(*) FILTER (WHERE l.granted AND l.objid BETWEEN 1 AND {MOST})::int,
                pg_catalog.bool_or(l.objid IN ({TURNSTILE}, {PRIORITY_TURNSTILE})), pg_catalog.bool_or(l.objid = {PRIORITY_TURNSTILE}),
                CASE WHEN pg_catalog.bool_and(l.granted) THEN 0 ELSE pg_catalog.cardinality(pg_catalog.pg_blocking_pids(a.pid)) END,
                extract(epoch FROM pg_catalog.clock_timestamp() - a.backend_start)::float8
         FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a USING (pid)
         WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = {class}
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
         GROUP BY a.pid, a.application_name, a.backend_start",
        serial!(),
    );
    let rows = client.query_typed(&sql, &[]).await?;
    let member = |row: &tokio_postgres::Row| Member {
        pid: row.get(0),
        label: row.get::<_, Option<String>>(1).unwrap_or_default(),
        slots: count(row.get(2)),
        queued: row.get(3),
        priority: row.get(4),
        ahead: count(row.get(5)),
        age: row.get(6),
    };
    Ok(rows.iter().map(member).collect())
}

/// What the server says of its leaders and the pool.
#[derive(Debug, Default)]
struct Leaders {
    size: u32,
    visible: bool,
    rows: Vec<Leader>,
    /// Backends that are a proxy's and run nothing.
    pooled: Vec<i32>,
    /// Slots that are held idle, each for a leader.
    gathered: Vec<i32>,
}

async fn leaders(client: &Client) -> Result<Leaders, Failure> {
    const LEADERS: &str = concat!(
        "WITH ",
        serial!(),
        " SELECT ",
        pool!(),
        ",
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
       l.pid, l.application_name, l.usename::text, l.datname::text, l.state,
       CASE WHEN l.backend_type IS NOT NULL THEN coalesce(w.workers, 0) END, extract(epoch FROM pg_catalog.clock_timestamp() - coalesce(l.xact_start, l.query_start))::float8,
       coalesce(l.backend_type = 'autovacuum worker', false)
FROM (VALUES (0)) AS always
LEFT JOIN (pg_catalog.pg_stat_activity AS l
           LEFT JOIN ",
        workers!("pg_catalog.pg_stat_activity"),
        " AS w ON w.leader_pid = l.pid)
  ON w.workers > 0 OR (l.application_name LIKE 'headcount:%' AND l.leader_pid IS NULL
     AND coalesce(l.backend_type, 'client backend') = 'client backend'
     AND l.application_name NOT IN ('headcount:monitor', 'headcount:probe', 'headcount:watch', 'headcount:explain', 'headcount:doctor', 'headcount:in-doubt'))"
    );
    let mut found = Leaders::default();
    for row in client.query_typed(LEADERS, &[]).await? {
        found.size = count(row.get(0));
        found.visible = row.get(1);
        let Some(pid) = row.get(2) else { continue };
        let label = row.get::<_, Option<&str>>(3).map(label::read);
        if let Some(leader) = label.filter(|label| label.holds).and_then(|label| label.leader) {
            found.gathered.push(leader);
            continue;
        }
        // In an attempt it has the name of that.
        if label.is_some_and(|label| label.pooled) {
            found.pooled.push(pid);
        }
        found.rows.push(Leader {
            pid,
            task: label.and_then(|label| label.task).map(ToOwned::to_owned),
            role: row.get(4),
            database: row.get(5),
            state: row.get(6),
            workers: row.get::<_, Option<i32>>(7).map(count),
            running_seconds: row.get(8),
            autovacuum: row.get(9),
            demand: label.and_then(|label| label.demand),
            slots: 0,
            gathered: 0,
            attempt: label.and_then(|label| label.attempt),
        });
    }
    Ok(found)
}

/// Puts the two together: whose slots serve which leader.
fn assemble(members: Vec<Member>, found: Leaders) -> Fleet {
    let Leaders { size, visible, rows, pooled, gathered } = found;
    let mut leaders = known_leaders(rows, &pooled, &members);
    let held = members.iter().map(|member| member.slots).sum();
    let mut served = HashMap::new();
    let mut queue = Vec::new();
    for member in members {
        let label = label::read(&member.label);
        if member.queued {
            queue.push(Waiting {
                place: member.ahead + 1,
                priority: member.priority,
                task: label.task.map(ToOwned::to_owned),
                demand: label.demand,
                pid: member.pid,
                leader: label.leader,
                waited_seconds: member.age,
            });
        } else if let Some(leader) = label.leader.filter(|_| member.slots > 0) {
            served.insert(
                leader,
                (member.slots, label.demand, label.attempt, label.task.map(ToOwned::to_owned)),
            );
        }
    }
    for leader in &mut leaders {
        leader.gathered = gathered.iter().filter(|&&pid| pid == leader.pid).count() as u32;
        if let Some((slots, demand, attempt, task)) = served.remove(&leader.pid) {
            leader.slots = slots;
            // The proxy may have lent it to another task since.
            if pooled.contains(&leader.pid) {
                leader.task = task;
            }
            // A leader knows best; for those whose name is too long, or not ours, their slots say it.
            leader.demand = leader.demand.or(demand);
            leader.attempt = leader.attempt.or(attempt);
        }
    }
    let gathered = gathered.len() as u32;
    let used = leaders.iter().filter_map(|leader| leader.workers).sum::<u32>() + gathered;
    let outsiders = outsiders(
        leaders.iter().map(|leader| Use { workers: leader.workers.unwrap_or(0), slots: leader.slots }),
    );
    leaders.sort_by_key(|leader| (std::cmp::Reverse(leader.workers), leader.pid));
    queue.sort_by_key(|waiting| (!waiting.priority, waiting.place));
    Fleet { pool: PoolUse { size, used, held, outsiders, gathered, visible }, leaders, queue }
}

/// Leaves out what may be a parallel worker. To a role that may not see it, a worker differs in nothing from
/// its leader, whose name it has: known are a leader that slots are held for, and who is alone with its name.
/// Leaves out what a proxy keeps of a job, too: whether that still waits, its backends do not say.
fn known_leaders(rows: Vec<Leader>, pooled: &[i32], members: &[Member]) -> Vec<Leader> {
    let served: Vec<_> = members.iter().filter_map(|member| label::read(&member.label).leader).collect();
    let name = |leader: &Leader| (leader.task.clone(), leader.role.clone(), leader.database.clone());
    let mut named = HashMap::new();
    for leader in rows.iter().filter(|leader| leader.workers.is_none()) {
        *named.entry(name(leader)).or_insert(0) += 1;
    }
    let holds = |leader: &Leader| {
        members.iter().any(|member| member.slots > 0 && label::read(&member.label).leader == Some(leader.pid))
    };
    let known = |leader: &Leader| {
        if pooled.contains(&leader.pid) {
            return holds(leader);
        }
        leader.workers.is_some() || served.contains(&leader.pid) || named[&name(leader)] == 1
    };
    rows.into_iter().filter(known).collect()
}

fn count(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(pid: i32, workers: u32) -> Leader {
        Leader {
            pid,
            task: None,
            autovacuum: false,
            role: None,
            database: None,
            workers: Some(workers),
            demand: None,
            slots: 0,
            gathered: 0,
            attempt: None,
            state: None,
            running_seconds: None,
        }
    }

    #[test]
    fn slots_are_shown_with_the_leader_that_they_serve_and_the_rest_are_outsiders() {
        let holder =
            Member { pid: 1, label: label::serving(4, 4711, 2, "rollup"), slots: 4, ..Member::default() };
        let rows = vec![leader(99, 2), leader(4711, 3)];
        let found =
            Leaders { size: 8, visible: true, rows, gathered: vec![4711, 4711], ..Leaders::default() };
        let fleet = assemble(vec![holder], found);
        assert_eq!(
            fleet.pool,
            PoolUse { size: 8, used: 7, held: 4, outsiders: 2, gathered: 2, visible: true }
        );
        let first = &fleet.leaders[0];
        assert_eq!((first.pid, first.slots, first.demand, first.attempt), (4711, 4, Some(4), Some(2)));
        assert_eq!((fleet.leaders[1].demand, first.gathered, fleet.leaders[1].gathered), (None, 2, 0));
    }

    #[test]
    fn a_hidden_row_that_may_be_a_worker_is_left_out_and_has_no_number_of_workers() {
        let hidden = |pid, task: &str| Leader { workers: None, task: Some(task.into()), ..leader(pid, 0) };
        let rows = vec![
            hidden(1, "load"),
            hidden(2, "load"),
            hidden(3, "rollup"),
            hidden(4, "copy"),
            hidden(5, "copy"),
        ];
        let holder = Member { label: label::serving(4, 4, 1, "copy"), slots: 4, ..Member::default() };
        let fleet = assemble(vec![holder], Leaders { rows, ..Leaders::default() });
        let known: Vec<_> = fleet.leaders.iter().map(|leader| (leader.pid, leader.workers)).collect();
        assert_eq!(known, [(3, None), (4, None)]);
    }

    #[test]
    fn a_backend_that_a_proxy_keeps_is_shown_only_where_slots_are_held_for_it() {
        let at_rest = |pid| Leader { task: Some("other".into()), ..leader(pid, 0) };
        let holder = Member { label: label::serving(4, 2, 1, "copy"), slots: 4, ..Member::default() };
        let queued = Member { label: label::serving(4, 3, 1, "load"), queued: true, ..Member::default() };
        let rows = vec![at_rest(1), at_rest(2), at_rest(3)];
        let found = Leaders { rows, pooled: vec![1, 2, 3], ..Leaders::default() };
        let fleet = assemble(vec![holder, queued], found);
        let shown: Vec<_> = fleet.leaders.iter().map(|leader| (leader.pid, leader.task.as_deref())).collect();
        assert_eq!((shown, fleet.queue.len()), (vec![(2, Some("copy"))], 1));
    }

    #[test]
    fn those_with_priority_are_shown_first_and_the_head_before_the_rest() {
        let waits = |pid, ahead, priority| Member {
            pid,
            label: label::serving(4, pid + 100, 1, "load"),
            queued: true,
            priority,
            ahead,
            ..Member::default()
        };
        let members = vec![waits(1, 1, false), waits(2, 0, false), waits(3, 0, true)];
        let fleet = assemble(members, Leaders::default());
        let order: Vec<_> = fleet.queue.iter().map(|waiting| (waiting.pid, waiting.place)).collect();
        assert_eq!(order, [(3, 1), (2, 1), (1, 2)]);
        assert_eq!((fleet.queue[0].leader, fleet.queue[0].task.as_deref()), (Some(103), Some("load")));
    }
}
