//! The attempts of one execution: how many workers each must reach, and what follows when one ends.
//!
//! All attempts but the last must reach the target; the last is accepted at the minimum. A transient
//! failure uses up an attempt too, so that nothing loops for ever.
//!
//! ```text
//!   Run(attempt, required) ── finished ─────────────> Accept(outcome)
//!     ^   │  │
//!     │   │  └── rejected or transient, the last ───> BelowMinimum | Fail
//!     │   └───── any other failure ─────────────────> Fail
//!     └── Retry(pause) <── rejected or transient, attempts left
//! ```

use std::time::Duration;

use super::backoff::Backoff;
use super::failure::FailureClass;
use super::verdict::{ShortReason, Verdict};

/// How an execution ended, short of an error.
///
/// ```
/// use headcount::Outcome;
///
/// assert!(Outcome::AboveMinimum.is_accepted() && !Outcome::BelowMinimum.is_accepted());
/// assert_eq!(Outcome::FinishedShort.as_str(), "finished_short");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The target was reached.
    OnTarget,
    /// The plan could not have the target; what it could have was reached.
    Lowered,
    /// Fewer than the target: the last attempt reached the minimum, or a degraded reservation its slots.
    AboveMinimum,
    /// The statement ended before the verdict; its result is kept.
    FinishedEarly,
    /// A launch was proven to have fewer workers than the minimum, and the statement finished all the same: its
    /// result is kept.
    FinishedShort,
    /// The monitor could not see, or launches may have had no worker because there was no room; the result is kept,
    /// the workers are not known.
    Unverified,
    /// No attempt reached the workers that it required. There is no result.
    BelowMinimum,
}

impl Outcome {
    /// The word for attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnTarget => "on_target",
            Self::Lowered => "lowered",
            Self::AboveMinimum => "above_minimum",
            Self::FinishedEarly => "finished_early",
            Self::FinishedShort => "finished_short",
            Self::Unverified => "unverified",
            Self::BelowMinimum => "below_minimum",
        }
    }

    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 7] = [
        Self::OnTarget,
        Self::Lowered,
        Self::AboveMinimum,
        Self::FinishedEarly,
        Self::FinishedShort,
        Self::Unverified,
        Self::BelowMinimum,
    ];

    /// Of an execution that was proven short at some launch, and finished all the same: the result is paid for.
    #[must_use]
    pub const fn short(achieved: u32, minimum: u32) -> Self {
        if achieved >= minimum { Self::AboveMinimum } else { Self::FinishedShort }
    }

    /// Whether there is a result.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        !matches!(self, Self::BelowMinimum)
    }
}

/// What was seen of an attempt that finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// What was proven.
    pub verdict: Verdict,
    /// Workers achieved, measured against the target.
    pub achieved: u32,
    /// Whether a launch was proven short.
    pub short: bool,
    /// Whether launches may have had no worker, and nobody can tell.
    pub unproven: bool,
    /// The most workers that the plans of what was judged can have, up to the target.
    pub within: u32,
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The statement's result is there and was not given up.
    Finished(Finished),
    /// It was short and was cancelled; with the most workers seen.
    Rejected(ShortReason, u32),
    /// It failed by itself.
    Failed(FailureClass),
}

/// What to do between two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Nothing beyond admission, which ends as soon as the pool has room.
    UntilRoom,
    /// Sleep this long, then admission. For causes that the pool does not show.
    For(Duration),
}

/// What follows the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Commit, and hand the result over.
    Accept(Outcome),
    /// Clean up, pause, and try again.
    Retry(Pause),
    /// Clean up; no attempt is left and the minimum was not reached.
    BelowMinimum,
    /// Clean up; the failure is the caller's.
    Fail,
}

/// How to space attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// By admission where the pool is seen, else by backoff up to this cap.
    Jittered(Duration),
    /// Exactly this long, whatever is seen: the origin's.
    Fixed(Duration),
}

/// Counts the attempts of one execution.
#[derive(Debug, Clone)]
pub struct Attempts {
    target: u32,
    minimum: u32,
    max: u32,
    /// Whether the plan cannot have what the caller demanded.
    lowered: bool,
    /// No attempt can have more: what a reservation leaves it.
    most: u32,
    spacing: Spacing,
    attempt: u32,
    best: u32,
}

impl Attempts {
    /// `max` attempts, at least one; `minimum` is at most `target`.
    #[must_use]
    pub fn new(target: u32, minimum: u32, max: u32, spacing: Spacing) -> Self {
        Self {
            target,
            minimum: minimum.min(target),
            max: max.max(1),
            lowered: false,
            most: u32::MAX,
            spacing,
            attempt: 0,
            best: 0,
        }
    }

    /// Demands no more than the plan can have: the outcome is never "on target" then.
    #[must_use]
    pub const fn lowered_to(mut self, target: u32) -> Self {
        self.lowered = true;
        self.target = target;
        if self.minimum > target {
            self.minimum = target;
        }
        self
    }

    /// Workers that the last attempt must reach.
    #[must_use]
    pub const fn minimum(&self) -> u32 {
        self.minimum
    }

    /// The number of the current attempt, from 1; 0 before the first.
    #[must_use]
    pub const fn current(&self) -> u32 {
        self.attempt
    }

    /// The workers that the outcome is measured against.
    #[must_use]
    pub const fn target(&self) -> u32 {
        self.target
    }

    /// The most workers seen in any attempt.
    #[must_use]
    #[allow(dead_code, reason = "for the models of the tests and the example")]
    pub const fn best(&self) -> u32 {
        self.best
    }

    /// The workers that attempt number `attempt` must reach.
    #[must_use]
    pub const fn required(&self, attempt: u32) -> u32 {
        let required = if attempt >= self.max { self.minimum } else { self.target };
        if required < self.most { required } else { self.most }
    }

    /// From now on no attempt is asked for more than `workers`, nor for less than the minimum. The target stays
    /// what the outcome is measured against.
    pub fn within(&mut self, workers: u32) {
        self.most = workers.max(self.minimum);
    }

    /// Begins the next attempt: its number, and the workers that it must reach.
    pub const fn begin(&mut self) -> (u32, u32) {
        self.attempt += 1;
        (self.attempt, self.required(self.attempt))
    }

    /// The current attempt ended. `admission_sees`: whether admission sees the pool and will wait for it;
    /// `draw` is in `0.0..1.0`, for the jitter.
    pub fn on_ended(&mut self, ended: Ended, admission_sees: bool, draw: f64) -> Next {
        match ended {
            Ended::Finished(finished) => {
                self.best = self.best.max(finished.achieved);
                Next::Accept(self.outcome(finished))
            }
            Ended::Rejected(reason, workers) => {
                self.best = self.best.max(workers);
                if self.attempt >= self.max {
                    return Next::BelowMinimum;
                }
                // Only a full pool empties under admission's eyes; any other cause needs time.
                let shown = admission_sees && reason.is_seen_by_admission();
                Next::Retry(self.pause(shown, false, draw))
            }
            Ended::Failed(class) if !class.is_retryable() || self.attempt >= self.max => Next::Fail,
            Ended::Failed(class) => Next::Retry(self.pause(false, class.needs_longer(), draw)),
        }
    }

    /// What an attempt that finished is accepted as.
    #[must_use]
    pub const fn outcome(&self, finished: Finished) -> Outcome {
        let Finished { verdict, achieved, short, unproven, within } = finished;
        let is_proven = (short && achieved < self.minimum) || matches!(verdict, Verdict::Short(_));
        // Who may have had none may have been below the minimum.
        if unproven && !is_proven {
            return Outcome::Unverified;
        }
        if short || matches!(verdict, Verdict::Short(_)) {
            return Outcome::short(achieved, self.minimum);
        }
        if achieved >= self.target {
            return if self.lowered { Outcome::Lowered } else { Outcome::OnTarget };
        }
        match verdict {
            // Known only when the statements before had run. Within fewer slots, it is not the plan that has no more.
            Verdict::Enough | Verdict::FinishedEarly
                if within < self.target && achieved >= within && self.most >= self.target =>
            {
                Outcome::Lowered
            }
            Verdict::Enough | Verdict::Short(_) => Outcome::AboveMinimum,
            Verdict::FinishedEarly => Outcome::FinishedEarly,
            Verdict::Unverified => Outcome::Unverified,
        }
    }

    fn pause(&self, pool_shows_the_cause: bool, needs_longer: bool, draw: f64) -> Pause {
        match self.spacing {
            Spacing::Fixed(delay) => Pause::For(delay),
            Spacing::Jittered(_) if pool_shows_the_cause => Pause::UntilRoom,
            Spacing::Jittered(cap) => {
                Pause::For(Backoff::patient(cap, needs_longer).delay(self.attempt, draw))
            }
        }
    }
}
