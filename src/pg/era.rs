//! One life of a server: from its start, or its recovery from a crash, to the next.
//!
//! Transaction ids are only good within one. A crash forgets what was not flushed, an id that was handed
//! out included, and the next life hands it out again (seen on 15: the id of a chunk whose COMMIT the
//! crash swallowed went to another chunk, and `pg_xact_status` said "committed"). So whoever asks for
//! the fate of a transaction compares eras first. A standby that was promoted is another era, too.
//!
//! `pg_postmaster_start_time()` alone is not enough: the postmaster survives the crash of a backend.
//! Its own processes (checkpointer, WAL writer...) do not; their pids are visible to every role.

use tokio_postgres::{Client, Row};

use super::Failure;

/// Told apart from others by [`is_same`](Self::is_same).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Era {
    /// Microseconds since 1970: a text would depend on the session's settings.
    started: i64,
    /// The server's own processes. Some come and go within an era, the checkpointer stays.
    own: Vec<i32>,
}

/// What an era is known by, of the server that answers.
macro_rules! known_by {
    () => {
        "SELECT round(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
       ARRAY(SELECT pid FROM pg_catalog.pg_stat_activity WHERE datid IS NULL AND usesysid IS NULL)"
    };
}

const NOW: &str = known_by!();

/// Also readies the session. A commit that was answered shall outlive a crash (manual, "Asynchronous Commit":
/// with `synchronous_commit = off` it may not), also when the server's configuration is changed meanwhile. Since
/// 14 a backend notices that its client is gone even while it waits for a lock.
const READY: &str = concat!(
    known_by!(),
    ",
       pg_catalog.pg_is_in_recovery(),
       (SELECT bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_catalog.pg_proc
        WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),
       CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('client_connection_check_interval', '1s', false) END"
);

impl Era {
    /// Learns in which era a session is.
    pub(crate) async fn now(client: &Client) -> Result<Self, Failure> {
        Ok(Self::of(&ask(client, NOW).await?))
    }

    /// Readies a session for commits that last. Learns in which era it is, how its commits wait
    /// (`synchronous_commit`), and whether its role may write a mark into the log.
    ///
    /// # Errors
    /// As of a server that is starting up (57P03) where it is a standby: it may be about to be promoted.
    pub(crate) async fn ready(client: &Client) -> Result<(Self, String, bool), Failure> {
        let row = ask(client, READY).await?;
        if row.get(2) {
            return Err(Failure::found("57P03", "the server is a standby"));
        }
        Ok((Self::of(&row), row.get(4), row.get::<_, Option<bool>>(3).unwrap_or(false)))
    }

    fn of(row: &Row) -> Self {
        Self { started: row.get(0), own: row.get(1) }
    }

    /// Whether the server has lived on from one to the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // Where nobody may see the server's own processes, its start must do.
        let hidden = self.own.is_empty() && other.own.is_empty();
        self.started == other.started && (hidden || self.own.iter().any(|pid| other.own.contains(pid)))
    }
}

async fn ask(client: &Client, sql: &str) -> Result<Row, Failure> {
    let rows = client.query_typed(sql, &[]).await?;
    rows.into_iter().next().ok_or_else(|| Failure::client("the server did not say since when it runs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(started: i64, own: &[i32]) -> Era {
        Era { started, own: own.to_vec() }
    }

    #[test]
    fn a_restart_a_crash_and_another_server_are_other_eras() {
        let now = era(15, &[10, 11, 12]);
        assert!(now.is_same(&now) && now.is_same(&era(15, &[10, 11, 40])));
        assert!(!now.is_same(&era(25, &[10, 11, 12])), "restarted, in a container with the same pids");
        assert!(!now.is_same(&era(15, &[60, 61, 62])), "a backend crashed");
        assert!(era(15, &[]).is_same(&era(15, &[])));
    }
}
