//! The result on standard output: three lines for people, or one JSON object.
//!
//! The three lines answer, in this order, what somebody asks who is called at night: did it work, where
//! did the time go, and what now.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headcount::event::ShortReason;
use headcount::{Attempt, Ceiling, Execution, Fix, Outcome, Rung, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::advice::{held_by_others, way_on};
use super::exit::Failed;
use super::names::typed;
use super::stdout;

/// Whether something could not be written to standard output, of which a process has one.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes to standard output. Nobody may be reading any more (`| head`), which is no reason to fail; a result
/// that a full disk swallowed is one, and becomes the exit code at the end.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let mut written = writeln!(out, "{text}").and_then(|()| out.flush());
    if stdout::was_closed() {
        written = Err(io::Error::other("it is closed"));
    }
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::Relaxed)
    {
        say(&format!(
            "headcount: cannot write to standard output: {error}; only the output is lost (if the exit code is 6, the work \
             is done: do not run it again)"
        ));
    }
}

/// Whether somebody may still read what is printed. A pipe whose other end is closed says so before it is written to.
pub(crate) fn is_read() -> bool {
    let out = io::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let gone = PollFlags::ERR | PollFlags::HUP;
    poll(&mut polled, Some(&Timespec::default())).map_or(true, |_| !polled[0].revents().intersects(gone))
}

/// Whether all that was printed has arrived, as far as anybody can know.
pub(crate) fn arrived() -> bool {
    !LOST.load(Ordering::Relaxed)
}

/// Writes a line to standard error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says what went wrong, and what would help.
pub(crate) fn complain(failed: &Failed) {
    say(&format!("headcount: {failed}"));
    for fix in failed.fixes() {
        say(&remedy(fix));
    }
}

/// A fix as a line: what can be typed is told from advice.
pub(crate) fn remedy(fix: &Fix) -> String {
    let typed = typed(fix);
    typed.strip_prefix("-- ").map_or_else(|| format!("fix: {typed}"), |advice| format!("hint: {advice}"))
}

/// The object of a run without a result: the fields of [`Execution`], and what went wrong.
#[derive(Debug, Serialize)]
pub(crate) struct FailedRun<'a> {
    task: &'a str,
    outcome: &'static str,
    reason: &'static str,
    target_met: bool,
    demanded_workers: Option<u32>,
    target_workers: Option<u32>,
    min_workers: Option<u32>,
    planned_workers: Option<u32>,
    rung: Option<Rung>,
    ceiling: Option<&'a Ceiling>,
    lowered_to: Option<u32>,
    achieved_workers: u32,
    short_launches: u32,
    unjudged_statements: u32,
    attempt_count: u32,
    rows: Option<u64>,
    waited_seconds: f64,
    room_wait_seconds: f64,
    planning_seconds: f64,
    reserved_wait_seconds: f64,
    reserved_slots: Option<u32>,
    ran_seconds: f64,
    wasted_seconds: f64,
    attempts: &'a [Attempt],
    /// `None`: nobody could look.
    processes_left: Option<u32>,
    error: String,
    sqlstate: Option<&'a str>,
    fixes: Vec<String>,
}

impl<'a> FailedRun<'a> {
    /// `task`, target and minimum as far as they are known by now.
    pub(crate) fn new(failed: &'a Failed, task: &'a str, demanded: Option<(u32, u32)>) -> Self {
        let history = failed.error().and_then(headcount::Error::history);
        let seconds = |of: fn(&Execution<()>) -> Duration| history.map_or(0.0, |run| rounded(of(run)));
        Self {
            task,
            outcome: "failed",
            reason: failed.reason(),
            target_met: false,
            demanded_workers: history.map(|run| run.demanded_workers).or(demanded.map(|(target, _)| target)),
            target_workers: history.map(|run| run.target_workers).or(demanded.map(|(target, _)| target)),
            min_workers: history.map(|run| run.min_workers).or(demanded.map(|(_, minimum)| minimum)),
            planned_workers: history.and_then(|run| run.planned_workers),
            rung: history.and_then(|run| run.rung),
            ceiling: history.and_then(|run| run.ceiling.as_ref()),
            lowered_to: history.and_then(|run| run.lowered_to),
            achieved_workers: history.map_or(0, |run| run.achieved_workers),
            short_launches: history.map_or(0, |run| run.short_launches),
            unjudged_statements: history.map_or(0, |run| run.unjudged_statements),
            attempt_count: history.map_or(0, |run| run.attempt_count),
            rows: None,
            waited_seconds: seconds(|run| run.waited),
            room_wait_seconds: seconds(|run| run.room_wait),
            planning_seconds: seconds(|run| run.planning),
            reserved_wait_seconds: seconds(|run| run.reserved_wait),
            reserved_slots: history.and_then(|run| run.reserved_slots),
            ran_seconds: seconds(|run| run.ran),
            wasted_seconds: seconds(|run| run.wasted),
            attempts: history.map_or(&[], |run| &run.attempts),
            processes_left: failed.is_end_seen().then(|| failed.processes_left()),
            error: failed.to_string(),
            sqlstate: failed.error().and_then(headcount::Error::sqlstate),
            fixes: failed.fixes().into_iter().map(typed).collect(),
        }
    }
}

/// To the microsecond, as in the object of a run with a result.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// A statement that ran longer was worth watching.
const SOON: Duration = Duration::from_secs(1);

/// Ends the line of a run that is as it should be.
const NOTHING_TO_DO: &str = "; nothing to do";

/// The last line of a run whose cancelled attempts left indexes behind.
pub(crate) fn with_invalid_indexes(line: &str) -> String {
    let line = line.trim_end_matches(NOTHING_TO_DO);
    format!(
        "{line}; the attempts that were cancelled may have left invalid indexes (..._ccnew): find them with SELECT \
         indexrelid::regclass FROM pg_index WHERE NOT indisvalid, and DROP INDEX CONCURRENTLY each"
    )
}

/// The three lines of a run that ended without an error.
pub(crate) fn summary(run: &Execution<u64>, max_attempts: u32, in_transaction: bool) -> [String; 3] {
    let mut meaning = meaning(run, max_attempts, in_transaction);
    if run.unreplicated {
        meaning = meaning.trim_end_matches(NOTHING_TO_DO).to_owned();
        meaning.push_str(
            "; it is committed on this server, and nobody knows whether its synchronous standby has it: a failover may undo it",
        );
    }
    [reached(run, max_attempts), time(run), meaning]
}

fn reached(run: &Execution<u64>, max_attempts: u32) -> String {
    let Execution { task, achieved_workers: achieved, target_workers: target, attempt_count, .. } = run;
    let outcome = match run.outcome {
        Outcome::OnTarget => "on target".to_owned(),
        Outcome::Lowered => format!("all that its plan can use ({} were asked for)", run.demanded_workers),
        Outcome::FinishedShort => format!("finished below the minimum of {}", run.min_workers),
        Outcome::AboveMinimum => format!("above the minimum of {}", run.min_workers),
        Outcome::FinishedEarly if run.target_met => "on target".to_owned(),
        Outcome::FinishedEarly => "finished before the number was final".to_owned(),
        Outcome::Unverified => "not verified".to_owned(),
        // The best attempt had them, at some of its launches.
        Outcome::BelowMinimum if *achieved >= run.min_workers => {
            format!("but not at each launch: at least one was below the minimum of {}", run.min_workers)
        }
        Outcome::BelowMinimum => format!("below the minimum of {}", run.min_workers),
        _ => run.outcome.as_str().to_owned(),
    };
    let rows = run.value.map(|rows| format!(", {}", count(rows, "row"))).unwrap_or_default();
    let (short, unjudged) = (short_launches(run), unjudged(run));
    format!(
        "{task}: {achieved} of {}, {outcome}, at attempt {attempt_count} of {max_attempts}{rows}{short}{unjudged}",
        count(u64::from(*target), "worker")
    )
}

fn short_launches(run: &Execution<u64>) -> String {
    match run.short_launches {
        0 => String::new(),
        1 => ", 1 launch was short".to_owned(),
        many => format!(", {many} launches were short"),
    }
}

fn unjudged(run: &Execution<u64>) -> String {
    match run.unjudged_statements {
        0 => String::new(),
        1 => ", 1 statement with a smaller plan was not judged".to_owned(),
        many => format!(", {many} statements with smaller plans were not judged"),
    }
}

/// The three lines of a run that failed or was stopped, below the error.
pub(crate) fn remains(history: &Execution<()>, failed: &Failed, settings: &Settings) -> [String; 3] {
    let Execution { task, achieved_workers: best, target_workers: target, attempt_count, .. } = history;
    let ended = failed.ended();
    let reached = match attempt_count {
        0 => format!("{task}: {ended} before its first attempt"),
        _ => format!(
            "{task}: {ended} at attempt {attempt_count} of {}, at best {best} of {target} workers",
            settings.max_attempts
        ),
    };
    [reached, time(history), way_on(history, failed, settings.transaction)]
}

fn time<T>(run: &Execution<T>) -> String {
    let lost = run.attempts.iter().filter(|attempt| !attempt.accepted).count();
    let attempts = if lost == 1 { "attempt" } else { "attempts" };
    let wasted = match lost {
        0 => "no attempt was lost".to_owned(),
        _ => format!("lost {} in {lost} {attempts} that did not count", time_text(run.wasted)),
    };
    let queued = match run.reserved_slots {
        Some(_) => format!(", {} in the queue for slots", time_text(run.reserved_wait)),
        None => String::new(),
    };
    let planned = match run.planning {
        quick if quick < SOON => String::new(),
        long => format!(", inspected the plan for {}", time_text(long)),
    };
    format!(
        "Time: ran {}{planned}, waited {} to start{queued}, {wasted}",
        time_text(run.ran),
        time_text(run.waited)
    )
}

/// Whether an attempt, or a launch of one that was kept, was short for this reason.
pub(crate) fn was_short(attempts: &[Attempt], reason: ShortReason) -> bool {
    let told = attempts.iter().flat_map(|attempt| [attempt.reason, attempt.short_reason]);
    told.flatten().any(|told| told == reason)
}

/// What it is that too few workers are due to, and what helps.
fn blame(run: &Execution<u64>) -> Cow<'static, str> {
    let any = |reason| was_short(&run.attempts, reason);
    if run.reserved_slots == Some(0) {
        "no slots could be had within --reserve-wait: see `headcount watch`".into()
    } else if run.reserved_slots.is_some_and(|slots| slots < run.target_workers) {
        "it had fewer slots than it wanted: let it wait longer (--degrade-after, --reserve-wait), see `headcount watch`".into()
    } else if any(ShortReason::ProcessesExhausted) {
        "the server had no process left for a worker: other statements hold them (`headcount watch`), or replication and \
         extensions, which take from max_worker_processes, too; raise that, which takes a restart, or keep some free \
         for the role (`headcount doctor`)"
            .into()
    } else if any(ShortReason::PoolExhausted) {
        held_by_others(run).into()
    } else if any(ShortReason::NoLaunch) {
        // Only where the pool cannot be seen is a statement without workers cancelled.
        format!(
            "no worker came within --launch-wait: raise that if much comes before the first Gather, let the monitor see \
             the pool with GRANT pg_read_all_stats; or {}",
            held_by_others(run)
        )
        .into()
    } else if any(ShortReason::UnderLaunched) {
        under_launched(run).into()
    } else {
        "see `headcount explain` and `headcount doctor`".into()
    }
}

fn meaning(run: &Execution<u64>, max_attempts: u32, in_transaction: bool) -> String {
    let blame = blame(run);
    match run.outcome {
        Outcome::BelowMinimum => {
            let undone = if in_transaction {
                "Nothing was kept, each attempt was rolled back"
            } else {
                "No result: each attempt was cancelled, and what one leaves outside a transaction (an invalid index) \
                 only --cleanup removes"
            };
            format!("{undone}; {blame}, or accept less with --min")
        }
        // Nothing proved that it lacked a worker.
        Outcome::AboveMinimum if run.short_launches == 0 && run.attempt_count == max_attempts => format!(
            "It is done and kept: the last attempt is accepted as soon as it has the minimum, and may have had more; if not, \
             {blame}"
        ),
        Outcome::AboveMinimum => format!("It is done and kept, only slower than it could be; {blame}"),
        Outcome::FinishedShort => {
            let why = if was_short(&run.attempts, ShortReason::UnderLaunched) {
                "the server's counters told it only after the COMMIT"
            } else {
                "--every-launch cancels in time, --strict keeps nothing"
            };
            format!(
                "It is done and kept, with fewer workers than the minimum: do not run it again; {blame} ({why})"
            )
        }
        Outcome::Lowered => format!(
            "It is done and kept; its plan can use {} of the {} workers asked for: `headcount explain` says why; \
             with --plan-shortfall refuse, such a statement is refused if it reads a table",
            run.lowered_to.unwrap_or(run.target_workers),
            run.demanded_workers
        ),
        Outcome::Unverified
            if run.attempts.last().is_some_and(|last| last.launches_unproven && last.workers == 0) =>
        {
            format!(
                "It is done and kept; it ran without a worker while the pool was full, or was not to be seen (GRANT \
                 pg_read_all_stats), and nobody can tell whether it asked for any; {}",
                held_by_others(run)
            )
        }
        Outcome::Unverified
            if run
                .attempts
                .last()
                .is_some_and(|last| last.launches_unproven && last.achieved < run.target_workers) =>
        {
            format!("It is done and kept; {}", few_seen(run))
        }
        Outcome::Unverified if run.attempts.last().is_some_and(|last| last.launches_unproven) => {
            format!(
                "It is done and kept; one launch had its workers, and another may have had fewer, or none: {UNSURE}"
            )
        }
        Outcome::Unverified => {
            "It is done and kept; the monitor could not see it (its connection was away, its role lost pg_read_all_stats, or this \
             process was stopped), so nobody counted its workers"
                .to_owned()
        }
        Outcome::FinishedEarly if !run.target_met => {
            let most = count(run.achieved_workers.into(), "worker");
            if run.ran < SOON {
                format!(
                    "It is done and kept; it ended so soon that nothing is proven of its workers ({most} seen)"
                )
            } else {
                // Workers were planned and too few came: that is the pool's doing, not the plan's.
                let why = match run.attempts.last().and_then(|attempt| attempt.reason) {
                    Some(_) => "it ended before it could be cancelled for too few workers",
                    None if run.planned_workers.is_some_and(|planned| planned > 0) => {
                        "there was room for more, and workers that find nothing to do leave at once"
                    }
                    None => "its plan may be serial",
                };
                format!("It is done and kept, with {most} seen: {why}; see `headcount explain`")
            }
        }
        _ => format!("It is done and kept{NOTHING_TO_DO}"),
    }
}

/// What may have kept workers away that nobody missed, and what helps.
const UNSURE: &str = "others, or workers of its own that had just gone, may have held the slots; a larger pool or --ceiling \
     auto keeps some for it, and a monitor that does not see the pool needs GRANT pg_read_all_stats (`headcount doctor`)";

/// Why a run of which too few workers were seen is not known to have had too few.
fn few_seen<T>(run: &Execution<T>) -> String {
    let (best, target) = (run.achieved_workers, run.target_workers);
    match run.planned_workers.filter(|planned| *planned < target) {
        Some(_) => under_launched(run),
        None => format!(
            "{best} of {target} workers were seen, and nobody can tell whether that was all: {UNSURE}"
        ),
    }
}

/// What may have kept workers away where nobody could see the pool.
fn under_launched<T>(run: &Execution<T>) -> String {
    let (best, target) = (run.achieved_workers, run.target_workers);
    match run.planned_workers.filter(|planned| *planned < target) {
        Some(planned) => {
            format!("the plan has {planned} workers and no more: `headcount explain` says why")
        }
        None => format!("{best} of {target} workers came, and nobody was seen to hold the others: {UNSURE}"),
    }
}

/// A number of things: `1 key`, `2 keys`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A duration as people say it.
pub(crate) fn time_text(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = [0, 42, 1_234, 61_000, 7_500_000].map(|ms| time_text(Duration::from_millis(ms)));
        assert_eq!(said, ["0 ms", "42 ms", "1.2 s", "1 min 1 s", "2 h 5 min"]);
    }
}
