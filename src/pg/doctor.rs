//! May this role, on this server, through what lies between, do the work?
//!
//! A guarded query that cannot see or stop its leader is refused when it runs, at night. The same
//! questions can be asked by day, all of them at once, each with what to change. Nothing is executed
//! but looks at the catalog, and nothing is left behind.
//!
//! The hard one is a proxy that pools transactions (`PgBouncer` with `pool_mode = transaction`): each
//! transaction may run on another backend, so the backend that is watched is not the one that works, and
//! prepared statements appear and vanish. It hides well; how it is found is said in `pooling`.
//!
//! The statement may stay behind one that pools transactions, since an attempt is a transaction, which keeps its
//! backend; so may the monitor, while there is a backend for it. Nothing outside a transaction may, nor slots.

mod limits;

use serde::Serialize;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use self::limits::{libraries, limits, pool};
use super::connect::Endpoint;
use super::hosting::Hosting;
use super::pooling::{NONE_TO_SPARE, Pooling};
use super::privileges::{self, Forbidden};
use super::session::{self, Identity, OLDEST};
use super::{Failure, ceiling, plan};
use crate::decide::ceiling::{LEAVE, Proposal};
use crate::error::Error;
use crate::fix::Fix;

/// How good an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, with a drawback.
    Warn,
    /// A run would be refused, or could not be guarded.
    Fail,
}

impl Level {
    /// The word for people and programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was asked: a constant word.
    pub check: &'static str,
    /// How good the answer is.
    pub level: Level,
    /// The answer, as a clause.
    pub text: String,
    /// What to change; always there when it failed.
    pub fix: Option<Fix>,
}

fn ok(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, text: text.into(), fix: None }
}

fn warn(check: &'static str, text: impl Into<String>, fix: Fix) -> Finding {
    Finding { check, level: Level::Warn, text: text.into(), fix: Some(fix) }
}

fn fail(check: &'static str, text: impl Into<String>, fix: Fix) -> Finding {
    Finding { check, level: Level::Fail, text: text.into(), fix: Some(fix) }
}

/// Asks everything, for runs with `target` workers. `monitor` is where the monitor connects when it
/// does not connect as the statement does. `fleet` is the database where the slots of a fleet are to be held;
/// without it `postgres` is tried, and nobody has failed who does not reserve. A proxy that pools statements, or has no
/// backend to spare for the monitor, a function that may not be executed, or a server that is too old, ends the
/// examination: what follows would be answered by chance.
///
/// # Errors
/// When no session can be had, or one is lost.
pub async fn examine(
    endpoint: &Endpoint,
    monitor: Option<&Endpoint>,
    target: u32,
    fleet: Option<&str>,
) -> Result<Vec<Finding>, Error> {
    let failed = |failure: Failure| Error::sql("examining the server", failure);
    let leader = endpoint.client("headcount:doctor").await?;
    let mut findings = vec![version(&leader).await.map_err(failed)?];
    if findings[0].level == Level::Fail {
        return Ok(findings);
    }
    let (forbidden, _) = Forbidden::of(&leader).await.map_err(failed)?;
    if let Some(forbidden) = forbidden {
        findings.push(fail("functions", forbidden.problem(), Fix::sql(forbidden.fix())));
        return Ok(findings);
    }
    let line = between(endpoint, &leader, "proxy").await?;
    let shared = monitor.is_none() && matches!(line, Line::Pools { .. });
    findings.push(line.judge(endpoint, "proxy", monitor.is_some()));
    if findings.iter().any(|finding| finding.level == Level::Fail) {
        return Ok(findings);
    }
    let note = Hosting::of(endpoint.host(), endpoint.port()).and_then(Hosting::note);
    findings.extend(note.map(|note| ok("hosting", note)));
    // It keeps its backend for as long as it is examined, whatever lies between.
    leader.batch_execute("BEGIN").await.map_err(|failure| failed(failure.into()))?;
    findings.extend(settings(&leader, target).await.map_err(failed)?);
    findings.push(kept_free(&leader, target).await.map_err(failed)?);
    let mut lent = shared;
    let watching = match monitor {
        Some(monitor) => {
            let client = monitor.client("headcount:doctor").await?;
            let line = between(monitor, &client, "monitor proxy").await?;
            lent = matches!(line, Line::Pools { .. });
            findings.push(line.judge(monitor, "monitor proxy", false));
            if findings.iter().any(|finding| finding.level == Level::Fail) {
                return Ok(findings);
            }
            client
        }
        None => endpoint.client("headcount:doctor").await?,
    };
    // A backend that is lent keeps what is set.
    if !lent {
        session::look_as_login(&watching).await.map_err(failed)?;
    }
    findings.extend(rights(&leader, &watching).await.map_err(failed)?);
    findings.push(reservation(monitor.unwrap_or(endpoint), lent, fleet).await);
    Ok(findings)
}

/// Whether slots can be held: it takes a session in the database that the fleet has agreed on, as the monitor's role.
async fn reservation(endpoint: &Endpoint, lent: bool, fleet: Option<&str>) -> Finding {
    let check = "reservation";
    let database = fleet.unwrap_or("postgres");
    let judged = if fleet.is_some() { fail } else { warn };
    if lent {
        let text = "slots of a fleet are held by a session, and a proxy pools transactions";
        return judged(check, text.to_owned(), way_past(endpoint));
    }
    let opened = endpoint.with_database(database).open("headcount:doctor").await;
    let asked = match &opened {
        Ok((client, _)) => Forbidden::of(client).await.map(|(_, forbidden)| forbidden),
        Err(failure) => Err(failure.clone()),
    };
    match asked {
        Ok(None) => ok(check, format!("slots of a fleet can be held in {database}")),
        Ok(Some(forbidden)) => judged(
            check,
            format!("slots of a fleet cannot be held: {}", forbidden.problem()),
            Fix::sql(forbidden.fix()),
        ),
        Err(failure) => {
            let fix = Fix::advice(
                "set `reserve_database` to one that the whole fleet may connect to, or GRANT CONNECT ON DATABASE",
            );
            judged(check, format!("slots of a fleet cannot be held in {database}: {failure}"), fix)
        }
    }
}

async fn version(client: &Client) -> Result<Finding, Failure> {
    const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version'), current_user";
    let row = one(client, VERSION).await?;
    let number: i32 = text(&row, 0).parse().unwrap_or(0);
    let said = format!("PostgreSQL {}, role {}", text(&row, 1), text(&row, 2));
    if number >= OLDEST {
        return Ok(ok("server", said));
    }
    Ok(fail(
        "server",
        format!("{said}: it has no leader_pid, which counts workers"),
        Fix::advice("upgrade the server to 13 or later"),
    ))
}

/// What lies between us and the server.
enum Line {
    /// A proxy that pools transactions, as could be seen by this; and whether it had a backend for a second session.
    Pools { how: &'static str, spare: bool },
    /// Anything else.
    Judged(Finding),
}

impl Line {
    /// As `run` sees it: a statement keeps its backend for its transaction, and the monitor names backends in each of
    /// its own; what runs outside of a transaction, and what is held by a session, is refused. With one backend for
    /// both, the monitor sees nothing while the statement runs.
    fn judge(self, endpoint: &Endpoint, check: &'static str, watched_from_elsewhere: bool) -> Finding {
        match self {
            Self::Judged(finding) => finding,
            Self::Pools { how, .. } if watched_from_elsewhere => {
                let fix = Fix::advice(
                    "an attempt is a transaction and keeps its backend, and `monitor` goes past the proxy; what runs outside of one (`no_transaction`, an update) is refused",
                );
                warn(check, pools(endpoint, "transactions", how), fix)
            }
            Self::Pools { how, spare: true } => {
                let text = pools(endpoint, "transactions", how);
                let text = format!(
                    "{text}; run works while the pool has a backend for the monitor, too; updates, `reserve` and `no_transaction` are refused"
                );
                warn(check, text, way_past(endpoint))
            }
            Self::Pools { how, spare: false } => {
                let text = pools(endpoint, "transactions", how);
                fail(check, format!("{text}; the monitor would see nothing"), way_past(endpoint))
            }
        }
    }
}

const ITSELF: &str = "connect to the server itself, or to a pool with pool_mode = session";

/// How to get sessions of one's own.
fn way_past(endpoint: &Endpoint) -> Fix {
    const GENERAL: &str =
        "set `monitor` to connect to the server directly, or connect to a pool with pool_mode = session";
    Fix::advice(Hosting::of(endpoint.host(), endpoint.port()).and_then(Hosting::way_past).unwrap_or(GENERAL))
}

fn pools(endpoint: &Endpoint, what: &str, how: &str) -> String {
    format!("a proxy at {} pools {what}: {how}", endpoint.describe())
}

async fn between(endpoint: &Endpoint, first: &Client, check: &'static str) -> Result<Line, Error> {
    let failed = |failure: Failure| Error::sql("looking for a proxy", failure);
    match Pooling::of(first, endpoint).await.map_err(failed)? {
        Pooling::Transactions(how) => return Ok(Line::Pools { how, spare: how != NONE_TO_SPARE }),
        Pooling::Statements(how) => {
            return Ok(Line::Judged(fail(check, pools(endpoint, "statements", how), Fix::advice(ITSELF))));
        }
        Pooling::Nothing => {}
    }
    let reached = one(first, "SELECT inet_server_port()").await.map_err(failed)?;
    let dialled = endpoint.port().to_string();
    let port = text(&reached, 0);
    if endpoint.host().starts_with(['/', '@']) || port == dialled {
        return Ok(Line::Judged(ok(check, "each session has a backend of its own")));
    }
    let reached = if port.is_empty() { "a socket".to_owned() } else { format!("port {port}") };
    Ok(Line::Judged(ok(
        check,
        format!(
            "something forwards port {dialled} to {reached} of the server; each session has a backend of its own"
        ),
    )))
}

async fn settings(client: &Client, target: u32) -> Result<Vec<Finding>, Failure> {
    const SETTINGS: &str = "
        SELECT pg_catalog.current_setting('max_parallel_workers')::int, pg_catalog.current_setting('max_worker_processes')::int,
               pg_catalog.current_setting('max_parallel_workers_per_gather')::int,
               pg_catalog.current_setting('parallel_leader_participation'), pg_catalog.current_setting('track_activities'),
               pg_catalog.current_setting('server_version_num')::int,
               pg_is_in_recovery(), pg_catalog.current_setting('autovacuum_max_parallel_workers', true),
               pg_catalog.current_setting('autovacuum_max_workers'),
               pg_catalog.current_setting('default_transaction_read_only')";
    let row = one(client, SETTINGS).await?;
    let number = |column| text(&row, column).parse::<u32>().unwrap_or(0);
    let (workers, processes, per_gather) = (number(0), number(1), number(2));
    let size = plan::pool_size(client).await?;
    let mut findings = Vec::new();
    let own = size < target && plan::has_own_pool(client).await?;
    findings.push(pool(size, workers, processes, target, own));
    let own =
        if per_gather < target { format!("; a run sets it to {target} for itself") } else { String::new() };
    findings.push(ok("per gather", format!("max_parallel_workers_per_gather = {per_gather}{own}")));
    findings.push(if text(&row, 3) == "on" {
        ok("leader", "the leader works, too (parallel_leader_participation = on)")
    } else {
        warn(
            "leader",
            "the leader only gathers (parallel_leader_participation = off)",
            Fix::set("parallel_leader_participation", "on"),
        )
    });
    findings.push(if text(&row, 4) == "on" {
        ok("activity", "the server says what each session does (track_activities = on)")
    } else {
        let (problem, fix) = privileges::UNTRACKED;
        fail("activity", problem, Fix::sql(fix))
    });
    findings.push(if number(5) >= 140_000 {
        ok("orphans", "a statement whose client died is stopped (client_connection_check_interval)")
    } else {
        warn(
            "orphans",
            "before PostgreSQL 14 a statement whose client died runs on until it is done (`headcount run` has a \
             watchdog for that, a program of your own has none)",
            Fix::advice("in a program of your own, set a deadline that the job scheduler does not undercut, or upgrade the server"),
        )
    });
    findings.extend(limits(client).await?);
    findings.extend(libraries(client).await?);
    if text(&row, 6) == "t" {
        findings.push(warn(
            "standby",
            "this server is a standby: it only reads",
            Fix::advice("connect to the primary for statements that write"),
        ));
    } else if text(&row, 9) == "on" {
        findings.push(warn(
            "writes",
            "this server, database or role only reads (default_transaction_read_only = on)",
            Fix::set("transaction_read_only", "off"),
        ));
    }
    findings.extend(row.get(7).map(|each| autovacuum(each, text(&row, 8))));
    Ok(findings)
}

/// Workers that others leave free for this role: the surest way to them, and nothing has to run for it.
async fn kept_free(client: &Client, target: u32) -> Result<Finding, Failure> {
    /// Who has a ceiling of its own.
    const APART: &str = concat!("WITH ", serial!(), "
        SELECT pg_catalog.string_agg(pg_catalog.format('%s = %s', CASE
                   WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'all roles'
                   WHEN s.setrole = 0 THEN 'database ' || pg_catalog.quote_ident(d.datname)
                   WHEN s.setdatabase = 0 THEN 'role ' || s.setrole::pg_catalog.regrole::text
                   ELSE 'role ' || s.setrole::pg_catalog.regrole::text || ' in ' || pg_catalog.quote_ident(d.datname) END,
                 pg_catalog.substr(v, 22)), ', ' ORDER BY s.setrole, s.setdatabase)
        FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase,
             pg_catalog.unnest(s.setconfig) v
        WHERE v LIKE 'max_parallel_workers=%' AND s.setrole IS DISTINCT FROM pg_catalog.quote_ident(session_user)::pg_catalog.regrole");
    let ceiling = ceiling::read(client).await?;
    let row = one(client, APART).await?;
    let apart = match text(&row, 0) {
        "" => String::new(),
        apart => format!("; set apart: {apart}"),
    };
    let own = ceiling.given;
    let proposal = ceiling.propose(target, LEAVE);
    let said = match (proposal, ceiling.of_others) {
        (Proposal::Stands, Some(others)) => format!(
            "{} workers stay free for the role {} from all who keep to their ceiling of {others}, in whatever database \
             (max_parallel_workers of the role = {own}){apart}",
            own - others,
            ceiling.role
        ),
        (_, None) => format!(
            "the role {} has a ceiling of its own, {own} workers (max_parallel_workers); whether that is above the server's, \
             only a superuser can see{apart}",
            ceiling.role
        ),
        (_, Some(others)) => format!(
            "everybody may take all {others} workers of the pool before a job starts: {target} can be kept free for the \
             role {}{apart}",
            ceiling.role
        ),
    };
    Ok(Finding { fix: ceiling.typed(proposal).map(Fix::Sql), ..ok("kept free", said) })
}

/// From 19 on autovacuum is a rival: its workers are parallel workers of the pool.
fn autovacuum(each: &str, at_once: &str) -> Finding {
    let setting = format!("autovacuum_max_parallel_workers = {each}");
    if each == "0" {
        return ok("autovacuum", format!("it takes no workers of the pool ({setting})"));
    }
    warn(
        "autovacuum",
        format!(
            "it may take {each} workers of the pool for each table that it vacuums, {at_once} tables at once \
             ({setting}, autovacuum_max_workers = {at_once})"
        ),
        Fix::sql(
            "ALTER SYSTEM SET autovacuum_max_parallel_workers = 0; SELECT pg_reload_conf(); -- or let max_parallel_workers \
             have room for it",
        ),
    )
}

/// What the monitor may see and stop of the leader.
async fn rights(leader: &Client, monitor: &Client) -> Result<Vec<Finding>, Failure> {
    let pid = text(&one(leader, "SELECT pg_backend_pid()").await?, 0).parse().unwrap_or(0);
    let Some(rights) = privileges::seen_by(monitor, Identity { pid, started: 0 }).await? else {
        let fix = Fix::advice("let the monitor's connection string lead to the same server");
        return Ok(vec![fail("sight", "the monitor is on another server than the statement", fix)]);
    };
    let (monitor_role, leader_role) = rights.roles();
    let judged = |check, right: Result<(), Error>, good: String| match right {
        Ok(()) => ok(check, good),
        Err(error) => {
            let fix = error.fixes().first().cloned();
            Finding { check, level: Level::Fail, text: plain(&error), fix }
        }
    };
    let mut findings = vec![
        judged("sight", rights.check_sight(), format!("{monitor_role} sees the workers of {leader_role}")),
        judged(
            "cancel",
            rights.check_stop(),
            format!("{monitor_role} may cancel the statements of {leader_role}"),
        ),
    ];
    let pool = one(monitor, "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')").await?;
    findings.push(if text(&pool, 0) == "t" {
        ok("pool in sight", format!("{monitor_role} sees the workers of everybody"))
    } else {
        warn(
            "pool in sight",
            format!(
                "{monitor_role} does not see others' workers: attempts start without knowing whether there is room, and \
                 one without a worker after `launch_wait` counts as short"
            ),
            Fix::sql(format!(
                "GRANT pg_read_all_stats TO {}; -- or let `launch_wait` exceed what comes before the first Gather",
                privileges::quote(monitor_role)
            )),
        )
    });
    Ok(findings)
}

/// The clause of a refusal without the words that it was refused.
fn plain(error: &Error) -> String {
    let said = error.to_string();
    said.split_once(": ").map_or(said.clone(), |(_, clause)| clause.to_owned())
}

/// The first row, by the simple protocol: a prepared statement would not survive a pooling proxy.
async fn one(client: &Client, sql: &str) -> Result<SimpleQueryRow, Failure> {
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row);
        }
    }
    Err(Failure::client("the server returned no row"))
}

fn text(row: &SimpleQueryRow, column: usize) -> &str {
    row.get(column).unwrap_or_default()
}
