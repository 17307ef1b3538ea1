//! What a run returns: the result, and its history.

use std::time::Duration;

use serde::Serialize;

use crate::decide::attempt::Outcome;
pub use crate::decide::ceiling::{Ceiling, Rung};
use crate::decide::short_reason::ShortReason;
pub use crate::decide::update::ending::UpdateOutcome;
use crate::error::Error;
use crate::event::AttemptVerdict;

/// The result and history of a guarded query that ended without an error. Check [`outcome`](Self::outcome): too few
/// workers is no error.
///
/// It serialises to the object that `headcount run --json` prints. Times are seconds, as numbers.
///
/// ```no_run
/// # fn report(run: headcount::Execution<u64>) -> Result<(), headcount::Error> {
/// println!("{} of {} workers in {} attempts", run.achieved_workers, run.target_workers, run.attempt_count);
/// let rows = run.required()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
#[must_use = "it may have ended below its minimum: look at `outcome`, or call `required`"]
pub struct Execution<T> {
    /// The configured name of the task.
    pub task: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether `achieved_workers` reached `demanded_workers`.
    pub target_met: bool,
    /// The configured target.
    pub demanded_workers: u32,
    /// Workers that all attempts but the last needed: the target, or what the plan can use if that is less
    /// ([`PlanShortfall::Lower`](crate::PlanShortfall::Lower)).
    pub target_workers: u32,
    /// Workers that the last attempt needed.
    pub min_workers: u32,
    /// The most workers that the plan can use at once; `None` if there was no plan to inspect.
    pub planned_workers: Option<u32>,
    /// How it got its workers; `None` if it ended before that was known, or if another client runs the statement.
    pub rung: Option<Rung>,
    /// What limited the workers of its session; `None` as with `rung`.
    pub ceiling: Option<Ceiling>,
    /// What the plan can use, if that is less than the configured target. `target_workers` and `min_workers` do not
    /// exceed it.
    pub lowered_to: Option<u32>,
    /// The most workers seen at once, in the accepted attempt or else in the best one. If launches were proven short:
    /// the smallest share that one of them got of what it needed, in workers of the target.
    pub achieved_workers: u32,
    /// Launches of the accepted attempt that were proven short.
    pub short_launches: u32,
    /// Statements of the accepted attempt that were not judged, because their plans have fewer workers than the minimum.
    pub unjudged_statements: u32,
    /// Number of attempts that began.
    pub attempt_count: u32,
    /// What the statement returned; `None` if the outcome is `below_minimum`.
    #[serde(rename = "rows")]
    pub value: Option<T>,
    /// Time spent waiting: for a session, for locks of the plan, for free slots, and between attempts.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
    /// The part of `waited` that was spent waiting for free slots in the pool.
    #[serde(rename = "room_wait_seconds", serialize_with = "seconds")]
    pub room_wait: Duration,
    /// Time spent inspecting the plan, or the plans of a script's statements. Waits for its locks count here and in
    /// `waited`.
    #[serde(rename = "planning_seconds", serialize_with = "seconds")]
    pub planning: Duration,
    /// Whether the commit took effect on this server, but may be missing on a synchronous standby, because the wait for
    /// it was cut short (by a deadline or a signal, for example). A failover may undo it.
    pub unreplicated: bool,
    /// Time spent in the queue for slots; not part of `waited`.
    #[serde(rename = "reserved_wait_seconds", serialize_with = "seconds")]
    pub reserved_wait: Duration,
    /// Slots that it reserved; `None` without [`Settings::reserve`](crate::Settings::reserve).
    pub reserved_slots: Option<u32>,
    /// Run time of the accepted attempt, from the start of its statement to its end.
    #[serde(rename = "ran_seconds", serialize_with = "seconds")]
    pub ran: Duration,
    /// Run time of all other attempts.
    #[serde(rename = "wasted_seconds", serialize_with = "seconds")]
    pub wasted: Duration,
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
}

/// One attempt of an execution.
///
/// ```no_run
/// # fn report(run: &headcount::Execution<u64>) {
/// for lost in run.attempts.iter().filter(|attempt| !attempt.accepted) {
///     println!("attempt {}: {} workers, {}", lost.attempt, lost.workers, lost.verdict.as_str());
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Workers that it needed.
    pub required_workers: u32,
    /// What it came to.
    pub verdict: AttemptVerdict,
    /// Why it was short; `None` unless it was.
    pub reason: Option<ShortReason>,
    /// The SQLSTATE of a failed attempt.
    pub sqlstate: Option<String>,
    /// The most workers seen at once.
    pub workers: u32,
    /// The same; if launches were proven short, the smallest share that one of them got of what it needed.
    pub achieved: u32,
    /// Launches that were proven short.
    pub short_launches: u32,
    /// Why the worst of them was, in the same words as `reason`.
    pub short_reason: Option<ShortReason>,
    /// Statements that were not judged, because their plans have fewer workers than the minimum.
    pub unjudged_statements: u32,
    /// Whether the verdict counts several launches that ran at once while no slot was free: each may lack a worker.
    pub concurrent_unproven: bool,
    /// Whether some launches may have had no worker because no slot was free. That cannot be known for launches that no
    /// plan shows (CALL, DO, functions, a Gather below a nested loop), and for statements that ended before the verdict.
    pub launches_unproven: bool,
    /// Time from the start of the statement to the verdict; `None` if it failed before.
    #[serde(rename = "verdict_seconds", serialize_with = "maybe_seconds")]
    pub verdict_after: Option<Duration>,
    /// Time it waited for free slots before it started.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
    /// Slots that were held for it when it started; 0 if none were gathered.
    pub gathered: u32,
    /// Run time, from the start of the statement to its end.
    #[serde(rename = "ran_seconds", serialize_with = "seconds")]
    pub ran: Duration,
    /// Whether its result was kept.
    pub accepted: bool,
}

impl<T> Execution<T> {
    /// The result of a run that reached the minimum, or was kept all the same ([`Outcome::FinishedShort`]).
    ///
    /// # Errors
    /// [`Error::is_below_minimum`]; [`Error::history`] has the attempts.
    pub fn required(mut self) -> Result<T, Error> {
        match self.value.take() {
            Some(value) => Ok(value),
            None => Err(Error::below_minimum(self.with_value(None))),
        }
    }

    /// The same history with another result.
    pub(crate) fn with_value<U>(self, value: Option<U>) -> Execution<U> {
        Execution {
            task: self.task,
            outcome: self.outcome,
            target_met: self.target_met,
            demanded_workers: self.demanded_workers,
            target_workers: self.target_workers,
            min_workers: self.min_workers,
            planned_workers: self.planned_workers,
            rung: self.rung,
            ceiling: self.ceiling,
            lowered_to: self.lowered_to,
            short_launches: self.short_launches,
            unjudged_statements: self.unjudged_statements,
            achieved_workers: self.achieved_workers,
            attempt_count: self.attempt_count,
            value,
            waited: self.waited,
            room_wait: self.room_wait,
            planning: self.planning,
            unreplicated: self.unreplicated,
            reserved_wait: self.reserved_wait,
            reserved_slots: self.reserved_slots,
            ran: self.ran,
            wasted: self.wasted,
            attempts: self.attempts,
        }
    }
}

/// The result of a chunked update. Each key is in exactly one class.
///
/// It serialises to the object that `headcount update --json` prints. Times are seconds, as numbers.
///
/// ```no_run
/// # fn report(report: headcount::Updated) -> Result<(), headcount::Error> {
/// println!("{} updated, {} already, {} stale", report.updated, report.already, report.stale);
/// report.complete()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Updated {
    /// The configured name of the task.
    pub task: String,
    /// How it ended.
    pub outcome: UpdateOutcome,
    /// Whether it counts as done; see [`is_complete`](Self::is_complete).
    pub complete: bool,
    /// Whether it was a dry run: nothing was changed, and `updated` counts what would have been.
    pub dry_run: bool,
    /// Keys processed: the sum of the five classes.
    pub keys: u64,
    /// Keys whose row this run changed. (Also keys whose row holds the new value after a commit of unknown outcome, see
    /// [`InDoubt::reread`].)
    pub updated: u64,
    /// Keys whose row held the new value before.
    pub already: u64,
    /// Keys whose row holds neither the expected nor the new value.
    pub stale: u64,
    /// Keys without a row.
    pub missing: u64,
    /// Keys that were given up; see [`failures`](Self::failures).
    pub failed: u64,
    /// Keys that a stopped run did not process. `None` if their number is not known: it was stopped before the keys were
    /// opened, or they come from a pipe, could not be read to the end, or are claimed.
    pub left: Option<u64>,
    /// Committed chunks.
    pub chunks: u64,
    /// Chunks that were given up.
    pub failed_chunks: u64,
    /// Chunks that took more than one transaction.
    pub retried_chunks: u64,
    /// Sessions that replaced lost ones.
    pub reconnects: u64,
    /// Commits whose answer was lost, by outcome.
    pub in_doubt: InDoubt,
    /// The first 100 failures, with at most 100 keys each. The file of rejects has all of them.
    pub failures: Vec<KeyFailure>,
    /// The error that stopped the run before its end, if one did.
    pub error: Option<String>,
    /// The SQLSTATE of that error.
    pub sqlstate: Option<String>,
    /// A possible cause of missing or stale keys, and what to check.
    pub hint: Option<String>,
    /// Duration of the run.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

impl Updated {
    /// Whether it counts as done: no key failed, none is left, and nothing that [`fail_on`](crate::Update::fail_on)
    /// names applies. By default that means: there were keys (unless they come from a query), and at least one has a row.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The same report, if it [counts as done](Self::is_complete).
    ///
    /// # Errors
    /// [`Error::is_incomplete`], with the numbers of the report.
    pub fn complete(self) -> Result<Self, Error> {
        if self.complete { Ok(self) } else { Err(Error::incomplete(&self)) }
    }
}

/// Commits whose answer was lost, by outcome.
///
/// ```no_run
/// # fn report(report: &headcount::Updated) {
/// if report.in_doubt.unresolved > 0 {
///     println!("look at the rows of: {:?}", report.failures);
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InDoubt {
    /// They took effect, as the server said.
    pub committed: u64,
    /// They did not take effect, as the server said, and were retried.
    pub aborted: u64,
    /// The server could not tell, so the rows were compared again. That happens if it no longer remembers the
    /// transaction, or if it crashed or restarted (then an id may be reused, and an unflushed commit is gone).
    pub reread: u64,
    /// Their outcome, or whether it is durable, could not be found out, and their rows could not be compared again: the
    /// keys failed.
    pub unresolved: u64,
    /// Keys (not commits) that were reported, but that a server which took over lacks, or may lack. They were done again,
    /// or failed.
    pub replaced: u64,
}

/// Keys that failed together.
///
/// ```no_run
/// # fn report(report: &headcount::Updated) {
/// for failure in &report.failures {
///     println!("{}: {}", failure.keys.join(" "), failure.reason);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyFailure {
    /// The keys; their columns are separated by commas.
    pub keys: Vec<String>,
    /// Their lines in the input.
    pub lines: Vec<u64>,
    /// The SQLSTATE; 08006 for a broken connection.
    pub sqlstate: Option<String>,
    /// The error message.
    pub reason: String,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Microseconds are finer than anything measured here, and keep the JSON readable.
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

#[allow(clippy::ref_option, reason = "the signature is serde's")]
fn maybe_seconds<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}
