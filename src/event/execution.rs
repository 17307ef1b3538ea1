//! Facts of a guarded execution: the result of an attempt, and of all attempts.

use std::time::Duration;

use super::SqlState;
use crate::decide::attempt::Outcome;
use crate::decide::ceiling::Rung;
use crate::decide::script::Evidence;
use crate::decide::verdict::{ShortReason, Verdict};

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptFacts {
    /// Its number, from 1.
    pub attempt: u32,
    /// Workers it needed.
    pub required: u32,
    /// How it ended.
    pub end: AttemptEnd,
    /// The most workers seen at once.
    pub workers: u32,
    /// Workers achieved: the most seen at once. If launches were proven short: the smallest share that one of them got of
    /// what it needed, in workers of the target.
    pub achieved: u32,
    /// The most workers that the plans of the judged statements can use, up to the target.
    pub within: u32,
    /// Launches that were proven short.
    pub short_launches: u32,
    /// Why the worst of them was short.
    pub short_reason: Option<ShortReason>,
    /// Statements that were not judged, because their plans have fewer workers than the minimum.
    pub unjudged: u32,
    /// Whether the verdict counts several launches that ran at once while no slot was free: each may lack a worker.
    pub concurrent_unproven: bool,
    /// Whether some launches may have had no worker because no slot was free, which cannot be known.
    pub launches_unproven: bool,
    /// Run time, from the start of the statement to its end.
    pub ran: Duration,
}

impl AttemptFacts {
    /// An attempt that has just begun.
    #[must_use]
    pub const fn begun(attempt: u32, required: u32) -> Self {
        Self {
            attempt,
            required,
            end: AttemptEnd::Failed(None),
            workers: 0,
            achieved: 0,
            within: 0,
            short_launches: 0,
            short_reason: None,
            unjudged: 0,
            concurrent_unproven: false,
            launches_unproven: false,
            ran: Duration::ZERO,
        }
    }

    /// Takes in what its statements came to.
    pub(crate) fn take(&mut self, evidence: &Evidence) {
        self.workers = evidence.most;
        self.achieved = evidence.achieved();
        self.within = evidence.within;
        self.short_launches = evidence.short_launches;
        self.short_reason = evidence.shortfall().map(|short| short.reason);
        self.unjudged = evidence.unjudged;
        self.concurrent_unproven = evidence.concurrent_unproven;
        self.launches_unproven = evidence.launches_unproven;
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its result is kept.
    Accepted(Verdict),
    /// It had too few workers; nothing of it is kept.
    Rejected(ShortReason),
    /// It failed, with this SQLSTATE, unless the failure was the client's own.
    Failed(Option<SqlState>),
}

impl AttemptEnd {
    /// What the attempt came to.
    #[must_use]
    pub const fn verdict(self) -> AttemptVerdict {
        match self {
            Self::Accepted(Verdict::Enough) => AttemptVerdict::Enough,
            Self::Accepted(Verdict::FinishedEarly) => AttemptVerdict::FinishedEarly,
            Self::Accepted(Verdict::Unverified) => AttemptVerdict::Unverified,
            Self::Accepted(Verdict::Short(_)) | Self::Rejected(_) => AttemptVerdict::Short,
            Self::Failed(_) => AttemptVerdict::Failed,
        }
    }

    /// The value of the `reason` label; `none` unless the attempt had too few workers.
    #[must_use]
    pub const fn reason(self) -> Option<ShortReason> {
        match self {
            Self::Accepted(Verdict::Short(reason)) | Self::Rejected(reason) => Some(reason),
            Self::Accepted(_) | Self::Failed(_) => None,
        }
    }

    /// Whether the attempt's result is kept.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted(_))
    }
}

/// What an attempt came to. The word is the metric label and the span attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttemptVerdict {
    /// It had the workers that it required.
    Enough,
    /// It had fewer.
    Short,
    /// The statement ended before the verdict.
    FinishedEarly,
    /// The monitor did not see enough of it to tell.
    Unverified,
    /// It failed by itself.
    Failed,
}

impl AttemptVerdict {
    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enough => Verdict::Enough.as_str(),
            Self::Short => "short",
            Self::FinishedEarly => Verdict::FinishedEarly.as_str(),
            Self::Unverified => Verdict::Unverified.as_str(),
            Self::Failed => "failed",
        }
    }
}

/// An error, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The SQLSTATE, if there is one; 08006 for a broken connection.
    pub sqlstate: Option<SqlState>,
    /// The error and its causes, in one line.
    pub message: String,
}

/// The result of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionFacts {
    /// Its outcome, or why it failed.
    pub end: Result<Outcome, FailReason>,
    /// The error that ended it, if one did.
    pub cause: Option<Cause>,
    /// Workers that all attempts but the last needed.
    pub target: u32,
    /// Workers that the last attempt needed.
    pub minimum: u32,
    /// Workers achieved in the accepted attempt, else the most seen in the best one.
    pub achieved: u32,
    /// How it got its workers, if that was known before it ended.
    pub rung: Option<Rung>,
    /// What the plan can use, if that is less than the target.
    pub lowered_to: Option<u32>,
    /// Launches of the accepted attempt that were proven short.
    pub short_launches: u32,
    /// Statements of the accepted attempt that were not judged.
    pub unjudged: u32,
    /// Number of attempts that began.
    pub attempts: u32,
    /// Duration from start to end.
    pub took: Duration,
    /// Time spent waiting: for a session, for locks of the plan, for free slots, and between attempts.
    pub waited: Duration,
    /// Run time of the accepted attempt.
    pub ran: Duration,
    /// Run time of all other attempts.
    pub wasted: Duration,
    /// When it ended, in seconds since the Unix epoch.
    pub ended_at_unix: f64,
}

/// Why an execution has no result. [`as_str`](Self::as_str) is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailReason {
    /// Fewer workers than the minimum.
    BelowMinimum,
    /// A statement or the cleanup failed.
    Sql,
    /// It could not connect, or lost its connection.
    Connection,
    /// An option, the table or the input is wrong.
    Configuration,
    /// Refused before the first attempt.
    Refused,
    /// The deadline passed.
    Deadline,
    /// A COMMIT was sent and its outcome is unknown.
    InDoubt,
    /// The caller stopped it: the future was dropped, or a signal came.
    Interrupted,
    /// The program panicked.
    Panicked,
}

impl FailReason {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 9] = [
        Self::BelowMinimum,
        Self::Sql,
        Self::Connection,
        Self::Configuration,
        Self::Refused,
        Self::Deadline,
        Self::InDoubt,
        Self::Interrupted,
        Self::Panicked,
    ];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BelowMinimum => "below_minimum",
            Self::Sql => "sql",
            Self::Connection => "connection",
            Self::Configuration => "configuration",
            Self::Refused => "refused",
            Self::Deadline => "deadline",
            Self::InDoubt => "in_doubt",
            Self::Interrupted => "interrupted",
            Self::Panicked => "panicked",
        }
    }
}
