//! A session that knows who it is on the server.
//!
//! A pid alone names nobody for long: the operating system uses it again. So a session carries its
//! `backend_start` beside its pid, and whoever acts on it later compares both
//! (`pg_stat_activity.backend_start`, in microseconds since the Unix epoch).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::connect::Endpoint;
use super::heard::Heard;
use super::{Failure, backend_key, label, privileges};

/// The oldest server with `pg_stat_activity.leader_pid`.
pub(crate) const OLDEST: i32 = 130_000;

/// One backend, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// Its process id.
    pub pid: i32,
    /// When it started: microseconds since the Unix epoch.
    pub started: i64,
}

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
    pub(crate) identity: Identity,
    pub(crate) version: i32,
    /// Whether somebody between has lent it its backend ([`backend_key`]), and may lend another one for the next
    /// transaction: a statement that was prepared is not found there, or is somebody else's.
    pub(crate) lent: bool,
    /// Whether its key names its backend: nobody between lends backends.
    pub(crate) owns_backend: bool,
    /// What its server says beside its answers.
    pub(crate) heard: Heard,
    /// What it was asked before.
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

/// Who am I; and, since 14, stop my statement when my client dies; and warn me, for [`Heard`]: not where the backend is a
/// proxy's, and may be somebody else's next. Behind a proxy that keeps its backends, each is to
/// have the second name before it is at rest. `backend_start` is the same value
/// that other sessions read, as one integer free of time zone and date style.
const INTRODUCE: &str = concat!(
    "WITH ",
    serial!(),
    " SELECT own.pid, pg_catalog.round(extract(epoch FROM a.backend_start) * 1000000)::bigint,
       pg_catalog.current_setting('server_version_num')::int,
       CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 140000 AND coalesce($1::int4 = a.pid, true)
            THEN pg_catalog.set_config('client_connection_check_interval', '1s', false) END,
       CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 140000 AND $3 AND $1::int4 = own.pid
            THEN pg_catalog.set_config('idle_session_timeout', '0', false) END,
       CASE WHEN $3 AND $1::int4 = own.pid THEN ",
    as_login!(),
    " END,
       CASE WHEN pg_catalog.current_setting('client_min_messages') = 'error' AND coalesce($1::int4 = own.pid, true)
            THEN pg_catalog.set_config('client_min_messages', 'warning', false) END,
       CASE WHEN $1::int4 <> own.pid AND $2::text IS NOT NULL THEN pg_catalog.set_config('application_name', $2::text, false) END
FROM (SELECT pg_catalog.pg_backend_pid() AS pid OFFSET 0) AS own
LEFT JOIN pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a ON a.pid = own.pid"
);

const MYSELF: &str = concat!(
    "\
WITH ",
    serial!(),
    " SELECT own.pid, pg_catalog.round(extract(epoch FROM a.backend_start) * 1000000)::bigint
FROM (SELECT pg_catalog.pg_backend_pid() AS pid OFFSET 0) AS own
LEFT JOIN pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a ON a.pid = own.pid",
);

/// A session under another role than the one that logged in does not see its own row (`ALTER ROLE ... SET role`, SET
/// ROLE): it looks without that role, and takes it again, all in one statement.
const UNDISGUISED: &str = "\
SELECT pg_catalog.round(extract(epoch FROM a.backend_start) * 1000000)::bigint::text, pg_catalog.set_config('role', worn.role, true)
FROM (SELECT pg_catalog.current_setting('role') AS role OFFSET 0) AS worn,
     LATERAL (SELECT pg_catalog.set_config('role', 'none', true) AS role WHERE worn.role IS NOT NULL OFFSET 0) AS off,
     LATERAL (SELECT backend_start FROM pg_catalog.pg_stat_get_activity(
                CASE WHEN off.role = 'none' THEN pg_catalog.pg_backend_pid() END) OFFSET 0) AS a";

const NOBODY: &str = "the server did not say which backend this is";

/// Has a session of its own backend see and stop what the role may that logged in.
pub(super) async fn look_as_login(client: &Client) -> Result<(), Failure> {
    client.simple_query(concat!("SELECT ", as_login!())).await?;
    Ok(())
}

/// When the session's backend started, whatever role it is under.
pub(super) async fn started(client: &Client) -> Result<i64, Failure> {
    let messages = client.simple_query(UNDISGUISED).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let started = row.and_then(|row| row.get(0)?.parse().ok());
    started.ok_or_else(|| Failure::client(NOBODY))
}

/// Runs a script that begins a transaction, and learns which backend it runs on, in one round trip. `dialled` is the
/// one that the session began with.
pub(crate) async fn begin(client: &Client, script: &str, dialled: Identity) -> Result<Identity, Failure> {
    let messages = client.simple_query(&format!("{script}{MYSELF}")).await?;
    let last = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let field = |index| last.and_then(|row| row.get(index));
    let pid = field(0).and_then(|pid| pid.parse().ok()).ok_or_else(|| Failure::client(NOBODY))?;
    match field(1).and_then(|started| started.parse().ok()) {
        Some(started) => Ok(Identity { pid, started }),
        None if pid == dialled.pid => Ok(dialled),
        None => Ok(Identity { pid, started: started(client).await? }),
    }
}

impl Session {
    /// Connects and introduces itself. On a server before 13 the identity is still known, and
    /// `version` says that nothing else will work.
    pub(crate) async fn open(endpoint: &Endpoint, application_name: &str) -> Result<Self, Failure> {
        Self::open_as(endpoint, application_name, None, false).await
    }

    /// The same for one that watches others, and is to be there when it has to act: where its backend is its own, no
    /// timeout for idle sessions ends it, and it sees and stops what the role may that logged in, whichever role that
    /// is set to become.
    pub(crate) async fn stand_by(endpoint: &Endpoint, application_name: &str) -> Result<Self, Failure> {
        Self::open_as(endpoint, application_name, None, true).await
    }

    /// The same for a leader: a proxy's backend says that it is one ([`label::pooled`]), because it keeps its name
    /// when the leader is gone.
    pub(crate) async fn lead(endpoint: &Endpoint, application_name: &str) -> Result<Self, Failure> {
        Self::open_as(endpoint, application_name, Some(label::pooled(application_name)), false).await
    }

    async fn open_as(
        endpoint: &Endpoint,
        name: &str,
        pooled: Option<String>,
        stands_by: bool,
    ) -> Result<Self, Failure> {
        let heard = Heard::default();
        let (client, driver) = endpoint.open_heard(name, &heard).await?;
        let key = backend_key::process_id(&client).await;
        let facts: [(&(dyn ToSql + Sync), Type); 3] =
            [(&key, Type::INT4), (&pooled, Type::TEXT), (&stands_by, Type::BOOL)];
        let introduce = async { Ok(client.query_typed(INTRODUCE, &facts).await?) };
        // One that looks after others is given up by them.
        let rows = if stands_by { introduce.await } else { endpoint.unless_silent(key, introduce).await };
        let rows = match rows {
            Ok(rows) => rows,
            Err(failure) => return Err(privileges::explain(&client, failure).await),
        };
        let row = rows.first().ok_or_else(|| Failure::client(NOBODY))?;
        let started = match row.get(1) {
            Some(started) => started,
            None => started(&client).await?,
        };
        let identity = Identity { pid: row.get(0), started };
        let version = row.get(2);
        let lent = key.is_some_and(|key| key != identity.pid);
        let owns_backend = key == Some(identity.pid);
        Ok(Self { client, driver, identity, version, lent, owns_backend, heard, prepared: Mutex::default() })
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Asks what may be asked again: it is prepared once, where the backend is the session's own.
    pub(crate) async fn ask(
        &self,
        sql: &'static str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Failure> {
        if self.lent {
            return Ok(self.client.query_typed(sql, parameters).await?);
        }
        let prepared = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let known = prepared().get(sql).cloned();
        let statement = if let Some(known) = known {
            known
        } else {
            let types: Vec<Type> = parameters.iter().map(|(_, of)| of.clone()).collect();
            let statement = self.client.prepare_typed(sql, &types).await?;
            prepared().insert(sql, statement.clone());
            statement
        };
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        Ok(self.client.query(&statement, &values).await?)
    }

    /// Ends it. A proxy that keeps the backend may give it to somebody else, and may not tidy up (PgBouncer with an empty
    /// `server_reset_query`): then nothing of ours stays behind.
    pub(crate) async fn close(self) {
        if self.lent && !self.is_closed() {
            tidy(&self.client).await;
        }
    }

    /// Gives the line up: what is asked on it is answered as on one that has broken.
    pub(crate) fn give_up(&self) {
        self.driver.abort();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// Leaves a backend as it was had, within a moment.
pub(crate) async fn tidy(client: &Client) {
    const MOMENT: Duration = Duration::from_secs(1);
    if !matches!(timeout(MOMENT, client.batch_execute("DISCARD ALL")).await, Ok(Ok(()))) {
        tracing::debug!("the settings of a session may stay behind in a proxy's backend");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Dropping the client sends Terminate; a driver stuck on a dead line must not outlive us.
        if self.client.is_closed() {
            self.driver.abort();
        }
    }
}
