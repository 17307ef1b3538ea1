//! One life of a server: from its start, or its recovery from a crash, to the next.
//!
//! Transaction ids are only good within one. A crash forgets what was not flushed, an id that was handed
//! out included, and the next life hands it out again (seen on 15: the id of a chunk whose COMMIT the
//! crash swallowed went to another chunk, and `pg_xact_status` said "committed"). So whoever asks for
//! the fate of a transaction compares lives first. A standby that was promoted is another life, too.
//!
//! `pg_postmaster_start_time()` alone is not enough: the postmaster survives the crash of a backend.
//! Its own processes (checkpointer, WAL writer...) do not; their pids are visible to every role.

use futures_util::future::join;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::Failure;
use super::session::Identity;
use crate::decide::update::life::Life;
pub(crate) use crate::decide::update::life::LifeId;
use crate::decide::update::survival::History;

/// A session that is ready for commits that last, and what it has told.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) life: Life,
    /// How its commits wait (`synchronous_commit`).
    pub(crate) waiting: String,
    /// Whether they wait for a standby.
    pub(crate) has_standby: bool,
    /// Whether its role may write a mark into the log.
    pub(crate) may_mark: bool,
    pub(crate) identity: Identity,
    /// Whether its backend is a proxy's, which may have given it to somebody else when the session is lost.
    pub(crate) lent: bool,
}

/// What the life is known by that the server is in. The function below the view, which joins what is not asked for: half
/// of what starting a session costs, otherwise.
macro_rules! known_by {
    () => {
        concat!(
            "WITH ",
            serial!(),
            " SELECT pg_catalog.round(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
       ARRAY(SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) WHERE datid IS NULL AND usesysid IS NULL)"
        )
    };
}

/// Whether the role may write a mark into the log.
macro_rules! may_mark {
    () => {
        "SELECT coalesce(pg_catalog.bool_and(pg_catalog.has_function_privilege(oid, 'EXECUTE')), false) FROM pg_catalog.pg_proc
        WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace"
    };
}
pub(in crate::pg) use may_mark;

const NOW: &str = known_by!();

/// Also readies the session. A commit that was answered shall outlive a crash (manual, "Asynchronous Commit":
/// with `synchronous_commit = off` it may not), also when the server's configuration is changed meanwhile. No
/// transaction is deferrable but the one that says so. And a backend whose client is gone shall notice soon,
/// since it may hold locks: at work since 14 (`client_connection_check_interval`), and at rest by keepalives.
/// That is left alone where the backend is not that of the session's key (`$1`), but a proxy's.
const READY: &str = concat!(
    known_by!(),
    ",
       pg_catalog.pg_is_in_recovery(),
       (",
    may_mark!(),
    "),
       pg_catalog.set_config('synchronous_commit', CASE pg_catalog.current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE pg_catalog.current_setting('synchronous_commit') END, false),
       pg_catalog.current_setting('synchronous_standby_names') <> '' AND pg_catalog.current_setting('synchronous_commit') <> 'local',
       pg_catalog.pg_backend_pid(),
       (SELECT pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint
        FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())),
       pg_catalog.set_config('default_transaction_deferrable', 'off', false),
       (SELECT pg_catalog.count(pg_catalog.set_config(s.name, w.most::text, false)) FROM pg_catalog.pg_show_all_settings() s
          JOIN (VALUES ('tcp_keepalives_idle', 15), ('tcp_keepalives_interval', 5), ('tcp_keepalives_count', 3),
                       ('tcp_user_timeout', 30000), ('client_connection_check_interval', 1000)) AS w(setting, most)
            ON s.name = w.setting
        WHERE coalesce($1::int4 = pg_catalog.pg_backend_pid(), true)
          AND (s.setting::int = 0 OR s.setting::int > w.most))"
);

/// In a statement of its own: roles may be kept from some of it.
const HISTORY: &str = "\
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
       substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8),
       pg_catalog.pg_last_wal_replay_lsn()::text,
       pg_catalog.pg_last_wal_receive_lsn() IS NOT NULL,
       pg_catalog.pg_current_wal_insert_lsn()::text";

/// Who took another role does not see its own row (manual, "Viewing Statistics"); who logged in does.
const STARTED: &str = concat!(
    "\
BEGIN; SET LOCAL ROLE NONE;
WITH ",
    serial!(),
    " SELECT pg_catalog.round(extract(epoch FROM backend_start) * 1000000)::bigint
FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid());
ROLLBACK",
);

impl LifeId {
    /// Learns in which life of its server a session is.
    pub(crate) async fn now(client: &Client) -> Result<Self, Failure> {
        Ok(Self::of(&ask(client, NOW, &[]).await?))
    }

    /// Readies a session for commits that last, and learns what they depend on. `key` is the process id in its key.
    ///
    /// # Errors
    /// As of a server that is starting up (57P03) where it is a standby, and is to be written to: it may be about to be
    /// promoted.
    pub(crate) async fn ready(client: &Client, key: Option<i32>, writes: bool) -> Result<Ready, Failure> {
        let facts: [(&(dyn ToSql + Sync), Type); 1] = [(&key, Type::INT4)];
        let (row, history) = join(ask(client, READY, &facts), ask(client, HISTORY, &[])).await;
        let row = row?;
        if writes && row.get(2) {
            return Err(Failure::found("57P03", "the server is a standby"));
        }
        let history = match history {
            Ok(row) => told(&row),
            Err(lost) if lost.is_connection_lost() => return Err(lost),
            Err(_) => History::default(),
        };
        let started = match row.get(7) {
            Some(started) => started,
            None => started(client).await?,
        };
        Ok(Ready {
            life: Life { id: Self::of(&row), history },
            waiting: row.get(4),
            has_standby: row.get(5),
            may_mark: row.get(3),
            identity: Identity { pid: row.get(6), started },
            lent: key.is_some_and(|key| key != row.get::<_, i32>(6)),
        })
    }

    fn of(row: &Row) -> Self {
        Self { started: row.get(0), own: row.get(1) }
    }
}

fn told(row: &Row) -> History {
    let text = |column: usize| row.get::<_, Option<&str>>(column);
    History {
        system: text(0).and_then(|system| system.parse().ok()),
        timeline: text(1).and_then(|timeline| u32::from_str_radix(timeline, 16).ok()),
        recovered: text(2).and_then(|position| position.parse().ok()),
        streamed: row.get(3),
        at: text(4).and_then(|position| position.parse().ok()),
    }
}

/// When the session's backend started, where its own row is hidden.
async fn started(client: &Client) -> Result<i64, Failure> {
    let messages = client.simple_query(STARTED).await?;
    let started = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    started.ok_or_else(|| Failure::client("the server did not say which backend this is"))
}

async fn ask(client: &Client, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Row, Failure> {
    let rows = client.query_typed(sql, parameters).await?;
    rows.into_iter().next().ok_or_else(|| Failure::client("the server did not say since when it runs"))
}
