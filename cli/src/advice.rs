//! What can be done about a run that failed, beyond what the server says of it.

use std::time::Duration;

use headcount::event::ShortReason;
use headcount::settings::LEAVE;
use headcount::{Error, Execution, Fix, Rung};

use super::exit::Failed;
use super::options::Wanted;
use super::output::was_short;

/// A limit of the server's that ends statements or sessions.
struct Limit {
    setting: &'static str,
    ended: &'static str,
}

/// The limit that a failure is about. What ended a statement the server says in its own language: in another than
/// English it may have been a cancel, too.
fn limit_of(sqlstate: &str, message: &str) -> Option<Limit> {
    let (setting, ended) = match sqlstate {
        "57014" if message.contains("user request") => return None,
        "57014" => ("statement_timeout", "a statement"),
        "55P03" => ("lock_timeout", "a wait for a lock"),
        "25P03" => ("idle_in_transaction_session_timeout", "a session in a transaction"),
        "25P04" => ("transaction_timeout", "a transaction"),
        "57P05" => ("idle_session_timeout", "a session"),
        _ => return None,
    };
    Some(Limit { setting, ended })
}

/// What to do about such a limit. `script`: what was run, where it may set the limit itself; of an update, whose
/// `--set` sets columns, there is none.
pub(crate) fn about_limit(sqlstate: &str, message: &str, script: Option<&str>) -> Option<String> {
    let Limit { setting, ended } = limit_of(sqlstate, message)?;
    let certain = setting != "statement_timeout" || message.contains("statement timeout");
    let who = if certain { "it is" } else { "if nobody cancelled it, it is" };
    let option = match script {
        Some(script) if script.to_ascii_lowercase().contains(setting) => {
            return Some(format!(
                "{who} {setting} that ends {ended} so early: let the script set more (0 is no limit)"
            ));
        }
        // No transaction's own.
        Some(_) if setting != "idle_session_timeout" => format!("--set {setting}=2h"),
        _ => format!("PGOPTIONS='-c {setting}=2h'"),
    };
    let more =
        format!("{who} {setting} that ends {ended} so early: allow more with {option} (0 is no limit)");
    Some(match setting {
        "lock_timeout" => format!(
            "somebody else holds the lock (pg_locks, pg_blocking_pids); unless it is asked for with NOWAIT, {more}"
        ),
        _ => format!("{more}; `headcount doctor` says where it is set"),
    })
}

fn advice(clause: &str) -> Fix {
    Fix::Advice(clause.to_owned())
}

/// Adds what this command can do about an error of the server. `several`: there were other hosts to connect to.
pub(crate) fn explained(error: Error, wanted: &Wanted, several: bool) -> Failed {
    let Wanted { sql, settings, .. } = wanted;
    let tried = error.history().map_or(0, |history| history.attempt_count);
    let fix = match error.sqlstate() {
        Some("25001") if sets_transaction(sql) => Some(advice(
            "it is not the first statement of its transaction; try --set transaction_isolation=... instead",
        )),
        Some("25001") if settings.transaction => {
            Some(advice("run it outside a transaction block, with --no-transaction"))
        }
        Some("25006") => Some(Fix::Advice(only_reads(wanted, several))),
        // A procedure, or a DO block, with a COMMIT of its own.
        Some("2D000") if settings.strict => Some(advice(
            "it ends a transaction by itself, and --strict needs one that it can roll back: run it with --no-transaction, \
             without --strict",
        )),
        Some("2D000") if settings.transaction => Some(advice(
            "it ends a transaction by itself: run it outside a transaction block, with --no-transaction",
        )),
        // Whose limit it is the message says.
        Some("53300") => Some(advice(
            "a run takes two connections at once, one of them for its monitor: raise the limit that the line names \
             (CONNECTION LIMIT of the role or the database, max_connections), or end others",
        )),
        // What an attempt that was cancelled left behind.
        Some("42P07") if tried > 1 && !settings.transaction && settings.cleanup.is_none() => {
            let index = concurrent_index(sql).unwrap_or("...");
            let first = error.history().and_then(|history| history.attempts.first()?.sqlstate.clone());
            let ended = first.map_or_else(
                || "a cancelled attempt".to_owned(),
                |code| format!("attempt 1 ended with SQLSTATE {code}, and"),
            );
            Some(Fix::Sql(format!(
                "--cleanup 'DROP INDEX CONCURRENTLY IF EXISTS {index}' ({ended} leaves its index behind, invalid; drop it \
                 before the next run)"
            )))
        }
        Some(code) => about_limit(code, &error.chain(), Some(sql)).map(Fix::Advice),
        None => None,
    };
    let failed = Failed::from(error);
    match fix {
        Some(fix) => failed.with_fix(fix),
        None => failed,
    }
}

/// The same of an update, which adds what a limit of the server's is about.
pub(crate) fn explained_update(failed: Failed) -> Failed {
    let limit = failed.error().and_then(|error| about_limit(error.sqlstate()?, &error.chain(), None));
    match limit {
        Some(advice) => failed.with_fix(Fix::Advice(advice)),
        None => failed,
    }
}

/// What to do where it cannot write.
fn only_reads(Wanted { sql, settings, .. }: &Wanted, several: bool) -> String {
    const SETTINGS: [&str; 2] = ["transaction_read_only", "default_transaction_read_only"];
    let named = |name: &str| SETTINGS.iter().find(|known| known.eq_ignore_ascii_case(name));
    let script = sql.to_ascii_lowercase();
    if let Some(name) = settings.settings.iter().find_map(|(name, _)| named(name)) {
        format!("it is told to read only: leave out --set {name}, or what it writes")
    } else if SETTINGS.iter().any(|name| script.contains(name)) || script.contains("read only") {
        "the script says that it only reads: leave that out, or what it writes".to_owned()
    } else if several {
        "this server only reads, and of several hosts the first that answers is taken: add \
         target_session_attrs=read-write to the connection string, or set PGTARGETSESSIONATTRS=read-write"
            .to_owned()
    } else {
        "this server, database or role only reads (a standby, or default_transaction_read_only): connect to the primary; \
         of several hosts target_session_attrs=read-write finds it; or say --set transaction_read_only=off where that \
         is but a default"
            .to_owned()
    }
}

/// Whether it has SET TRANSACTION, which must come before any query.
fn sets_transaction(sql: &str) -> bool {
    let words: Vec<String> = sql.split_whitespace().map(str::to_ascii_lowercase).collect();
    words.windows(2).any(|pair| pair[0].ends_with("set") && pair[1] == "transaction")
        || sql.to_ascii_lowercase().contains("transaction_isolation")
}

/// Whether attempts of it that were cancelled leave invalid indexes behind that nobody stumbles over.
pub(crate) fn leaves_invalid_indexes(sql: &str) -> bool {
    let words: Vec<String> = sql.split(|c: char| !c.is_alphanumeric()).map(str::to_ascii_lowercase).collect();
    words.iter().any(|word| word == "reindex") && words.iter().any(|word| word == "concurrently")
}

/// The name after CREATE INDEX CONCURRENTLY, as it was typed.
fn concurrent_index(sql: &str) -> Option<&str> {
    let mut words = sql.split_whitespace();
    words.find(|word| word.eq_ignore_ascii_case("concurrently"))?;
    let optional = ["if", "not", "exists"];
    let name = words.find(|word| !optional.iter().any(|skipped| word.eq_ignore_ascii_case(skipped)))?;
    (!name.eq_ignore_ascii_case("on")).then_some(name)
}

/// What is left of it, and what now.
pub(crate) fn way_on(history: &Execution<()>, failed: &Failed, in_transaction: bool) -> String {
    let uncleaned = failed.error().is_some_and(|error| error.cleanup_failure().is_some());
    let rejected;
    let left = if failed.error().is_some_and(Error::is_cleanup) {
        rejected = rejected_and_not_undone(history);
        &rejected
    } else if uncleaned {
        "What the cleanup undoes is still there: undo it by hand"
    } else if !failed.is_end_seen() {
        "The server does not answer, and may still run it: look at pg_stat_activity (application_name headcount:...) \
         when it does"
    } else if failed.processes_left() > 0 {
        "Its processes have not ended: look at pg_stat_activity (application_name headcount:...); what it did is rolled back \
         when they end"
    } else if history.attempt_count == 0 {
        "Nothing was run"
    } else if in_transaction {
        "Nothing was kept, what ran was rolled back"
    } else {
        "What ran outside a transaction before the end may have stayed"
    };
    let fixes = failed.fixes();
    let next = match failed.reason() {
        "in_doubt" => return "Look whether it took effect before you run it again".to_owned(),
        "refused" if hopeless(failed) => {
            "nothing gives it workers: run it with --plan-shortfall ignore, or without headcount"
        }
        "deadline" => return format!("{left}; {}", in_more_time(history)),
        "interrupted" => "run it again when you like",
        _ if fixes.iter().any(|fix| fix.is_typed()) => "do what the fix above says and run it again",
        _ if !fixes.is_empty() => "do what the hint above says and run it again",
        "refused" => "see `headcount doctor` and `headcount explain`",
        "connection" if is_refused(failed) => "correct the connection string and run it again",
        "connection" => "run it again when the server is there; `headcount doctor` tells whether it is",
        _ if failed.error().and_then(|error| error.sqlstate()) == Some("57014") => {
            "find out who or what cancelled it, and run it again"
        }
        _ => "correct what the error names and run it again",
    };
    format!("{left}; {next}")
}

/// Whether the server is there, and has no such database, role or password.
fn is_refused(failed: &Failed) -> bool {
    let code = failed.error().and_then(Error::sqlstate);
    matches!(code, Some("3D000" | "28000" | "28P01" | "42501"))
}

/// The error tells of the cleanup; why there was something to clean up stands here.
fn rejected_and_not_undone(history: &Execution<()>) -> String {
    let why = history.attempts.last().map_or_else(String::new, |last| {
        let reason = last
            .reason
            .or(last.short_reason)
            .map(|reason| format!(", {}", reason.as_str()))
            .unwrap_or_default();
        format!(" ({} of {} required workers{reason})", last.achieved, last.required_workers)
    });
    format!(
        "The attempt was rejected{why}, and what it did outside a transaction could not be undone: undo it by hand"
    )
}

/// Whether all advice is that there is none.
fn hopeless(failed: &Failed) -> bool {
    let fixes = failed.fixes();
    !fixes.is_empty() && fixes.iter().all(|fix| matches!(fix, Fix::None(_)))
}

/// What helps against a pool that others hold: workers that they cannot take. The processes decide how.
pub(crate) fn held_by_others<T>(run: &Execution<T>) -> String {
    let mut short = run.attempts.iter().filter(|attempt| attempt.short_launches > 0).peekable();
    // The slot of a worker is free a moment after it has gone.
    let others = if short.peek().is_some() && short.all(|attempt| attempt.workers >= run.target_workers) {
        "others held the pool, or the workers of its own launch before had not given their slots back yet (`headcount watch` \
         shows who)"
    } else {
        "others held the pool (`headcount watch` shows who)"
    };
    let Some(ceiling) = &run.ceiling else { return format!("{others}: start at another time") };
    if run.rung == Some(Rung::Ceiling) && ceiling.workers + LEAVE < ceiling.processes {
        return format!(
            "others held all {} workers that its ceiling allows: a higher --ceiling, or auto (max_worker_processes = {})",
            ceiling.workers, ceiling.processes
        );
    }
    if run.rung == Some(Rung::Ceiling) {
        return format!(
            "others held all {} workers that its ceiling allows, or processes: raise max_worker_processes ({}), which \
             takes a restart",
            ceiling.workers, ceiling.processes
        );
    }
    let room = ceiling.processes.saturating_sub(LEAVE) >= ceiling.given.saturating_add(run.target_workers);
    let own = if room && ceiling.of_role.is_none() && ceiling.of_database.is_none() {
        "--ceiling auto takes workers beyond it; "
    } else {
        ""
    };
    match ceiling.typed(ceiling.propose(run.target_workers, LEAVE)) {
        Some(typed) => format!(
            "{others}: {own}once and for all, have {} workers kept free for its role: {}",
            run.target_workers,
            typed.trim_end_matches(';')
        ),
        None if ceiling.of_role.is_some() || ceiling.of_database.is_some() => format!(
            "{others}, and its role or database has a ceiling of its own ({} workers): --ceiling auto --above-role lifts that \
             for a run, a higher one for good keeps workers free for it",
            ceiling.given
        ),
        None => format!("{others}, and may have more than is kept free for its role: see `headcount doctor`"),
    }
}

/// What helps where the deadline passed: what most of the time was spent on.
fn in_more_time(history: &Execution<()>) -> String {
    let Execution { waited, room_wait, reserved_wait, ran, wasted, .. } = *history;
    let all = waited + reserved_wait + ran + wasted;
    let is_most = |part: Duration| !part.is_zero() && part * 2 >= all;
    let or = if was_short(&history.attempts, ShortReason::ProcessesExhausted) {
        "raise max_worker_processes, of which the server had none left"
    } else if is_most(reserved_wait) {
        "let it be content with fewer slots (--degrade-after), or go first (--priority): `headcount watch` shows the queue"
    } else if is_most(room_wait) || was_short(&history.attempts, ShortReason::PoolExhausted) {
        return format!("give it a longer --deadline; {}", held_by_others(history));
    } else if is_most(waited) {
        "see what kept it from starting: a server that was away, a lock on what it reads (the lines above, pg_locks), or a \
         script of very many statements"
    } else {
        "make the statement quicker (`headcount explain`, a higher --target), or see whether it waited for a lock \
         (pg_blocking_pids): it did not wait for workers"
    };
    format!("give it a longer --deadline, or {or}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reindex_that_is_cancelled_leaves_an_index_behind() {
        use leaves_invalid_indexes as leaves;
        assert!(leaves("REINDEX INDEX CONCURRENTLY i") && leaves("reindex (verbose) table concurrently t;"));
        assert!(!leaves("REINDEX TABLE t") && !leaves("CREATE INDEX CONCURRENTLY i ON t (a)"));
    }

    #[test]
    fn a_limit_is_named_with_the_option_that_allows_more() {
        let about =
            |code: &str, message: &str| about_limit(code, message, Some("select 1")).unwrap_or_default();
        let statement = about("57014", "canceling statement due to statement timeout");
        assert!(
            statement.starts_with("it is statement_timeout that ends a statement so early"),
            "{statement}"
        );
        assert!(statement.contains("--set statement_timeout=2h") && statement.contains("`headcount doctor`"));
        let other = about("57014", "Anweisung wird abgebrochen");
        assert!(other.starts_with("if nobody cancelled it, it is statement_timeout"), "{other}");
        assert_eq!(about("57014", "canceling statement due to user request"), "");
        assert!(about("55P03", "").contains("--set lock_timeout=2h"));
        assert!(about("25P03", "").contains("--set idle_in_transaction_session_timeout=2h"));
        assert!(about("25P04", "").contains("--set transaction_timeout=2h"));
        assert!(about("57P05", "").contains("PGOPTIONS='-c idle_session_timeout=2h'"));
        assert_eq!(about("22012", "division by zero"), "");
        let own = about_limit("55P03", "", Some("SET Lock_Timeout = '1s'; SELECT 1")).unwrap();
        assert!(own.ends_with("let the script set more (0 is no limit)"), "{own}");
        let update = about_limit("55P03", "", None).unwrap();
        assert!(update.contains("PGOPTIONS='-c lock_timeout=2h'"), "{update}");
    }
}
