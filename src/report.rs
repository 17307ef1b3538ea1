//! What a run returns: the result, and how it came about.

use std::time::Duration;

use serde::Serialize;

use crate::decide::attempt::Outcome;
pub use crate::decide::ceiling::{Ceiling, Rung};
pub use crate::decide::chunk::ending::UpdateOutcome;
use crate::decide::reason::ShortReason;
use crate::event::AttemptVerdict;

/// A guarded execution that ended without an error.
///
/// Serialises to the object that `headcount run --json` prints; times are seconds, as numbers.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Execution<T> {
    /// The configured name.
    pub task: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether `achieved_workers` reached the target that was demanded.
    pub target_met: bool,
    /// The target that was asked for.
    pub demanded_workers: u32,
    /// Workers demanded of all attempts but the last (lowered to the plan by `plan_shortfall = lower`).
    pub target_workers: u32,
    /// Workers demanded of the last attempt.
    pub min_workers: u32,
    /// The most workers that the plan can have at once; `None` when there was no plan to inspect.
    pub planned_workers: Option<u32>,
    /// How it came by its workers; `None` when it ended before that was known, or another client runs the statement.
    pub rung: Option<Rung>,
    /// What bounded its session's workers; `None` as with `rung`.
    pub ceiling: Option<Ceiling>,
    /// What the plan could have, where that was less than the target that was demanded; `target_workers` and
    /// `min_workers` are no more than that then.
    pub lowered_to: Option<u32>,
    /// The most workers seen at once in the accepted attempt, else in the best one. Where launches were proven short,
    /// the smallest share of what each needed, in workers of the target.
    pub achieved_workers: u32,
    /// Launches of the accepted attempt that were proven short.
    pub short_launches: u32,
    /// Statements of the accepted attempt that were not judged: their plans have fewer workers than the minimum.
    pub unjudged_statements: u32,
    /// Attempts begun.
    pub attempt_count: u32,
    /// What the statement returned: `Some` unless the outcome is `below_minimum`.
    #[serde(rename = "rows")]
    pub value: Option<T>,
    /// Time spent waiting for what an attempt needs: a session, a lock that its plan takes, room in the pool; and
    /// between attempts.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
    /// The part of `waited` that was spent waiting for room in the pool.
    #[serde(rename = "room_wait_seconds", serialize_with = "seconds")]
    pub room_wait: Duration,
    /// Time spent inspecting the plan, each statement of a script included; waits for its locks are part of `waited`,
    /// too.
    #[serde(rename = "planning_seconds", serialize_with = "seconds")]
    pub planning: Duration,
    /// Whether it is committed on this server, and nobody knows whether a synchronous standby has it: its wait for that
    /// may have been cut short, by a deadline or a signal, say. A failover may undo it.
    pub unreplicated: bool,
    /// Time spent in the fleet's queue for slots of the pool; apart from `waited`.
    #[serde(rename = "reserved_wait_seconds", serialize_with = "seconds")]
    pub reserved_wait: Duration,
    /// Slots of the pool taken; `None` when none were asked for.
    pub reserved_slots: Option<u32>,
    /// Leader time of the accepted attempt.
    #[serde(rename = "ran_seconds", serialize_with = "seconds")]
    pub ran: Duration,
    /// Leader time of all other attempts.
    #[serde(rename = "wasted_seconds", serialize_with = "seconds")]
    pub wasted: Duration,
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
}

/// One attempt of an execution.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    /// Workers that it had to reach: the target, and on the last attempt the minimum.
    pub required_workers: u32,
    /// What it came to.
    pub verdict: AttemptVerdict,
    /// Why it was short; `None` unless it was.
    pub reason: Option<ShortReason>,
    /// The SQLSTATE that it failed with by itself.
    pub sqlstate: Option<String>,
    /// The most workers seen at once.
    pub workers: u32,
    /// The same, or the smallest share of what a launch needed where launches were proven short.
    pub achieved: u32,
    /// Launches that were proven short.
    pub short_launches: u32,
    /// Why the worst of them was, in the same words as `reason`.
    pub short_reason: Option<ShortReason>,
    /// Statements that were not judged.
    pub unjudged_statements: u32,
    /// Whether the verdict rests on launches that were alive together without room left: each may lack a worker.
    pub concurrent_unproven: bool,
    /// Whether launches may have had no worker because there was no room, and nobody can tell: those that nobody could
    /// foresee (CALL, DO, functions, a Gather below a nested loop), or those of a statement that ended too soon to be
    /// condemned.
    pub launches_unproven: bool,
    /// Statement start to verdict; `None` when it failed before one.
    #[serde(rename = "verdict_seconds", serialize_with = "maybe_seconds")]
    pub verdict_after: Option<Duration>,
    /// Time waited for room before it started.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
    /// Leader time: statement start to its end.
    #[serde(rename = "ran_seconds", serialize_with = "seconds")]
    pub ran: Duration,
    /// Whether its result is kept.
    pub accepted: bool,
}

impl<T> Execution<T> {
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

/// What a chunked update came to; each key is in exactly one class.
///
/// Serialises to the object that `headcount update --json` prints; times are seconds, as numbers.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Updated {
    /// The configured name.
    pub task: String,
    /// How it ended.
    pub outcome: UpdateOutcome,
    /// Whether that counts as done; see [`is_complete`](Self::is_complete).
    pub complete: bool,
    /// Whether nothing was changed, and `updated` counts what would have been.
    pub dry_run: bool,
    /// Keys dealt with: the sum of the five classes.
    pub keys: u64,
    /// Changed by this run (also: found to hold the new value after a transaction that had changed them, and whose fate
    /// nobody knew, see [`InDoubt::reread`]).
    pub updated: u64,
    /// Held the new value before.
    pub already: u64,
    /// Held neither the expected value nor the new one.
    pub stale: u64,
    /// No row has the key.
    pub missing: u64,
    /// Given up; see [`failures`](Self::failures).
    pub failed: u64,
    /// Keys that a stopped run did not get to; `None` where nobody knows how many they are: it was stopped before the
    /// keys were opened, or they come through a pipe, could not be read to their end, or are claimed.
    pub left: Option<u64>,
    /// Chunks committed.
    pub chunks: u64,
    /// Chunks given up.
    pub failed_chunks: u64,
    /// Chunks that took more than one transaction.
    pub retried_chunks: u64,
    /// Sessions that took the place of lost ones.
    pub reconnects: u64,
    /// Commits whose answer was lost, by what became of them.
    pub in_doubt: InDoubt,
    /// The first 100 failures, with at most 100 keys each; the file of rejects has all of them.
    pub failures: Vec<KeyFailure>,
    /// What stopped the run before its end, if something did.
    pub error: Option<String>,
    /// The SQLSTATE of that.
    pub sqlstate: Option<String>,
    /// What may be the cause of keys that are missing or stale, and what to look at.
    pub hint: Option<String>,
    /// From start to end.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
}

impl Updated {
    /// Whether it counts as done: every key ended as updated, already, stale or missing, and nothing is the case that
    /// [`fail_on`](crate::Update::fail_on) names; by default, there was a key, and a row has one of them.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Commits whose answer was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InDoubt {
    /// The server said that they took effect.
    pub committed: u64,
    /// The server said that they did not: tried again.
    pub aborted: u64,
    /// The server no longer knew, or had crashed or restarted, after which an id may be another transaction's
    /// and a commit that was not flushed is gone: the rows were compared again.
    pub reread: u64,
    /// Whether they took effect, or whether that lasts, could not be learned, and their rows may not be, or could not be,
    /// compared again: their keys failed.
    pub unresolved: u64,
    /// Keys that had been counted when another server took over which did not have them, or may not: they were done
    /// again, or failed.
    pub replaced: u64,
}

/// Keys that were given up together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyFailure {
    /// The keys, columns separated by commas.
    pub keys: Vec<String>,
    /// The lines they came from.
    pub lines: Vec<u64>,
    /// The SQLSTATE; 08006 for a connection that broke.
    pub sqlstate: Option<String>,
    /// What the server said.
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
