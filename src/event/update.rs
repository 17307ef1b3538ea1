//! Facts of a chunked update: the result of a chunk, of its keys, and of the whole update.

use std::sync::Arc;
use std::time::Duration;

use super::{Cause, FailReason, SqlState};
pub use crate::decide::update::ending::UpdateOutcome;

/// The result of one transaction of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFacts {
    /// Its number, from 1, in the order of the keys.
    pub chunk: u64,
    /// Number of transactions for it so far, including this one.
    pub attempt: u32,
    /// How this one ended.
    pub end: ChunkEnd,
    /// Keys in the chunk.
    pub size: u32,
    /// Its keys by class; all zero unless committed. A committed chunk can have failed keys: those that occur twice,
    /// with different values.
    pub rows: RowCounts,
    /// Time from the first byte sent to the known end.
    pub took: Duration,
    /// Its keys, for people: the first one, its line, and how many more. `None` if it was committed, or if items have no
    /// text.
    pub keys: Option<Arc<str>>,
}

/// How one transaction of a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// It took effect.
    Committed,
    /// It had no effect and is retried.
    Retried(SqlState),
    /// It is given up; its keys are reported as failed.
    Failed(SqlState),
}

impl ChunkEnd {
    /// The words, for counters that exist as 0 from the start.
    pub const WORDS: [&'static str; 3] = ["committed", "retried", "failed"];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Retried(_) => "retried",
            Self::Failed(_) => "failed",
        }
    }

    /// The SQLSTATE of the failure.
    #[must_use]
    pub const fn sqlstate(self) -> Option<SqlState> {
        match self {
            Self::Committed => None,
            Self::Retried(sqlstate) | Self::Failed(sqlstate) => Some(sqlstate),
        }
    }
}

/// Numbers of keys by class. Each key is in exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCounts {
    /// The row was changed.
    pub updated: u64,
    /// The row held the new value before.
    pub already: u64,
    /// The row holds neither the expected nor the new value.
    pub stale: u64,
    /// No row has the key.
    pub missing: u64,
    /// The key was given up.
    pub failed: u64,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        self.updated += other.updated;
        self.already += other.already;
        self.stale += other.stale;
        self.missing += other.missing;
        self.failed += other.failed;
    }
}

/// The result of a chunked update.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateFacts {
    /// Whether it counts as done: no key failed or is left, and nothing that `fail_on` names applies.
    pub complete: bool,
    /// How it ended.
    pub outcome: UpdateOutcome,
    /// Whether it was a dry run, which does not count as a run of its task.
    pub dry_run: bool,
    /// Why it ended before its first chunk, if it did: no connection, no such table, keys that cannot be read. Nothing
    /// was changed.
    pub never_began: Option<FailReason>,
    /// The error that stopped it, or the first failure.
    pub cause: Option<Cause>,
    /// Keys by class.
    pub rows: RowCounts,
    /// Committed chunks.
    pub chunks: u64,
    /// Chunks that were given up.
    pub failed_chunks: u64,
    /// Duration from start to end.
    pub took: Duration,
    /// When it ended, in seconds since the Unix epoch.
    pub ended_at_unix: f64,
}
