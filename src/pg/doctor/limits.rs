//! How large the pool is, and which limits end work by itself.

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{Finding, fail, ok, text, warn};
use crate::fix::Fix;
use crate::pg::{Failure, plan};

/// What ends statements, transactions and sessions by itself, and who has said so.
pub(super) async fn limits(client: &Client) -> Result<Vec<Finding>, Failure> {
    const LIMITS: &str = "
        SELECT name, pg_catalog.current_setting(name), source FROM pg_catalog.pg_settings
        WHERE setting <> '0' AND name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
                                          'idle_in_transaction_session_timeout')
        ORDER BY name <> 'statement_timeout', name";
    let answer = client.simple_query(LIMITS).await?;
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let finding = |row: &SimpleQueryRow| {
        let (name, value, source) = (text(row, 0), text(row, 1), text(row, 2));
        let (check, effect) = match name {
            "statement_timeout" => ("timeout", "each longer statement"),
            "lock_timeout" => ("lock timeout", "each longer wait for a lock"),
            "transaction_timeout" => ("transaction timeout", "each longer transaction, and its session"),
            _ => ("idle timeout", "the session of a script whose statement waits longer for room"),
        };
        let said = format!("{name} = {value} ({}) ends {effect}", said_by(source));
        // Many a server has one, with good reason.
        if check == "lock timeout" { ok(check, said) } else { warn(check, said, Fix::set(name, 0)) }
    };
    Ok(rows.map(finding).collect())
}

/// What the server has loaded, where the role may see it: extensions may have workers of their own.
pub(super) async fn libraries(client: &Client) -> Result<Option<Finding>, Failure> {
    const LIBRARIES: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'shared_preload_libraries' AND setting <> ''";
    let answer = client.simple_query(LIBRARIES).await?;
    let found = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(text(row, 0)),
        _ => None,
    });
    Ok(found.map(|libraries| {
        ok(
            "libraries",
            format!(
                "shared_preload_libraries = {libraries}: if they have workers of their own, these take from \
                 max_worker_processes, and are seen only while they are connected to a database"
            ),
        )
    }))
}

/// `pg_settings.source`, for people.
fn said_by(source: &str) -> &str {
    match source {
        "user" => "set for the role",
        "database" => "set for the database",
        "database user" => "set for the role in this database",
        "client" => "set by the connection: options, PGOPTIONS",
        "configuration file" => "set in the server's configuration",
        other => other,
    }
}

/// `own`: whether its size is this session's own.
pub(super) fn pool(size: u32, workers: u32, processes: u32, target: u32, own: bool) -> Finding {
    let pool = format!("{size} slots (max_parallel_workers = {workers}, max_worker_processes = {processes})");
    if size < target {
        let fix = match plan::raise_processes(processes.into(), workers.into(), target) {
            Some(restart) => Fix::sql(format!("{restart}, or demand fewer workers")),
            None if own => Fix::set("max_parallel_workers", target),
            None => Fix::sql(format!(
                "ALTER SYSTEM SET max_parallel_workers = {target}; SELECT pg_reload_conf(); -- or more, or demand fewer \
                 workers"
            )),
        };
        return fail("pool", format!("{pool}, {target} workers are demanded"), fix);
    }
    if processes <= workers {
        let fix = Fix::sql(format!(
            "ALTER SYSTEM SET max_worker_processes = {}; -- or more, and restart the server",
            u64::from(workers) + plan::BESIDE
        ));
        return warn("pool", format!("{pool}; replication and extensions take from the same processes"), fix);
    }
    ok("pool", pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::doctor::Level;

    #[test]
    fn a_pool_that_is_too_small_names_the_setting_that_is_and_a_restart_only_where_it_takes_one() {
        let fix = |workers: u32, processes: u32, own| {
            let found = pool(workers.min(processes), workers, processes, 12, own);
            assert_eq!(found.level, Level::Fail);
            found.fix.unwrap().to_string()
        };
        let reload = "ALTER SYSTEM SET max_parallel_workers = 12; SELECT pg_reload_conf(); -- or more, or demand fewer workers";
        assert_eq!(fix(8, 16, false), reload);
        assert_eq!(fix(8, 16, true), "SET LOCAL max_parallel_workers = 12");
        let restart = "ALTER SYSTEM SET max_worker_processes = 20; -- or more, and restart the server, or demand fewer workers";
        assert_eq!(fix(16, 8, false), restart);
        let both = "ALTER SYSTEM SET max_worker_processes = 16; ALTER SYSTEM SET max_parallel_workers = 12; -- or more, \
                    and restart the server, or demand fewer workers";
        assert_eq!(fix(8, 8, true), both);
    }
}
