//! The ceiling of a session: how it is raised, and what it is made of. See [`decide::ceiling`](crate::decide::ceiling).

use tokio_postgres::Client;

use super::Failure;
use crate::decide::ceiling::Ceiling;
use crate::settings::{Raise, Settings};

/// What ALTER ROLE and ALTER DATABASE set for the role that logged in, the most special first. What is set for all
/// (`ALTER ROLE ALL`) is the server's default by another name.
macro_rules! set_apart {
    ($($whose:tt)*) => {
        concat!(
            "(SELECT pg_catalog.substr(v, 22)::int FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) v
       WHERE v LIKE 'max_parallel_workers=%' AND ",
            $($whose)*,
            " ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1)"
        )
    };
}
macro_rules! of_role {
    () => {
        "s.setrole = pg_catalog.quote_ident(session_user)::pg_catalog.regrole
       AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
    };
}
macro_rules! of_database {
    () => {
        "s.setrole = 0 AND s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    };
}

const READ: &str = concat!(
    "WITH ",
    serial!(),
    " SELECT p.setting::int, p.reset_val::int, pg_catalog.current_setting('max_worker_processes')::int, ",
    set_apart!(of_role!()),
    ", ",
    set_apart!(of_database!()),
    ", pg_catalog.quote_ident(session_user), pg_catalog.quote_ident(pg_catalog.current_database())
  FROM pg_catalog.pg_settings p WHERE p.name = 'max_parallel_workers'"
);

/// Reads the session's ceiling.
pub(crate) async fn read(client: &Client) -> Result<Ceiling, Failure> {
    let row = client.query_one(READ, &[]).await?;
    let number = |column| row.try_get::<_, i32>(column).map(|n| n.try_into().unwrap_or(0));
    let maybe = |column| {
        let value: Result<Option<i32>, _> = row.try_get(column);
        value.map(|value| value.and_then(|n| n.try_into().ok()))
    };
    Ok(Ceiling {
        workers: number(0)?,
        given: number(1)?,
        processes: number(2)?,
        of_role: maybe(3)?,
        of_database: maybe(4)?,
        role: row.try_get(5)?,
        database: row.try_get(6)?,
    })
}

/// The statement that raises the session's ceiling, for the simple protocol; nothing where it is not asked for. It never
/// lowers it, never goes beyond the processes less those that are to be left, and not above what was set for the role
/// or the database itself, unless that was asked for.
pub(crate) fn raise(settings: &Settings) -> Option<String> {
    let wish = match settings.ceiling? {
        Raise::Auto => String::new(),
        Raise::To(workers) => format!(", {workers}"),
    };
    let leave = settings.leave;
    let apart = if settings.above_role {
        String::new()
    } else {
        format!(", coalesce({}, {})", set_apart!(of_role!()), set_apart!(of_database!()))
    };
    let local = settings.transaction;
    Some(format!(
        "WITH {} SELECT pg_catalog.set_config('max_parallel_workers', c.top::text, {local}) FROM (SELECT least(
           pg_catalog.current_setting('max_worker_processes')::int - {leave}{wish}{apart}) AS top OFFSET 0) c
         WHERE c.top > pg_catalog.current_setting('max_parallel_workers')::int;",
        serial!()
    ))
}
