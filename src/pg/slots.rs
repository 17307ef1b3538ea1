//! The slots of the pool and the queue for them, as advisory locks.
//!
//! PostgreSQL has all that a queue between hosts needs, on every server and for every role: session-level
//! advisory locks are granted in the order in which they were asked for, and vanish with their session, however
//! its client died (manual, "Advisory Locks" and `pg_locks`). So each of the two queues, the ordinary one and that of jobs
//! with priority, is one exclusive lock, its *turnstile*: whoever holds it is the head. The slots are the locks 1 to 1024
//! of the same key space.
//!
//! - A session in the queue waits inside the server, in `pg_advisory_lock`; a client that tried again and
//!   again would lose its place each time. The head does not wait inside the server: it looks, and takes, in short
//!   statements. Its session is idle in between, and the server notices at once when its client dies.
//! - Advisory locks belong to a database, the pool to the cluster. All members of a fleet use one agreed
//!   database. It is not the one with the data, for a second reason: a session that waits in a statement
//!   holds back vacuum in that database as long as it waits.
//! - `application_name` says what a session wants and for whom ([`label`](super::label)), so that everybody
//!   can read it; slots held are in `pg_locks`.
//! - Behind a proxy that pools transactions nothing of this holds ([`pooling`](super::pooling)).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::Failure;
use super::connect::Endpoint;
use super::session::{self, Identity};
use crate::decide::reservation::{Slots, Use, outsiders};

/// The most slots there are: the bound of `max_parallel_workers`.
pub(super) const MOST: u32 = 1024;
/// The lock whose holder is the head of the ordinary queue. It takes nothing while somebody waits in the other one
/// ([`Reservation::on_look`](crate::decide::reservation::Reservation::on_look)).
pub(super) const TURNSTILE: u32 = 0;
/// The lock whose holder is the head of the queue of those with priority.
pub(super) const PRIORITY_TURNSTILE: u32 = 2048;

/// The lock of the one execution that gathers slots which nobody keeps for it
/// ([`decide::gathering`](crate::decide::gathering)).
const GATHERER: u32 = 2049;

/// How long the head of the queue may send nothing before the server ends its session (14 and later). A live head looks ten
/// times a second; a silent one, whose process was stopped or whose host has gone, would block the queue.
const HEAD_IDLE: &str = "10s";

/// Sets that limit, where the server has one.
fn idle_limit(limit: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 140000
              THEN pg_catalog.set_config('idle_session_timeout', '{limit}', false) END"
    )
}

/// The first key of a fleet's locks, from its name (FNV-1a); `pg_locks.classid`.
pub(super) fn class(space: &str) -> u32 {
    space.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A session that waits for slots, or holds them. They are given back when its last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct SlotSession {
    client: Arc<Client>,
    pub(crate) identity: Identity,
    /// The pool as this session was configured on connecting.
    pub(crate) pool: u32,
    /// The most slots that the fleet may have; the pool may be smaller, and change.
    bound: u32,
    class: u32,
    turnstile: u32,
}

impl SlotSession {
    /// Connects. `label` is from [`serving`](super::label::serving); `size` bounds the slots, which are never more than the pool.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        space: &str,
        label: &str,
        size: Option<u32>,
        priority: bool,
    ) -> Result<Self, Failure> {
        let (client, _driver) = endpoint.open(label).await?;
        let (identity, pool) = prepare(&client).await?;
        Ok(Self {
            client: Arc::new(client),
            identity,
            pool,
            bound: size.unwrap_or(MOST).min(MOST),
            class: class(space),
            turnstile: if priority { PRIORITY_TURNSTILE } else { TURNSTILE },
        })
    }

    /// Waits in the queue until it is the head; `false` when the limit passed.
    pub(crate) async fn enter(&self, limit: Duration) -> Result<bool, Failure> {
        // Zero would mean no limit.
        let limit = limit.as_millis().clamp(1, 86_400_000);
        let Self { class, turnstile, .. } = self;
        let class = class.cast_signed();
        let entered = self
            .client
            .batch_execute(&format!(
                "SET lock_timeout TO {limit}; SELECT pg_catalog.pg_advisory_lock({class}, {turnstile}); \
                 SET lock_timeout TO 0; SELECT {}",
                idle_limit(HEAD_IDLE)
            ))
            .await
            .map_err(Failure::from);
        match entered {
            Ok(()) => Ok(true),
            Err(failure) if failure.sqlstate() == Some("55P03") => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Looks at the slots, and at the workers that no slot stands for.
    pub(crate) async fn look(&self) -> Result<Slots, Failure> {
        let messages = self.client.simple_query(&self.look_sql()).await?;
        let mut slots = Slots { pool: 0, size: 0, held: 0, outsiders: None, priority_waits: false };
        let mut leaders = Vec::new();
        for row in rows(&messages) {
            let count = |index| text(row, index).parse::<u32>().unwrap_or(0);
            slots.held = count(0);
            slots.priority_waits = text(row, 1) == "t";
            if text(row, 2) == "t" {
                slots.outsiders = Some(0);
            }
            slots.pool = count(5);
            slots.size = slots.pool.min(self.bound);
            leaders.push(Use { workers: count(3), slots: count(4) });
        }
        slots.outsiders = slots.outsiders.map(|_| outsiders(leaders));
        Ok(slots)
    }

    fn look_sql(&self) -> String {
        let Self { class, .. } = self;
        format!(
            "WITH {}, locks AS MATERIALIZED (
               SELECT pid, objid::bigint AS key, granted FROM pg_catalog.pg_locks
               WHERE locktype = 'advisory' AND objsubid = 2 AND classid = {class}
                 AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
             ), holders AS MATERIALIZED (
               SELECT substring(a.application_name FROM 'for=([0-9]{{1,9}}) ')::int AS leader, pg_catalog.count(*) AS slots
               FROM locks JOIN pg_catalog.pg_stat_activity AS a USING (pid)
               WHERE granted AND key BETWEEN 1 AND {MOST} GROUP BY pid, leader
             ), placeholders AS MATERIALIZED (
               SELECT pid, substring(application_name FROM 'for=([0-9]{{1,9}}) ')::int AS leader
               FROM pg_catalog.pg_stat_activity WHERE application_name LIKE 'hold=1 for=%' AND leader_pid IS NULL
             ), leaders AS MATERIALIZED (
               SELECT coalesce(p.leader, w.leader_pid) AS leader_pid, pg_catalog.sum(w.workers)::int AS workers
               FROM {} AS w LEFT JOIN placeholders AS p ON p.pid = w.leader_pid GROUP BY 1
             )
             SELECT (SELECT coalesce(pg_catalog.sum(slots), 0) FROM holders),
                    EXISTS (SELECT FROM locks WHERE key = {PRIORITY_TURNSTILE}),
                    pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
                    leaders.workers, coalesce((SELECT pg_catalog.sum(slots) FROM holders WHERE leader = leaders.leader_pid), 0),
                    {}
             FROM (VALUES (0)) AS always LEFT JOIN leaders ON true",
            serial!(),
            workers!("pg_catalog.pg_stat_activity"),
            pool!(),
        )
    }

    /// Takes `demand` of `size` slots and leaves the queue, or takes none and stays; all in one statement.
    pub(crate) async fn take(&self, demand: u32, size: u32) -> Result<bool, Failure> {
        let Self { turnstile, .. } = self;
        let class = self.class.cast_signed();
        // The subquery is fenced, so that locks are tried one by one until there are enough.
        let row = one(
            &self.client,
            &format!(
                "WITH taken AS MATERIALIZED (
                   SELECT slot FROM (
                     SELECT slot, pg_catalog.pg_try_advisory_lock({class}, slot) AS got
                     FROM pg_catalog.generate_series(1, {size}) AS slot OFFSET 0
                   ) AS tried WHERE got LIMIT {demand}
                 ), counted AS MATERIALIZED (SELECT pg_catalog.count(*) >= {demand} AS enough FROM taken)
                 SELECT enough, CASE WHEN enough
                   THEN pg_catalog.pg_advisory_unlock({class}, {turnstile})
                   ELSE (SELECT pg_catalog.bool_and(pg_catalog.pg_advisory_unlock({class}, slot)) FROM taken) END,
                   CASE WHEN enough THEN {} END
                 FROM counted",
                idle_limit("0")
            ),
        )
        .await?;
        Ok(text(&row, 0) == "t")
    }

    /// Becomes the one that gathers, if nobody is.
    pub(crate) async fn begin_gathering(&self) -> Result<bool, Failure> {
        let class = self.class.cast_signed();
        let row = one(&self.client, &format!("SELECT pg_catalog.pg_try_advisory_lock({class}, {GATHERER})"))
            .await?;
        Ok(text(&row, 0) == "t")
    }

    /// How many more connections the server has for the role.
    pub(crate) async fn spare_connections(&self) -> Result<u32, Failure> {
        const SPARE: &str = concat!(
            "WITH ",
            serial!(),
            " SELECT greatest(0, least(
                pg_catalog.current_setting('max_connections')::int - pg_catalog.current_setting('superuser_reserved_connections')::int
                - coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int
                - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL AND leader_pid IS NULL),
                (SELECT CASE WHEN rolconnlimit < 0 OR rolsuper THEN NULL ELSE rolconnlimit -
                   (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE usename = session_user AND leader_pid IS NULL) END
                 FROM pg_catalog.pg_roles WHERE rolname = session_user)))"
        );
        Ok(text(&one(&self.client, SPARE).await?, 0).parse().unwrap_or(0))
    }

    /// Lets somebody else gather.
    pub(crate) async fn end_gathering(&self) -> Result<(), Failure> {
        let class = self.class.cast_signed();
        Ok(self
            .client
            .batch_execute(&format!("SELECT pg_catalog.pg_advisory_unlock({class}, {GATHERER})"))
            .await?)
    }

    /// Says whom the slots serve now.
    pub(crate) async fn relabel(&self, label: &str) -> Result<(), Failure> {
        let mut statement = String::from("SET application_name TO '");
        // Task names have no quotes; the number of quotes is settled here all the same.
        let _ = write!(statement, "{}'", label.replace('\'', "''"));
        Ok(self.client.batch_execute(&statement).await?)
    }

    /// Whether the connection is gone, so that the slots are no longer ours.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// Readies a session that is to hold something: [`PREPARE`]. Who it is, and the size of its pool.
pub(super) async fn prepare(client: &Client) -> Result<(Identity, u32), Failure> {
    let row = one(client, PREPARE).await?;
    let number = |index| text(&row, index).parse::<i64>().ok();
    let started = match number(1) {
        Some(started) => started,
        None => session::started(client).await?,
    };
    Ok((Identity { pid: number(0).unwrap_or(0) as i32, started }, number(2).unwrap_or(0) as u32))
}

/// Nothing that an administrator configured for statements may end a wait or a hold; a dead client is to be
/// noticed within half a minute, also when its host died without a word. From 14 on, the server notices a dead client also
/// while its statement waits.
const PREPARE: &str = concat!(
    "\
SELECT own.pid, pg_catalog.round(extract(epoch FROM a.backend_start) * 1000000)::bigint, ",
    pool!(),
    ", ",
    as_login!(),
    ",
       pg_catalog.set_config('statement_timeout', '0', false), pg_catalog.set_config('lock_timeout', '0', false),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '0', false),
       pg_catalog.set_config('tcp_keepalives_idle', '10', false), pg_catalog.set_config('tcp_keepalives_interval', '5', false),
       pg_catalog.set_config('tcp_keepalives_count', '3', false),
       CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 140000
            THEN pg_catalog.set_config('client_connection_check_interval', '1s', false)
                 || pg_catalog.set_config('idle_session_timeout', '0', false) END,
       CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 170000
            THEN pg_catalog.set_config('transaction_timeout', '0', false) END
FROM (SELECT pg_catalog.pg_backend_pid() AS pid OFFSET 0) AS own
LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = own.pid"
);

/// How many are before the session with that pid, on any connection of the cluster: who holds the lock that
/// it waits for, and who waits before it (`pg_blocking_pids` counts both). 0 when it waits for nothing.
pub(crate) async fn ahead_of(client: &Client, pid: i32) -> Result<u32, Failure> {
    let sql = format!("SELECT pg_catalog.cardinality(pg_catalog.pg_blocking_pids({pid}))");
    Ok(text(&one(client, &sql).await?, 0).parse().unwrap_or(0))
}

/// The first row of the answer.
pub(super) async fn one(client: &Client, sql: &str) -> Result<SimpleQueryRow, Failure> {
    let messages = client.simple_query(sql).await?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.ok_or_else(|| Failure::client("the server answered without a row"))
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn text(row: &SimpleQueryRow, index: usize) -> &str {
    row.try_get(index).ok().flatten().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_own_keys_for_ever() {
        // Two versions of this program must meet in one queue.
        assert_eq!(class("headcount"), 0xe76e_6e22);
        assert_ne!(class("headcount"), class("headcounts"));
    }
}
