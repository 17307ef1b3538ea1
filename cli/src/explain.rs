//! `headcount explain`: how many workers a statement can have, why not more, and what would give it more.

use std::sync::Arc;

use headcount::server::{Explanation, Statement};
use headcount::{Error, Headcount};
use serde::Serialize;

use super::args::{ExplainArgs, Words};
use super::exit::{self, Failed};
use super::names;
use super::object;
use super::options::Wanted;
use super::output;
use super::progress::Progress;
use super::run::{ANSWER_LIMIT, endpoint, put_in_order};
use super::signals::Signals;
use super::telemetry;
use super::watchdog::Watchdog;

/// Explains it, and returns the exit code.
pub(crate) async fn run(args: &ExplainArgs, words: &Words, signals: &mut Signals) -> u8 {
    match explain(args, words, signals).await {
        Ok(explanation) => {
            let reached = explanation.reasons.is_empty() || !explanation.unseen.is_empty();
            let code = if reached { exit::DONE } else { exit::REFUSED };
            if args.json {
                object::print_result(&explanation, code);
            } else {
                output::print(&lines(&explanation).join("\n"));
            }
            code
        }
        Err(failed) => {
            output::complain(&failed);
            if args.json {
                let (error, sqlstate) = (failed.to_string(), failed.error().and_then(Error::sqlstate));
                object::print_result(&Unexplained { error, sqlstate }, failed.code());
            }
            failed.code()
        }
    }
}

#[derive(Serialize)]
struct Unexplained<'a> {
    error: String,
    sqlstate: Option<&'a str>,
}

async fn explain(args: &ExplainArgs, words: &Words, signals: &mut Signals) -> Result<Explanation, Failed> {
    let Wanted { sql, mut settings, .. } = Wanted::resolve(&args.demand, None)?;
    "explain".clone_into(&mut settings.task);
    let limit = 2 * settings.cancel_grace + ANSWER_LIMIT;
    let mut builder = Headcount::builder(endpoint(args.dsn.as_deref())?)
        .without_default_observers()
        // A session that may be kept demands no workers, and this one never will.
        .keep_sessions(1)
        .observer(Arc::new(Watchdog::new(args.dsn.as_deref())));
    if telemetry::tells(words, args.json) {
        builder = builder.observer(Arc::new(Progress::in_lines()));
    }
    let interrupted = |code| Failed::Interrupted(code, None);
    let headcount = builder.build();
    // With the settings that `run` would make. A signal drops it, which cancels it on the server.
    let job = headcount.job(settings);
    let explained = signals.unless(Box::pin(job.explain(&sql, &[]))).await;
    put_in_order(&headcount, limit, signals).await;
    let mut explanation = explained.map_err(interrupted)??;
    let each = explanation.statements.iter_mut().flat_map(|statement| &mut statement.reasons);
    for reason in explanation.reasons.iter_mut().chain(each) {
        reason.fixes.iter_mut().for_each(|fix| *fix = names::fix_in_options(fix));
    }
    Ok(explanation)
}

fn lines(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    let several = explanation.statements.len() > 1;
    for (number, statement) in explanation.statements.iter().enumerate() {
        if several {
            lines.push(format!("statement {}: {}", number + 1, shortened(&statement.sql)));
        }
        lines.push(planned(explanation, statement));
        if statement.taken {
            lines.push(
                "note: what it makes is there already, and running it fails (42P07): drop or rename that before"
                    .to_owned(),
            );
        }
        for reason in &statement.reasons {
            lines.push(format!("reason: {}", reason.explanation));
            lines.extend(reason.fixes.iter().map(|fix| format!("   {}", output::remedy(fix))));
        }
    }
    if several {
        lines.push(verdict(explanation));
    }
    if !explanation.unseen.is_empty() {
        let functions = explanation.unseen.join(", ");
        lines.push(format!(
            "note: {functions} may run queries of their own, whose workers the plan does not show"
        ));
    }
    if !explanation.reasons.is_empty() {
        let own = |source: &str| source != "default";
        let changed: Vec<String> = explanation
            .settings
            .iter()
            .filter(|setting| own(&setting.source))
            .map(|setting| format!("{} = {} ({})", setting.name, setting.value, setting.source))
            .collect();
        if !changed.is_empty() {
            lines.push(format!("settings that are not the default: {}", changed.join(", ")));
        }
    } else if !several && explanation.plan.is_some() {
        lines.push(
            "the plan can have what is demanded; whether the pool has it is seen when it runs".to_owned(),
        );
    }
    lines
}

/// What is planned for one statement.
fn planned(explanation: &Explanation, statement: &Statement) -> String {
    let target = explanation.target_workers;
    match (&statement.plan, statement.not_explainable) {
        // VACUUM and CREATE INDEX: a bound, and no plan.
        (Some(plan), _) if plan.launches.is_empty() && plan.reachable > 0 => {
            format!(
                "planned: at most {} of {target} workers, pool of {} slots",
                plan.reachable, explanation.pool_size
            )
        }
        (Some(plan), _) => {
            let gathers = plan.launches.len();
            let word = if gathers == 1 { "Gather" } else { "Gathers" };
            let doubt = if statement.certain { "" } else { "; what runs ahead of it may change that" };
            format!(
                "planned: {} of {target} workers ({gathers} {word}), pool of {} slots{doubt}",
                plan.reachable, explanation.pool_size
            )
        }
        (None, Some(why)) => format!("planned: unknown, {why}; pool of {} slots", explanation.pool_size),
        (None, None) => "planned: no workers, it runs no query".to_owned(),
    }
}

/// What that means for the script.
fn verdict(explanation: &Explanation) -> String {
    let target = explanation.target_workers;
    let reaches =
        |statement: &Statement| statement.plan.as_ref().is_some_and(|plan| plan.reachable >= target);
    if !explanation.reasons.is_empty() {
        "none of these statements can have what is demanded".to_owned()
    } else if explanation.statements.iter().any(reaches) {
        format!(
            "a statement of it can have {target} workers; which one comes to it first is seen when it runs"
        )
    } else {
        "not all of it is known beforehand: nothing is refused, and what it has is seen when it runs"
            .to_owned()
    }
}

/// The start of a statement, in one line.
fn shortened(sql: &str) -> String {
    const MOST: usize = 72;
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
