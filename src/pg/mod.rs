//! The PostgreSQL edge: all SQL, and all that is read from its answers.
//!
//! One capability a file, its SQL beside its row type:
//!
//! - how to get to a server: `connect`, from what `dsn`, `parameters`, `passfile` and `service` say (`libpq` lists all that
//!   libpq knows); `hosts` and `session_attrs` choose one of several; `tls`
//! - a session: who it is (`session`, `backend_key`, `label`), what it hears (`heard`), what lies between (`pooling`,
//!   `hosting`), an answer that does not arrive (`silence`)
//! - a guarded statement: its plan (`plan`), what the monitor sees (`activity`, `counters`), what it may see and stop
//!   (`privileges`, `cancel`), how many workers the session may have (`ceiling`), the slots of a fleet (`slots`, `fleet`)
//! - an update: the SQL of a chunk (`update`), a commit in doubt (`xact`), whether the server has crashed meanwhile (`life`)
//! - questions from outside: `doctor`, and the query of a client that died (`orphan`)

/// For the `WITH` of a query about the server. It is never executed. Naming a parallel unsafe function keeps the query
/// serial, so it takes no workers from the pool that it asks about, even where parallel plans are made to cost nothing.
/// A setting would do the same, but might stay behind in a proxy's pool.
macro_rules! serial {
    () => {
        "serial AS (SELECT pg_catalog.set_config('max_parallel_workers_per_gather', '0', true))"
    };
}

/// Slots of the pool, as the session that asks is configured.
macro_rules! pool {
    () => {
        "least(pg_catalog.current_setting('max_parallel_workers')::int, pg_catalog.current_setting('max_worker_processes')::int)"
    };
}

/// The parallel workers of each leader, among the rows of `pg_stat_activity` or what was read of it: processes that
/// really run. All that counts workers uses this, but for `activity::left`, which asks whether those of a backend that was
/// stopped are gone.
macro_rules! workers {
    ($activity:literal) => {
        concat!(
            "(SELECT leader_pid, pg_catalog.array_agg(pid) AS pids, pg_catalog.count(*)::int AS workers FROM ",
            $activity,
            " WHERE backend_type = 'parallel worker' GROUP BY leader_pid)"
        )
    };
}

/// For a session that watches others: back to the role that logged in, which sees and stops its own sessions, unless only
/// the current role may see and stop those of others.
macro_rules! as_login {
    () => {
        "CASE WHEN current_user <> session_user AND (pg_catalog.pg_has_role(session_user, current_user, 'USAGE')
                  OR NOT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                  OR NOT pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE'))
            THEN pg_catalog.set_config('role', 'none', false) END"
    };
}

pub(crate) mod activity;
pub(crate) mod backend_key;
pub(crate) mod cancel;
pub(crate) mod ceiling;
pub(crate) mod connect;
pub(crate) mod counters;
pub mod doctor;
mod dsn;
pub(crate) mod failure;
pub mod fleet;
pub(crate) mod heard;
mod hosting;
mod hosts;
pub(crate) mod label;
mod libpq;
pub(crate) mod life;
mod lookup;
pub(crate) mod orphan;
mod parameters;
mod passfile;
pub(crate) mod placeholder;
pub(crate) mod plan;
pub(crate) mod pooling;
pub(crate) mod privileges;
mod service;
pub(crate) mod session;
mod session_attrs;
pub(crate) mod silence;
pub(crate) mod slots;
mod tls;
pub(crate) mod update;

pub(crate) mod xact;

pub(crate) use failure::Failure;
