//! Facts of a chunked update: what became of a chunk, of its keys, and of all of them.

use std::sync::Arc;
use std::time::Duration;

use super::{Cause, FailReason, SqlState};
pub use crate::decide::update::ending::UpdateOutcome;

/// What one transaction of a chunk came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFacts {
    /// From 1, in the order of the keys.
    pub chunk: u64,
    /// Transactions begun for it, this one included.
    pub attempt: u32,
    /// How this one ended.
    pub end: ChunkEnd,
    /// Keys in the chunk.
    pub size: u32,
    /// What became of them; all zero unless committed. Also of a chunk that took effect a key may have failed: one
    /// that occurs twice, with different values.
    pub rows: RowCounts,
    /// From the first byte sent to the known end.
    pub took: Duration,
    /// Which keys it is about, for people: the first of them, its line, and how many more. None where it took effect,
    /// and where items have no text.
    pub keys: Option<Arc<str>>,
}

/// How one transaction of a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// It took effect.
    Committed,
    /// It left nothing behind and is tried again.
    Retried(SqlState),
    /// It is given up; its keys are reported.
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

    /// What the transaction failed with.
    #[must_use]
    pub const fn sqlstate(self) -> Option<SqlState> {
        match self {
            Self::Committed => None,
            Self::Retried(sqlstate) | Self::Failed(sqlstate) => Some(sqlstate),
        }
    }
}

/// Keys by what became of them; each is in exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCounts {
    /// Changed by us.
    pub updated: u64,
    /// Held the new value before.
    pub already: u64,
    /// Held neither the expected value nor the new one.
    pub stale: u64,
    /// No row has the key.
    pub missing: u64,
    /// Given up.
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

/// What a chunked update came to.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateFacts {
    /// Whether it counts as done: each key ended in a class, and nothing is the case that was said to be a failure.
    pub complete: bool,
    /// How it ended.
    pub outcome: UpdateOutcome,
    /// Whether it only looked. That is no run of its task: nothing was done.
    pub dry_run: bool,
    /// Why it ended before its first chunk, if it did: no session, no such table, keys that cannot be read. Nothing
    /// was changed then.
    pub never_began: Option<FailReason>,
    /// What stopped it, or the first failure.
    pub cause: Option<Cause>,
    /// Keys by class.
    pub rows: RowCounts,
    /// Chunks committed.
    pub chunks: u64,
    /// Chunks given up.
    pub failed_chunks: u64,
    /// From start to end.
    pub took: Duration,
    /// When it ended: seconds since the Unix epoch.
    pub ended_at_unix: f64,
}
