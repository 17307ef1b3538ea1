//! `headcount run`: a statement with a guaranteed number of workers.

use std::sync::Arc;
use std::time::Duration;

use headcount::server::Endpoint;
use headcount::telemetry::trace_context;
use headcount::{Execution, Headcount, Observer, Settings};
use tokio_util::sync::CancellationToken;

use super::advice::{explained, leaves_invalid_indexes};
use super::args::{RunArgs, Server, Words};
use super::exit::{self, Failed};
use super::object;
use super::options::{self, Wanted};
use super::output::{self, FailedRun};
use super::panics;
use super::signals::Signals;
use super::telemetry;
use super::watchdog::Watchdog;

/// How long a server may be away at the end.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The same for slots whose workers do not leave. A second signal leaves them to the server.
const SLOTS_LIMIT: Duration = Duration::from_hours(1);

/// Runs it, and returns the exit code.
pub(crate) async fn run(args: &RunArgs, words: &Words, signals: &mut Signals) -> u8 {
    let wanted = match Wanted::resolve(&args.demand, Some(&args.timing)) {
        Ok(wanted) => wanted,
        Err(failed) => {
            return fail(&failed, args.json, &options::task(&args.demand), None);
        }
    };
    let settings = &wanted.settings;
    match execute(args, &wanted, words, signals).await {
        Ok(run) => {
            let code = exit::code_of(run.outcome);
            if args.json {
                object::print_result(&run, code);
            } else if !(words.quiet && code == exit::DONE && !run.unreplicated) {
                let mut lines = output::summary(&run, settings.max_attempts, settings.transaction);
                if run.attempt_count > 1 && settings.cleanup.is_none() && leaves_invalid_indexes(&wanted.sql)
                {
                    lines[2] = output::with_invalid_indexes(&lines[2]);
                }
                output::print(&lines.join("\n"));
            }
            code
        }
        Err(failed) => {
            let demanded = (settings.target_workers, settings.minimum());
            let code = fail(&failed, args.json, &settings.task, Some(demanded));
            let history = failed.error().and_then(headcount::Error::history);
            // What never began leaves nothing to tell.
            let is_silent =
                |history: &&Execution<()>| args.json || (words.quiet && history.attempt_count == 0);
            if let Some(history) = history.filter(|history| !is_silent(history)) {
                output::print(&output::remains(history, &failed, settings).join("\n"));
            }
            code
        }
    }
}

fn fail(failed: &Failed, json: bool, task: &str, demanded: Option<(u32, u32)>) -> u8 {
    output::complain(failed);
    if json {
        object::print_result(&FailedRun::new(failed, task, demanded), failed.code());
    }
    failed.code()
}

async fn execute(
    args: &RunArgs,
    wanted: &Wanted,
    words: &Words,
    signals: &mut Signals,
) -> Result<Execution<u64>, Failed> {
    let inputs = [("the statement is read from", &wanted.file), ("the job is read from", &args.demand.job)];
    telemetry::check_textfile(&args.exporters, &inputs)?;
    let ends = endpoints(&args.server)?;
    let telemetry = telemetry::start(&wanted.settings.task, &args.exporters, words).await?;
    let observers = telemetry::observers(&telemetry, words, args.json);
    if wanted.settings.trace_comment && !telemetry.exports_spans() && trace_context().is_none() {
        output::say("headcount: warning: --trace-comment has nothing to append: no TRACEPARENT, no --otlp");
    }
    let several = ends.0.has_several_hosts();
    let headcount = handle(ends, &args.server, observers);
    let result = match panics::caught(guarded(&headcount, several, wanted, signals)).await {
        Ok(result) => result,
        Err(panic) => {
            // What it had under way is given up by tasks of its own.
            put_in_order(&headcount, order_limit(&wanted.settings, None), signals).await;
            Err(panic.into())
        }
    };
    signals.or_leave(telemetry::finish(telemetry)).await;
    result
}

/// The server, and where the monitor goes when it has its own way.
pub(crate) fn endpoints(server: &Server) -> Result<(Endpoint, Option<Endpoint>), Failed> {
    let endpoint = endpoint(server.dsn.as_deref())?;
    let monitor = server
        .monitor_dsn
        .as_deref()
        .map(|dsn| Endpoint::from_dsn(dsn).map_err(|error| Failed::usage(format!("--monitor-dsn: {error}"))));
    Ok((endpoint, monitor.transpose()?.inspect(warn)))
}

/// Where `--dsn` leads, or the environment.
pub(crate) fn endpoint(dsn: Option<&str>) -> Result<Endpoint, Failed> {
    let endpoint = match dsn {
        Some(dsn) => Endpoint::from_dsn(dsn)?,
        None => Endpoint::from_environment()?,
    };
    warn(&endpoint);
    Ok(endpoint)
}

fn warn(endpoint: &Endpoint) {
    for warning in endpoint.warnings() {
        output::say(&format!("headcount: warning: {warning}"));
    }
}

fn handle(
    (endpoint, monitor): (Endpoint, Option<Endpoint>),
    server: &Server,
    observers: Vec<Arc<dyn Observer>>,
) -> Headcount {
    let watchdog = Watchdog::new(server.monitor_dsn.as_deref().or(server.dsn.as_deref()));
    let builder = Headcount::builder(endpoint).without_default_observers();
    let builder = builder.observer(Arc::new(watchdog)).observers(observers);
    match monitor {
        Some(monitor) => builder.monitor(monitor),
        None => builder,
    }
    .build()
}

async fn guarded(
    headcount: &Headcount,
    several: bool,
    wanted: &Wanted,
    signals: &mut Signals,
) -> Result<Execution<u64>, Failed> {
    let stop = CancellationToken::new();
    let job = headcount.job(wanted.settings.clone()).stop(stop.clone());
    // The simple protocol takes one statement or several; one is inspected before it runs.
    let mut running = Box::pin(job.execute_script(&wanted.sql));
    let (ended, code) = match signals.unless(&mut running).await {
        Ok(ended) => (ended, 0),
        Err(code) => {
            stop.cancel();
            // What is left to wait for is the cancel, the rollback and the cleanup, within their limits.
            (signals.or_leave(running).await, code)
        }
    };
    // What was dropped on the way, such as a place in the queue, is given up by tasks of its own.
    let limit = order_limit(&wanted.settings, ended.as_ref().err());
    put_in_order(headcount, limit, signals).await;
    ended.map_err(|error| {
        if error.is_stopped() {
            return Failed::Interrupted(code, Some(Box::new(error)));
        }
        // If there was a signal, it was over before it could be stopped.
        explained(error, wanted, several)
    })
}

/// How long what was given up may take to be in order on the server. Slots are kept until the workers are gone,
/// unless somebody has set a deadline: then they are left to the server, which takes them back with their session.
fn order_limit(settings: &Settings, error: Option<&headcount::Error>) -> Duration {
    if error.is_some_and(|error| !error.is_end_seen()) && settings.deadline.is_some() {
        // It was waited for already.
        return settings.cancel_grace;
    }
    let slots = if settings.reserve && settings.deadline.is_none() { SLOTS_LIMIT } else { Duration::ZERO };
    2 * settings.cancel_grace + ANSWER_LIMIT + slots
}

/// Waits until nothing that was given up is under way on the server.
pub(crate) async fn put_in_order(headcount: &Headcount, limit: Duration, signals: &mut Signals) {
    if !signals.or_leave(headcount.shutdown(limit)).await {
        output::say("headcount: warning: a session did not end in time; look at pg_stat_activity");
    }
}
