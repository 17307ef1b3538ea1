//! The ceiling of a session: how it is raised, and what it is made of. See [`decide::ceiling`](crate::decide::ceiling).

use tokio_postgres::{Client, Row};

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

/// Last come the highest of what ALTER DATABASE set, and whether it set nothing for one that can be connected to.
const READ: &str = concat!(
    "WITH ",
    serial!(),
    ", databases AS (SELECT (SELECT pg_catalog.substr(v, 22)::int FROM pg_catalog.pg_db_role_setting s,
         pg_catalog.unnest(s.setconfig) v WHERE s.setrole = 0 AND s.setdatabase = d.oid AND v LIKE 'max_parallel_workers=%') AS own
       FROM pg_catalog.pg_database d WHERE d.datallowconn AND NOT d.datistemplate)
  SELECT p.setting::int, p.reset_val::int, pg_catalog.current_setting('max_worker_processes')::int, ",
    set_apart!(of_role!()),
    ", ",
    set_apart!(of_database!()),
    ", ",
    set_apart!("s.setrole = 0 AND s.setdatabase = 0"),
    ", (SELECT pg_catalog.max(own) FROM databases), (SELECT pg_catalog.bool_or(own IS NULL) FROM databases),
       coalesce(pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE'), false),
       pg_catalog.quote_ident(session_user)
  FROM pg_catalog.pg_settings p WHERE p.name = 'max_parallel_workers'"
);

/// What the files of the server say; where they say nothing, what it was built with.
const OF_SERVER: &str = concat!(
    "WITH ",
    serial!(),
    " SELECT coalesce((SELECT f.setting::int FROM pg_catalog.pg_show_all_file_settings() f
         WHERE f.name = 'max_parallel_workers' AND f.applied ORDER BY f.seqno DESC LIMIT 1), p.boot_val::int)
  FROM pg_catalog.pg_settings p WHERE p.name = 'max_parallel_workers'"
);

/// Reads the session's ceiling.
pub(crate) async fn read(client: &Client) -> Result<Ceiling, Failure> {
    let missing = || Failure::client("the server did not say what max_parallel_workers is");
    let rows = client.query_typed(READ, &[]).await?;
    let row = rows.first().ok_or_else(missing)?;
    let (given, of_role, of_database) = (number(row, 1)?, number(row, 3)?, number(row, 4)?);
    let of_server = match number(row, 5)? {
        None if of_role.or(of_database).is_none() => given,
        None if row.try_get(8)? => {
            let rows = client.query_typed(OF_SERVER, &[]).await?;
            number(rows.first().ok_or_else(missing)?, 0)?
        }
        of_all => of_all,
    };
    let highest = number(row, 6)?;
    // Where each database has its own, the server's is nobody's.
    let bare = row.try_get::<_, Option<bool>>(7)?.unwrap_or(true);
    let of_others = if bare { of_server.map(|server| server.max(highest.unwrap_or(0))) } else { highest };
    Ok(Ceiling {
        workers: number(row, 0)?.unwrap_or(0),
        given: given.unwrap_or(0),
        processes: number(row, 2)?.unwrap_or(0),
        of_role,
        of_database,
        of_others,
        role: row.try_get(9)?,
    })
}

fn number(row: &Row, column: usize) -> Result<Option<u32>, Failure> {
    Ok(row.try_get::<_, Option<i32>>(column)?.and_then(|number| number.try_into().ok()))
}

/// The statement that raises the session's ceiling, for the simple protocol. It never lowers it, never goes beyond the
/// processes less those that are to be left, and not above what was set for the role or the database itself, unless
/// that was asked for.
pub(crate) fn raise(raise: Raise, settings: &Settings) -> String {
    let wish = match raise {
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
    format!(
        "WITH {} SELECT pg_catalog.set_config('max_parallel_workers', c.top::text, {local}) FROM (SELECT least(
           pg_catalog.current_setting('max_worker_processes')::int - {leave}{wish}{apart}) AS top OFFSET 0) c
         WHERE c.top > pg_catalog.current_setting('max_parallel_workers')::int;",
        serial!()
    )
}
