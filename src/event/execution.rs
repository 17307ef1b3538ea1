//! Facts of a guarded execution: what an attempt came to, and what all of them did.

use std::time::Duration;

use super::SqlState;
use crate::decide::attempt::Outcome;
use crate::decide::ceiling::Rung;
use crate::decide::script::Evidence;
use crate::decide::verdict::{ShortReason, Verdict};

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptFacts {
    /// From 1.
    pub attempt: u32,
    /// Workers it had to reach.
    pub required: u32,
    /// How it ended.
    pub end: AttemptEnd,
    /// The most workers seen at once.
    pub workers: u32,
    /// Workers achieved: the smallest share of what a launch needed, in workers of the target, where launches were
    /// proven short; else the most seen at once.
    pub achieved: u32,
    /// The most workers that the plans of what was judged can have, up to the target.
    pub within: u32,
    /// Launches that were proven short.
    pub short_launches: u32,
    /// Why the worst of them was.
    pub short_reason: Option<ShortReason>,
    /// Statements that were not judged: their plans have fewer workers than the minimum.
    pub unjudged: u32,
    /// Whether the verdict rests on launches that were alive together without room left: each may lack a worker.
    pub concurrent_unproven: bool,
    /// Whether launches may have had no worker because there was no room, and nobody can tell.
    pub launches_unproven: bool,
    /// Leader time: statement start to its end.
    pub ran: Duration,
}

impl AttemptFacts {
    /// An attempt of which nothing is known yet.
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
    /// It was short and its result, if any, is gone.
    Rejected(ShortReason),
    /// It failed by itself; with the SQLSTATE, unless the failure was the client's own.
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

    /// Why it was short; `None` unless it was.
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

/// What went wrong, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The server's code, where there is one; 08006 for a connection that broke.
    pub sqlstate: Option<SqlState>,
    /// The error and its causes, in one line.
    pub message: String,
}

/// What an execution came to.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionFacts {
    /// Its outcome, or why there is none.
    pub end: Result<Outcome, FailReason>,
    /// The error that it ended with, if it did.
    pub cause: Option<Cause>,
    /// Workers demanded of all attempts but the last.
    pub target: u32,
    /// Workers demanded of the last attempt.
    pub minimum: u32,
    /// Workers achieved in the accepted attempt, else the most seen in the best one.
    pub achieved: u32,
    /// How it came by its workers, if that was known before it ended.
    pub rung: Option<Rung>,
    /// What the plan could have, where that was less than the target.
    pub lowered_to: Option<u32>,
    /// Launches of the accepted attempt that were proven short.
    pub short_launches: u32,
    /// Statements of the accepted attempt that were not judged.
    pub unjudged: u32,
    /// Attempts begun.
    pub attempts: u32,
    /// From start to end.
    pub took: Duration,
    /// Time spent waiting for a session, for a lock of the plan, for room, and between attempts.
    pub waited: Duration,
    /// Leader time of the accepted attempt.
    pub ran: Duration,
    /// Leader time of all others.
    pub wasted: Duration,
    /// When it ended: seconds since the Unix epoch.
    pub ended_at_unix: f64,
}

/// Why an execution has no result. The word is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailReason {
    /// Fewer workers than the minimum.
    BelowMinimum,
    /// A statement failed for good, or the cleanup did.
    Sql,
    /// No session could be had or kept.
    Connection,
    /// An option, the table or the input cannot be meant.
    Configuration,
    /// Refused before the first attempt.
    Refused,
    /// The deadline passed.
    Deadline,
    /// A COMMIT was sent and its fate is not known.
    InDoubt,
    /// The caller gave up: the future was dropped, or a signal came.
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
