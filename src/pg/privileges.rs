//! What the monitor's role may see and stop, and what the leader's may not execute.
//!
//! `pg_stat_activity` hides other roles' `leader_pid`, `state` and `backend_start` from a role that
//! neither has theirs nor `pg_read_all_stats`: such a monitor counts no worker on a healthy query.
//! `GRANT SELECT ON pg_stat_activity` does not change that; the hiding is in the function below the
//! view (pgstatfuncs.c, `HAS_PGSTAT_PERMISSIONS`). Signals need the role itself or `pg_signal_backend`.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::Failure;
use super::session::{Identity, Session};
use crate::error::{Error, Refusal};
use crate::fix::Fix;

/// The functions of `pg_catalog` without which no work can be done or its end be known, that a role may not execute: who
/// hardens a server takes such rights from PUBLIC. Separated by commas.
macro_rules! forbidden {
    ($role:literal) => {
        concat!(
            "(SELECT coalesce(pg_catalog.string_agg(wanted.name, ', '), '') FROM pg_catalog.unnest(ARRAY[
                'pg_backend_pid()', 'set_config(text,text,boolean)', 'current_setting(text)',
                'pg_stat_get_activity(integer)', 'pg_postmaster_start_time()', 'pg_is_in_recovery()',
                'pg_current_xact_id_if_assigned()', 'pg_xact_status(xid8)']) AS wanted(name)
              WHERE NOT pg_catalog.has_function_privilege(",
            $role,
            ", 'pg_catalog.' || wanted.name, 'EXECUTE'))"
        )
    };
}

/// What the session's role may not execute, by its name and for the slots of a fleet.
const FORBIDDEN: &str = concat!(
    "SELECT current_user::text, ",
    forbidden!("current_user"),
    ", (SELECT coalesce(pg_catalog.string_agg(wanted.name, ', '), '') FROM pg_catalog.unnest(ARRAY[
          'pg_advisory_lock(integer,integer)', 'pg_try_advisory_lock(integer,integer)',
          'pg_advisory_unlock(integer,integer)']) AS wanted(name)
        WHERE NOT pg_catalog.has_function_privilege(current_user, 'pg_catalog.' || wanted.name, 'EXECUTE'))"
);

/// Functions that a role may not execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forbidden {
    role: String,
    functions: String,
}

impl Forbidden {
    /// What the session's role may not execute: of what all work needs, and of what slots need besides.
    pub(crate) async fn of(client: &Client) -> Result<(Option<Self>, Option<Self>), Failure> {
        let messages = client.simple_query(FORBIDDEN).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let field = |index| row.and_then(|row| row.get(index)).unwrap_or_default().to_owned();
        let some = |index| Some(Self { role: field(0), functions: field(index) }).filter(Self::is_any);
        Ok((some(1), some(2)))
    }

    fn is_any(&self) -> bool {
        !self.functions.is_empty()
    }

    /// The reason, as a clause.
    pub(crate) fn problem(&self) -> String {
        format!("{} may not execute {}", self.role, self.functions)
    }

    /// What to type.
    pub(crate) fn fix(&self) -> String {
        // A comma separates arguments as well.
        let functions = self.functions.replace(", ", ", pg_catalog.");
        format!("GRANT EXECUTE ON FUNCTION pg_catalog.{functions} TO {};", quote(&self.role))
    }

    fn failure(&self) -> Failure {
        Failure::found("42501", format!("the role {}: {}", self.problem(), self.fix()))
    }
}

/// Refuses a session whose role may not execute what all work needs: it would be found out at the end of the work.
pub(crate) async fn check_functions(client: &Client) -> Result<(), Error> {
    let failed = |failure| Error::sql(LOOKING, failure);
    match Forbidden::of(client).await.map_err(failed)? {
        (Some(forbidden), _) => Err(failed(forbidden.failure())),
        (None, _) => Ok(()),
    }
}

const LOOKING: &str = "looking at the role's rights";

/// A failure of a session's first statement, told by what the role lacks where that is the reason.
pub(crate) async fn explain(client: &Client, failure: Failure) -> Failure {
    if failure.sqlstate() != Some("42501") {
        return failure;
    }
    match Forbidden::of(client).await {
        Ok((Some(forbidden), _)) => forbidden.failure(),
        _ => failure,
    }
}

const RIGHTS: &str = concat!(
    "WITH ",
    serial!(),
    " SELECT current_user::text, l.usename::text, l.backend_start IS NOT NULL,
       pg_catalog.pg_has_role(current_user, l.usesysid, 'USAGE')
       OR (pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE')
           AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = l.usesysid)),
       (SELECT rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = l.usesysid),
       l.state IS DISTINCT FROM 'disabled', ",
    forbidden!("l.usesysid"),
    "
FROM pg_catalog.pg_stat_activity l WHERE l.pid = $1
  AND ($2::bigint = 0 OR l.backend_start IS NULL OR pg_catalog.round(extract(epoch FROM l.backend_start) * 1000000)::bigint = $2)"
);

/// The monitor's rights over one leader.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "answers of the catalog, one a column")]
pub(crate) struct Rights {
    monitor_role: String,
    leader_role: String,
    sees: bool,
    may_stop: bool,
    leader_is_superuser: bool,
    /// Whether the leader's session says what it does, as far as is known.
    tracked: bool,
    forbidden: Forbidden,
}

/// What is wrong with a session without `track_activities`, and the fix.
pub(crate) const UNTRACKED: (&str, &str) = (
    "track_activities is off: a running statement looks idle, and would not be cancelled",
    "ALTER SYSTEM SET track_activities = on; SELECT pg_reload_conf(); -- or for the role or the database that switches it off",
);

/// Asks the server; `None` when it has no such backend: another server may well have one of the same
/// pid. A start of 0 is not known, and is not compared.
pub(crate) async fn over(session: &Session, leader: Identity) -> Result<Option<Rights>, Failure> {
    let rows = session.ask(RIGHTS, &[(&leader.pid, Type::INT4), (&leader.started, Type::INT8)]).await?;
    Ok(rows.first().map(Rights::from_row))
}

/// The same on any client.
pub(crate) async fn seen_by(client: &Client, leader: Identity) -> Result<Option<Rights>, Failure> {
    let leader: [(&(dyn ToSql + Sync), Type); 2] = [(&leader.pid, Type::INT4), (&leader.started, Type::INT8)];
    Ok(client.query_typed(RIGHTS, &leader).await?.first().map(Rights::from_row))
}

impl Rights {
    fn from_row(row: &Row) -> Self {
        Self {
            forbidden: Forbidden { role: row.get(1), functions: row.get(6) },
            monitor_role: row.get(0),
            leader_role: row.get(1),
            sees: row.get(2),
            may_stop: row.get(3),
            leader_is_superuser: row.get(4),
            tracked: row.get(5),
        }
    }

    /// Refuses a monitor that would guess, or could not act.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.forbidden.is_any() {
            return Err(Error::sql(LOOKING, self.forbidden.failure()));
        }
        self.check_sight()?;
        self.check_stop()?;
        self.check_tracked()
    }

    /// Refuses a leader whose statements look idle.
    fn check_tracked(&self) -> Result<(), Error> {
        if self.tracked {
            return Ok(());
        }
        let (problem, fix) = UNTRACKED;
        Err(Error::refused(Refusal::UntrackedActivity, problem, vec![Fix::sql(fix)]))
    }

    /// Refuses a monitor that counts no worker of a healthy query.
    pub(crate) fn check_sight(&self) -> Result<(), Error> {
        let Self { monitor_role, leader_role, .. } = self;
        if self.sees {
            return Ok(());
        }
        Err(Error::refused(
            Refusal::BlindMonitor,
            format!("the monitor's role {monitor_role} may not see the workers of {leader_role}"),
            vec![Fix::sql(format!(
                "GRANT pg_read_all_stats TO {}; -- GRANT SELECT ON pg_stat_activity does not help",
                quote(monitor_role)
            ))],
        ))
    }

    /// Refuses a monitor that may not cancel.
    pub(crate) fn check_stop(&self) -> Result<(), Error> {
        let Self { monitor_role, leader_role, .. } = self;
        if self.may_stop {
            return Ok(());
        }
        let fix = if self.leader_is_superuser {
            Fix::advice(format!(
                "run the statement as a role that is no superuser, or monitor as one: only a superuser may cancel {leader_role}"
            ))
        } else {
            Fix::sql(format!("GRANT pg_signal_backend TO {};", quote(monitor_role)))
        };
        Err(Error::refused(
            Refusal::MayNotCancel,
            format!("the monitor's role {monitor_role} may not cancel the statements of {leader_role}"),
            vec![fix],
        ))
    }

    /// Both roles: the monitor's, the leader's.
    pub(crate) fn roles(&self) -> (&str, &str) {
        (&self.monitor_role, &self.leader_role)
    }
}

/// An identifier, quoted.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
