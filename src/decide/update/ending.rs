//! How an update ended, and whether that counts as done.
//!
//! That no key failed is not enough. An export that broke off leaves an empty file, and the file of another table has keys
//! that no row has: the fate of each key is known, and nothing was done. So ends in which all keys had one such fate have
//! names of their own, and [`FailOn`] says which of them count as failed.

use serde::Serialize;

/// How a chunked update ended.
///
/// ```
/// assert_eq!(headcount::UpdateOutcome::AllMissing.as_str(), "all_missing");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UpdateOutcome {
    /// Every key ended as updated, already, stale or missing; none of the following.
    Complete,
    /// Some keys failed, or the run was stopped before the end.
    Incomplete,
    /// There was no key.
    Empty,
    /// There were keys, and no row has any of them.
    AllMissing,
    /// There were keys, and each row holds neither the expected value nor the new one.
    AllStale,
    /// Some keys have no row, and that was said to be a failure.
    SomeMissing,
    /// Some rows hold neither the expected value nor the new one, and that was said to be a failure.
    SomeStale,
}

impl UpdateOutcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Complete,
        Self::Incomplete,
        Self::Empty,
        Self::AllMissing,
        Self::AllStale,
        Self::SomeMissing,
        Self::SomeStale,
    ];

    /// The word for attributes, logs and programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Empty => "empty",
            Self::AllMissing => "all_missing",
            Self::AllStale => "all_stale",
            Self::SomeMissing => "some_missing",
            Self::SomeStale => "some_stale",
        }
    }
}

/// What makes an update count as failed although no key failed.
///
/// ```no_run
/// # fn job(headcount: &headcount::Headcount) {
/// use headcount::FailOn;
///
/// // A row that somebody else has changed meanwhile is to be looked at, an empty export is not.
/// let update = headcount.update("orders").fail_on([FailOn::Stale, FailOn::AllMissing]);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailOn {
    /// There is no key.
    Empty,
    /// No row has any of the keys.
    AllMissing,
    /// Each row holds neither the expected value nor the new one.
    AllStale,
    /// A key has no row.
    Missing,
    /// A row holds neither the expected value nor the new one.
    Stale,
}

impl FailOn {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Empty, Self::AllMissing, Self::AllStale, Self::Missing, Self::Stale];

    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::AllMissing => "all-missing",
            Self::AllStale => "all-stale",
            Self::Missing => "missing",
            Self::Stale => "stale",
        }
    }
}

/// What became of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Keys whose rows hold the new value: updated, or already.
    pub done: u64,
    /// Keys whose rows hold neither the new nor the expected values.
    pub stale: u64,
    /// Keys without a row.
    pub missing: u64,
    /// Keys that failed.
    pub failed: u64,
    /// Whether some keys may be left, or something stopped the run.
    pub unfinished: bool,
}

impl Tally {
    /// How it ended, and whether that counts as done.
    #[must_use]
    pub fn end(self, fail_on: &[FailOn]) -> (UpdateOutcome, bool) {
        let Self { done, stale, missing, failed, unfinished } = self;
        let counts = |what: FailOn| fail_on.contains(&what);
        let keys = done + stale + missing;
        if unfinished || failed > 0 {
            (UpdateOutcome::Incomplete, false)
        } else if keys == 0 {
            (UpdateOutcome::Empty, !counts(FailOn::Empty))
        } else if missing == keys {
            (UpdateOutcome::AllMissing, !counts(FailOn::AllMissing) && !counts(FailOn::Missing))
        } else if stale == keys {
            (UpdateOutcome::AllStale, !counts(FailOn::AllStale) && !counts(FailOn::Stale))
        } else if missing > 0 && counts(FailOn::Missing) {
            (UpdateOutcome::SomeMissing, false)
        } else if stale > 0 && counts(FailOn::Stale) {
            (UpdateOutcome::SomeStale, false)
        } else {
            (UpdateOutcome::Complete, true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check([done, stale, missing, failed]: [u64; 4], fail_on: &[FailOn], expected: (UpdateOutcome, bool)) {
        let tally = Tally { done, stale, missing, failed, unfinished: false };
        assert_eq!(tally.end(fail_on), expected, "{tally:?} {fail_on:?}");
        assert_eq!(Tally { unfinished: true, ..tally }.end(fail_on), (UpdateOutcome::Incomplete, false));
    }

    #[test]
    fn nothing_done_has_a_word_of_its_own_and_counts_as_said() {
        use FailOn::{AllMissing, AllStale, Empty, Missing, Stale};
        check([3, 0, 0, 0], &FailOn::ALL, (UpdateOutcome::Complete, true));
        check([3, 1, 1, 0], &[Empty, AllMissing, AllStale], (UpdateOutcome::Complete, true));
        check([3, 1, 1, 1], &[], (UpdateOutcome::Incomplete, false));
        check([0, 0, 0, 0], &[], (UpdateOutcome::Empty, true));
        check([0, 0, 0, 0], &[Empty], (UpdateOutcome::Empty, false));
        check([0, 0, 2, 0], &[Empty, AllStale, Stale], (UpdateOutcome::AllMissing, true));
        check([0, 0, 2, 0], &[AllMissing], (UpdateOutcome::AllMissing, false));
        check([0, 0, 2, 0], &[Missing], (UpdateOutcome::AllMissing, false));
        check([0, 2, 0, 0], &[Empty, AllMissing, Missing], (UpdateOutcome::AllStale, true));
        check([0, 2, 0, 0], &[AllStale], (UpdateOutcome::AllStale, false));
        check([0, 2, 0, 0], &[Stale], (UpdateOutcome::AllStale, false));
        check([5, 0, 1, 0], &[Missing], (UpdateOutcome::SomeMissing, false));
        check([5, 1, 0, 0], &[Stale], (UpdateOutcome::SomeStale, false));
        check([0, 1, 1, 0], &[AllMissing, AllStale], (UpdateOutcome::Complete, true));
    }
}
