//! Why workers were lacking.

/// Why an attempt was short. The word is the metric label, the span attribute and what people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ShortReason {
    /// The pool (`max_parallel_workers`) had no free slot.
    PoolExhausted,
    /// The pool had free slots, and the server had no process left (`max_worker_processes`).
    ProcessesExhausted,
    /// Fewer started than were asked for, as the server's own counters say (18 and later), or the policy `classic`.
    UnderLaunched,
    /// Not one worker started in the time given, and room cannot be seen.
    NoLaunch,
}

impl ShortReason {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 4] =
        [Self::PoolExhausted, Self::ProcessesExhausted, Self::UnderLaunched, Self::NoLaunch];

    /// Whether admission sees the cause, and sees it go away.
    #[must_use]
    pub const fn is_seen_by_admission(self) -> bool {
        matches!(self, Self::PoolExhausted | Self::ProcessesExhausted)
    }

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PoolExhausted => "pool_exhausted",
            Self::ProcessesExhausted => "processes_exhausted",
            Self::UnderLaunched => "under_launched",
            Self::NoLaunch => "no_launch",
        }
    }
}
