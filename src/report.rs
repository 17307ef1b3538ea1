//! What a run returns: the result, and how it came about.

use std::time::Duration;

use serde::Serialize;

use crate::decide::attempt::Outcome;

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
    /// Whether `achieved_workers` reached `target_workers`.
    pub target_met: bool,
    /// Workers demanded of all attempts but the last (lowered to the plan by `plan_shortfall = lower`).
    pub target_workers: u32,
    /// Workers demanded of the last attempt.
    pub min_workers: u32,
    /// The most workers that the plan can have at once; `None` when there was no plan to inspect.
    pub planned_workers: Option<u32>,
    /// The most workers seen at once: in the accepted attempt, else in the best one.
    pub achieved_workers: u32,
    /// Attempts begun.
    pub attempt_count: u32,
    /// What the statement returned: `Some` unless the outcome is `below_minimum`.
    #[serde(rename = "rows")]
    pub value: Option<T>,
    /// Time spent waiting for room in the pool and between attempts.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
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
    /// Workers it had to reach.
    pub bar: u32,
    /// `enough`, `short`, `finished_early`, `unverified` or `failed`.
    pub verdict: &'static str,
    /// Why it was short: `pool_exhausted`, `under_launched` or `no_launch`.
    pub reason: Option<&'static str>,
    /// The SQLSTATE that it failed with by itself.
    pub sqlstate: Option<String>,
    /// The most workers seen at once.
    pub workers: u32,
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
            target_workers: self.target_workers,
            min_workers: self.min_workers,
            planned_workers: self.planned_workers,
            achieved_workers: self.achieved_workers,
            attempt_count: self.attempt_count,
            value,
            waited: self.waited,
            reserved_wait: self.reserved_wait,
            reserved_slots: self.reserved_slots,
            ran: self.ran,
            wasted: self.wasted,
            attempts: self.attempts,
        }
    }
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
