//! `headcount update`: many rows, a transaction per chunk, through lost connections.

pub(crate) mod args;
mod progress;

use std::sync::Arc;

use headcount::{Keys, Observer, Update, Updated, Updater};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::args::{Assignment, UpdateArgs, Value};
use self::progress::Progress;
use super::args::Words;
use super::exit::{self, Failed};
use super::object;
use super::output::{self, say, time_text};
use super::panics;
use super::run::endpoint;
use super::signals::Signals;
use super::telemetry;

/// Runs it, and returns the exit code.
pub(crate) async fn run(args: &UpdateArgs, words: &Words, signals: &mut Signals) -> u8 {
    match execute(args, words, signals).await {
        Ok((report, interrupted)) => {
            let code = match interrupted {
                _ if report.is_complete() => exit::DONE,
                Some(code) => code,
                None => exit::INCOMPLETE,
            };
            if args.json {
                object::print_result(&report, code);
            } else if !(words.quiet && report.is_complete()) {
                output::print(&summary(&report).join("\n"));
            }
            code
        }
        Err(failed) => {
            output::complain(&failed);
            if args.json {
                let (outcome, reason) = ("failed", failed.reason());
                let error = failed.to_string();
                let fixes = failed.fixes().into_iter().map(output::typed).collect();
                let failure = FailedUpdate { task: &args.task, outcome, reason, error, fixes };
                object::print_result(&failure, failed.code());
            }
            failed.code()
        }
    }
}

/// The object of an update that never began.
#[derive(Debug, Serialize)]
struct FailedUpdate<'a> {
    task: &'a str,
    outcome: &'static str,
    reason: &'static str,
    error: String,
    fixes: Vec<String>,
}

async fn execute(
    args: &UpdateArgs,
    words: &Words,
    signals: &mut Signals,
) -> Result<(Updated, Option<u8>), Failed> {
    let endpoint = endpoint(args.dsn.as_deref())?;
    let telemetry = telemetry::start(&args.task, &args.exporters, words).await?;
    let mut observers = telemetry.observers();
    observers.push(Arc::new(object::TraceId));
    if telemetry::tells(words, args.json) {
        observers.push(Arc::new(Progress::new()) as Arc<dyn Observer>);
    }
    let stop = CancellationToken::new();
    let update = wanted(args, &Updater::without_default_observers(endpoint, observers)).stop(stop.clone());
    let result = match panics::caught(work(&update, keys(args), &stop, signals)).await {
        Ok(result) => result,
        Err(panic) => Err(panic.into()),
    };
    signals.or_leave(telemetry::finish(telemetry)).await;
    result
}

/// The first signal lets the chunks in flight finish; the second one leaves at once.
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
            say("headcount: finishing the chunks in flight; a second signal leaves at once");
            Ok((signals.or_leave(running).await?, Some(code)))
        }
    }
}

fn wanted(args: &UpdateArgs, updater: &Updater) -> Update {
    let mut update = updater
        .update(&args.table)
        .task(&args.task)
        .key(args.key.iter().map(|column| column.trim()))
        .chunk(args.chunk)
        .connections(args.connections)
        .max_attempts(args.max_attempts);
    for Assignment { column, value } in &args.set {
        update = match value {
            Value::Null => update.set(column, None),
            Value::Text(text) => update.set(column, text.as_str()),
            Value::Input(input) => update.set_from(column, input),
        };
    }
    for Assignment { column, value } in &args.expect {
        update = match value {
            Value::Null => update.expect(column, None),
            Value::Text(text) => update.expect(column, text.as_str()),
            Value::Input(input) => update.expect_from(column, input),
        };
    }
    if let Some(column) = &args.version {
        update = update.version(column);
    }
    if let Some(wait) = args.reconnect_wait {
        update = update.reconnect_wait(wait);
    }
    if let Some(path) = &args.rejects {
        update = update.rejects(path);
    }
    if args.dry_run { update.dry_run() } else { update }
}

fn keys(args: &UpdateArgs) -> Keys {
    match (&args.keys, &args.keys_query) {
        (_, Some(query)) if args.claim => Keys::claim(query),
        (_, Some(query)) => Keys::query(query),
        (Some(path), None) if path.as_os_str() == "-" => Keys::stdin(),
        (Some(path), None) => Keys::file(path),
        // The parser demands one of them.
        (None, None) => Keys::stdin(),
    }
}

/// The lines for people: did it work, what became of the keys, what now.
fn summary(report: &Updated) -> Vec<String> {
    let Updated { task, keys, updated, already, stale, missing, failed, chunks, .. } = report;
    let outcome = if report.is_complete() { "complete" } else { "incomplete" };
    let would = if report.dry_run { " (nothing was changed)" } else { "" };
    let rate = *keys as f64 / report.took.as_secs_f64().max(1e-3);
    let doubt = report.in_doubt;
    let doubts = doubt.committed + doubt.aborted + doubt.reread + doubt.unresolved;
    let mut lines = vec![
        format!(
            "{task}: {outcome}{would}: {updated} updated, {already} already, {stale} stale, {missing} missing, {failed} failed"
        ),
        format!(
            "Time: {} for {keys} keys in {chunks} chunks ({rate:.0}/s); {} chunks tried again, {} new sessions, {doubts} commits in doubt",
            time_text(report.took),
            report.retried_chunks,
            report.reconnects,
        ),
    ];
    lines.extend(report.error.iter().map(|error| format!("Stopped: {error}")));
    for failure in report.failures.iter().take(3) {
        let line = failure.lines.first().map(|line| format!(" (line {line})")).unwrap_or_default();
        let more = match failure.keys.len() {
            0 | 1 => String::new(),
            keys => format!(" and {} more", keys - 1),
        };
        let first = failure.keys.first().map_or("", String::as_str);
        lines.push(format!("Failed: {first}{line}{more}: {}", failure.reason));
    }
    lines.push(match (report.is_complete(), report.left) {
        (true, _) => "Every key is accounted for; nothing to do".to_owned(),
        (false, Some(left)) if left > 0 => format!("{left} keys are left; run the same again to finish them"),
        (false, None) => "Some keys are left; run the same again to finish them".to_owned(),
        (false, Some(_)) => "Run the same again once the cause is gone; what is done stays done".to_owned(),
    });
    lines
}
