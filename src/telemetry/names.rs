//! The metrics contract: every name, kind, unit, label, bucket and help text, in one table.
//!
//! A dashboard or an alert outlives the code that feeds it, so a name may not live where it happens
//! to be counted. Nothing else in the crate spells a metric's name; a test compares [`ALL`] with what
//! a real exporter gathers, in both directions.
//!
//! Labels are `task`, the configured name of a job, and words of closed enums. `job` and `instance`
//! belong to the scrape. All counters exist as 0 from the moment a task is announced, and a gauge says
//! when that was: a run may be over before the first scrape, and a counter that is first seen at 1 has no
//! `increase()`. Gauges of the last run and of the pool appear with their first value, since a 0 there
//! would be a lie.

use metrics::Unit;

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A value as it was seen last.
    Gauge,
    /// A distribution, in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// One row of the contract.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name, unit suffix included.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is measured in.
    pub unit: Unit,
    /// Its label names, in order.
    pub labels: &'static [&'static str],
    /// The `# HELP` text.
    pub help: &'static str,
    /// The variants of [`Event`](crate::Event), or what else feeds it.
    pub fed_by: &'static [&'static str],
}

/// Workers seen at once. The bounds are the usual targets; 1024 is the most a server can have.
const WORKERS: &[f64] =
    &[0., 1., 2., 3., 4., 6., 8., 12., 16., 24., 32., 48., 64., 96., 128., 256., 512., 1024.];
/// Attempts used; an option bounds them at 100.
const ATTEMPTS: &[f64] = &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 20., 50., 100.];
/// Waits and verdicts: from the monitor's interval to the longest wait for room.
const WAITS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 300., 900., 3600.];
/// Batch work: what OpenTelemetry advises for a database call, extended upward to a day.
const RUNS: &[f64] = &[
    0.01, 0.05, 0.1, 0.5, 1., 2.5, 5., 10., 30., 60., 120., 300., 600., 1200., 1800., 3600., 7200., 14400.,
    28800., 86400.,
];
/// Round trips of the monitor: 0.2 ms next to the server, tens of ms across a continent.
const ROUND_TRIPS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1., 5.];
/// One chunk's transaction.
const CHUNKS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.];
/// Keys in a chunk.
const CHUNK_SIZES: &[f64] =
    &[1., 10., 50., 100., 200., 500., 1000., 2000., 5000., 10_000., 50_000., 100_000.];

macro_rules! contract {
    ($($id:ident = $name:literal, $kind:expr, $unit:ident, [$($label:literal),*], $help:literal, fed_by [$($event:literal),+];)+) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help)]
            pub const $id: Metric = Metric {
                name: $name, kind: $kind, unit: Unit::$unit, labels: &[$($label),*], help: $help, fed_by: &[$($event),+],
            };
        )+
        /// The whole contract.
        pub const ALL: &[Metric] = &[$($id),+];
    };
}

use Kind::{Counter, Gauge, Histogram};

contract! {
    EXECUTIONS = "headcount_executions_total", Counter, Count, ["task"],
        "Guarded executions that ended.", fed_by ["ExecutionEnded"];
    EXECUTIONS_SUCCESSFUL = "headcount_executions_successful_total", Counter, Count, ["task"],
        "Guarded executions that ended with a result.", fed_by ["ExecutionEnded"];
    EXECUTIONS_FAILED = "headcount_executions_failed_total", Counter, Count, ["task", "reason"],
        "Guarded executions that ended without a result.", fed_by ["ExecutionEnded"];
    EXECUTION_ATTEMPTS = "headcount_execution_attempts", Histogram(ATTEMPTS), Count, ["task"],
        "Attempts that an execution used.", fed_by ["ExecutionEnded"];
    ACHIEVED_WORKERS = "headcount_achieved_workers", Histogram(WORKERS), Count, ["task"],
        "Workers achieved: the most seen at once in the accepted attempt, or the smallest share of a launch that was short; else the most of the best attempt.", fed_by ["ExecutionEnded"];
    EXECUTION_DURATION = "headcount_execution_duration_seconds", Histogram(RUNS), Seconds, ["task"],
        "Time from start to end of an execution, waits included.", fed_by ["ExecutionEnded"];
    ADMISSION_WAIT = "headcount_admission_wait_seconds", Histogram(WAITS), Seconds, ["task"],
        "Time that an attempt waited for room in the pool.", fed_by ["AdmissionEnded"];
    RESERVED_WAIT = "headcount_reserved_wait_seconds", Histogram(WAITS), Seconds, ["task"],
        "Time that an execution waited in its fleet's queue for slots of the pool.", fed_by ["ReservationEnded"];
    RESERVATIONS = "headcount_reservations_total", Counter, Count, ["task", "end"],
        "Waits for slots of the pool, by how they ended: full, degraded, gave_up, interrupted.", fed_by ["ReservationEnded"];
    GATHERINGS = "headcount_gatherings_total", Counter, Count, ["task", "end"],
        "Gatherings of slots from a busy pool, by how they ended: while_held, after_cancel, let_go, timed_out, interrupted, failed.",
        fed_by ["GatheringEnded"];
    GATHERING = "headcount_gathering_seconds", Histogram(WAITS), Seconds, ["task"],
        "Time from the first try to hold a slot to the end of a gathering.", fed_by ["GatheringEnded"];
    GATHERED_IDLE = "headcount_gathered_slot_seconds", Histogram(RUNS), Seconds, ["task"],
        "Slot time that a gathering held idle, added up over its slots.", fed_by ["GatheringEnded"];
    RETRY_DELAY = "headcount_retry_delay_seconds", Histogram(WAITS), Seconds, ["task"],
        "Time between the end of an attempt and the start of the next.", fed_by ["RetryDelayed"];
    ATTEMPTS_ENDED = "headcount_attempts_total", Counter, Count, ["task", "verdict", "reason"],
        "Attempts that ended, by verdict and by why they were short.", fed_by ["AttemptEnded"];
    VERDICT = "headcount_verdict_seconds", Histogram(WAITS), Seconds, ["task", "verdict"],
        "Time from the start of a statement to its verdict.", fed_by ["VerdictReached"];
    WASTED = "headcount_wasted_seconds", Histogram(RUNS), Seconds, ["task"],
        "Leader time of an attempt whose result was not kept; the sum is the time wasted.", fed_by ["AttemptEnded"];
    OUTCOMES = "headcount_outcomes_total", Counter, Count, ["task", "outcome"],
        "Guarded executions that ended with an outcome, below the minimum included.", fed_by ["ExecutionEnded"];
    SHORT_LAUNCHES = "headcount_short_launches_total", Counter, Count, ["task", "reason"],
        "Launches that were proven short after the verdict, by what was lacking; their work was kept unless every launch counts.",
        fed_by ["LaunchShort"];
    UNJUDGED_STATEMENTS = "headcount_unjudged_statements_total", Counter, Count, ["task"],
        "Statements of kept scripts that were not judged: their plans have fewer workers than the minimum.", fed_by ["ExecutionEnded"];
    RUNGS = "headcount_rungs_total", Counter, Count, ["task", "rung"],
        "Guarded executions that ended, by how they came by their workers: role, ceiling, gather, queue, wait.", fed_by ["ExecutionEnded"];
    DOWNGRADES = "headcount_downgrades_total", Counter, Count, ["task", "bucket"],
        "Executions with a result, by how many percent of the target's workers they lacked.", fed_by ["ExecutionEnded"];
    CLEANUPS = "headcount_cleanups_total", Counter, Count, ["task", "result"],
        "Cleanup actions that ran.", fed_by ["CleanupEnded"];
    LAST_ACHIEVED = "headcount_last_run_achieved_workers", Gauge, Count, ["task"],
        "Workers achieved in the last execution.", fed_by ["ExecutionEnded"];
    LAST_TARGET = "headcount_last_run_target_workers", Gauge, Count, ["task"],
        "Parallel workers demanded of the last execution.", fed_by ["ExecutionEnded"];
    LAST_MINIMUM = "headcount_last_run_min_workers", Gauge, Count, ["task"],
        "Parallel workers that the last attempt of the last execution had to reach.", fed_by ["ExecutionEnded"];
    LAST_ATTEMPTS = "headcount_last_run_attempts", Gauge, Count, ["task"],
        "Attempts that the last execution used.", fed_by ["ExecutionEnded"];
    LAST_BELOW_MINIMUM = "headcount_last_run_below_minimum", Gauge, Count, ["task"],
        "Whether the last execution failed for lack of workers: 1 or 0.", fed_by ["ExecutionEnded"];
    LAST_FINISHED_SHORT = "headcount_last_run_finished_short", Gauge, Count, ["task"],
        "Whether the last execution is done and kept though it had fewer workers than the minimum: 1 or 0.", fed_by ["ExecutionEnded"];
    LAST_LOWERED = "headcount_last_run_lowered", Gauge, Count, ["task"],
        "Whether the plan of the last execution could not have the target that was demanded: 1 or 0.", fed_by ["ExecutionEnded"];
    LAST_WASTED = "headcount_last_run_wasted_seconds", Gauge, Seconds, ["task"],
        "Leader time of the last execution's attempts that were not kept.", fed_by ["ExecutionEnded"];
    LAST_DURATION = "headcount_last_run_duration_seconds", Gauge, Seconds, ["task"],
        "Time from start to end of the last run.", fed_by ["ExecutionEnded", "UpdateEnded"];
    LAST_TIMESTAMP = "headcount_last_run_timestamp_seconds", Gauge, Seconds, ["task"],
        "When the last run ended, in seconds since the Unix epoch.", fed_by ["ExecutionEnded", "UpdateEnded"];
    LAST_SUCCESS = "headcount_last_run_success", Gauge, Count, ["task"],
        "Whether the last run ended with a result, or updated all: 1 or 0.", fed_by ["ExecutionEnded", "UpdateEnded"];
    LAST_SUCCESS_TIMESTAMP = "headcount_last_success_timestamp_seconds", Gauge, Seconds, ["task"],
        "When a run succeeded last, in seconds since the Unix epoch.", fed_by ["ExecutionEnded", "UpdateEnded"];
    POOL_WORKERS = "headcount_pool_workers", Gauge, Count, ["state"],
        "Slots of the server's pool of parallel workers: used by anybody, in all, reserved by this process, and held idle by it (gathered).",
        fed_by ["MonitorPolled", "AdmissionStarted", "AdmissionEnded", "ReservationEnded", "ReservationReleased", "ReservationLost", "SlotsHeld"];
    CANCELS = "headcount_cancels_total", Counter, Count, ["method", "result"],
        "Requests to stop a statement on the server.", fed_by ["CancelAnswered"];
    MONITOR_TICKS = "headcount_monitor_ticks_total", Counter, Count, ["result"],
        "Polls of the monitor that were answered, and losses of its connection.", fed_by ["MonitorPolled", "MonitorLost"];
    MONITOR_TICK = "headcount_monitor_tick_seconds", Histogram(ROUND_TRIPS), Seconds, [],
        "Round trip of one poll of the monitor.", fed_by ["MonitorPolled"];
    MONITOR_BLIND = "headcount_monitor_blind_seconds", Histogram(WAITS), Seconds, [],
        "Time that the monitor could not see, from the loss of its connection to the next.", fed_by ["MonitorRestored"];
    MONITOR_LOST = "headcount_monitor_lost_timestamp_seconds", Gauge, Seconds, [],
        "When the monitor lost the connection that it has not got back; 0 when it has one, or never lost it.",
        fed_by ["the start", "MonitorStarted", "MonitorLost", "MonitorRestored"];
    CHUNKS_ENDED = "headcount_chunks_total", Counter, Count, ["task", "result"],
        "Transactions of chunks that ended: committed, to be tried again, given up.", fed_by ["ChunkEnded"];
    CHUNK_ROWS_TOTAL = "headcount_chunk_rows_total", Counter, Count, ["task", "class"],
        "Keys of chunked updates by what became of them.", fed_by ["ChunkEnded"];
    CHUNK_DURATION = "headcount_chunk_duration_seconds", Histogram(CHUNKS), Seconds, ["task"],
        "Time of one chunk's committed transaction.", fed_by ["ChunkEnded"];
    CHUNK_ROWS = "headcount_chunk_rows", Histogram(CHUNK_SIZES), Count, ["task"],
        "Keys in a committed chunk.", fed_by ["ChunkEnded"];
    RECONNECTS = "headcount_reconnects_total", Counter, Count, ["task", "sqlstate_class"],
        "New sessions in the place of lost ones, by the class of the SQLSTATE they were lost with.", fed_by ["SessionRestored"];
    IN_DOUBT = "headcount_in_doubt_commits_total", Counter, Count, ["task", "resolution"],
        "Commits whose answer was lost, or that waited in vain for a synchronous standby, by what became of them.", fed_by ["CommitResolved"];
    START = "headcount_start_timestamp_seconds", Gauge, Seconds, [],
        "When the process began to count, in seconds since the Unix epoch; its counters were 0 then.", fed_by ["the start"];
    TASK_START = "headcount_task_start_timestamp_seconds", Gauge, Seconds, ["task"],
        "When the process began to count for the task, in seconds since the Unix epoch; its counters were 0 then.",
        fed_by ["ExecutionStarted", "UpdateStarted"];
    TELEMETRY_LOST = "headcount_telemetry_lost_total", Counter, Count, ["exporter"],
        "Spans, pushes and files that could not be delivered.", fed_by ["the exporters"];
}

/// Oracle's buckets of `V$SYSSTAT` ("Parallel operations downgraded ..."): by how many percent of the
/// target an accepted execution fell short. An upper edge belongs to its bucket: 3 of 4 workers lack
/// 25 percent, and are `1-25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Downgrade {
    /// The target was reached.
    None,
    /// More than 0, up to 25 percent are missing.
    UpTo25,
    /// More than 25, up to 50 percent are missing.
    UpTo50,
    /// More than 50, up to 75 percent are missing.
    UpTo75,
    /// More than 75 percent are missing, but not all.
    UpTo99,
    /// Not one worker.
    Serial,
}

impl Downgrade {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 6] =
        [Self::None, Self::UpTo25, Self::UpTo50, Self::UpTo75, Self::UpTo99, Self::Serial];

    /// The bucket of `achieved` workers where `target` were demanded.
    #[must_use]
    pub const fn of(achieved: u32, target: u32) -> Self {
        if achieved >= target {
            return Self::None;
        }
        if achieved == 0 {
            return Self::Serial;
        }
        let (missing, target) = ((target - achieved) as u64, target as u64);
        if missing * 4 <= target {
            Self::UpTo25
        } else if missing * 2 <= target {
            Self::UpTo50
        } else if missing * 4 <= target * 3 {
            Self::UpTo75
        } else {
            Self::UpTo99
        }
    }

    /// The value of the `bucket` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::UpTo25 => "1-25",
            Self::UpTo50 => "25-50",
            Self::UpTo75 => "50-75",
            Self::UpTo99 => "75-99",
            Self::Serial => "serial",
        }
    }
}

/// Where telemetry goes, for the counter of what did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exporter {
    /// Spans over OTLP; a unit is a span.
    Otlp,
    /// The push to a Pushgateway at the end; a unit is a push.
    Push,
    /// The textfile at the end; a unit is a file.
    Textfile,
}

impl Exporter {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 3] = [Self::Otlp, Self::Push, Self::Textfile];

    /// The value of the `exporter` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Otlp => "otlp",
            Self::Push => "push",
            Self::Textfile => "textfile",
        }
    }
}

/// The pairs of `verdict` and `reason` that an attempt can end with.
pub const ATTEMPT_ENDS: [(&str, &str); 8] = [
    ("enough", "none"),
    ("short", "pool_exhausted"),
    ("short", "processes_exhausted"),
    ("short", "under_launched"),
    ("short", "no_launch"),
    ("finished_early", "none"),
    ("unverified", "none"),
    ("failed", "none"),
];

/// The classes of SQLSTATE that a session is lost with; any other counts as `other`.
pub const SQLSTATE_CLASSES: [&str; 4] = ["08", "53", "57", "other"];

/// What became of a key: the classes of [`RowCounts`](crate::event::RowCounts), and `failed` for keys of
/// a chunk that was given up, so that the sum is the number of keys dealt with.
pub const ROW_CLASSES: [&str; 5] = ["updated", "already", "stale", "missing", "failed"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::decide::verdict::{ShortReason, Verdict};
    use crate::event::{AttemptEnd, SqlState};

    #[test]
    fn an_upper_edge_belongs_to_its_bucket() {
        let words = |target| (0..=target).map(|n| Downgrade::of(n, target).as_str()).collect::<Vec<_>>();
        assert_eq!(words(4), ["serial", "50-75", "25-50", "1-25", "none"]);
        assert_eq!(words(1), ["serial", "none"]);
        assert_eq!(Downgrade::of(1, 8), Downgrade::UpTo99);
        assert_eq!(Downgrade::of(9, 8), Downgrade::None);
    }

    #[test]
    fn names_carry_their_unit_and_counters_end_in_total() {
        let mut seen = BTreeSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("headcount_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Counter, "{}", metric.name);
            assert_eq!(metric.name.contains("_seconds"), metric.unit == Unit::Seconds, "{}", metric.name);
            assert!(metric.labels.iter().all(|label| !["job", "instance"].contains(label)));
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            if let Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }

    #[test]
    fn every_end_of_an_attempt_has_its_pair() {
        let mut ends: Vec<_> = ShortReason::ALL.map(AttemptEnd::Rejected).to_vec();
        ends.extend([Verdict::Enough, Verdict::FinishedEarly, Verdict::Unverified].map(AttemptEnd::Accepted));
        ends.extend(ShortReason::ALL.map(|reason| AttemptEnd::Accepted(Verdict::Short(reason))));
        ends.push(AttemptEnd::Failed(Some(SqlState::CONNECTION_FAILURE)));
        let pairs: BTreeSet<_> = ends
            .iter()
            .map(|end| (end.verdict().as_str(), end.reason().map_or("none", ShortReason::as_str)))
            .collect();
        assert_eq!(pairs, BTreeSet::from(ATTEMPT_ENDS));
    }
}
