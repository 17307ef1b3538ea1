//! `headcount update`: many rows, a transaction per chunk, through lost connections.

pub(crate) mod args;
mod job;
mod progress;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headcount::event::UpdateOutcome;
use headcount::{Headcount, Keys, Observer, Update, Updated};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::args::UpdateArgs;
use self::job::Wanted;
use self::progress::Progress;
use super::advice::{about_limit, explained_update};
use super::args::Words;
use super::exit::{self, Failed};
use super::object;
use super::output::{self, count, say, time_text};
use super::panics;
use super::run::endpoint;
use super::signals::Signals;
use super::telemetry;

/// Failures that are told one by one.
const TOLD: usize = 3;

/// Runs it, and returns the exit code: 0 if the run is complete, else 5 ([`exit::INCOMPLETE`]), that of a signal, or that
/// of the failure.
pub(crate) async fn run(args: &UpdateArgs, words: &Words, signals: &mut Signals) -> u8 {
    let mut task = args.task.clone().unwrap_or_else(|| "update".to_owned());
    let mut rejects: Option<PathBuf> = None;
    let ended = match Wanted::resolve(args) {
        Ok(wanted) => {
            task.clone_from(&wanted.task);
            rejects.clone_from(&wanted.rejects);
            execute(&wanted, args, words, signals).await
        }
        Err(failed) => Err(failed),
    };
    match ended {
        Ok((report, interrupted)) => {
            let code = match interrupted {
                _ if report.is_complete() => exit::DONE,
                Some(code) => code,
                None => exit::INCOMPLETE,
            };
            if args.json {
                object::print_result(&report, code);
            } else if !(words.quiet && report.is_complete()) {
                output::print(&summary(&report, rejects.as_deref()).join("\n"));
            }
            code
        }
        Err(failed) => {
            let failed = explained_update(failed);
            output::complain(&failed);
            if args.json {
                object::print_result(&FailedUpdate::new(&failed, &task), failed.code());
            }
            failed.code()
        }
    }
}

/// The object of an update without a report: the fields of one in which nothing was done, and what went wrong.
#[derive(Debug, Serialize)]
pub(crate) struct FailedUpdate<'a> {
    task: &'a str,
    outcome: &'static str,
    complete: bool,
    reason: &'static str,
    keys: u64,
    updated: u64,
    already: u64,
    stale: u64,
    missing: u64,
    failed: u64,
    left: Option<u64>,
    chunks: u64,
    error: String,
    sqlstate: Option<&'a str>,
    fixes: Vec<String>,
}

impl<'a> FailedUpdate<'a> {
    pub(crate) fn new(failed: &'a Failed, task: &'a str) -> Self {
        Self {
            task,
            outcome: "failed",
            complete: false,
            reason: failed.reason(),
            keys: 0,
            updated: 0,
            already: 0,
            stale: 0,
            missing: 0,
            failed: 0,
            left: None,
            chunks: 0,
            error: failed.to_string(),
            sqlstate: failed.error().and_then(headcount::Error::sqlstate),
            fixes: failed.fixes().into_iter().map(super::names::typed).collect(),
        }
    }
}

async fn execute(
    wanted: &Wanted,
    args: &UpdateArgs,
    words: &Words,
    signals: &mut Signals,
) -> Result<(Updated, Option<u8>), Failed> {
    let inputs = [
        ("the keys are read from", &wanted.keys),
        ("the rejects are written to", &wanted.rejects),
        ("the job is read from", &args.job),
    ];
    telemetry::check_textfile(&args.exporters, &inputs)?;
    for warning in wanted.warnings() {
        say(&format!("headcount: warning: {warning}"));
    }
    let endpoint = endpoint(args.dsn.as_deref())?;
    let telemetry = telemetry::start(&wanted.task, &args.exporters, words).await?;
    let mut observers = telemetry.observers();
    observers.push(Arc::new(object::TraceId));
    if telemetry::tells(words, args.json) {
        observers.push(Arc::new(Progress::new()) as Arc<dyn Observer>);
    }
    let stop = CancellationToken::new();
    let headcount = Headcount::builder(endpoint).without_default_observers().observers(observers).build();
    let update = wanted.update(&headcount).stop(stop.clone());
    let result = match panics::caught(work(&update, wanted.source(), &stop, signals)).await {
        Ok(result) => result,
        Err(panic) => Err(panic.into()),
    };
    signals.or_leave(telemetry::finish(telemetry)).await;
    result
}

/// The first signal rolls back chunks whose COMMIT was not sent; the second one leaves at once.
async fn work(
    update: &Update,
    keys: Keys,
    stop: &CancellationToken,
    signals: &mut Signals,
) -> Result<(Updated, Option<u8>), Failed> {
    let mut running = Box::pin(update.run(keys));
    match signals.unless(&mut running).await {
        Ok(ended) => Ok((ended?, None)),
        Err(code) => {
            stop.cancel();
            say("headcount: stopping: waiting for COMMITs under way; a second signal leaves at once");
            Ok((signals.or_leave(running).await?, Some(code)))
        }
    }
}

/// The lines for people: did it work, what became of the keys, what now.
fn summary(report: &Updated, rejects: Option<&Path>) -> Vec<String> {
    let Updated { task, keys, updated, already, stale, missing, failed, chunks, .. } = report;
    let outcome = report.outcome.as_str().replace('_', " ");
    let would = if report.dry_run { " (nothing was changed)" } else { "" };
    let rate = *keys as f64 / report.took.as_secs_f64().max(1e-3);
    let doubt = report.in_doubt;
    let doubts = doubt.committed + doubt.aborted + doubt.reread + doubt.unresolved;
    let mut lines = vec![
        format!(
            "{task}: {outcome}{would}: {updated} updated, {already} already, {stale} stale, {missing} missing, {failed} failed"
        ),
        format!(
            "Time: {} for {} in {} ({rate:.0}/s); {} tried again, {}, {} in doubt",
            time_text(report.took),
            count(*keys, "key"),
            count(*chunks, "chunk"),
            count(report.retried_chunks, "chunk"),
            count(report.reconnects, "new session"),
            count(doubts, "commit"),
        ),
    ];
    lines.extend(report.error.iter().map(|error| format!("Stopped: {error}")));
    for failure in report.failures.iter().take(TOLD) {
        let line = failure.lines.first().map(|line| format!(" (line {line})")).unwrap_or_default();
        let more = match failure.keys.len() {
            0 | 1 => String::new(),
            keys => format!(" and {} more", keys - 1),
        };
        let first = failure.keys.first().map_or("", String::as_str);
        lines.push(format!("Failed: {first}{line}{more}: {}", failure.reason));
    }
    lines.extend(report.hint.iter().map(|hint| format!("Hint: {hint}")));
    let limit = report
        .failures
        .iter()
        .find_map(|failure| about_limit(failure.sqlstate.as_ref()?, &failure.reason, None));
    lines.extend(limit.map(|advice| format!("Hint: {advice}")));
    lines.push(what_now(report, rejects));
    lines
}

fn what_now(report: &Updated, rejects: Option<&Path>) -> String {
    let nothing = match report.outcome {
        UpdateOutcome::Empty => Some("There was no key"),
        UpdateOutcome::AllMissing => Some("No row has any of the keys"),
        UpdateOutcome::AllStale => Some("No row has the expected values"),
        UpdateOutcome::SomeMissing => Some("Some keys have no row"),
        UpdateOutcome::SomeStale => Some("Some rows do not have the expected values"),
        _ => None,
    };
    // A trigger's work, say, may not be done twice; and nobody but the caller knows what is there.
    if report.in_doubt.unresolved > 0 && !report.is_complete() {
        let named = match rejects {
            Some(path) => format!("{} lists them", path.display()),
            None => "they are named above".to_owned(),
        };
        return format!(
            "Before you run it again, look at the rows of the unresolved keys ({named}). The same command does what is not \
             done there; if what is done may not be done twice, such as the work of a trigger, leave its keys out"
        );
    }
    match (nothing, report.left) {
        (None, _) if report.is_complete() && report.dry_run && report.updated > 0 => {
            "Nothing was changed: run it without --dry-run".to_owned()
        }
        (what, _) if report.is_complete() => {
            let what = what.unwrap_or("Every key is accounted for");
            match left_alone(report) {
                Some(left) => format!("{what}; {left}: {}", look_at_them(rejects)),
                None => format!("{what}; nothing to do"),
            }
        }
        (Some(what), _) => {
            format!(
                "{what}: check that the keys and the table are right; if this is expected, use --fail-on none"
            )
        }
        (None, Some(0)) => {
            let told = report.failures.len().min(TOLD) as u64;
            let others = rejects.is_none() && report.failed > told;
            let others = if others { " (with --rejects FILE it lists all that fail)" } else { "" };
            format!("Run the same command again once the cause is gone; what is done stays done{others}")
        }
        (None, Some(1)) => "1 key is left; run the same command again to finish it".to_owned(),
        (None, Some(left)) => format!("{left} keys are left; run the same command again to finish them"),
        (None, None) => "Some keys may be left; run the same command again to finish them".to_owned(),
    }
}

/// Keys that count as done and whose rows do not hold the new value.
fn left_alone(report: &Updated) -> Option<String> {
    let Updated { stale, missing, .. } = *report;
    let is = |many: u64| if many == 1 { "is" } else { "are" };
    match (stale, missing) {
        (0, 0) => None,
        (0, many) => Some(format!("{many} {} missing", is(many))),
        (many, 0) => Some(format!("{many} {} stale", is(many))),
        (stale, missing) => Some(format!("{stale} {} stale and {missing} missing", is(stale))),
    }
}

fn look_at_them(rejects: Option<&Path>) -> String {
    let look = "check the keys and the expected values";
    match rejects {
        Some(path) => format!("{} lists them; {look}", path.display()),
        None => format!("run it with --rejects FILE to list them, and {look}"),
    }
}
